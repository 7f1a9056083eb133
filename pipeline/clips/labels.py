"""The classes, their order, and VGAF's label files.

A label file has the header `Vid_name Label` and one line per clip: the clip's id without `.mp4`, and 1 (positive),
2 (neutral) or 3 (negative). Any line endings, tabs, repeated spaces, a byte-order mark and empty lines are accepted.
Anything else is an error that names the line.
"""

import re
from pathlib import Path

from pipeline.common.errors import UserError

# Only this line states the order. A class has the same index in logits, confusion matrices and tables. VGAF's label
# files number the classes in the same order, from 1.
CLASSES = ("positive", "neutral", "negative")

HEADER = ("Vid_name", "Label")
# An id is a file name and the key of tar members. WebDataset ends the key at the first dot, so an id has no dot.
CLIP_ID = re.compile(r"(?=.{3,64}$)[A-Za-z0-9_-]*[A-Za-z0-9-]_[A-Za-z0-9-]+")


def source_of(clip_id: str) -> str:
    """The id of the video that a clip was cut from: the part of `<source>_<clip>` before the last underscore."""
    return clip_id.rpartition("_")[0]


def read_labels(path: Path) -> dict[str, str]:
    """Class name by clip id, in the file's order; raises `UserError` for a file that breaks the format."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(
            f"label file {path} is missing; unpack it from VGAF, or write one: the header 'Vid_name Label', "
            "then one line per clip"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"label file {path} is not UTF-8 text (byte {error.start}); is it the right file?") from None
    return parse_labels(lines, str(path))


def parse_labels(lines: list[str], source: str) -> dict[str, str]:
    """Class name by clip id, from the lines of a label file; `source` names the file in error messages.

    Raises `UserError` for the first line that breaks the format.
    """
    if not lines or tuple(lines[0].split()) != HEADER:
        first_line = repr(lines[0][:60]) if lines else "missing"
        raise UserError(f"{source}: the first line is {first_line}, expected the header 'Vid_name Label'")
    labels: dict[str, str] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not (fields := line.split()):
            continue
        where = f"{source}, line {number}"
        if len(fields) != 2:
            raise UserError(f"{where} is {line[:60]!r}, expected a clip id and a label")
        clip_id, code = fields
        if not CLIP_ID.fullmatch(clip_id):
            raise UserError(
                f"{where}: the clip id is {clip_id[:60]!r}, expected <source>_<clip> of at most 64 letters, digits, "
                "_ and -, without .mp4"
            )
        if code not in {str(number) for number in range(1, len(CLASSES) + 1)}:
            meaning = ", ".join(f"{number} ({name})" for number, name in enumerate(CLASSES, start=1))
            raise UserError(f"{where}: the label of clip {clip_id} is {code[:20]!r}, expected one of {meaning}")
        if clip_id in labels:
            raise UserError(f"{where}: clip {clip_id} is labelled a second time; keep only one of its lines")
        labels[clip_id] = CLASSES[int(code) - 1]
    return labels
