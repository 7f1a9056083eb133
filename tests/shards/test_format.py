"""The format of shards: reproducible, complete, and readable by webdataset itself."""

import io
import json
import tarfile

import numpy as np
import pytest
import webdataset as wds
from hypothesis import given
from made_samples import any_outcomes, in_one_folder, made_sample

from pipeline.shards.format import FRAMES, LOG_MEL, META, Quarantined, Sample, read_members, write_shard


@pytest.fixture
def outcomes():
    return [made_sample("1_1"), Quarantined("1_2", "too_long", "9 s"), made_sample("1_3", has_audio=False)]


def test_a_shard_is_the_same_bytes_when_written_again(tmp_path, outcomes):
    first = write_shard(tmp_path, "a.tar", "f", outcomes)
    second = write_shard(tmp_path, "b.tar", "f", outcomes)
    assert first.sha256 == second.sha256
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert {(m.mtime, m.uid, m.mode) for m in tar} == {(0, 0, 0o444)}


def test_a_shard_is_replaced_only_by_a_whole_one(tmp_path, outcomes):
    def killed():
        yield made_sample("1_1")
        raise KeyboardInterrupt

    write_shard(tmp_path, "a.tar", "f", outcomes)
    whole = (tmp_path / "a.tar").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path, "a.tar", "f", killed())
    assert (tmp_path / "a.tar").read_bytes() == whole


def test_plain_webdataset_reads_a_shard(tmp_path, outcomes):
    write_shard(tmp_path, "a.tar", "f", outcomes)
    samples = list(wds.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False, empty_check=False))
    assert [s["__key__"] for s in samples] == ["1_1", "1_3"]
    assert samples[0][FRAMES] == b"jpeg-ajpeg-bc"
    assert json.loads(samples[0][META])["frame_bytes"] == [6, 7]
    np.testing.assert_array_equal(np.load(io.BytesIO(samples[0][LOG_MEL])), np.full((4, 10), -20.0))
    assert json.loads(samples[1][META])["has_audio"] is False


def test_the_byte_range_of_a_clip_is_a_tar_file_of_its_own(tmp_path, outcomes):
    shard = write_shard(tmp_path, "a.tar", "f", outcomes)
    entry = shard.entries[1]
    part = (tmp_path / "a.tar").read_bytes()[entry.offset : entry.offset + entry.size]
    with tarfile.open(fileobj=io.BytesIO(part)) as tar:
        assert tar.getnames() == [f"1_3.{FRAMES}", f"1_3.{META}", f"1_3.{LOG_MEL}"]


@pytest.mark.parametrize("log_mel", [np.zeros((4, 10), np.float32), np.full((1, 1), {}, object)])
def test_a_log_mel_of_another_type_is_refused(log_mel):
    file = io.BytesIO()
    np.save(file, log_mel)
    with pytest.raises(ValueError, match=f"the log-mel is of {log_mel.dtype}, expected float16"):
        Sample.from_members(made_sample("1_1").members() | {LOG_MEL: file.getvalue()})


def equal(one, other):
    if (one.log_mel is None) != (other.log_mel is None):
        return False
    same_sound = one.log_mel is None or np.array_equal(one.log_mel, other.log_mel)
    return same_sound and {**vars(one), "log_mel": 0} == {**vars(other), "log_mel": 0}


@given(outcomes=any_outcomes)
@in_one_folder
def test_any_sample_is_read_from_its_byte_range_as_it_was_written(outcomes, tmp_path):
    shard = write_shard(tmp_path, "a.tar", "f", outcomes)
    content = (tmp_path / "a.tar").read_bytes()
    written = [outcome for outcome in outcomes if isinstance(outcome, Sample)]
    assert len(content) == shard.bytes
    assert [entry.clip_id for entry in shard.entries] == [sample.clip_id for sample in written]
    for entry, sample in zip(shard.entries, written, strict=True):
        part = content[entry.offset : entry.offset + entry.size]
        with tarfile.open(fileobj=io.BytesIO(part)) as tar:
            members = {member.name.split(".", 1)[1]: tar.extractfile(member).read() for member in tar}
        assert read_members(part) == members
        assert equal(Sample.from_members(members), sample)
        assert entry.has_audio == (sample.log_mel is not None)
        assert entry.suspect == sample.suspect
