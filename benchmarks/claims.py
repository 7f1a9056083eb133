"""Tests the paper's claims: end-to-end training against frozen networks, cross-attention against simpler fusions.

    .venv/bin/python benchmarks/claims.py demo=data/demo grid=/where/grid/is [--recipe demo] [--epochs 12]
        [--seeds 0 1 2] [--variants end_to_end frozen]

It trains every variant with every seed on data sets in VGAF's layout, and prints the validation accuracies as a table
and as JSON. Small networks are pretrained first, once per seed, on other drawn clips with another label: the sign of
|v| - |a| instead of v + a (`pipeline/clips/demo_set.py`). That label says whether there is an expression, not which
one. Recipes with published weights start from those. All variants of a seed start from the same weights, except
`from_scratch`. The epoch is chosen as the recipe says, by default on sources held out of train.
"""

import argparse
import contextlib
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import scipy.stats
import torch
from kill_extract import draw_workspace

from pipeline.clips.demo_set import plan_clips, write_label_files
from pipeline.clips.indexing import index_dataset
from pipeline.clips.manifest import write_manifests
from pipeline.common.accelerator import start_accelerator
from pipeline.common.config import Config, load_config
from pipeline.common.machine import available_cores
from pipeline.common.recipe import Recipe, load_recipe
from pipeline.extraction.clip_settings import ClipSettings
from pipeline.extraction.splits import extract_splits
from pipeline.models.fusion import AUDIO, VIDEO
from pipeline.models.run_record import MODEL_NAME
from pipeline.results.evaluation import evaluate_run
from pipeline.training.loop import train_model

# The model settings that each variant changes. `end_to_end` is the paper's: cross-attention, all layers trained.
VARIANTS: dict[str, dict[str, Any]] = {
    "end_to_end": {},
    "frozen": {"freeze_backbones": True},
    "concat": {"fusion": "concat"},
    "late": {"fusion": "late"},
    "video": {"fusion": "video"},
    "audio": {"fusion": "audio"},
    "from_scratch": {},
}
REPOSITORY = Path(__file__).parent.parent
PRETRAINING = {"seed": 1000, "train_clips": 360, "val_clips": 90}
PRETRAINING_NAME = "pretraining"


@dataclass(frozen=True)
class TrainingTask:
    """One training: the folder with the manifests and shards of a data set, the recipe and the seed.

    The run is kept in `run_folder`; with None, it is removed after it is scored.
    """

    workspace: Path
    dataset: str
    variant: str
    recipe: Recipe
    seed: int
    run_folder: Path | None = None


@dataclass(frozen=True)
class Summary:
    """Accuracy over `n` seeds: mean, standard deviation, and Student's 95% interval of the mean.

    With one seed, the deviation and the interval are None.
    """

    mean: float
    sd: float | None
    low: float | None
    high: float | None
    n: int
    seeds: list[int]


def main() -> None:
    arguments = parse_arguments()
    recipe = load_recipe(arguments.recipe)
    if arguments.epochs:
        recipe = change_recipe(recipe, training={"epochs": arguments.epochs})
    roots = dict(each.split("=", 1) for each in arguments.datasets)
    workers = 1 if torch.cuda.is_available() else available_cores()
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        folder = Path(name)
        workspaces = {dataset: folder / "datasets" / dataset for dataset in roots}
        for dataset, workspace in workspaces.items():
            prepare_dataset(workspace, dataset, Path(roots[dataset]).absolute(), recipe)
        pretrained = recipes_to_start_from(folder, recipe, arguments.seeds, pool)
        tasks = [
            TrainingTask(workspaces[dataset], dataset, variant, recipe_of_variant(variant, pretrained[seed]), seed)
            for dataset in roots
            for seed in arguments.seeds
            for variant in arguments.variants
        ]
        accuracies: dict[str, dict[str, list[float]]] = {}
        for task, accuracy in zip(tasks, pool.map(validation_accuracy, tasks), strict=True):
            accuracies.setdefault(task.dataset, {}).setdefault(task.variant, []).append(accuracy)
            print(f"{task.dataset}, {task.variant}, seed {task.seed}: {accuracy:.4f}", flush=True)
    report(accuracies, arguments.seeds)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("datasets", nargs="+", metavar="name=folder", help="data sets in VGAF's layout")
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--epochs", type=int, help="number of epochs, instead of the recipe's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    return parser.parse_args()


# ---------------------------------------------------------------------------------------------------------- settings


def change_recipe(recipe: Recipe, **groups: dict[str, Any]) -> Recipe:
    """The recipe with some settings of some groups changed, and checked again."""
    values = recipe.model_dump()
    for group, settings in groups.items():
        values[group] |= settings
    return Recipe.model_validate(values)


def start_from(recipe: Recipe, weights: str) -> Recipe:
    """The recipe with both backbones starting from the same weights: a file, or `none`."""
    start = {"weights": weights, "sha256": None}
    return change_recipe(
        recipe, model={name: getattr(recipe.model, name).model_dump() | start for name in (VIDEO, AUDIO)}
    )


def recipe_of_variant(variant: str, pretrained: Recipe) -> Recipe:
    """The recipe of a variant; `pretrained` is the recipe with the weights that the other variants start from."""
    recipe = start_from(pretrained, "none") if variant == "from_scratch" else pretrained
    return change_recipe(recipe, model=VARIANTS[variant])


def config_for(dataset: str, root: Path, recipe: Recipe, seed: int) -> Config:
    """The committed settings with another data set, recipe and seed."""
    values = load_config(REPOSITORY / "params.yaml").model_dump()
    values["dataset"] |= {"name": dataset, "root": str(root), "synthesize": {}}
    return Config.model_validate(values | {"recipe": recipe.model_dump(), "seed": seed})


# -------------------------------------------------------------------------------------------- data sets and trainings


def prepare_dataset(workspace: Path, dataset: str, root: Path, recipe: Recipe) -> None:
    """Write the manifests and shards of a data set into a folder."""
    config = config_for(dataset, root, recipe, seed=0)
    clips, summary = index_dataset(config.dataset)
    write_manifests(clips, summary, workspace / config.manifests)
    settings = ClipSettings(features=config.recipe.features, limits=config.extract)
    extract_splits(clips, root, workspace / config.shards, settings, available_cores())


def recipes_to_start_from(
    folder: Path, recipe: Recipe, seeds: Sequence[int], pool: ProcessPoolExecutor
) -> dict[int, Recipe]:
    """For each seed, the recipe with the weights that its variants start from.

    If the recipe has no weights, they are learnt first, on drawn clips with another label.
    """
    if recipe.model.video.weights != "none":
        return dict.fromkeys(seeds, recipe)
    workspace = folder / PRETRAINING_NAME
    without_choice = change_recipe(recipe, training={"select_on": "none", "patience": 0})
    prepare_dataset(workspace, PRETRAINING_NAME, draw_pretraining_set(folder / "drawn"), without_choice)
    runs = {seed: workspace / f"seed-{seed}" for seed in seeds}
    tasks = [
        TrainingTask(workspace, PRETRAINING_NAME, PRETRAINING_NAME, without_choice, seed, run)
        for seed, run in runs.items()
    ]
    for seed, accuracy in zip(seeds, pool.map(validation_accuracy, tasks), strict=True):
        print(f"pretraining, seed {seed}: {accuracy:.4f}", flush=True)
    return {seed: start_from(recipe, str(run / MODEL_NAME)) for seed, run in runs.items()}


def draw_pretraining_set(folder: Path) -> Path:
    """Draw clips and label them with the sign of |v| - |a|; returns the root of the data set."""
    config = load_config(REPOSITORY / "params.yaml")
    folder.mkdir()
    draw_workspace(folder, config, PRETRAINING)
    clips = plan_clips(config.dataset.synthesize["demo"].model_copy(update=PRETRAINING))
    # A clip's label is the sign of the sum of its valences.
    relabelled = [
        replace(clip, visual_valence=abs(clip.visual_valence), audio_valence=-abs(clip.audio_valence)) for clip in clips
    ]
    root = (folder / config.root).absolute()
    write_label_files(relabelled, root)
    return root


def validation_accuracy(task: TrainingTask) -> float:
    """Train, and score the validation split. It runs in a process of the pool."""
    if not torch.cuda.is_available():
        torch.set_num_threads(1)  # the pool has one process per core
    with (
        contextlib.chdir(task.workspace),
        Path(os.devnull).open("w") as devnull,
        contextlib.redirect_stderr(devnull),  # progress of several trainings at once would be unreadable
        tempfile.TemporaryDirectory(dir=".") as temporary,
    ):
        config = config_for(task.dataset, Path(), task.recipe, task.seed)
        run_folder = task.run_folder or Path(temporary, "run")
        accelerator = start_accelerator(config)
        train_model(config, accelerator, run_folder, Path(temporary, "checkpoints"))
        return float(evaluate_run(config, run_folder, accelerator).metrics.accuracy)


# ----------------------------------------------------------------------------------------------------------- results


def report(accuracies: Mapping[str, Mapping[str, list[float]]], seeds: list[int]) -> None:
    """Print one table per data set, then all summaries as JSON."""
    summaries = {
        dataset: {variant: summarise(values, seeds) for variant, values in variants.items()}
        for dataset, variants in accuracies.items()
    }
    for dataset, variants in summaries.items():
        print(f"\n{dataset:12}   mean     sd   95% interval of the mean over {len(seeds)} seeds")
        for variant, summary in variants.items():
            spread = "" if summary.sd is None else f"  {summary.sd:.3f}   {summary.low:.3f} to {summary.high:.3f}"
            print(f"{variant:12}  {summary.mean:.3f}{spread}")
    rows = {
        dataset: {variant: asdict(summary) for variant, summary in variants.items()}
        for dataset, variants in summaries.items()
    }
    print(json.dumps(rows))


def summarise(accuracies: list[float], seeds: list[int]) -> Summary:
    """Summarise the accuracies of one variant over the seeds."""
    count, centre = len(accuracies), mean(accuracies)
    if count == 1:
        return Summary(round(centre, 4), None, None, None, count, seeds)
    deviation = stdev(accuracies)
    half_width = float(scipy.stats.t.ppf(0.975, count - 1)) * deviation / math.sqrt(count)
    low, high = centre - half_width, centre + half_width
    return Summary(round(centre, 4), round(deviation, 4), round(low, 4), round(high, 4), count, seeds)


if __name__ == "__main__":
    main()
