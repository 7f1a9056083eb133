"""The table of quarantined clips, the summary of a run, and when a run has failed."""

import pytest
from helpers import clips_of

from pipeline.common.errors import UserError
from pipeline.extraction.outcomes import check_failures, summary_table, write_quarantine
from pipeline.extraction.splits import Extraction
from pipeline.shards.format import Entry, Quarantined, Shard
from pipeline.shards.index import ShardIndex


@pytest.fixture
def index(features, tmp_path):
    """An index of nine clips in two shards: one without sound, one quarantined."""
    entries = [Entry(f"1_{i}", 0, 1000, i != 3, 5.0, 25.0) for i in range(8)]
    quarantined = [Quarantined("1_8", "unreadable", 'it says "no", twice')]
    shards = [
        Shard("a.tar", "f", 10**6, "0", entries[:4], []),
        Shard("b.tar", "f", 10**6, "0", entries[4:], quarantined),
    ]
    return ShardIndex(tmp_path / "train", features, shards)


def test_too_many_quarantined_clips_fail_the_run(index, drawn_root):
    clips = {"train": clips_of(drawn_root, "train")}
    with pytest.raises(UserError, match=r"1 of 9 train clips were quarantined.*the first is 1_8: unreadable"):
        check_failures({"train": index}, clips, 0.1)
    check_failures({"train": index}, clips, 0.12)


def test_the_summary_counts_clips_outcomes_and_reasons(index):
    header, row, reasons, speed = summary_table(Extraction({"train": index}, 6, 2.0)).splitlines()
    assert header.split() == ["clips", "extracted", "no", "sound", "quarantined", "shards", "MB"]
    assert row.split() == ["train", "9", "8", "1", "1", "2", "2.0"]
    assert reasons == "quarantined, unreadable: 1"
    assert speed == "6 clips in 2.0 s, 3.0 clips/s; 3 kept from an earlier run"


def test_the_summary_counts_suspect_clips_by_kind(features, tmp_path):
    noted = [["muted"], [], ["muted", "black"], ["still"]]
    entries = [Entry(f"1_{i}", 0, 1000, True, 5.0, 25.0, suspect) for i, suspect in enumerate(noted)]
    index = ShardIndex(tmp_path / "train", features, [Shard("a.tar", "f", 1, "0", entries, [])])
    assert summary_table(Extraction({"train": index}, 4, 1.0)).splitlines()[2:-1] == [
        "suspect, muted: 2",
        "suspect, black: 1",
        "suspect, still: 1",
    ]


def test_the_summary_counts_faces_if_they_were_looked_for(features, tmp_path):
    features = features.model_copy(update={"people": features.people.model_copy(update={"most": 2})})
    entries = [Entry(f"1_{i}", 0, 1000, True, 5.0, 25.0, people=faces) for i, faces in enumerate([7, 0, 3, 0])]
    index = ShardIndex(tmp_path / "train", features, [Shard("a.tar", "f", 1, "0", entries, [])])
    lines = summary_table(Extraction({"train": index}, 4, 1.0)).splitlines()
    assert "people: 10 faces; none in 2 of 4 clips" in lines


def test_the_table_has_one_row_per_quarantined_clip(index, tmp_path):
    write_quarantine({"train": index, "val": index}, tmp_path / "quarantine.csv")
    assert (tmp_path / "quarantine.csv").read_text().splitlines() == [
        "split,clip_id,reason,detail",
        'train,1_8,unreadable,"it says ""no"", twice"',
        'val,1_8,unreadable,"it says ""no"", twice"',
    ]
