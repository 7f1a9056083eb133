"""Every command explains itself, refuses words that it does not know, and starts no work for either."""

import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from helpers import REPOSITORY

from pipeline.common.command_line import seeds_of, settings_of, stage_parser
from pipeline.common.errors import EXIT_USER_ERROR, UserError

STAGES = sorted(path.stem for path in (REPOSITORY / "stages").glob("[!_]*.py"))


def started(name, folder, *words):
    """A stage in a process of its own, in an empty folder: any work would fail there, or leave something behind."""
    code = f"import runpy, sys; sys.path.insert(0, {str(REPOSITORY)!r}); sys.argv[0] = {name!r}; "
    code += f"runpy.run_module('stages.{name}', run_name='__main__')"
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("name", STAGES)
def test_help_shows_an_example_the_outputs_and_the_exit_codes(name, tmp_path):
    done = started(name, tmp_path, "--help")
    assert done.returncode == 0, done.stderr
    assert f"usage: python -m stages.{name} " in done.stdout
    assert f"-m stages.{name}" in done.stdout.partition("example:")[2].partition("reads:")[0]
    for section in ("reads:", "writes:", "exit codes:"):
        assert f"\n{section}\n" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", STAGES)
def test_an_unknown_option_is_refused_before_any_work(name, tmp_path):
    done = started(name, tmp_path, "--no-such-option")
    assert done.returncode == EXIT_USER_ERROR
    assert done.stderr.startswith("usage: ")
    assert list(tmp_path.iterdir()) == []


def test_help_imports_no_slow_library():
    code = "import sys, stages.{}\ntry: stages.{}.main()\nexcept SystemExit: print(*sys.modules, file=sys.stderr)"
    for name in STAGES:
        command = [sys.executable, "-c", code.format(name, name), "--help"]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        assert {"torch", "numpy", "pydantic", "matplotlib", "gradio"} & set(done.stderr.split()) == set(), name


@pytest.fixture
def settings(tmp_path):
    """Reads the settings that a command line names."""

    def parse(*words):
        parser = stage_parser(__file__, "Does nothing.", settings=True)
        return settings_of(parser.parse_args(["--params", str(REPOSITORY / "params.yaml"), *words]))

    return parse


def test_settings_come_from_a_file_and_single_ones_can_be_changed(settings, tmp_path):
    config = settings("--set", "recipe.training.epochs=3", "--set", "recipe.training.learning_rate=2.0e-3")
    assert (config.recipe.training.epochs, config.recipe.training.learning_rate) == (3, 2.0e-3)
    other = tmp_path / "other.yaml"
    other.write_text((REPOSITORY / "params.yaml").read_text().replace("split_seed: 0", "split_seed: 5"))
    assert settings("--params", str(other)).split_seed == 5


def test_a_change_that_names_no_setting_is_refused(settings, capsys):
    with pytest.raises(SystemExit):
        settings("--set", "recipe.training.epochs")
    assert "'recipe.training.epochs' is not KEY=VALUE" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"unknown key recipe\.training\.epoch;"):
        settings("--set", "recipe.training.epoch=3")


def test_a_docstring_with_exit_codes_of_its_own_keeps_them():
    usual = stage_parser(__file__, "Does nothing.").format_help()
    special = stage_parser(__file__, "Does nothing.\n\nexit codes:\n  7    done").format_help()
    assert "130  interrupted" in usual
    assert special.count("exit codes:") == 1
    assert Path(__file__).stem in usual


def test_a_seed_that_is_too_large_is_refused(demo_config):
    assert seeds_of(Namespace(seed=3), demo_config) == [3]
    with pytest.raises(UserError, match=r"--seed: seeds\.0 is 4294967296"):
        seeds_of(Namespace(seed=2**32), demo_config)


def test_a_closed_pipe_ends_a_command_without_a_traceback():
    """As in `predict folder/ | head`."""
    code = (
        "from pipeline.common.errors import exits_with_one_sentence\n"
        "exits_with_one_sentence(lambda: [print('row', flush=True) for _ in range(100000)])()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
