"""The names of the classes, and the label files."""

import shlex

import pytest
from helpers import composed
from hypothesis import given
from hypothesis import strategies as st

from pipeline.clips.labels import CLASSES, class_of, parse_labels, read_labels, source_of
from pipeline.common.errors import UserError

MOODS = ("angry", "very happy", "calm", "sad")


def test_the_classes_have_the_order_of_vgaf():
    assert parse_labels(["Vid_name Label", "2_2 1", "2_3 2", "2_4 3"], CLASSES, "x") == {
        "2_2": "positive",
        "2_3": "neutral",
        "2_4": "negative",
    }


def test_a_label_is_the_name_of_a_class_in_any_case_or_its_place():
    labels = {"2_2": "ANGRY", "2_3": "very happy", "2_4": "4", "2_5": "3"}
    lines = [f"{clip_id} {label}" for clip_id, label in labels.items()]
    assert list(parse_labels(["Vid_name Label", *lines], MOODS, "x").values()) == ["angry", "very happy", "sad", "calm"]


def test_a_name_that_is_a_number_comes_before_a_place():
    assert class_of("1", ("0", "1", "2")) == "1"
    assert class_of("3", ("0", "1", "2")) == "2"


def test_the_exact_name_comes_before_one_in_another_case():
    assert [class_of(label, ("Sad", "sad")) for label in ("Sad", "sad")] == ["Sad", "sad"]


@pytest.mark.parametrize("separator", [",", ";", " ; ", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_label_files_may_have_the_separators_and_encodings_of_spreadsheets(separator, encoding, tmp_path):
    rows = [("Vid_name", "Label"), ("2_2", "Very happy, or calm"), ("2_3", "2")]
    (tmp_path / "labels.txt").write_text("\r\n".join(map(separator.join, rows)), encoding=encoding)
    classes = ("very happy, or calm", "sad")
    assert read_labels(tmp_path / "labels.txt", classes) == {"2_2": "very happy, or calm", "2_3": "sad"}


def test_what_spreadsheets_add_to_a_label_file_is_tolerated(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffVid_name\tLabel \r\n2_2.mp4   1\r\n289_55.MP4\t3\t \r\n7_1\tNeutral  \r\n\r\n".encode())
    assert read_labels(path, CLASSES) == {"2_2": "positive", "289_55": "negative", "7_1": "neutral"}


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        ([], "the first line is missing"),
        (["Vid Label", "2_2 1"], "'Vid Label'"),
        (["Vid_name Label", "2_2 4"], "the label of clip 2_2 is '4', expected one of 1 (positive), 2 (neutral)"),
        (["Vid_name Label", "2_2 0"], "the label of clip 2_2 is '0'"),
        (["Vid_name Label", "2_2 happy"], "the label of clip 2_2 is 'happy'"),
        (["Vid_name Label", "2_2 1 7"], "the label of clip 2_2 is '1 7'"),
        (["Vid_name Label", "2_2 1", "2_2 1"], "clip 2_2 is labelled a second time"),
        (["Vid_name Label", "2_2.mp4 1", "2_2 1"], "clip 2_2 is labelled a second time"),
        (["Vid_name Label", "2_2"], "line 2 is '2_2'"),
        (["Vid_name Label", "", "2_2"], "line 3 is '2_2'"),
        (["Vid_name Label", "2_2.avi 1"], "the clip id is '2_2.avi'"),
        (["Vid_name Label", "../2_2 1"], "the clip id is '../2_2'"),
        (["Vid_name Label", "2 1"], "expected <source>_<clip>"),
    ],
)
def test_a_malformed_line_is_named(lines, named):
    with pytest.raises(UserError) as error:
        parse_labels(lines, CLASSES, "Val_labels.txt")
    assert named in str(error.value)
    assert "Val_labels.txt" in str(error.value)


@pytest.mark.parametrize("labels", [["happy", "angry"], ["1", "0"], ["no", "very happy"]])
def test_without_classes_the_labels_are_listed_with_the_setting_to_add(labels, tmp_path):
    lines = [f"2_{number} {label}" for number, label in enumerate([*labels, *labels])]
    with pytest.raises(UserError) as error:
        parse_labels(["Vid_name Label", *lines], [], "Train_labels.txt")
    assert f"Train_labels.txt has the labels {', '.join(sorted(labels))}; " in str(error.value)
    _, setting = shlex.split(str(error.value).partition("model's outputs: ")[2])
    assert composed(tmp_path, setting)["dataset"]["classes"] == sorted(labels)


def test_a_file_that_is_not_text_is_named(tmp_path):
    (tmp_path / "labels.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"labels\.txt is neither UTF-8 nor UTF-16"):
        read_labels(tmp_path / "labels.txt", CLASSES)


@given(st.dictionaries(st.from_regex(r"[A-Za-z0-9-]{1,9}_[0-9]{1,4}", fullmatch=True), st.sampled_from(CLASSES)))
def test_labels_are_read_as_they_were_written(labels):
    lines = [f"{clip_id} {CLASSES.index(label) + 1}" for clip_id, label in labels.items()]
    assert parse_labels(["Vid_name Label", *lines], CLASSES, "x") == labels


@given(st.lists(st.text(max_size=20), max_size=5), st.sampled_from([CLASSES, MOODS, ()]))
def test_any_text_is_parsed_or_refused_with_a_sentence(lines, classes):
    try:
        labels = parse_labels(["Vid_name Label", *lines], classes, "x")
    except UserError:
        return
    assert set(labels.values()) <= set(classes)


def test_the_source_is_the_part_before_the_last_underscore():
    assert source_of("289_55") == "289"
    assert source_of("a_b_7") == "a_b"
