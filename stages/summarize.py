"""Put the seeds of an experiment together: means and deviations, votes, intervals over sources.

example:
  python -m stages.summarize
reads:
  the settings, results/seeds/, and for the soup of several seeds with dev: runs/<dataset>/<recipe>/, the shards and
  data_manifests/<dataset>/
writes:
  results/ (metrics.json, predictions.csv, per_class.csv, per_source.csv, reliability.csv, curves.csv)

The weights of a vote and the models of the soup are chosen on dev, never on the reported clips.
"""

from pipeline.common.command_line import settings_of, stage_parser
from pipeline.common.errors import exits_with_one_sentence


@exits_with_one_sentence
def main() -> None:
    arguments = stage_parser(__file__, __doc__, settings=True).parse_args()
    config = settings_of(arguments)

    from pipeline.common.records import write_table
    from pipeline.results.result_files import CURVES_NAME, MeanCurvePoint, read_curves
    from pipeline.results.summary import read_seed_results, summarize
    from pipeline.results.writing import mean_curves, write_tables

    results = read_seed_results(config)
    soup = None
    if len(results) > 1 and all(result.dev is not None for result in results.values()):
        from pipeline.common.accelerator import start_accelerator
        from pipeline.results.combination import measure_combination
        from pipeline.results.soup import score_soup

        soup = measure_combination(*score_soup(config, start_accelerator(config, trains=False)))
    metrics, classes = summarize(results, soup)
    predictions = {seed: result.predictions for seed, result in results.items()}
    write_tables(predictions, metrics, classes, config.results)
    points = [point for seed in config.seeds for point in read_curves(config.results_of(seed))]
    write_table(MeanCurvePoint, mean_curves(points), config.results / CURVES_NAME)
    print(f"accuracy {metrics.accuracy:.4f} on {metrics.clips} clips, mean of {len(results)} seeds")


if __name__ == "__main__":
    main()
