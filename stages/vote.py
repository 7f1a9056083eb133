"""Combine results on the same clips: mean and deviation of the accuracies of all seeds, and that of their soft vote.

example:
  python -m stages.vote exp-a exp-b exp-c
reads:
  the results of experiments (the names that `dvc exp show` gives), or folders that evaluate wrote
writes:
  Prints the result as JSON.
"""

from pipeline.common.command_line import stage_parser
from pipeline.common.errors import exits_with_one_sentence


@exits_with_one_sentence
def main() -> None:
    parser = stage_parser(__file__, __doc__)
    parser.add_argument("runs", nargs="+", metavar="run", help="an experiment, or a folder of results")
    arguments = parser.parse_args()

    from pipeline.common.records import to_json
    from pipeline.results.comparison import read_results, vote

    print(to_json(vote(read_results(arguments.runs))), end="")


if __name__ == "__main__":
    main()
