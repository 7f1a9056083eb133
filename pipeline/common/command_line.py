"""How every stage reads its command line: help with an example, a file of settings, and changes to single settings.

It imports nothing heavy, so that `--help` answers at once; a stage imports what it needs after it has parsed its
arguments.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.common.caches import use_writable_caches
from pipeline.common.errors import UserError

if TYPE_CHECKING:
    from pipeline.common.config import Config

DEMO_RUN = Path("runs/demo/demo/seed-0")
EXIT_CODES = """exit codes:
  0    done
  2    something must be corrected; the line that begins with "error:" says what
  130  interrupted by Ctrl-C; what was finished and written is kept"""


def stage_parser(file: str, description: str | None, settings: bool = False) -> argparse.ArgumentParser:
    """The parser of a stage, whose help is the docstring of its module, with exit codes.

    With `settings`, the stage takes `--params` and `--set` (`settings_of`). A docstring that has a section
    "exit codes:" of its own replaces the usual one. Libraries that are imported later can write their caches.
    """
    use_writable_caches()
    text = (description or "").strip()
    epilog = None if "exit codes:" in text else EXIT_CODES
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{Path(file).stem}",
        description=text,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # an abbreviation could mean something else once there is another option
    )
    if settings:
        parser.add_argument(
            "--params", type=Path, default=Path("params.yaml"), metavar="FILE", help="settings (params.yaml)"
        )
        add_changes(parser)
    return parser


def add_changes(parser: argparse.ArgumentParser) -> None:
    """Add `--set`, which may be repeated: `changes` are pairs of a setting's dotted key and its value."""
    parser.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        type=_assignment,
        metavar="KEY=VALUE",
        help="change one setting, such as recipe.training.epochs=3; may be repeated",
    )


def let_waiting_threads_sleep() -> None:
    """Have PyTorch's threads sleep while they wait for each other; to be called before PyTorch is imported.

    They would spin, and keep the cores from the processes that read clips: two cores then predict half as many clips a
    second. Training is faster with threads that spin.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def whole_number(least: int) -> Callable[[str], int]:
    """The type of an option that is a whole number of `least` or more."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} or more")
        return int(text)

    return parse


def add_seed(parser: argparse.ArgumentParser, verb: str) -> None:
    """Add `--seed`, with which a stage does one seed of the settings (`seeds_of`); `verb` says what it does."""
    help_text = f"{verb} this seed alone (all of the settings)"
    parser.add_argument("--seed", type=whole_number(0), metavar="N", help=help_text)


def seeds_of(arguments: argparse.Namespace, config: "Config") -> list[int]:
    """The seed that was given as `--seed`, or those of the settings; raises `UserError` for one that is too large."""
    from pipeline.common.config import parse_config

    if arguments.seed is None:
        return config.seeds
    return parse_config(config.model_dump() | {"seeds": [arguments.seed]}, "--seed").seeds


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add `--run`, the folder of the model that a command uses."""
    help_text = f"model: a run or an exported folder ({DEMO_RUN})"
    parser.add_argument("--run", type=Path, default=DEMO_RUN, metavar="FOLDER", help=help_text)


def add_runs(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """Add `--run`, which may be repeated: `runs` are the folders of the models that a command uses (`runs_of`)."""
    unless_given = "" if required else f" ({DEMO_RUN})"
    parser.add_argument(
        "--run",
        dest="runs",
        type=Path,
        action="append",
        required=required,
        metavar="FOLDER",
        help=f"model: a run or an exported folder; may be repeated, then the probabilities are averaged{unless_given}",
    )


def runs_of(arguments: argparse.Namespace) -> list[Path]:
    """The folders that were given as `--run`, or the demo's; raises `UserError` for one that is given twice."""
    runs: list[Path] = arguments.runs or [DEMO_RUN]
    if len({run.resolve() for run in runs}) < len(runs):
        raise UserError("a model has one vote, but a folder is named twice with --run; name each once")
    return runs


def settings_of(arguments: argparse.Namespace) -> "Config":
    """The settings that a stage was given; raises `UserError` for the first one that is wrong."""
    from pipeline.common.config import load_config

    return load_config(arguments.params, dict(arguments.changes))


def _assignment(text: str) -> tuple[str, Any]:
    import yaml

    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise argparse.ArgumentTypeError(f"{text!r}: the value is not valid YAML") from None
