"""Predict the group emotion of videos with a trained model.

example:
  python -m stages.predict clip.mp4 folder/ --output p.jsonl --explain pictures/
reads:
  the videos, and finished runs or exported folders
writes:
  Prints one row per file or, with --window, one row per window of a file. Windows overlap by half.
  A file or window that cannot be used has a row with the reason.
  --output writes the rows as CSV if the file's name ends in .csv, otherwise as JSON lines. --format chooses one of
  the two, whatever the name. --explain writes a picture of each file that has a prediction.
  Until the output is complete, FILE.partial keeps the rows of the files that are done, and the same command goes on
  with the others.
exit codes:
  0    every row has a prediction
  2    nothing was tried; the line that begins with "error:" says why
  3    some rows have no prediction
  130  interrupted by Ctrl-C
"""

import argparse
import os
import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.common.command_line import add_runs, let_waiting_threads_sleep, runs_of, stage_parser
from pipeline.common.errors import EXIT_SOME_FAILED, UserError, exits_with_one_sentence
from pipeline.common.files import check_output

if TYPE_CHECKING:
    from pipeline.models.scoring import Scorer
    from pipeline.serving.partial_rows import PartialRows, Row
    from pipeline.serving.predictor import Answer

STEM_BYTES = 200  # of the 255 of a name, beside the number, the suffix, and what a name has until the file is whole


@exits_with_one_sentence
def main() -> None:
    parser = stage_parser(__file__, __doc__)
    parser.add_argument("paths", type=Path, nargs="+", metavar="path", help="files, or folders of files")
    add_runs(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help="file for the rows")
    parser.add_argument("--format", choices=("jsonl", "csv"), help="format of the file (by its name)")
    parser.add_argument("--explain", type=Path, metavar="FOLDER", help="folder for the pictures")
    parser.add_argument("--window", type=float, metavar="SECONDS", help="length of the windows")
    arguments = parser.parse_args()
    check_arguments(arguments)

    let_waiting_threads_sleep()
    from pipeline.common.accelerator import start_accelerator
    from pipeline.models.runs import open_run
    from pipeline.serving.predictor import Predictor, list_files
    from pipeline.serving.rows import csv_table, json_line

    files, output = list_files(arguments.paths), arguments.output
    run, *voters = map(open_run, runs_of(arguments))
    partial = open_partial_rows(arguments) if output and not is_stream(output) else None
    done = {path: rows for path in files if partial and (rows := partial.rows_of(path))}
    numbers = {path: number for number, path in enumerate(dict.fromkeys(files))}
    left = [path for path in numbers if path not in done]
    with closing(Predictor(run, start_accelerator(run.config, trains=False), voters)) as predictor:
        for path, answers in zip(left, predictor.predict_files(left, arguments.window), strict=True):
            picture = arguments.explain and arguments.explain / picture_name(numbers[path], path)
            done[path] = show(path, answers, predictor.scorer, picture)
            if partial:
                partial.add(path, done[path])
    rows = [row for path in numbers for row in done[path]]
    if output:
        kind = arguments.format or ("csv" if output.suffix.lower() == ".csv" else "jsonl")
        text = csv_table(rows, run.model.labels) if kind == "csv" else "".join(map(json_line, rows))
        output.write_text(text)
    if partial:
        partial.remove()
    if any(row.prediction is None for row in rows):
        sys.exit(EXIT_SOME_FAILED)


def check_arguments(arguments: argparse.Namespace) -> None:
    """Raise `UserError` for options that do not go together, and for an output that cannot be written."""
    if arguments.format and not arguments.output:
        raise UserError(f"--format is {arguments.format}, but no file is written; name one with --output")
    if arguments.explain and len(runs_of(arguments)) > 1:
        raise UserError("--explain shows what one model attends to, but several runs are named; name one of them")
    if arguments.explain and arguments.explain.exists() and not arguments.explain.is_dir():
        raise UserError(f"--explain is {arguments.explain}, which is a file; name a folder")
    if arguments.output:
        check_output(arguments.output, arguments.paths)


def is_stream(path: Path) -> bool:
    """Whether a path is something else than a file, such as /dev/stdout, beside which nothing can be kept."""
    return path.exists() and not path.is_file()


def open_partial_rows(arguments: argparse.Namespace) -> "PartialRows":
    """What an earlier call with the same models, windows and pictures has done."""
    from pipeline.common.files import sha256_of
    from pipeline.models.run_record import MODEL_NAME
    from pipeline.serving.partial_rows import PartialRows

    explain = arguments.explain and str(arguments.explain)
    models = [sha256_of(run / MODEL_NAME) for run in runs_of(arguments)]
    return PartialRows(arguments.output, {"models": models, "window_s": arguments.window, "explain": explain})


def picture_name(number: int, path: Path) -> str:
    """The name of the picture of a file: its number, and as much of its own name as fits into the name of a file."""
    stem = os.fsencode(path.stem)[:STEM_BYTES].decode(errors="ignore")
    return f"{number:04d}-{stem}.png"


def show(path: Path, answers: "Iterable[Answer]", scorer: "Scorer", picture: Path | None) -> "list[Row]":
    """Print the rows of a file as they come, and write its picture if one is asked for; returns the rows."""
    from pipeline.common.files import written_whole
    from pipeline.serving.rows import printable, text_line

    rows, clip = [], None
    for answer in answers:
        print(text_line(answer.row), flush=True)
        rows.append(answer.row)
        clip = answer.clip
    if picture:
        from pipeline.serving.file_picture import draw_file  # Matplotlib takes a second

        if figure := draw_file(printable(path.name), rows, clip, scorer):
            picture.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(picture) as temporary:
                figure.savefig(temporary, format="png", dpi=110)
    return rows


if __name__ == "__main__":
    main()
