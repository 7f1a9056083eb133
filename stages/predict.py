"""Predict the group emotion of videos with a trained model.

`python -m stages.predict clip.mp4 folder/ [--run runs/demo] [--output p.jsonl] [--explain pictures/]`: prints a row a
file; a file that cannot be used has a row that says why. Exit code 0: every file has a prediction; 3: some have none;
2: nothing was tried, for the error that is printed.
"""

import argparse
import json
import sys
from pathlib import Path

from pipeline.errors import exits_with_one_sentence

EXIT_SOME_FAILED = 3


@exits_with_one_sentence
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.predict", description=__doc__.splitlines()[0])
    parser.add_argument("paths", type=Path, nargs="+", metavar="path", help="files, or folders of them")
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="folder of a finished run (runs/demo)")
    parser.add_argument("--output", type=Path, help="file for a line of JSON a file")
    parser.add_argument("--explain", type=Path, metavar="folder", help="folder for a picture of each prediction")
    arguments = parser.parse_args()

    from pipeline.distributed import start_accelerator
    from pipeline.explanation import explain
    from pipeline.labels import CLASSES
    from pipeline.prediction import NoPrediction, files_of, predict
    from pipeline.runs import open_run

    files = files_of(arguments.paths)
    config, _, model = open_run(arguments.run)
    accelerator = start_accelerator(config, trains=False)
    rows = []
    for number, found in enumerate(predict(files, model, config, accelerator)):
        rows.append(found.row())
        if isinstance(found, NoPrediction):
            print(f"{'-':9} {found.reason}: {found.detail}  {found.path}", flush=True)
            continue
        shares = "  ".join(f"{name} {share:6.1%}" for name, share in zip(CLASSES, found.probabilities, strict=True))
        print(f"{found.label:9} {shares}  {found.path}", flush=True)
        if arguments.explain:
            arguments.explain.mkdir(parents=True, exist_ok=True)
            picture = arguments.explain / f"{number:04d}-{found.path.stem}.png"
            picture.write_bytes(explain(found, model, config, accelerator))
    if arguments.output:
        arguments.output.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if any(row["prediction"] is None for row in rows):
        sys.exit(EXIT_SOME_FAILED)


if __name__ == "__main__":
    main()
