"""The paper's claims where data is at hand: end to end against frozen, cross-attention against simpler fusions.

`.venv/bin/python benchmarks/claims.py demo=data/demo grid=/where/grid/is [--recipe demo] [--epochs 12] [--seeds 0 1 2]`
trains every variant with every seed on sets in VGAF's layout and prints their validation accuracy, and JSON. Small
networks start from weights that they learn first with each seed, on other drawn clips with another label: the sign of
|v| - |a| instead of v + a (`pipeline/clips/demo_set.py`), so whether there is an expression, not which. Recipes with
published weights start from those. All variants of a seed but `from_scratch` start alike. The epoch is chosen as the
recipe says, by default on sources held out of train.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import scipy.stats
import torch
from kill_extract import draw_workspace

from pipeline.clips.demo_set import plan_clips, write_label_files
from pipeline.clips.manifest import SPLITS, index_split, write_manifest, write_summary
from pipeline.common.config import Config, Recipe, load_config, load_recipe
from pipeline.common.machine import available_cores
from pipeline.extraction.tasks import extract_splits
from pipeline.models.fusion import AUDIO, VIDEO
from pipeline.models.runs import MODEL_NAME
from pipeline.results.evaluation import evaluate_run
from pipeline.training.distributed import start_accelerator
from pipeline.training.loop import run_training

VARIANTS: dict[str, dict[str, Any]] = {
    "end_to_end": {},  # cross-attention, all layers trained
    "frozen": {"freeze_backbones": True},
    "concat": {"fusion": "concat"},
    "late": {"fusion": "late"},
    "video": {"fusion": "video"},
    "audio": {"fusion": "audio"},
    "from_scratch": {},
}
REPOSITORY = Path(__file__).parent.parent
PRETRAINING = {"seed": 1000, "train_clips": 360, "val_clips": 90}


@dataclasses.dataclass(frozen=True)
class Task:
    """A training: in which folder, of what, with which seed."""

    folder: Path
    recipe: Recipe
    data: str
    variant: str
    seed: int


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("sets", nargs="+", metavar="name=folder", help="sets in VGAF's layout")
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe)
    if arguments.epochs:
        recipe = changed(recipe, training={"epochs": arguments.epochs})
    sets = dict(each.split("=", 1) for each in arguments.sets)
    workers = 1 if torch.cuda.is_available() else available_cores()
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for name, root in sets.items():
            prepare(Path(folder, "sets", name), name, Path(root).absolute(), recipe)
        if recipe.model.video.weights == "none":
            started = pretrained(Path(folder), recipe, arguments.seeds, pool)
        else:
            started = dict.fromkeys(arguments.seeds, recipe)
        tasks = [
            Task(Path(folder, "sets", data), of_variant(variant, started[seed]), data, variant, seed)
            for data in sets
            for seed in arguments.seeds
            for variant in arguments.variants
        ]
        scores: dict[str, dict[str, list[float]]] = {}
        for task, accuracy in zip(tasks, pool.map(validation_accuracy, tasks), strict=True):
            scores.setdefault(task.data, {}).setdefault(task.variant, []).append(accuracy)
            print(f"{task.data}, {task.variant}, seed {task.seed}: {accuracy:.4f}", flush=True)
    summaries = {
        data: {variant: summary(values, arguments.seeds) for variant, values in of_set.items()}
        for data, of_set in scores.items()
    }
    for data, of_set in summaries.items():
        print(f"\n{data:12}   mean     sd   95% interval of the mean over {len(arguments.seeds)} seeds")
        for variant, row in of_set.items():
            spread = "" if row["sd"] is None else f"  {row['sd']:.3f}   {row['low']:.3f} to {row['high']:.3f}"
            print(f"{variant:12}  {row['mean']:.3f}{spread}")
    print(json.dumps(summaries))


def changed(recipe: Recipe, **groups: dict[str, Any]) -> Recipe:
    """The recipe with some settings of some groups changed, and checked again."""
    values = recipe.model_dump()
    for group, settings in groups.items():
        values[group] |= settings
    return Recipe.model_validate(values)


def from_weights(recipe: Recipe, weights: str) -> Recipe:
    """The recipe with both backbones starting from the same file, or from none."""
    start = {"weights": weights, "sha256": None}
    return changed(recipe, model={name: getattr(recipe.model, name).model_dump() | start for name in (VIDEO, AUDIO)})


def of_variant(variant: str, started: Recipe) -> Recipe:
    """The recipe of a variant."""
    recipe = from_weights(started, "none") if variant == "from_scratch" else started
    return changed(recipe, model=VARIANTS[variant])


def settings_of(name: str, root: Path, recipe: Recipe, seed: int) -> Config:
    """The project's settings for a data set, a recipe and a seed."""
    values = load_config(REPOSITORY / "params.yaml").model_dump()
    values |= {"dataset": {"name": name, "root": str(root), "synthesize": {}}, "recipe": recipe.model_dump()}
    return Config.model_validate(values | {"seed": seed})


def prepare(folder: Path, name: str, root: Path, recipe: Recipe) -> None:
    """Index and extract a set into a folder of its own."""
    config = settings_of(name, root, recipe, 0)
    indexed = {split: index_split(root, split) for split in SPLITS}
    clips = {split: found for split, (found, _) in indexed.items()}
    (folder / config.manifests).mkdir(parents=True)
    for split in SPLITS:
        write_manifest(clips[split], folder / config.manifests / f"{split}.csv")
    write_summary({split: summary for split, (_, summary) in indexed.items()}, [], folder / config.manifests)
    shards = folder / config.shards
    extract_splits(clips, root, shards, config.recipe.features, config.extract, available_cores())


def pretrained(folder: Path, recipe: Recipe, seeds: list[int], pool: ProcessPoolExecutor) -> dict[int, Recipe]:
    """For each seed, the recipe with backbones that start from what they learn on drawn clips with another label."""
    drawn = folder / "drawn"
    drawn.mkdir()
    config = load_config(REPOSITORY / "params.yaml")
    draw_workspace(drawn, config, PRETRAINING)
    clips = plan_clips(config.dataset.synthesize["demo"].model_copy(update=PRETRAINING))
    whether = [
        dataclasses.replace(clip, visual_valence=abs(clip.visual_valence), audio_valence=-abs(clip.audio_valence))
        for clip in clips
    ]
    write_label_files(whether, drawn / config.root)
    own = changed(recipe, training={"select_on": "none", "patience": 0})
    prepare(folder / "pretraining", "pretraining", (drawn / config.root).absolute(), own)
    tasks = [Task(folder / "pretraining", own, "pretraining", "kept", seed) for seed in seeds]
    for seed, accuracy in zip(seeds, pool.map(validation_accuracy, tasks), strict=True):
        print(f"pretraining, seed {seed}: {accuracy:.4f}", flush=True)
    return {seed: from_weights(recipe, str(folder / "pretraining" / kept(seed) / MODEL_NAME)) for seed in seeds}


def kept(seed: int) -> str:
    """The folder of a pretraining's run."""
    return f"kept-{seed}"


def validation_accuracy(task: Task) -> float:
    """Train in a process of its own, one of as many as there are cores, and score the validation split."""
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    os.chdir(task.folder)
    # The progress of several trainings at once would be of no use.
    with (
        Path(os.devnull).open("w") as nothing,
        contextlib.redirect_stderr(nothing),
        tempfile.TemporaryDirectory(dir=".") as temporary,
    ):
        config = settings_of(task.data, Path(), task.recipe, task.seed)
        run = Path(kept(task.seed)) if task.variant == "kept" else Path(temporary, "run")
        accelerator = start_accelerator(config)
        run_training(config, accelerator, run, Path(temporary, "checkpoints"))
        return float(evaluate_run(config, run, accelerator).metrics["accuracy"])


def summary(values: list[float], seeds: list[int]) -> dict[str, Any]:
    """Mean, deviation and Student's interval of the mean over the seeds; None for what one seed does not tell."""
    row: dict[str, Any] = {"mean": round(mean(values), 4), "sd": None, "low": None, "high": None}
    if len(values) > 1:
        half = scipy.stats.t.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
        spread = {"sd": stdev(values), "low": mean(values) - half, "high": mean(values) + half}
        row |= {key: round(float(value), 4) for key, value in spread.items()}
    return row | {"n": len(values), "seeds": seeds}


if __name__ == "__main__":
    main()
