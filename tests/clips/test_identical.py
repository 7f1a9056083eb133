"""The same recording more than once: in both splits it is refused, within one it is said."""

from dataclasses import replace

import pytest

from pipeline.clips.identical import check_identical, find_identical, identical_warnings
from pipeline.clips.manifest import Clip, IdenticalClips
from pipeline.common.errors import UserError


def clip(clip_id, sha256, start_s=None, end_s=None, label="happy"):
    return Clip(clip_id, "x", label, f"{clip_id}.mp4", 1, sha256, start_s, end_s)


def test_clips_of_equal_bytes_are_identical_whatever_their_names():
    clips = {"train": [clip("a", "1"), clip("b", "2"), clip("c", "1")], "val": [clip("d", "2"), clip("e", "3")]}
    assert find_identical(clips) == [
        IdenticalClips(train=["a", "c"], val=[], labels=["happy"]),
        IdenticalClips(train=["b"], val=["d"], labels=["happy"]),
    ]


def test_parts_of_a_file_are_identical_only_where_they_overlap():
    apart = {"train": [clip("a", "1", 0, 2), clip("b", "1", 2, 4)], "val": [clip("c", "1", 4, 6)]}
    assert find_identical(apart) == []
    overlapping = {"train": [clip("a", "1", 0, 2), clip("b", "1", 3, 5)], "val": [clip("c", "1", 4.9, 6)]}
    assert find_identical(overlapping) == [IdenticalClips(train=["b"], val=["c"], labels=["happy"])]
    contained = {"train": [clip("a", "1", 0, 9), clip("b", "1", 1, 2)], "val": [clip("c", "1", 5, 6)]}
    assert find_identical(contained) == [IdenticalClips(train=["a", "b"], val=["c"], labels=["happy"])]


def test_empty_files_are_no_identical_recordings():
    clips = {"train": [replace(clip("a", "1"), bytes=0)], "val": [replace(clip("b", "1"), bytes=0)]}
    assert find_identical(clips) == []


def test_a_whole_file_overlaps_all_of_its_parts():
    clips = {"train": [clip("a", "1")], "val": [clip("b", "1", 100, 102)]}
    assert find_identical(clips) == [IdenticalClips(train=["a"], val=["b"], labels=["happy"])]


def test_a_recording_in_both_splits_is_refused_with_the_way_to_allow_it():
    clips = {"train": [clip("a", "1"), clip("b", "2")], "val": [clip("c", "2"), clip("d", "1")]}
    with pytest.raises(UserError) as error:
        check_identical(find_identical(clips))
    assert "recordings with clips in train and in val: 2, a in train and d in val among them" in str(error.value)
    assert str(error.value).endswith("-S dataset.allow_identical=true")
    assert identical_warnings(find_identical(clips)) == [
        "recordings with clips in train and in val: 2, a in train and d in val among them"
    ]


def test_a_recording_that_a_split_has_twice_is_said_and_so_are_its_different_labels():
    clips = {"train": [clip("a", "1"), clip("b", "1", label="sad")], "val": [clip("c", "2"), clip("d", "2")]}
    identical = find_identical(clips)
    check_identical(identical)
    assert identical_warnings(identical) == [
        "recordings that train holds more than once: 1, a and b among them",
        "recordings that val holds more than once: 1, c and d among them",
        "recordings with different labels: 1, a and b among them (happy, sad)",
    ]
