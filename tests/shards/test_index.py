"""The index of a split: what it refuses, and which shards it vouches for."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_samples import any_outcomes, in_one_folder, made_sample

from pipeline.clips.manifest import Clip
from pipeline.common.errors import UserError
from pipeline.shards.format import Quarantined, write_shard
from pipeline.shards.index import INDEX_NAME, ShardIndex, finished_shards, missing_clips, read_index, write_index


@pytest.fixture
def outcomes():
    return [made_sample("1_1"), Quarantined("1_2", "too_long", "9 s"), made_sample("1_3", has_audio=False)]


@pytest.fixture
def index(tmp_path, outcomes, features):
    index = ShardIndex(tmp_path, features, [write_shard(tmp_path, "a.tar", "f", outcomes)])
    write_index(index)
    return index


def test_a_clip_that_is_neither_in_a_shard_nor_quarantined_is_missing(index):
    clips = [Clip(clip_id, "1", "neutral", f"Train/{clip_id}.mp4", 1, "0") for clip_id in ("1_1", "1_2", "1_3", "1_4")]
    assert missing_clips(index, clips) == ["1_4"]


def test_an_index_is_read_as_it_was_written_and_other_files_are_removed(index, features):
    assert read_index(index.folder, features) == index
    assert {path.name for path in index.folder.iterdir()} == {"a.tar", "index.json"}


def test_shards_made_with_other_features_are_refused(index, features):
    with pytest.raises(UserError, match=r"features\.mel_bins = 64, the settings say 80"):
        read_index(index.folder, features.model_copy(update={"mel_bins": 80}))


def test_a_shortened_shard_is_refused(index, features):
    path = index.folder / "a.tar"
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(UserError, match=r"a\.tar is .* bytes, the index says"):
        read_index(index.folder, features)


def test_a_missing_index_is_named(tmp_path, features):
    with pytest.raises(UserError, match="run the extract stage"):
        read_index(tmp_path, features)


@given(outcomes=any_outcomes)
@in_one_folder
def test_any_index_is_read_as_it_was_written(outcomes, tmp_path, features):
    index = ShardIndex(tmp_path, features, [write_shard(tmp_path, "a.tar", "f", outcomes)])
    write_index(index)
    assert read_index(tmp_path, features) == index
    assert finished_shards(tmp_path) == {"a.tar": index.shards[0]}


@given(data=st.data())
@in_one_folder
def test_a_damaged_index_is_named_and_no_shard_of_it_is_kept(data, tmp_path, features, outcomes):
    write_index(ShardIndex(tmp_path, features, [write_shard(tmp_path, "a.tar", "f", outcomes)]))
    path = tmp_path / INDEX_NAME
    whole = path.read_text()
    cut = st.integers(0, len(whole) - 3).map(lambda length: whole[:length])
    path.write_text(data.draw(cut | st.sampled_from(["[]", "0", "{}", '{"features": 1, "shards": []}'])))
    assert finished_shards(tmp_path) == {}
    with pytest.raises(UserError, match="is damaged or of another version"):
        read_index(tmp_path, features)


def test_an_index_cannot_name_files_elsewhere(index):
    write_index(replace(index, shards=[replace(index.shards[0], name="../val-000000.tar")]))
    with pytest.raises(UserError, match=r"names '\.\./val-000000\.tar', which is not a shard's name"):
        read_index(index.folder, index.features, "http://host/val")
