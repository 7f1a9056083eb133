"""The accuracy of a recipe over seeds, and with folds the accuracy out of fold.

    .venv/bin/python benchmarks/seeds.py NAME=FOLDER --recipe small --seeds 0 1 2 [--folds 5]
        [--set recipe.model.use=[sound]] [--workspace FOLDER]

FOLDER is in VGAF's layout, or holds a table `clips.csv` (`pipeline/clips/table.py`), whose labels are the classes. It
prints the accuracy of each seed as it is finished, and last, as JSON, the number of seeds `n`, and the mean, standard
deviation (null for one seed), minimum and maximum of their accuracies. With folds, every clip of train is predicted by
the training whose fold it is in, and the accuracy is that over all of them.

With --set, one setting of the recipe is another one; it may be repeated. So what a change is worth is measured with two
calls.

The trainings are in a temporary folder, or in the one that --workspace names. There they are kept: the same command,
run again after an interruption or with more seeds, trains only what is missing.
"""

import argparse
import json
from statistics import mean, stdev

from trainings import (
    SeedTask,
    accuracy_of,
    add_arguments,
    config_for,
    dataset_of,
    prepare,
    recipe_of,
    train_all,
    worker_processes,
    workspace_of,
)

from pipeline.common.errors import exits_with_one_sentence


@exits_with_one_sentence
def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("dataset", type=dataset_of, metavar="name=folder", help="VGAF's layout, or with a clips.csv")
    add_arguments(parser)
    arguments = parser.parse_args()
    config = config_for(arguments.dataset, recipe_of(arguments), arguments.folds)
    accuracies, keep_runs = [], arguments.workspace is not None
    with workspace_of(arguments) as workspace, worker_processes() as pool:
        prepare(workspace, config)
        tasks = [SeedTask(workspace, config, seed, keep_runs) for seed in arguments.seeds]
        for task, result in train_all(tasks, pool):
            accuracies.append(accuracy_of(result))
            print(f"seed {task.seed}: {accuracies[-1]:.4f}", flush=True)
    summary = {
        "recipe": config.recipe.name,
        "n": len(accuracies),
        "mean": round(mean(accuracies), 4),
        "sd": round(stdev(accuracies), 4) if len(accuracies) > 1 else None,
        "min": round(min(accuracies), 4),
        "max": round(max(accuracies), 4),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
