"""Errors that a user can correct, and how a command ends: with one sentence and a documented exit code."""

import errno
import functools
import os
import sys
from collections.abc import Callable

EXIT_USER_ERROR = 2
EXIT_SOME_FAILED = 3  # the rest was done
EXIT_INTERRUPTED = 130  # what shells report for Ctrl-C
EXIT_BROKEN_PIPE = 141  # what shells report for a command that writes into a closed pipe
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: run the same command again


class UserError(Exception):
    """Something that the user can correct. The message names the thing, its value, the expected one and what to do."""


def missing_extra(package: str, extra: str) -> UserError:
    """The error for a package of an extra of pyproject.toml. The environment that `make setup` creates has them all."""
    return UserError(
        f"{package} is not installed: run make setup in the folder of this project; in an environment of your own, run "
        f"python -m pip install '.[{extra}]' there"
    )


def missing_package(package: str, purpose: str) -> UserError:
    """The error for a package that is in no extra. The environment that `make setup` creates has no pip, but uv."""
    return UserError(
        f"{purpose}, but {package} is not installed: run .uv/bin/uv pip install {package} in the folder of this "
        "project; in an environment of your own, python -m pip install does it"
    )


class Stopped(Exception):  # noqa: N818 - it is not an error
    """SIGTERM or Ctrl-C stopped the work, which has been saved; the message says where."""


def exits_with_one_sentence(main: Callable[[], None]) -> Callable[[], None]:
    """Wrap a command so that an expected end prints one line to stderr, without a traceback, and sets the exit code.

    `UserError`, and an operating-system error about a file or folder, exit with 2; `Stopped` with 75; Ctrl-C with 130.
    A closed pipe behind the output exits with 141, without a line.
    """

    @functools.wraps(main)
    def wrapped() -> None:
        try:
            main()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(EXIT_USER_ERROR)
        except BrokenPipeError:  # whoever read the output, such as `head`, has ended
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python says so when it flushes stdout
            sys.exit(EXIT_BROKEN_PIPE)
        except OSError as error:  # a path that the user gave, its permissions, its disk
            if error.errno in NO_SPACE:
                advice = "free some space, then run the same command again"
            elif error.filename is not None:
                advice = "check the path and its permissions"
            else:
                raise
            place = "" if error.filename is None else f"{error.filename}: "
            print(f"error: {place}{error.strerror}; {advice}", file=sys.stderr)
            sys.exit(EXIT_USER_ERROR)
        except Stopped as stop:
            print(f"stopped: {stop}; run the same command again to continue", file=sys.stderr, flush=True)
            os._exit(EXIT_STOPPED)  # at once: a thread may still wait for a server, and little time is left
        except KeyboardInterrupt:
            print(
                "interrupted: what was finished and written is kept; run the same command again to go on",
                file=sys.stderr,
            )
            sys.exit(EXIT_INTERRUPTED)

    return wrapped
