"""What looking at the people is worth: a recipe without and with the streams that take people.

    .venv/bin/python benchmarks/people.py acted=/where/the/clips/are [--recipe light] [--folds 5] [--most 1]
        [--margin 0] [--aligned] [--use people sound] [--seeds 0 1 2] [--set recipe.training.epochs=20]
        [--workspace FOLDER]

The recipe must have a stream that takes people, as `light` and `strong` have. "Without" has the other streams of its
`use`; "with" has all its streams, or those that --use names. Both are trained on the same shards, with the same seeds
and folds. The detector must have been fetched (`python -m stages.fetch_weights strong`).

It prints the accuracy of each seed as it is finished, out of fold with folds, then a table, and last, as JSON, the mean
accuracies `without` and `with`, their `difference`, its 95% interval over sources, `low` to `high`, with the seeds as
they are, and the `seeds`. The trainings are in a temporary folder, or in the one that --workspace names: there, the
same command continues after an interruption.
"""

import argparse
import json

from claims import interval, rounded
from trainings import (
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

from pipeline.common.errors import exits_with_one_sentence
from pipeline.common.recipe import Recipe
from pipeline.extraction.clip_settings import ClipSettings
from pipeline.extraction.face_detector import check_detector
from pipeline.results.comparison import Comparison, Result, compare
from pipeline.results.summary import SeedResult, summarize

WITHOUT, WITH = "without", "with"


@exits_with_one_sentence
def main() -> None:
    arguments = parse_arguments()
    recipes = recipes_to_compare(arguments)
    configs = {name: config_for(arguments.dataset, recipe, arguments.folds) for name, recipe in recipes.items()}
    check_detector(ClipSettings(features=recipes[WITH].features, limits=configs[WITH].extract))
    results: dict[str, dict[int, SeedResult]] = {name: {} for name in recipes}
    with workspace_of(arguments) as workspace, worker_processes() as pool:
        prepare(workspace, configs[WITH])
        keep_runs = arguments.workspace is not None
        tasks = [
            SeedTask(workspace, config, seed, keep_runs) for seed in arguments.seeds for config in configs.values()
        ]
        for task, result in train_all(tasks, pool):
            results[task.config.recipe.name][task.seed] = result
            print(f"{task.config.recipe.name}, seed {task.seed}: {accuracy_of(result):.4f}", flush=True)
    print_comparison(
        compare(
            {
                name: Result(
                    {seed: each.predictions for seed, each in results[name].items()}, summarize(results[name])[0]
                )
                for name in (WITH, WITHOUT)
            }
        )
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("dataset", type=dataset_of, metavar="name=folder", help="VGAF's layout, or with a clips.csv")
    add_arguments(parser)
    parser.set_defaults(recipe="light", folds=5)
    parser.add_argument("--most", type=int, default=1, help="faces of a frame (1)")
    parser.add_argument("--margin", type=float, default=0.0, help="what a crop shows around the face (0)")
    parser.add_argument("--aligned", action="store_true", help="turn crops so that the eyes are level")
    parser.add_argument("--use", nargs="+", metavar="stream", help="the streams with people; default: all")
    return parser.parse_args()


def recipes_to_compare(arguments: argparse.Namespace) -> dict[str, Recipe]:
    """The recipe without and with the streams that take people, each under its name."""
    recipe = recipe_of(arguments)
    streams = recipe.model.streams
    people = recipe.features.people.model_dump() | {
        key: getattr(arguments, key) for key in ("most", "margin", "aligned")
    }
    uses = {
        WITHOUT: [name for name in recipe.model.use if streams[name].input != "people"],
        WITH: arguments.use or list(streams),
    }
    return {
        name: change_recipe(recipe, features={"people": people}, model={"use": use}).model_copy(update={"name": name})
        for name, use in uses.items()
    }


def print_comparison(comparison: Comparison) -> None:
    """Print the two accuracies and their difference, as a table and as JSON."""
    for name in (WITHOUT, WITH):
        run = comparison.runs[name]
        deviation = "-" if run.accuracy_sd is None else f"{run.accuracy_sd:.3f}"
        print(f"{name:10} {run.accuracy:.3f}   sd {deviation}")
    low, high = comparison.difference_low, comparison.difference_high
    print(f"difference {comparison.difference:+.3f}   95% over sources {interval(low, high)}")
    values = {
        WITHOUT: comparison.runs[WITHOUT].accuracy,
        WITH: comparison.runs[WITH].accuracy,
        "difference": comparison.difference,
        "low": low,
        "high": high,
    }
    print(json.dumps({**rounded(values), "seeds": comparison.runs[WITH].seeds}))


if __name__ == "__main__":
    main()
