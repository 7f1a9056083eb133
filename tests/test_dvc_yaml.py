"""dvc.yaml against the code and the settings."""

import ast
import re
from itertools import pairwise, product
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, composed

from pipeline.config import parse_config

STAGES = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
BY_HAND = {"app", "compare", "contact_sheet", "export", "fetch_weights", "predict", "search", "submit", "vote"}
PROJECT_MODULE = re.compile(r"(pipeline|stages)\.\w+")


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


def needed(stage: str) -> set[str]:
    """All files of the project that a stage's script imports, directly or not."""
    found, left = set(), [REPOSITORY / "stages" / f"{stage}.py"]
    while left:
        path = left.pop()
        found.add(path)
        left += imports(path) - found
    return {path.relative_to(REPOSITORY).as_posix() for path in found}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_all_the_code_that_it_runs(stage):
    definition = STAGES[stage].get("do", STAGES[stage])
    code = {dependency for dependency in definition["deps"] if dependency.endswith(".py")}
    assert code == needed(stage)


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


def test_an_arrow_of_the_architectures_picture_is_an_import():
    text = (REPOSITORY / "docs/architecture.md").read_text()
    pipeline = REPOSITORY / "pipeline"
    drawn = set()
    for line in re.findall(r"^ {4}(\w.*-->.*)$", text, re.MULTILINE):
        sides = [[pipeline / f"{name}.py" for name in re.findall(r"\w+", side)] for side in line.split("-->")]
        drawn |= {arrow for pair in pairwise(sides) for arrow in product(*pair)}
    assert len(drawn) > 30
    assert [(a.stem, b.stem) for a, b in drawn if a not in imports(b)] == []


def test_a_module_imports_only_from_those_before_it():
    lines = (
        "errors config progress machine labels manifest demo_set",
        "media decoding sandbox features shards executors extraction warm_up outcomes shard_files",
        "loader contact_sheet augmentation backbones pretrained fusion model runs weights inference",
        "prediction explanation submission model_card page data_card",
        "metrics predictions results comparison checkpoint provenance distributed optimization training",
        "evaluation report export",
    )
    order = " ".join(lines).split()
    assert set(order) == {path.stem for path in (REPOSITORY / "pipeline").glob("*.py")} - {"__init__"}
    for position, name in enumerate(order):
        before = {REPOSITORY / "pipeline" / f"{earlier}.py" for earlier in order[:position]}
        late = imports(REPOSITORY / "pipeline" / f"{name}.py") - before - {REPOSITORY / "pipeline/warm_up.py"}
        assert not late, f"{name} imports {late}"
