"""Search for better settings with Optuna.

example:
  python -m stages.search --trials 20
reads:
  the settings, data/shards/, data_manifests/, configs/search.yaml (which settings vary, and within which bounds)
writes:
  runs/search/<dataset>.db, where the study continues the next time
  Prints the best settings as options of `dvc exp run`, to be added to those of the experiment.

Trials are compared by their accuracy on sources held out of train. The validation split is not used.
"""

from pipeline.common.command_line import settings_of, stage_parser, whole_number
from pipeline.common.errors import exits_with_one_sentence


@exits_with_one_sentence
def main() -> None:
    parser = stage_parser(__file__, __doc__, settings=True)
    parser.add_argument("--trials", type=whole_number(1), default=20, metavar="N", help="number of further trials (20)")
    arguments = parser.parse_args()

    from pipeline.training.search import load_space, search

    print(search(settings_of(arguments), load_space(), arguments.trials))


if __name__ == "__main__":
    main()
