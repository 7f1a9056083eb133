import io
import json
import tarfile

import numpy as np
import pytest
import webdataset as wds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.clips.manifest import Clip
from pipeline.common.errors import UserError
from pipeline.shards.format import (
    FRAMES,
    INDEX_NAME,
    LOG_MEL,
    META,
    Quarantined,
    Sample,
    ShardIndex,
    finished_shards,
    missing_clips,
    read_index,
    write_index,
    write_shard,
)


def sample(clip_id, has_audio=True):
    log_mel = np.full((4, 10), -20.0, np.float16) if has_audio else None
    return Sample(clip_id, 1.0, 25.0, [b"jpeg-a", b"jpeg-bc"], [0.25, 0.75], log_mel)


@pytest.fixture
def outcomes():
    return [sample("1_1"), Quarantined("1_2", "too_long", "9 s"), sample("1_3", has_audio=False)]


def test_a_shard_is_the_same_bytes_when_written_again(tmp_path, outcomes):
    first = write_shard(tmp_path, "a.tar", "f", outcomes)
    second = write_shard(tmp_path, "b.tar", "f", outcomes)
    assert first.sha256 == second.sha256
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert {(m.mtime, m.uid, m.mode) for m in tar} == {(0, 0, 0o444)}


def test_a_shard_is_replaced_when_it_is_whole_and_not_before(tmp_path, outcomes):
    def killed():
        yield sample("1_1")
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


def test_an_entry_is_a_tar_of_its_own(tmp_path, outcomes):
    shard = write_shard(tmp_path, "a.tar", "f", outcomes)
    entry = shard.entries[1]
    part = (tmp_path / "a.tar").read_bytes()[entry.offset : entry.offset + entry.size]
    with tarfile.open(fileobj=io.BytesIO(part)) as tar:
        assert tar.getnames() == [f"1_3.{FRAMES}", f"1_3.{META}", f"1_3.{LOG_MEL}"]


@pytest.fixture
def index(tmp_path, outcomes, features):
    index = ShardIndex(tmp_path, features, [write_shard(tmp_path, "a.tar", "f", outcomes)])
    write_index(index)
    return index


@pytest.mark.parametrize("log_mel", [np.zeros((4, 10), np.float32), np.full((1, 1), {}, object)])
def test_a_log_mel_of_another_type_is_no_sample(log_mel):
    file = io.BytesIO()
    np.save(file, log_mel)
    with pytest.raises(ValueError, match=f"the log-mel is of {log_mel.dtype}, expected float16"):
        Sample.from_members(sample("1_1").members() | {LOG_MEL: file.getvalue()})


def test_a_clip_that_is_neither_in_a_shard_nor_in_quarantine_is_missed(index):
    clips = [Clip(clip_id, "1", "neutral", f"Train/{clip_id}.mp4", 1, "0") for clip_id in ("1_1", "1_2", "1_3", "1_4")]
    assert missing_clips(index, clips) == ["1_4"]


def test_an_index_is_read_as_it_was_written_and_nothing_else_is_left(index, features):
    assert read_index(index.folder, features) == index
    assert {path.name for path in index.folder.iterdir()} == {"a.tar", "index.json"}


def test_shards_made_with_other_settings_are_refused(index, features):
    with pytest.raises(UserError, match=r"features\.mel_bins = 64, the config says 80"):
        read_index(index.folder, features.model_copy(update={"mel_bins": 80}))


def test_a_shortened_shard_is_refused(index, features):
    path = index.folder / "a.tar"
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(UserError, match=r"a\.tar is .* bytes, the index says"):
        read_index(index.folder, features)


def test_a_missing_index_is_named(tmp_path, features):
    with pytest.raises(UserError, match="run the extract stage"):
        read_index(tmp_path, features)


clip_ids = st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True)
log_mels = st.none() | st.integers(0, 30).map(lambda hops: np.full((4, hops), -20, np.float16))
samples = st.builds(
    lambda clip_id, duration_s, jpegs, log_mel: Sample(clip_id, duration_s, 25.0, jpegs, [0.5] * len(jpegs), log_mel),
    clip_ids,
    st.floats(0.1, 10),
    st.lists(st.binary(max_size=2000), min_size=1, max_size=8),
    log_mels,
)
quarantined = st.builds(Quarantined, clip_ids, st.sampled_from(["unreadable", "timeout"]), st.text(max_size=50))
any_outcomes = st.lists(samples | quarantined, max_size=6, unique_by=lambda outcome: outcome.clip_id)
in_one_folder = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def equal(one, other):
    if (one.log_mel is None) != (other.log_mel is None):
        return False
    same_sound = one.log_mel is None or np.array_equal(one.log_mel, other.log_mel)
    return same_sound and {**vars(one), "log_mel": 0} == {**vars(other), "log_mel": 0}


@given(outcomes=any_outcomes)
@in_one_folder
def test_whatever_goes_into_a_shard_comes_out_of_its_byte_ranges(outcomes, tmp_path):
    shard = write_shard(tmp_path, "a.tar", "f", outcomes)
    content = (tmp_path / "a.tar").read_bytes()
    put_in = [outcome for outcome in outcomes if isinstance(outcome, Sample)]
    assert len(content) == shard.bytes
    assert [entry.clip_id for entry in shard.entries] == [sample.clip_id for sample in put_in]
    for entry, sample in zip(shard.entries, put_in, strict=True):
        with tarfile.open(fileobj=io.BytesIO(content[entry.offset : entry.offset + entry.size])) as tar:
            members = {member.name.split(".", 1)[1]: tar.extractfile(member).read() for member in tar}
        assert equal(Sample.from_members(members), sample)
        assert entry.has_audio == (sample.log_mel is not None)


@given(outcomes=any_outcomes)
@in_one_folder
def test_any_index_is_read_as_it_was_written(outcomes, tmp_path, features):
    index = ShardIndex(tmp_path, features, [write_shard(tmp_path, "a.tar", "f", outcomes)])
    write_index(index)
    assert read_index(tmp_path, features) == index
    assert finished_shards(tmp_path) == {"a.tar": index.shards[0]}


@given(data=st.data())
@in_one_folder
def test_a_damaged_index_is_named_and_vouches_for_nothing(data, tmp_path, features, outcomes):
    write_index(ShardIndex(tmp_path, features, [write_shard(tmp_path, "a.tar", "f", outcomes)]))
    path = tmp_path / INDEX_NAME
    whole = path.read_text()
    cut = st.integers(0, len(whole) - 3).map(lambda length: whole[:length])
    path.write_text(data.draw(cut | st.sampled_from(["[]", "0", "{}", '{"features": 1, "shards": []}'])))
    assert finished_shards(tmp_path) == {}
    with pytest.raises(UserError, match="is damaged or of another version"):
        read_index(tmp_path, features)
