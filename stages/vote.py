"""Several seeds of one recipe: mean and deviation of their accuracy, and the soft vote of all.

`python -m stages.vote exp-a exp-b ...`: names of experiments (`dvc exp show`), or files like results/predictions.csv;
prints JSON.
"""

import argparse
import io
import json
from pathlib import Path

from pipeline.errors import UserError, exits_with_one_sentence
from pipeline.vote import Predictions, parse_predictions, vote

PREDICTIONS = "results/predictions.csv"


@exits_with_one_sentence
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.vote", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="experiments, or predictions.csv files")
    print(json.dumps(vote([read(name) for name in parser.parse_args().runs]), indent=2))


def read(name: str) -> Predictions:
    if Path(name).is_file():
        return parse_predictions(name, io.StringIO(Path(name).read_text()))
    import dvc.api
    from dvc.exceptions import DvcException
    from dvc.scm import SCMError

    try:
        return parse_predictions(name, io.StringIO(dvc.api.read(PREDICTIONS, rev=name)))
    except (DvcException, SCMError, FileNotFoundError) as error:
        raise UserError(f"{name} is neither a file nor an experiment that has {PREDICTIONS} ({error})") from None


if __name__ == "__main__":
    main()
