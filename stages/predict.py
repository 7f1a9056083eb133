"""Predict the group emotion of videos with a trained model.

`python -m stages.predict clip.mp4 folder/ [--run runs/demo] [--output p.jsonl] [--explain pictures/] [--window 5]`:
prints a row a file, with `--window` a row for each window of so many seconds, which overlap by half; what cannot be
used has a row that says why. Exit code 0: every row has a prediction; 3: some have none; 2: nothing was tried, for the
error that is printed.
"""

import argparse
import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from pipeline.common.errors import exits_with_one_sentence

EXIT_SOME_FAILED = 3


@exits_with_one_sentence
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.predict", description=__doc__.splitlines()[0])
    parser.add_argument("paths", type=Path, nargs="+", metavar="path", help="files, or folders of them")
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="folder of a run, or exported (runs/demo)")
    parser.add_argument("--output", type=Path, help="file for a line of JSON a row")
    parser.add_argument("--explain", type=Path, metavar="folder", help="folder for a picture of each file")
    parser.add_argument("--window", type=float, metavar="seconds", help="predict windows of files of any length")
    arguments = parser.parse_args()

    from pipeline.models.runs import open_run
    from pipeline.serving.predictor import Prediction, Predictor, files_of
    from pipeline.training.distributed import start_accelerator

    if arguments.explain:  # Matplotlib takes a second
        from pipeline.results.explanation import explain, timeline

    files = files_of(arguments.paths)
    config, _, model = open_run(arguments.run)
    accelerator = start_accelerator(config, trains=False)
    rows: list[dict[str, Any]] = []
    with closing(Predictor(model, config, accelerator)) as predictor:
        for number, path in enumerate(files):
            of_file: list[dict[str, Any]] = []
            figure = None
            for found in predictor.predict_windows(path, arguments.window):
                of_file.append(found.row())
                print(line_of(of_file[-1]), flush=True)
                if arguments.explain and not arguments.window and isinstance(found, Prediction):
                    figure = explain(found.clip, model, accelerator)
            rows += of_file
            if arguments.explain and arguments.window and any(row["prediction"] for row in of_file):
                figure = timeline(path.name, of_file)
            if figure:
                arguments.explain.mkdir(parents=True, exist_ok=True)
                figure.savefig(arguments.explain / f"{number:04d}-{path.stem}.png", dpi=110)
    if arguments.output:
        arguments.output.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if any(row["prediction"] is None for row in rows):
        sys.exit(EXIT_SOME_FAILED)


def line_of(row: dict[str, Any]) -> str:
    span = f"{row['start_s']:7.1f} to {row['end_s']:.1f} s  " if "start_s" in row else ""
    if row["prediction"] is None:
        return f"{span}{'-':9} {row['reason']}: {row['detail']}  {row['file']}"
    shares = "  ".join(f"{name} {share:6.1%}" for name, share in row["probabilities"].items())
    return f"{span}{row['prediction']:9} {shares}  {row['file']}"


if __name__ == "__main__":
    main()
