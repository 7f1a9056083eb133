"""Trainings for the benchmarks: any data set, each seed in a process of its own, with the folds of the pipeline."""

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from pipeline.clips.indexing import index_dataset
from pipeline.clips.labels import CLASSES
from pipeline.clips.manifest import write_manifests
from pipeline.clips.splits import assign_roles, write_assignments
from pipeline.clips.table import read_rows
from pipeline.common.accelerator import start_accelerator
from pipeline.common.command_line import add_changes
from pipeline.common.config import Config, DatasetSettings, load_config, parse_config, with_changes
from pipeline.common.errors import UserError
from pipeline.common.machine import available_cores
from pipeline.common.recipe import Recipe, load_recipe
from pipeline.common.schema import parse_settings
from pipeline.extraction.clip_settings import ClipSettings
from pipeline.extraction.splits import extract_splits
from pipeline.models.run_record import MODEL_NAME
from pipeline.results.evaluation import evaluate_seed
from pipeline.results.summary import SeedResult, calibrate
from pipeline.training.experiment import train_seeds

REPOSITORY = Path(__file__).parent.parent
TABLE_NAME = "clips.csv"


@dataclass(frozen=True)
class SeedTask:
    """The trainings of one seed: a single one, or one for each fold.

    `workspace` holds the manifests and shards of the data set. The runs are kept there if `keep_runs` is true, and else
    removed after they are scored; the weights of the first one are copied to `weights` before, unless it is None.
    """

    workspace: Path
    config: Config
    seed: int
    keep_runs: bool
    weights: Path | None = None


# ---------------------------------------------------------------------------------------------------------- settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say what is trained, and how often."""
    parser.add_argument("--recipe", default="demo", help="a recipe of configs/recipe (demo)")
    add_changes(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one training for each (0 1 2)")
    parser.add_argument("--folds", type=int, help="cross-validation over sources, on the clips of train (%(default)s)")
    parser.add_argument(
        "--workspace",
        type=Path,
        metavar="folder",
        help="keep shards and runs there: the same command, run again, continues, and trains no finished run twice",
    )


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """The recipe that the arguments name, with their changes.

    Raises `UserError` for a change of a setting that is not in the recipe.
    """
    recipe = load_recipe(arguments.recipe, REPOSITORY / "configs/recipe")
    changed = with_changes({"recipe": recipe.model_dump()}, dict(arguments.changes))
    if others := changed.keys() - {"recipe"}:
        raise UserError(
            f"--set changes {min(others)}, expected a setting of the recipe, such as recipe.training.epochs"
        )
    return parse_settings(Recipe, changed["recipe"], f"recipe {recipe.name}")


def change_recipe(recipe: Recipe, **groups: dict[str, Any]) -> Recipe:
    """The recipe with some settings of some groups changed, and checked again."""
    values = recipe.model_dump()
    for group, settings in groups.items():
        values[group] |= settings
    return parse_settings(Recipe, values, f"recipe {recipe.name}")


def dataset_of(argument: str) -> DatasetSettings:
    """The data set that `name=folder` names: one with a table `clips.csv`, or one in VGAF's layout.

    The classes of a table are the labels in it, sorted. Raises `UserError` for a folder that is not there.
    """
    name, _, folder = argument.partition("=")
    if not folder or not Path(folder).is_dir():
        raise UserError(f"{argument} is not NAME=FOLDER with a folder of clips, such as demo=data/demo")
    root = Path(folder).absolute()
    table = root / TABLE_NAME
    classes = sorted({row.cells["label"] for row in read_rows(table)}) if table.exists() else list(CLASSES)
    values: dict[str, object] = {
        "name": name,
        "root": str(root),
        "table": str(table) if table.exists() else None,
        "classes": classes,
        "allow_identical": False,
        "synthesize": {},
    }
    return parse_settings(DatasetSettings, values, argument)


def config_for(dataset: DatasetSettings, recipe: Recipe, folds: int | None = None) -> Config:
    """The committed settings with another data set, recipe and number of folds.

    A recipe that chooses no epoch is fitted on the clips too that would otherwise be held out to choose it.
    """
    values = load_config(REPOSITORY / "params.yaml").model_dump() | {
        "dataset": dataset.model_dump(),
        "recipe": recipe.model_dump(),
        "folds": folds,
        "fit_on": "train_and_dev" if recipe.training.select_on == "none" else "train",
    }
    return parse_config(values, f"{dataset.name} with recipe {recipe.name}")


# --------------------------------------------------------------------------------------------------------- trainings


@contextlib.contextmanager
def workspace_of(arguments: argparse.Namespace) -> Iterator[Path]:
    """The folder that the arguments name, made if it is not there, or else a temporary one."""
    if arguments.workspace:
        arguments.workspace.mkdir(parents=True, exist_ok=True)
        yield arguments.workspace.absolute()
    else:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)


def prepare(workspace: Path, config: Config) -> None:
    """Write the manifests, the splits and the shards of a data set into a folder."""
    clips, summary = index_dataset(config.dataset)
    write_manifests(clips, summary, workspace / config.manifests)
    write_assignments(assign_roles(clips, config), workspace / config.manifests)
    settings = ClipSettings(features=config.recipe.features, limits=config.extract)
    extract_splits(clips, config.dataset.clips_folder, workspace / config.shards, settings, available_cores())


def worker_processes() -> ProcessPoolExecutor:
    """A pool with one process per core, or a single one for a GPU."""
    workers = 1 if torch.cuda.is_available() else available_cores()
    return ProcessPoolExecutor(workers, get_context("spawn"), start_worker)


def start_worker() -> None:
    """Give this process one thread, and no progress bars: those of several trainings would be unreadable."""
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - as long as the process lives
    if not torch.cuda.is_available():
        torch.set_num_threads(1)


def train_all(tasks: Sequence[SeedTask], pool: ProcessPoolExecutor) -> Iterator[tuple[SeedTask, SeedResult]]:
    """The tasks and their results, as they are finished."""
    futures = {pool.submit(train_and_evaluate, task): task for task in tasks}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        for future in futures:
            future.cancel()


def train_and_evaluate(task: SeedTask) -> SeedResult:
    """Train a seed, and score the reported clips, with folds each by the run of its fold."""
    config, seed = task.config, task.seed
    with folder_to_train_in(task) as folder, contextlib.chdir(folder):
        train_seeds(config, [seed], "exact")
        evaluation = evaluate_seed(config, seed, start_accelerator(config, trains=False))
        if task.weights:
            shutil.copy(config.runs / config.run_ids(seed)[0].folder / MODEL_NAME, task.weights)
    calibration = calibrate(evaluation.temperatures, evaluation.scaled)
    return SeedResult(evaluation.predictions, evaluation.dev, calibration, evaluation.provenance)


@contextlib.contextmanager
def folder_to_train_in(task: SeedTask) -> Iterator[Path]:
    """The workspace of a task, or a temporary folder that shares its clips if the runs are not kept."""
    if task.keep_runs:
        yield task.workspace
    else:
        with tempfile.TemporaryDirectory() as name:
            for shared in ("data", "data_manifests"):
                Path(name, shared).symlink_to(task.workspace / shared)
            yield Path(name)


def accuracy_of(result: SeedResult) -> float:
    """The accuracy of a seed over all reported clips."""
    return result.predictions.accuracy
