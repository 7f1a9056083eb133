"""What documentation and notebook tell a user to type: every command is valid, and every file that they name exists."""

import argparse
import importlib
import re
import shlex
from itertools import pairwise

import nbformat
import pytest
from helpers import REPOSITORY, composed

from pipeline.common.config import parse_config

PAGES = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md"), *(REPOSITORY / "configs").rglob("*.md")]
TEXTS = {page.relative_to(REPOSITORY).as_posix(): page.read_text() for page in PAGES}
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


def text_of_notebook(path):
    """All cells as one page: the commands, which begin with `!`, with the settings of a reader, in a block of bash."""
    text = "\n\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    lines = "\n".join(re.findall(r"^ *!(.*)", text, re.MULTILINE))
    return f"{text}\n\n```bash\n{lines}\n```\n".replace("$DATASET", "tiny").replace("$EPOCHS", "2")


TEXTS |= {path.relative_to(REPOSITORY).as_posix(): text_of_notebook(path) for path in NOTEBOOKS}


def commands():
    """Every command in a block of bash, and in a line of text between backquotes."""
    for name, text in TEXTS.items():
        blocks = re.findall(r"^ *```bash\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
        prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
        spans = [re.sub(r"\s+", " ", span) for span in re.findall(r"(?<!`)`([^`]+)`", prose)]
        for line in ["\n".join(blocks).replace("\\\n", " "), *spans]:
            for command in re.split(r"\n|&&|; ", line):
                yield name, command.strip()


def commands_beginning_with(words):
    return [pytest.param(command, id=f"{name}: {command}") for name, command in commands() if command.startswith(words)]


class ParsedError(Exception):
    """The command line was parsed; the stage goes no further."""


@pytest.mark.parametrize("command", commands_beginning_with("python -m stages."))
def test_a_stage_understands_its_command_line(command, monkeypatch):
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser):
        parse(parser)
        raise ParsedError

    name, *arguments = shlex.split(command.removeprefix("python -m "), comments=True)
    monkeypatch.setattr("sys.argv", [name, *arguments])
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    try:
        importlib.import_module(name).main()
    except ParsedError:
        return
    except SystemExit:  # a command that the text only names, without the words that it needs, or with --help
        assert not arguments or arguments == ["--help"], command


@pytest.mark.parametrize("command", commands_beginning_with("dvc exp run"))
def test_an_experiments_settings_are_valid(command, tmp_path):
    words = shlex.split(command, comments=True)
    given = [re.sub(r"^([^[]*?),.*", r"\1", word) for flag, word in pairwise(words) if flag == "-S"]
    config = parse_config(composed(tmp_path, *given), "params.yaml")
    assert (REPOSITORY / f"configs/accelerate/{config.launch}.yaml").exists()


def ablations():
    table = TEXTS["docs/vgaf.md"].partition("| added settings |")[2].partition("\n\n")[0]
    return re.findall(r"^\| (.+?) \| `-S (.+?)`", table, re.MULTILINE)


@pytest.mark.parametrize("row", [pytest.param(setting, id=name) for name, setting in ablations()])
def test_a_row_of_the_ablation_table_changes_a_setting_and_needs_no_other_shards(row, tmp_path):
    (setting,) = shlex.split(row)
    changed, strong = (
        parse_config(composed(tmp_path, "recipe=strong", *given), "params.yaml") for given in ([setting], [])
    )
    assert changed.recipe != strong.recipe
    assert changed.shards == strong.shards


def test_every_make_target_exists():
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    asked = {word for _, command in commands() for word in re.findall(r"^make ([a-z-]+)", command)}
    assert asked
    assert asked <= targets


def test_every_linked_or_executed_file_exists():
    for name, text in TEXTS.items():
        linked = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text)
        assert all((REPOSITORY / name).parent.joinpath(target).exists() for target in linked), (name, linked)
        ran = re.findall(r"(?:--config_file |sbatch |bash |python )((?:configs|benchmarks|\.ci)/[\w./]+)", text)
        assert all((REPOSITORY / target).exists() for target in ran), (name, ran)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_valid_and_committed_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells
    assert [cell.id for cell in cells if cell.outputs or cell.execution_count is not None] == []
