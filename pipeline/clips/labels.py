"""The names of the classes, and VGAF's label files.

A label file has the header `Vid_name Label` and one line per clip: the clip's id, and the clip's class by its name or
by its place from 1. As spreadsheets save such files, any line endings, tabs, commas and semicolons, repeated and
trailing blanks, UTF-16, a byte-order mark, empty lines and `.mp4` after an id are accepted. Anything else is an error
that names the line.
"""

import codecs
import json
import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.common.errors import UserError

# VGAF's classes, in the order of the numbers in its label files.
CLASSES = ("positive", "neutral", "negative")

HEADER = ("Vid_name", "Label")
SEPARATOR = re.compile(r"\s*[\s,;]\s*")
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
CLIP_SUFFIX = ".mp4"
# An id is a file name and the key of tar members. WebDataset ends the key at the first dot, so an id has no dot.
CLIP_ID = re.compile(r"(?=.{3,64}$)[A-Za-z0-9_-]*[A-Za-z0-9-]_[A-Za-z0-9-]+")


def source_of(clip_id: str) -> str:
    """The id of the video that a clip was cut from: the part of `<source>_<clip>` before the last underscore."""
    return clip_id.rpartition("_")[0]


def class_of(label: str, classes: Sequence[str]) -> str | None:
    """The class that a label names, in upper or lower case, or else by its place from 1; None if there is none."""
    names = {name.casefold(): name for name in reversed(classes)}
    places = {str(place): name for place, name in enumerate(classes, start=1)}
    return label if label in classes else names.get(label.casefold()) or places.get(label)


def expected_labels(classes: Sequence[str]) -> str:
    """What a label may be, for error messages: `1 (positive), 2 (neutral), 3 (negative)`."""
    return ", ".join(f"{place} ({name})" for place, name in enumerate(classes, start=1))


def check_classes(classes: Sequence[str], labels: set[str], source: str) -> None:
    """Raise `UserError` if there are labels but no classes; the sentence lists the labels that `source` has."""
    if classes or not labels:
        return
    raise UserError(
        f"dataset.classes is empty, and {source} has the labels {', '.join(sorted(labels))}; "
        "name the classes in the order of the model's outputs: "
        f"-S 'dataset.classes={json.dumps(sorted(labels), ensure_ascii=False)}'"
    )


def read_labels(path: Path, classes: Sequence[str]) -> dict[str, str]:
    """Class name by clip id, in the file's order; raises `UserError` for a file that breaks the format."""
    try:
        content = path.read_bytes()
        lines = content.decode("utf-16" if content.startswith(UTF_16) else "utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(
            f"label file {path} is missing; unpack it from VGAF, or write one: the header 'Vid_name Label', "
            "then one line per clip"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"label file {path} is neither UTF-8 nor UTF-16 text (byte {error.start}); is it the right file?"
        ) from None
    return parse_labels(lines, classes, str(path))


def parse_labels(lines: list[str], classes: Sequence[str], source: str) -> dict[str, str]:
    """Class name by clip id, from the lines of a label file; `source` names the file in error messages.

    Raises `UserError` for the first line that breaks the format, or if there are no classes.
    """
    if not lines or tuple(_fields(lines[0])) != HEADER:
        first_line = repr(lines[0][:60]) if lines else "missing"
        raise UserError(f"{source}: the first line is {first_line}, expected the header 'Vid_name Label'")
    rows = {number: _fields(line) for number, line in enumerate(lines[1:], start=2) if line.strip()}
    check_classes(classes, {fields[1].strip() for fields in rows.values() if len(fields) == 2}, source)
    labels: dict[str, str] = {}
    for number, fields in rows.items():
        where = f"{source}, line {number}"
        if len(fields) != 2:
            raise UserError(f"{where} is {fields[0][:60]!r}, expected a clip id and a label")
        clip_id, label = _without_suffix(fields[0]), fields[1].strip()
        if not CLIP_ID.fullmatch(clip_id):
            raise UserError(
                f"{where}: the clip id is {clip_id[:60]!r}, expected <source>_<clip> of at most 64 letters, digits, "
                "_ and -"
            )
        if (name := class_of(label, classes)) is None:
            raise UserError(
                f"{where}: the label of clip {clip_id} is {label[:20]!r}, expected one of {expected_labels(classes)}"
            )
        if clip_id in labels:
            raise UserError(f"{where}: clip {clip_id} is labelled a second time; keep only one of its lines")
        labels[clip_id] = name
    return labels


def _fields(line: str) -> list[str]:
    """The parts of a line before and after the first separator: a class may have blanks and commas in its name."""
    return SEPARATOR.split(line.strip(), maxsplit=1)


def _without_suffix(clip_id: str) -> str:
    return clip_id[: -len(CLIP_SUFFIX)] if clip_id.lower().endswith(CLIP_SUFFIX) else clip_id
