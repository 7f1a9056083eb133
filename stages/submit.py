"""Predict the challenge's test split with a trained model, and write the zip that its organisers ask for.

example:
  python -m stages.submit data/vgaf/Test --run runs/vgaf/paper/seed-0 --unreadable neutral
reads:
  the clips Test_<n>.mp4, and a finished run or an exported folder
writes:
  submission.zip, or the file that --output names, with one text file per clip

Every clip needs an answer. If a clip cannot be read, its answer is the class that --unreadable names. Without
--unreadable, no zip is written.
"""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.common.command_line import add_runs, let_waiting_threads_sleep, runs_of, stage_parser
from pipeline.common.errors import UserError, exits_with_one_sentence
from pipeline.common.files import check_output

if TYPE_CHECKING:
    from pipeline.serving.rows import NoPrediction, Prediction


@exits_with_one_sentence
def main() -> None:
    parser = stage_parser(__file__, __doc__)
    parser.add_argument("folder", type=Path, help="folder with the clips of the test split, Test_<n>.mp4")
    add_runs(parser, required=True)
    parser.add_argument("--gaps", action="store_true", help="the numbers of the clips may have gaps")
    parser.add_argument(
        "--output", type=Path, default=Path("submission.zip"), metavar="FILE", help="zip to write (submission.zip)"
    )
    parser.add_argument("--unreadable", metavar="CLASS", help="answer for clips that cannot be read")
    arguments = parser.parse_args()
    check_output(arguments.output)

    let_waiting_threads_sleep()
    from pipeline.common.accelerator import start_accelerator
    from pipeline.models.runs import open_run
    from pipeline.serving.predictor import Predictor
    from pipeline.serving.submission import check_submission, list_test_clips, write_submission

    files, (run, *voters) = list_test_clips(arguments.folder, arguments.gaps), map(open_run, runs_of(arguments))
    classes = run.model.labels
    if arguments.unreadable not in (None, *classes):
        raise UserError(f"--unreadable is {arguments.unreadable}, expected one of {', '.join(classes)}")
    with closing(Predictor(run, start_accelerator(run.config, trains=False), voters)) as predictor:
        answers = predictor.predict_clips((path, None) for path in files)
        labels = {
            path.stem: label_of(answer.row, path, arguments.unreadable)
            for path, answer in zip(files, answers, strict=True)
        }
    write_submission(labels, arguments.output)
    check_submission(arguments.output, list(labels), classes)
    counts = ", ".join(f"{label} {list(labels.values()).count(label)}" for label in classes)
    print(f"{arguments.output}: {len(labels)} answers, {counts}")


def label_of(row: "Prediction | NoPrediction", path: Path, unreadable: str | None) -> str:
    """The predicted class of a clip, or `unreadable` if it cannot be read; raises `UserError` if that is None."""
    from pipeline.serving.rows import Prediction

    if isinstance(row, Prediction):
        return row.prediction
    if unreadable is None:
        raise UserError(f"{path} cannot be used ({row.reason}: {row.detail}); name a class with --unreadable")
    print(f"{path}: {row.reason}, answered with {unreadable}")
    return unreadable


if __name__ == "__main__":
    main()
