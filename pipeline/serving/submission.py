"""The challenge's answer for the test split, whose labels only its organisers have: a zip with a text file a clip."""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

from pipeline.clips.labels import CLASSES
from pipeline.common.errors import UserError

TEST_CLIP = re.compile(r"Test_([1-9][0-9]*)")
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same bytes each time


def clips_to_answer(folder: Path) -> list[Path]:
    """The clips of a test split, `Test_<n>.mp4`, by number; raises `UserError` for a gap or a file of another name."""
    numbers: dict[int, Path] = {}
    for path in sorted(folder.glob("*.mp4")):
        if not (name := TEST_CLIP.fullmatch(path.stem)):
            raise UserError(f"{path} is not named Test_<n>.mp4; expected a folder of the test split's clips alone")
        numbers[int(name[1])] = path
    if not numbers:
        raise UserError(f"{folder} holds no Test_<n>.mp4; expected a folder of the test split's clips")
    if missing := set(range(1, max(numbers) + 1)) - numbers.keys():
        raise UserError(
            f"{folder} lacks Test_{min(missing)}.mp4 ({len(missing)} missing below Test_{max(numbers)}.mp4)"
        )
    return [numbers[number] for number in sorted(numbers)]


def write_submission(answers: Mapping[str, str], path: Path) -> None:
    """Write `<clip>.txt` with the class's word, Positive, Neutral or Negative, for each clip."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for clip_id, label in answers.items():
            archive.writestr(zipfile.ZipInfo(f"{clip_id}.txt", EPOCH), label.capitalize())


def check_submission(path: Path, clip_ids: list[str]) -> None:
    """Raise `UserError` unless the zip has one file for each clip, with one of the three words, and no other."""
    with zipfile.ZipFile(path) as archive:
        words = {name: archive.read(name).decode() for name in archive.namelist()}
        repeated = len(archive.namelist()) != len(words)
    if repeated or words.keys() != {f"{clip_id}.txt" for clip_id in clip_ids}:
        raise UserError(f"{path} has {len(words)} files, expected {len(clip_ids)}: one .txt for each clip")
    if wrong := [name for name, word in words.items() if word not in {label.capitalize() for label in CLASSES}]:
        raise UserError(f"{path}: {wrong[0]} holds {words[wrong[0]]!r}, expected Positive, Neutral or Negative")
