"""Score clips with trained models: the reported clips of the experiment, or any split of any data set.

example:
  python -m stages.evaluate --seed 0
  python -m stages.evaluate --run runs/demo/demo/seed-0 --split dev --output dev-results
reads:
  the settings, data/shards/<dataset>/<features>/, data_manifests/<dataset>/, runs/<dataset>/<recipe>/seed-<n>/
writes:
  results/seeds/<n>/, or the folder that --output names: metrics.json, predictions.csv, dev_predictions.csv,
  per_class.csv, per_source.csv, reliability.csv, curves.csv, stream_curves.csv, mistakes/, provenance.json

Clips that could not be extracted count as wrong. With --run, the settings are those of the run.
"""

from pathlib import Path

from pipeline.common.command_line import add_seed, seeds_of, settings_of, stage_parser
from pipeline.common.errors import UserError, exits_with_one_sentence


@exits_with_one_sentence
def main() -> None:
    parser = stage_parser(__file__, __doc__, settings=True)
    add_seed(parser, "evaluate")
    parser.add_argument("--run", type=Path, metavar="FOLDER", help="evaluate this run or exported folder")
    parser.add_argument("--dataset", metavar="NAME", help="with --run: the data set to score (the run's)")
    parser.add_argument("--split", choices=("train", "dev", "val"), help="with --run: its split (val)")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="with --run: the folder to write")
    arguments = parser.parse_args()
    if (arguments.run is None) != (arguments.output is None):
        raise UserError("--run and --output belong together: name the run, and the folder for its results")
    if arguments.run is None and (arguments.dataset or arguments.split):
        raise UserError("--dataset and --split need --run: the settings name what is scored without it")
    if arguments.run and (arguments.changes or arguments.params != parser.get_default("params")):
        raise UserError("--params and --set do not go with --run: the settings are those of the run")
    if arguments.run and arguments.seed is not None:
        raise UserError("--seed does not go with --run: a run has one seed")
    if arguments.run is not None:
        evaluate_any(arguments.run, arguments.dataset, arguments.split or "val", arguments.output)
        return

    from pipeline.common.accelerator import start_accelerator
    from pipeline.results.evaluation import evaluate_seed
    from pipeline.results.writing import write_evaluation

    config = settings_of(arguments)
    accelerator = start_accelerator(config, trains=False)
    for seed in seeds_of(arguments, config):
        evaluation = evaluate_seed(config, seed, accelerator)
        if accelerator.is_main_process:
            write_evaluation(evaluation, config.results_of(seed))
    accelerator.end_training()


def evaluate_any(run_folder: Path, dataset: str | None, split: str, output: Path) -> None:
    """Score a split of a data set with a run, and write the result to a folder."""
    from pipeline.common.accelerator import start_accelerator
    from pipeline.models.runs import open_run
    from pipeline.results.evaluation import count_fitted, evaluate_split
    from pipeline.results.writing import check_folder, write_evaluation

    check_folder(output)
    run = open_run(run_folder)
    config = run.config.of_dataset(dataset) if dataset else run.config
    accelerator = start_accelerator(config, trains=False)
    evaluation = evaluate_split(run, config, split, accelerator)
    if accelerator.is_main_process:
        metrics = write_evaluation(evaluation, output)
        seen = count_fitted(run.record, config, split) if split == "train" else 0
        note = "" if seen == 0 else f"; the run was fitted on {seen or 'some'} of them"
        print(f"{output}: accuracy {metrics.accuracy:.4f} on {metrics.clips} clips{note}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
