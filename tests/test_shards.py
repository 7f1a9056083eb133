import io
import json
import tarfile

import numpy as np
import pytest
import webdataset as wds

from pipeline.errors import UserError
from pipeline.shards import FRAMES, LOG_MEL, META, Quarantined, Sample, ShardIndex, read_index, write_index, write_shard


def sample(clip_id, has_audio=True):
    log_mel = np.full((4, 10), -20.0, np.float16) if has_audio else None
    return Sample(clip_id, 1.0, [b"jpeg-a", b"jpeg-bc"], [0.25, 0.75], log_mel)


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
