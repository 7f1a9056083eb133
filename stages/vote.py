"""Several seeds of one recipe: mean and deviation of their accuracy, and the soft vote of all.

`python -m stages.vote exp-a exp-b ...`: names of experiments (`dvc exp show`), or folders like results; prints JSON.
"""

import argparse
import json

from pipeline.common.errors import exits_with_one_sentence
from pipeline.results.comparison import read_results, vote


@exits_with_one_sentence
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.vote", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="experiments, or folders of results")
    print(json.dumps(vote(read_results(parser.parse_args().runs)), indent=2))


if __name__ == "__main__":
    main()
