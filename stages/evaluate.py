"""Score every clip of the validation split with the trained model.

example:
  python -m stages.evaluate
reads:
  the settings, data/shards/, data_manifests/, runs/<dataset>/
writes:
  results/ (metrics.json, per_class.csv, per_source.csv, reliability.csv, predictions.csv, mistakes/, provenance.json)

Clips that could not be extracted count as wrong.
"""

from pipeline.common.command_line import settings_of, stage_parser
from pipeline.common.errors import exits_with_one_sentence


@exits_with_one_sentence
def main() -> None:
    arguments = stage_parser(__file__, __doc__, settings=True).parse_args()
    config = settings_of(arguments)

    from pipeline.common.accelerator import start_accelerator
    from pipeline.results.evaluation import evaluate_run, write_evaluation

    accelerator = start_accelerator(config, trains=False)
    evaluation = evaluate_run(config, config.run, accelerator)
    if accelerator.is_main_process:
        write_evaluation(evaluation, config.results)
    accelerator.end_training()


if __name__ == "__main__":
    main()
