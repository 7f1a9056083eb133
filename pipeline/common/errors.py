"""The one exception that is a user's to fix, and how a stage ends on it."""

import functools
import os
import sys
from collections.abc import Callable

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # what shells give for Ctrl-C
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: run the same command again


class UserError(Exception):
    """Something the user can mend. The message names the thing, what was found, what was expected and what to do."""


class Stopped(Exception):  # noqa: N818 - it is no error
    """The work was told to stop by SIGTERM and has saved where it is; the message says where."""


def exits_with_one_sentence(main: Callable[[], None]) -> Callable[[], None]:
    """Turn a `UserError` raised by `main` into one line on stderr, no traceback, and exit code 2.

    So with what the system says of a file or folder; `Stopped` and Ctrl-C end in a line and a code of their own.
    """

    @functools.wraps(main)
    def wrapped() -> None:
        try:
            main()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(EXIT_USER_ERROR)
        except OSError as error:  # a path that the user gave, its permissions, its disk
            if error.filename is None:
                raise
            print(f"error: {error.filename}: {error.strerror}; name one that can be used here", file=sys.stderr)
            sys.exit(EXIT_USER_ERROR)
        except Stopped as stop:
            print(f"stopped: {stop}; the same command goes on from there", file=sys.stderr, flush=True)
            os._exit(EXIT_STOPPED)  # at once: a thread may still wait for a server, and time is short
        except KeyboardInterrupt:
            print("interrupted: what is finished is kept, the same command goes on from there", file=sys.stderr)
            sys.exit(EXIT_INTERRUPTED)

    return wrapped
