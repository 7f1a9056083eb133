"""The classes, their order, and the label files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.clips.labels import CLASSES, parse_labels, read_labels, source_of
from pipeline.common.errors import UserError


def test_the_classes_have_the_order_of_vgaf():
    assert parse_labels(["Vid_name Label", "2_2 1", "2_3 2", "2_4 3"], "x") == {
        "2_2": "positive",
        "2_3": "neutral",
        "2_4": "negative",
    }


def test_line_endings_tabs_spaces_and_a_byte_order_mark_are_tolerated(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffVid_name\tLabel\r\n2_2   1\r\n289_55\t3\r\n\r\n".encode())
    assert read_labels(path) == {"2_2": "positive", "289_55": "negative"}


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ([], "the first line is missing"),
        (["Vid Label", "2_2 1"], "'Vid Label'"),
        (["Vid_name Label", "2_2 4"], "the label of clip 2_2 is '4'"),
        (["Vid_name Label", "2_2 0"], "the label of clip 2_2 is '0'"),
        (["Vid_name Label", "2_2 1", "2_2 1"], "clip 2_2 is labelled a second time"),
        (["Vid_name Label", "2_2"], "line 2 is '2_2'"),
        (["Vid_name Label", "2_2.mp4 1"], "without .mp4"),
        (["Vid_name Label", "../2_2 1"], "the clip id is '../2_2'"),
        (["Vid_name Label", "2 1"], "expected <source>_<clip>"),
    ],
)
def test_a_malformed_line_is_named(lines, named):
    with pytest.raises(UserError) as error:
        parse_labels(lines, "Val_labels.txt")
    assert named in str(error.value)
    assert "Val_labels.txt" in str(error.value)


def test_a_file_that_is_not_text_is_named(tmp_path):
    (tmp_path / "labels.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"labels\.txt is not UTF-8"):
        read_labels(tmp_path / "labels.txt")


@given(st.dictionaries(st.from_regex(r"[A-Za-z0-9-]{1,9}_[0-9]{1,4}", fullmatch=True), st.sampled_from(CLASSES)))
def test_labels_are_read_as_they_were_written(labels):
    lines = [f"{clip_id} {CLASSES.index(label) + 1}" for clip_id, label in labels.items()]
    assert parse_labels(["Vid_name Label", *lines], "x") == labels


@given(st.lists(st.text(max_size=20), max_size=5))
def test_any_text_is_parsed_or_refused_with_a_sentence(lines):
    try:
        labels = parse_labels(["Vid_name Label", *lines], "x")
    except UserError:
        return
    assert set(labels.values()) <= set(CLASSES)


def test_the_source_is_the_part_before_the_last_underscore():
    assert source_of("289_55") == "289"
    assert source_of("a_b_7") == "a_b"
