"""Whether one run is more accurate than another: the difference with its interval over sources, McNemar's exact test.

`python -m stages.compare exp-a exp-b`: names of experiments (`dvc exp show`), or folders like results; prints JSON.
"""

import argparse
import json

from pipeline.common.errors import exits_with_one_sentence
from pipeline.results.comparison import compare, read_results


@exits_with_one_sentence
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.compare", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs=2, metavar="run", help="an experiment, or a folder of results")
    print(json.dumps(compare(read_results(parser.parse_args().runs)), indent=2))


if __name__ == "__main__":
    main()
