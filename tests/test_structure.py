"""The structure of the project: zones, sizes, and dvc.yaml compared with the code and the settings."""

import ast
import re
import shutil
import tomllib
from graphlib import TopologicalSorter

import pytest
import yaml
from dvc.repo import Repo
from helpers import REPOSITORY, composed

from pipeline.common.config import RunId, parse_config
from pipeline.common.provenance import imported_modules, project_imports

STAGES = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
COMMANDS = {
    "app",
    "compare",
    "contact_sheet",
    "embed",
    "export",
    "fetch_weights",
    "predict",
    "search",
    "submit",
    "vote",
}
PIPELINE = REPOSITORY / "pipeline"
# Each zone imports from those before it, and all import from `common`.
ZONES = ("clips", "shards", "extraction", "loading", "models", "training", "results", "serving")


def zones_of(modules):
    return {module.split(".")[1] for module in modules if module.startswith("pipeline.")}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_its_script_and_on_exactly_the_zones_that_it_imports(stage):
    definition = STAGES[stage].get("do", STAGES[stage])
    code = {dependency for dependency in definition["deps"] if dependency.startswith(("pipeline/", "stages/"))}
    zones = zones_of(imported_modules([f"stages.{stage}"]))
    assert code == {f"stages/{stage}.py", *(f"pipeline/{zone}" for zone in zones)}


def test_every_stage_of_the_pipeline_has_its_script():
    assert list(STAGES) == [
        "synthesize",
        "locate",
        "index",
        "split",
        "extract",
        "train",
        "evaluate",
        "summarize",
        "report",
    ]
    assert {path.stem for path in (REPOSITORY / "stages").glob("*.py")} == {"__init__", *STAGES, *COMMANDS}


def test_dvc_never_deletes_the_data_set_and_never_pushes_what_is_made_of_it():
    kept = (STAGES["synthesize"]["do"], STAGES["extract"], STAGES["train"])
    for stage in kept:
        assert [list(out.values()) for out in stage["outs"]] == [[{"persist": True, "cache": False}]]
    results = STAGES["evaluate"]["outs"] + STAGES["summarize"]["outs"] + STAGES["report"]["outs"]
    assert all(settings == {"push": False} for out in results for settings in out.values())
    manifests = STAGES["locate"]["outs"] + STAGES["index"]["outs"] + STAGES["split"]["outs"]
    assert all(settings == {"cache": False} for out in manifests for settings in out.values())


@pytest.mark.parametrize(
    "changes",
    [(), ("dataset=tiny", "recipe=paper"), ("seeds=[3,5]", "recipe.features.max_duration_s=7")],
)
def test_dvc_and_the_settings_name_the_same_folders(changes, tmp_path, monkeypatch):
    values = composed(tmp_path, *changes)
    shutil.copy(REPOSITORY / "dvc.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    config = parse_config(values, "params.yaml")
    outs = {out.def_path for stage in Repo.init(no_scm=True).index.stages for out in stage.outs}
    assert str(config.shards) in outs
    for seed in config.seeds:
        assert {str(config.runs / RunId(seed).folder), str(config.results_of(seed))} <= outs


def test_the_committed_params_are_the_demo_as_configs_has_it(tmp_path):
    assert yaml.safe_load((REPOSITORY / "params.yaml").read_text()) == composed(tmp_path)


@pytest.mark.parametrize("dataset", [path.stem for path in (REPOSITORY / "configs/dataset").glob("*.yaml")])
@pytest.mark.parametrize("recipe", [path.stem for path in (REPOSITORY / "configs/recipe").glob("*.yaml")])
def test_every_data_set_and_recipe_together_make_valid_settings(dataset, recipe, tmp_path):
    parse_config(composed(tmp_path, f"dataset={dataset}", f"recipe={recipe}"), "params.yaml")


def test_the_second_front_end_is_one_setting_away(tmp_path):
    config = parse_config(composed(tmp_path, "recipe.features.front_end=kaldi"), "params.yaml")
    assert config.recipe.features.max_mel_frames == 1 + (88_000 - 400) // 160


def test_a_zone_imports_only_from_common_and_from_zones_before_it():
    order = ["common", *ZONES]
    assert set(order) == {path.parent.name for path in PIPELINE.glob("*/__init__.py")}
    for position, zone in enumerate(order):
        assert zones_of(imported_modules(modules_of(zone))) <= set(order[: position + 1]), zone


def test_no_module_imports_itself_through_others():
    trees = imported_modules([module for zone in ("common", *ZONES) for module in modules_of(zone)])
    graph = {name: project_imports(tree) & trees.keys() for name, tree in trees.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError


def modules_of(zone):
    return [f"pipeline.{zone}.{path.stem}" for path in (PIPELINE / zone).glob("[!_]*.py")]


def test_the_picture_of_the_architecture_has_the_zones_in_their_order():
    text = (REPOSITORY / "docs/architecture.md").read_text()
    (picture,) = re.findall(r"```mermaid\n(.*?)```", text, re.DOTALL)
    assert re.findall(r"\w+", picture.partition("\n")[2]) == ["common", *ZONES]
    tree = text.partition("```\npipeline/\n")[2].partition("```")[0]
    for zone in re.split(r"\n(?=  \w)", tree.rstrip()):
        named = ", ".join(re.findall(r"^ {4}(\w+(?:, \w+)*)  ", zone, re.MULTILINE)).split(", ")
        modules = [path.stem for path in (PIPELINE / zone.split("/")[0].strip()).glob("[!_]*.py")]
        assert sorted(named) == sorted(modules)


def test_the_report_reads_records_and_imports_no_network():
    assert {"pipeline.models.model", "pipeline.models.backbone"} & imported_modules(["stages.report"]).keys() == set()


def test_evaluation_and_report_do_not_import_the_training():
    for stage in ("evaluate", "report"):
        assert "training" not in zones_of(imported_modules([f"stages.{stage}"]))


FILES = sorted((REPOSITORY / "pipeline").rglob("*.py")) + sorted((REPOSITORY / "stages").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_a_file_is_short_and_a_function_fits_on_a_screen(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    assert [node.name for node in functions if node.end_lineno - node.lineno + 1 > 40] == []


def test_every_test_file_lies_in_the_zone_that_it_tests():
    folders = {path.parent.name for path in (REPOSITORY / "tests").glob("*/test_*.py")}
    assert folders <= {"common", *ZONES, "stages", "benchmarks"}


def test_no_text_asks_for_a_package_that_no_registry_has():
    """`group-emotion` is not published, so its extras are installed from a clone."""
    folders = [REPOSITORY / name for name in ("pipeline", "stages", "docs", "configs", "benchmarks")]
    texts = [*REPOSITORY.glob("*.md"), *(path for folder in folders for path in folder.rglob("*.*"))]
    texts = [path for path in texts if path.suffix in (".py", ".md", ".j2", ".yaml", ".sbatch")]
    assert [path.name for path in texts if "group-emotion[" in path.read_text()] == []


def test_both_images_get_every_file_that_the_environment_is_made_of():
    docker, apptainer = ((REPOSITORY / name).read_text() for name in ("Dockerfile", "apptainer.def"))
    copied = " ".join(re.findall(r"^COPY (.*) \S+$", docker, re.MULTILINE)).split()
    listed = re.findall(r"^    (\S+) /opt/group-emotion/\1$", apptainer, re.MULTILINE)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    needed = {"Makefile", "pyproject.toml", "requirements.lock", project["project"]["readme"], *packages}
    assert set(copied) == set(listed) == needed
