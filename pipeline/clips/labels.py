"""The classes, their order, and VGAF's label files.

A label file has the header `Vid_name Label`, then one clip a line: its id without `.mp4`, and 1 (positive), 2 (neutral)
or 3 (negative). Line endings, tabs, repeated spaces, a byte-order mark and empty last lines are tolerated; anything
else is an error that names the line.
"""

import re
from pathlib import Path

from pipeline.common.errors import UserError

# The only place that states the order. A class's index in logits, confusion matrices and tables is its index here;
# VGAF's label files number the classes from 1 in the same order.
CLASSES = ("positive", "neutral", "negative")

HEADER = ("Vid_name", "Label")
# An id is a tar member's key and a file name. WebDataset cuts a member's name at its first dot, so none is allowed.
CLIP_ID = re.compile(r"(?=.{3,64}$)[A-Za-z0-9_-]*[A-Za-z0-9-]_[A-Za-z0-9-]+")


def source_of(clip_id: str) -> str:
    """The video that a clip was cut from: `<source>_<clip>` up to the last underscore."""
    return clip_id.rpartition("_")[0]


def read_labels(path: Path) -> dict[str, str]:
    """Class name by clip id, in the file's order; raises `UserError` on anything that the format does not allow."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(
            f"label file {path} is missing; unpack it from VGAF, or make it: 'Vid_name Label' and a line a clip"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"label file {path} is not UTF-8 text (byte {error.start}); is it the right file?") from None
    return parse_labels(lines, str(path))


def parse_labels(lines: list[str], source: str) -> dict[str, str]:
    """Parse the lines of a label file; `source` names it in error messages."""
    if not lines or tuple(lines[0].split()) != HEADER:
        found = lines[0][:60] if lines else "nothing"
        raise UserError(f"{source}: the first line is {found!r}, expected the header 'Vid_name Label'")
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
                f"{where}: clip id {clip_id[:60]!r}, expected <source>_<clip>: up to 64 letters, digits, _, -; no .mp4"
            )
        if code not in {str(number) for number in range(1, len(CLASSES) + 1)}:
            meaning = ", ".join(f"{number} ({name})" for number, name in enumerate(CLASSES, start=1))
            raise UserError(f"{where}: label {code[:20]!r} of clip {clip_id}, expected one of {meaning}")
        if clip_id in labels:
            raise UserError(f"{where}: clip {clip_id} is labelled a second time; keep one of its lines")
        labels[clip_id] = CLASSES[int(code) - 1]
    return labels
