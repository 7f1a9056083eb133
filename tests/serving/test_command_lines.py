"""The command lines of the stages that use a model or its results: help starts no work, wrong words are refused."""

import pytest

# The words that a stage cannot do without.
STAGES = {
    "app": [],
    "compare": ["a", "b"],
    "contact_sheet": ["a.tar"],
    "embed": ["a.mp4", "--output", "a.npz"],
    "evaluate": [],
    "export": ["a"],
    "predict": ["a.mp4"],
    "report": [],
    "submit": ["a", "--run", "a"],
    "vote": ["a"],
}


@pytest.mark.parametrize("name", STAGES)
def test_help_shows_an_example_and_starts_no_work(stage, name, tmp_path):
    process = stage(name, "--help", folder=tmp_path)
    assert process.returncode == 0
    assert f"python -m stages.{name}" in process.stdout
    for section in ("example:", "reads:", "writes:", "exit codes:"):
        assert section in process.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", STAGES)
def test_an_unknown_option_is_refused(stage, name, tmp_path):
    process = stage(name, *STAGES[name], "--no-such-option", folder=tmp_path)
    assert process.returncode == 2
    assert "unrecognized arguments: --no-such-option" in process.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["evaluate", "report"])
def test_settings_can_be_read_from_another_file_and_changed(stage, name, tmp_path):
    process = stage(name, "--params", "other.yaml", folder=tmp_path)
    assert process.returncode == 2
    assert "settings file other.yaml is missing" in process.stderr
    process = stage(name, "--set", "recipe.no_such_key=3")
    assert process.returncode == 2
    assert "unknown key recipe.no_such_key" in process.stderr


@pytest.mark.parametrize("name", ["predict", "embed", "submit"])
def test_an_output_that_cannot_be_written_is_refused_before_the_run_is_opened(stage, name, tmp_path):
    (tmp_path / "folder").mkdir()
    inputs = [word for word in STAGES[name] if word not in ("--output", "a.npz")]
    for output, reason in (
        ("folder", "which is a folder; name a file"),
        ("b/a.npz", "but the folder b does not exist"),
    ):
        process = stage(name, *inputs, "--output", output, folder=tmp_path)  # none of the inputs exists
        assert process.returncode == 2
        assert f"error: --output is {output}, {reason}" in process.stderr
