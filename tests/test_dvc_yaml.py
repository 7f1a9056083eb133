"""dvc.yaml against the code and the settings."""

import ast
import re
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, composed

from pipeline.common.config import parse_config

STAGES = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
BY_HAND = {"app", "compare", "contact_sheet", "export", "fetch_weights", "predict", "search", "submit", "vote"}
PROJECT_MODULE = re.compile(r"(pipeline|stages)(\.\w+)+")
# From the ground up: a zone imports from those before it, and all from `common`.
ZONES = ("clips", "shards", "extraction", "loading", "models", "training", "results", "serving")


def imports(path: Path) -> set[Path]:
    """Files of the project that a file imports, or names as a module in a string (the fork server's preload)."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and PROJECT_MODULE.fullmatch(node.value):
            names.add(node.value)
    files = (REPOSITORY / f"{name.replace('.', '/')}.py" for name in names)
    return {file for file in files if file.exists()}


def code_of(stage: str) -> set[Path]:
    """All files of the project that a stage's script imports, directly or not."""
    closure, pending = set(), [REPOSITORY / "stages" / f"{stage}.py"]
    while pending:
        path = pending.pop()
        closure.add(path)
        pending += imports(path) - closure
    return closure


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_its_script_and_on_exactly_the_zones_that_it_imports(stage):
    definition = STAGES[stage].get("do", STAGES[stage])
    code = {dependency for dependency in definition["deps"] if dependency.startswith(("pipeline/", "stages/"))}
    zones = {path.parent.relative_to(REPOSITORY).as_posix() for path in code_of(stage)} - {"stages"}
    assert code == {*zones, f"stages/{stage}.py"}


def test_every_stage_of_the_pipeline_has_its_script():
    assert list(STAGES) == ["synthesize", "index", "extract", "train", "evaluate", "report"]
    assert {path.stem for path in (REPOSITORY / "stages").glob("*.py")} == {"__init__", *STAGES, *BY_HAND}


def test_dvc_never_deletes_the_data_set_and_never_pushes_what_is_made_from_it():
    ((_, drawn),) = STAGES["synthesize"]["do"]["outs"][0].items()
    ((_, shards),) = STAGES["extract"]["outs"][0].items()
    assert drawn == {"persist": True, "push": False}
    assert shards == {"persist": True, "push": False}
    results = STAGES["evaluate"]["outs"] + STAGES["report"]["outs"]
    assert all(settings == {"push": False} for out in results for settings in out.values())


def test_the_committed_params_are_the_demo_as_configs_has_it(tmp_path):
    assert yaml.safe_load((REPOSITORY / "params.yaml").read_text()) == composed(tmp_path)


@pytest.mark.parametrize("dataset", [path.stem for path in (REPOSITORY / "configs/dataset").glob("*.yaml")])
@pytest.mark.parametrize("recipe", [path.stem for path in (REPOSITORY / "configs/recipe").glob("*.yaml")])
def test_every_data_set_and_recipe_together_make_valid_settings(dataset, recipe, tmp_path):
    parse_config(composed(tmp_path, f"dataset={dataset}", f"recipe={recipe}"), "params.yaml")


def test_the_second_front_end_is_one_setting_away(tmp_path):
    config = parse_config(composed(tmp_path, "recipe.features.front_end=kaldi"), "params.yaml")
    assert config.recipe.features.max_mel_frames == 1 + (88_000 - 400) // 160


def test_a_zone_imports_only_from_those_before_it():
    zones = ["common", *ZONES]
    assert set(zones) == {path.parent.name for path in (REPOSITORY / "pipeline").glob("*/__init__.py")}
    for position, zone in enumerate(zones):
        for path in (REPOSITORY / "pipeline" / zone).glob("*.py"):
            imported = {other.parent.name for other in imports(path)}
            assert imported <= set(zones[: position + 1]), path.relative_to(REPOSITORY)


def test_no_two_modules_import_each_other():
    warm_up = REPOSITORY / "pipeline/extraction/warm_up.py"  # named in what it imports, which does not import it
    for path in set((REPOSITORY / "pipeline").glob("*/*.py")) - {warm_up}:
        others = imports(path) - {path, warm_up}
        assert path not in {second for first in others for second in imports(first)}, path.name
