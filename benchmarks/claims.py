"""Tests the paper's claims: end-to-end training against frozen networks, cross-attention against simpler fusions.

    .venv/bin/python benchmarks/claims.py demo=data/demo grid=/where/grid/is [--recipe demo] [--seeds 0 1 2]
        [--folds 5] [--variants end_to_end frozen] [--set recipe.training.epochs=12] [--workspace FOLDER]

It trains every variant with every seed on data sets in VGAF's layout, or with a table `clips.csv`
(`pipeline/clips/table.py`), whose labels are the classes. The accuracies are those on val. With folds, they are out of
fold: every clip of train is predicted by the training whose fold it is in, and val is left out.

Small networks are pretrained first, once per seed, on other drawn clips with another label: the sign of |v| - |a|
instead of v + a (`pipeline/clips/demo_set.py`). That label says whether there is an expression, not which one. Recipes
with published weights start from those. All variants of a seed start from the same weights, except `from_scratch`: its
networks start from none, learn at the full rate, and compute BatchNorm's statistics, and the moving average of their
weights warms up. The epoch is chosen as the recipe says, by default on sources held out of train.

The trainings are in a temporary folder, or in the one that --workspace names. There they are kept: the same command,
run again after an interruption or with more seeds or variants, trains only what is missing.

It prints a table and the same as JSON. Each variant has the mean and the standard deviation of its `n` seeds'
accuracies, and two 95% intervals of the mean: `low` and `high` are Student's over seeds, with the clips as they are;
`sources_low` and `sources_high` are over sources, with the seeds as they are. `differences` are those of `end_to_end`
minus each other variant, on the same clips and with the same seeds, with the same two intervals: `seeds_low` and
`seeds_high`, `sources_low` and `sources_high`. What a single seed or source leaves undefined is null.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from kill_extract import draw_workspace
from trainings import (
    REPOSITORY,
    SeedTask,
    accuracy_of,
    add_arguments,
    change_recipe,
    config_for,
    dataset_of,
    prepare,
    recipe_of,
    train_all,
    worker_processes,
    workspace_of,
)

from pipeline.clips.demo_set import plan_clips, write_label_files
from pipeline.common.config import DatasetSettings, load_config
from pipeline.common.errors import exits_with_one_sentence
from pipeline.common.recipe import Recipe
from pipeline.results.comparison import Result, compare, mean_interval
from pipeline.results.summary import SeedResult, summarize

END_TO_END, FROM_SCRATCH = "end_to_end", "from_scratch"
# The model settings that each variant changes. `end_to_end` is the paper's: cross-attention, all layers trained.
VARIANTS: dict[str, dict[str, Any]] = {
    END_TO_END: {},
    "frozen": {"freeze_backbones": True},
    "concat": {"fusion": "concat"},
    "late": {"fusion": "late"},
    "scene": {"use": ["scene"]},
    "sound": {"use": ["sound"]},
    FROM_SCRATCH: {},
}
NORM_CLIPS_FROM_SCRATCH = 8  # where the recipe keeps the statistics that were loaded
PRETRAINING = {"seed": 1000, "train_clips": 360, "val_clips": 90}
PRETRAINING_NAME = "pretraining"
DIFFERENCES = "differences"


@exits_with_one_sentence
def main() -> None:
    arguments = parse_arguments()
    recipe, keep_runs = recipe_of(arguments), arguments.workspace is not None
    results: dict[tuple[str, str], dict[int, SeedResult]] = {}
    with workspace_of(arguments) as folder, worker_processes() as pool:
        workspace = folder / "datasets"
        for dataset in arguments.datasets:
            prepare(workspace, config_for(dataset, recipe, arguments.folds))
        pretrained = recipes_to_start_from(folder, recipe, arguments.seeds, keep_runs, pool)
        tasks = [
            SeedTask(
                workspace,
                config_for(dataset, recipe_of_variant(variant, pretrained[seed]), arguments.folds),
                seed,
                keep_runs,
            )
            for dataset in arguments.datasets
            for seed in arguments.seeds
            for variant in arguments.variants
        ]
        for task, result in train_all(tasks, pool):
            trained = task.config.dataset.name, task.config.recipe.name
            results.setdefault(trained, {})[task.seed] = result
            print(f"{', '.join(trained)}, seed {task.seed}: {accuracy_of(result):.4f}", flush=True)
    rows = {
        dataset.name: rows_of({variant: results[dataset.name, variant] for variant in arguments.variants})
        for dataset in arguments.datasets
    }
    for dataset_name, variants in rows.items():
        print_table(dataset_name, variants)
    print(json.dumps(rows))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument(
        "datasets", type=dataset_of, nargs="+", metavar="name=folder", help="VGAF's layout, or with a clips.csv"
    )
    add_arguments(parser)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    return parser.parse_args()


# ---------------------------------------------------------------------------------------------------------- settings


def start_from(recipe: Recipe, weights: str) -> Recipe:
    """The recipe with all backbones starting from the same weights: a file, or `none`."""
    start = {"weights": weights, "sha256": None}
    streams = {name: stream.model_dump() | start for name, stream in recipe.model.streams.items()}
    return change_recipe(recipe, model={"streams": streams})


def recipe_of_variant(variant: str, pretrained: Recipe) -> Recipe:
    """The recipe of a variant, under its name; `pretrained` has the weights that the other variants start from."""
    recipe = change_recipe(pretrained, model=VARIANTS[variant])
    if variant == FROM_SCRATCH:
        # Networks that start from nothing have no statistics that BatchNorm could keep, much to learn, and first
        # weights that must not weigh on the moving average.
        norm_clips = recipe.model.norm_clips or NORM_CLIPS_FROM_SCRATCH
        full_rates = {"rate_scales": {"backbones": 1.0, "fusion": 1.0, "head": 1.0}, "layer_decay": 1.0}
        recipe = change_recipe(
            start_from(recipe, "none"),
            model={"norm_clips": norm_clips},
            training={**full_rates, "ema_warmup": True},
        )
    return recipe.model_copy(update={"name": variant})


# ------------------------------------------------------------------------------------------------------- pretraining


def recipes_to_start_from(
    folder: Path, recipe: Recipe, seeds: Sequence[int], keep_runs: bool, pool: ProcessPoolExecutor
) -> dict[int, Recipe]:
    """For each seed, the recipe with the weights that its variants start from.

    If the recipe has no weights, they are learnt first, on drawn clips with another label.
    """
    if all(stream.weights != "none" for stream in recipe.model.used.values()):
        return dict.fromkeys(seeds, recipe)
    workspace = folder / PRETRAINING_NAME
    without_choice = change_recipe(recipe, training={"select_on": "none", "patience": 0})
    config = config_for(draw_pretraining_set(folder / "drawn"), without_choice)
    prepare(workspace, config)
    weights = {seed: workspace / f"seed-{seed}.safetensors" for seed in seeds}
    tasks = [SeedTask(workspace, config, seed, keep_runs, weights[seed]) for seed in seeds]
    for task, result in train_all(tasks, pool):
        print(f"{PRETRAINING_NAME}, seed {task.seed}: {accuracy_of(result):.4f}", flush=True)
    return {seed: start_from(recipe, str(path)) for seed, path in weights.items()}


def draw_pretraining_set(folder: Path) -> DatasetSettings:
    """Draw clips, and label them with the sign of |v| - |a|."""
    config = load_config(REPOSITORY / "params.yaml")
    folder.mkdir(exist_ok=True)
    draw_workspace(folder, config, PRETRAINING)
    clips = plan_clips(config.dataset.synthesize["demo"].model_copy(update=PRETRAINING))
    # A clip's label is the sign of the sum of its valences.
    relabelled = [
        replace(clip, visual_valence=abs(clip.visual_valence), audio_valence=-abs(clip.audio_valence)) for clip in clips
    ]
    write_label_files(relabelled, folder / config.root)
    return dataset_of(f"{PRETRAINING_NAME}={folder / config.root}")


# ----------------------------------------------------------------------------------------------------------- results


def rows_of(variants: Mapping[str, Mapping[int, SeedResult]]) -> dict[str, dict[str, Any]]:
    """The row of each variant, and the differences between `end_to_end`, if it was trained, and each other variant."""
    results = {
        variant: Result({seed: each.predictions for seed, each in seeds.items()}, summarize(seeds)[0])
        for variant, seeds in variants.items()
    }
    rows = {variant: row_of(result) for variant, result in results.items()}
    others = [variant for variant in results if variant != END_TO_END] if END_TO_END in results else []
    differences = {other: difference(results[END_TO_END], other, results[other]) for other in others}
    return {**rows, DIFFERENCES: differences}


def row_of(result: Result) -> dict[str, Any]:
    """The mean, the deviation and the intervals of the accuracy of a variant."""
    metrics = result.metrics
    low, high = mean_interval([seed.accuracy for seed in metrics.seeds])
    values = {
        "mean": metrics.accuracy,
        "sd": metrics.accuracy_sd,
        "low": low,
        "high": high,
        "sources_low": metrics.accuracy_sources_low,
        "sources_high": metrics.accuracy_sources_high,
    }
    return {**rounded(values), "n": len(metrics.seeds), "seeds": sorted(result.predictions)}


def difference(end_to_end: Result, other_name: str, other: Result) -> dict[str, float | None]:
    """By how much `end_to_end` is more accurate than another variant, with intervals."""
    comparison = compare({END_TO_END: end_to_end, other_name: other})
    values = {
        "difference": comparison.difference,
        "seeds_low": comparison.seeds_low,
        "seeds_high": comparison.seeds_high,
        "sources_low": comparison.difference_low,
        "sources_high": comparison.difference_high,
    }
    return rounded(values)


def rounded(values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else round(value, 4) for name, value in values.items()}


def print_table(dataset: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the variants of a data set, then the differences."""
    variants = {name: row for name, row in rows.items() if name != DIFFERENCES}
    print(f"\n{dataset:18}   mean      sd   95% over seeds     95% over sources")
    for name, row in variants.items():
        seeds, sources = interval(row["low"], row["high"]), interval(row["sources_low"], row["sources_high"])
        deviation = "-" if row["sd"] is None else f"{row['sd']:.3f}"
        print(f"{name:18}  {row['mean']:.3f}  {deviation:>6}   {seeds:16}   {sources}")
    for name, row in rows[DIFFERENCES].items():
        seeds, sources = (interval(row[f"{over}_low"], row[f"{over}_high"]) for over in ("seeds", "sources"))
        print(f"minus {name:12} {row['difference']:+.3f}           {seeds:16}   {sources}")


def interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:.3f} to {high:.3f}"


if __name__ == "__main__":
    main()
