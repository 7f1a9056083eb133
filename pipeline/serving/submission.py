"""The submission to the challenge: a zip with one text file for each clip of its test split, which has no labels."""

import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.clips.labels import CLIP_SUFFIX
from pipeline.common.errors import UserError

TEST_CLIP = re.compile(r"Test_([1-9][0-9]*)")
FIXED_TIME = (1980, 1, 1, 0, 0, 0)  # so that equal predictions give an equal file


def list_test_clips(folder: Path, gaps: bool = False) -> list[Path]:
    """The clips of a test split, `Test_<n>.mp4`, by number; as in train and val, hidden files are none.

    Raises `UserError` for a file of another name, for two of one number and, unless `gaps` may be there, for a missing
    number.
    """
    numbers: dict[int, Path] = {}
    for path in sorted(folder.glob("[!.]*")):
        if path.suffix.lower() != CLIP_SUFFIX:
            continue
        if not (name := TEST_CLIP.fullmatch(path.stem)):
            raise UserError(
                f"{path} is not named Test_<n>.mp4; name a folder that holds only the clips of the test split"
            )
        if other := numbers.get(int(name[1])):
            raise UserError(f"{folder} holds {other.name} and {path.name}, which are one clip; remove one of them")
        numbers[int(name[1])] = path
    if not numbers:
        raise UserError(f"{folder} holds no Test_<n>.mp4; name the folder with the clips of the test split")
    if not gaps and (missing := set(range(1, max(numbers) + 1)) - numbers.keys()):
        raise UserError(
            f"{folder} lacks Test_{min(missing)}.mp4 ({len(missing)} missing below Test_{max(numbers)}.mp4); "
            "add the missing clips, or add --gaps if the challenge's own numbers have gaps"
        )
    return [numbers[number] for number in sorted(numbers)]


def write_submission(predictions: Mapping[str, str], path: Path) -> None:
    """Write `<clip>.txt` with the word of the class, its name with a capital, for each clip id."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for clip_id, label in predictions.items():
            archive.writestr(zipfile.ZipInfo(f"{clip_id}.txt", FIXED_TIME), label.capitalize())


def check_submission(path: Path, clip_ids: Sequence[str], classes: Sequence[str]) -> None:
    """Raise `UserError` unless the zip has exactly one file for each clip, with the word of one of the classes."""
    with zipfile.ZipFile(path) as archive:
        words = {name: archive.read(name).decode() for name in archive.namelist()}
        has_repeated_names = len(archive.namelist()) != len(words)
    if has_repeated_names or words.keys() != {f"{clip_id}.txt" for clip_id in clip_ids}:
        raise UserError(f"{path} has {len(words)} files, expected {len(clip_ids)}: one .txt for each clip")
    expected = [label.capitalize() for label in classes]
    if wrong := [name for name, word in words.items() if word not in expected]:
        raise UserError(f"{path}: {wrong[0]} holds {words[wrong[0]]!r}, expected one of {', '.join(expected)}")
