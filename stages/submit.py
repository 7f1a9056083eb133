"""Answer the challenge's test split with a trained model.

`python -m stages.submit data/vgaf/Test --run runs/vgaf [--output submission.zip] [--unreadable neutral]`: a zip with a
text file a clip. Every clip needs an answer: one that cannot be read gets the class that you name, or none is written.
"""

import argparse
from contextlib import closing
from pathlib import Path

from pipeline.clips.labels import CLASSES
from pipeline.common.errors import UserError, exits_with_one_sentence


@exits_with_one_sentence
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.submit", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the test split's clips, Test_<n>.mp4")
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--output", type=Path, default=Path("submission.zip"), help="the zip (submission.zip)")
    parser.add_argument("--unreadable", choices=CLASSES, help="answer for clips that cannot be read")
    arguments = parser.parse_args()

    from pipeline.models.runs import open_run
    from pipeline.serving.predictor import Prediction, Predictor
    from pipeline.serving.submission import check_submission, clips_to_answer, write_submission
    from pipeline.training.distributed import start_accelerator

    files = clips_to_answer(arguments.folder)
    config, _, model = open_run(arguments.run)
    answers: dict[str, str] = {}
    with closing(Predictor(model, config, start_accelerator(config, trains=False))) as predictor:
        for path in files:
            found = predictor.predict(path)
            if isinstance(found, Prediction):
                answers[path.stem] = found.clip.label
            elif arguments.unreadable is None:
                raise UserError(f"{path} cannot be used ({found.reason}: {found.detail}); name --unreadable a class")
            else:
                print(f"{path}: {found.reason}, answered with {arguments.unreadable}")
                answers[path.stem] = arguments.unreadable
    write_submission(answers, arguments.output)
    check_submission(arguments.output, [path.stem for path in files])
    print(f"{arguments.output}: {len(answers)} answers, {', '.join(counted(answers))}")


def counted(answers: dict[str, str]) -> list[str]:
    return [f"{label} {list(answers.values()).count(label)}" for label in CLASSES]


if __name__ == "__main__":
    main()
