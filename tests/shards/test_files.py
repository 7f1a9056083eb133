"""Shards as files: those that were cut or damaged are found, and those that are elsewhere are fetched."""

import itertools
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import webdataset
from shard_server import servers, write_split

from pipeline.clips.manifest import Clip
from pipeline.common.errors import UserError
from pipeline.loading.loader import Loader, PlannedBatch
from pipeline.loading.selection import locate
from pipeline.shards import fetching, files
from pipeline.shards.files import ShardFile, fetched_ahead, open_index


@pytest.fixture
def index(tmp_path, features):
    """Two shards of three clips, as the extract stage leaves them."""
    return write_split(tmp_path / "made/val", features)


def clips_of(index):
    ids = [entry.clip_id for shard in index.shards for entry in shard.entries]
    return [Clip(clip_id, "1", "positive", f"Val/{clip_id}.mp4", 1, "0" * 64) for clip_id in ids]


def read_all(index):
    clips, frames = locate(index, clips_of(index), ["positive"]), np.arange(index.features.frames)
    batches = Loader(index.features, threads=2).eval_batches(clips, frames, 4, rank=0, world=1)
    return {
        clip_id: frames.clone()
        for batch in batches
        for clip_id, frames in zip(batch.clip_ids, batch.frames, strict=True)
    }


def test_webdataset_itself_reads_the_shards(index):
    urls = [str(index.folder / shard.name) for shard in index.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [s["__key__"] for s in samples] == [clip.clip_id for clip in clips_of(index)]
    assert {"frames.mjpeg", "json", "log_mel.npy"} < samples[0].keys()


def cut_between_members(path, shard):
    """Shorten a shard to a valid tar file of fewer clips."""
    path.write_bytes(path.read_bytes()[: shard.entries[2].offset])


def flip_a_bit_of_a_picture(path, shard):
    content = bytearray(path.read_bytes())
    content[shard.entries[1].offset + 3000] ^= 1
    path.write_bytes(content)


def replace_by_another_shard(path, shard):
    path.write_bytes(path.with_name("val-000001.tar").read_bytes())


@pytest.mark.parametrize("damage", [cut_between_members, flip_a_bit_of_a_picture, replace_by_another_shard])
def test_a_shard_that_differs_from_the_index_is_named(index, damage):
    damage(index.folder / "val-000000.tar", index.shards[0])
    with pytest.raises(UserError, match=r"val-000000\.tar is damaged: its SHA-256 begins with .*, the index says"):
        read_all(index)


def test_a_shard_that_changes_after_it_was_checked_is_checked_again(index):
    shard = index.shards[0]
    file = ShardFile(shard, index.folder, None)
    first = file.read(shard.entries[1])
    assert file.read(shard.entries[1]) == first
    flip_a_bit_of_a_picture(file.path, shard)
    with pytest.raises(UserError, match="is damaged"):
        file.read(shard.entries[1])


def test_a_shard_that_is_replaced_again_and_again_is_named(index, monkeypatch):
    identities = itertools.count()
    monkeypatch.setattr(files, "_identity", lambda _: (next(identities),))
    shard = index.shards[0]
    with pytest.raises(UserError, match=r"val-000000\.tar was replaced or removed 5 times between its check and its"):
        ShardFile(shard, index.folder, None).read(shard.entries[1])


def test_a_missing_shard_is_named(index):
    (index.folder / "val-000001.tar").unlink()
    with pytest.raises(UserError, match=r"val-000001\.tar is missing.* run the extract stage"):
        read_all(index)


@pytest.fixture
def serve(monkeypatch):
    """Starts a server, whose clients make short pauses between their attempts."""
    monkeypatch.setattr(fetching, "FIRST_PAUSE_S", 0.01)
    with servers() as start:
        yield start


def remote(config, url, tmp_path):
    execution = config.execution.model_copy(update={"shards_url": url, "cache": str(tmp_path / "cache")})
    return config.model_copy(update={"execution": execution})


def equal(first, second):
    return first.keys() == second.keys() and all((first[name] == second[name]).all() for name in first)


def test_shards_are_streamed_from_a_server_that_drops_connections_and_kept(index, config, tmp_path, serve):
    server = serve(tmp_path / "made", drops=2, spoils=1)
    remote_config = remote(config, server.url, tmp_path)
    assert equal(read_all(open_index(remote_config, "val")), read_all(index))
    assert server.requests["val-000000.tar"] == 4, "two broken answers, a spoilt one, a good one"
    assert not list((tmp_path / "cache").rglob("*.tmp"))
    requests = dict(server.requests)
    assert equal(read_all(open_index(remote_config, "val")), read_all(index))
    assert {**requests, "index.json": requests["index.json"] + 1} == server.requests, "shards come from the cache"


def test_a_damaged_file_in_the_cache_is_fetched_again(index, config, tmp_path, serve):
    remote_config = remote(config, serve(tmp_path / "made").url, tmp_path)
    read_all(open_index(remote_config, "val"))
    (cached,) = (tmp_path / "cache").rglob("val-000000.tar")
    cut_between_members(cached, index.shards[0])
    assert equal(read_all(open_index(remote_config, "val")), read_all(index))


def test_a_file_that_is_removed_from_the_cache_is_fetched_again(index, config, tmp_path, serve):
    remote_index = open_index(remote(config, serve(tmp_path / "made").url, tmp_path), "val")
    (first, *_) = locate(remote_index, clips_of(index), ["positive"])
    content = first.file.read(first.entry)
    first.file.path.unlink()
    assert first.file.read(first.entry) == content


def test_a_cache_that_cannot_be_written_to_is_named(index, config, tmp_path, serve):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"cannot be written to .*see execution\.cache"):
        open_index(remote(config, serve(tmp_path / "made").url, tmp_path), "val")


def test_the_end_of_reading_does_not_wait_for_a_server_that_does_not_answer(index, config, tmp_path, serve):
    server = serve(tmp_path / "made")
    remote_index = open_index(remote(config, server.url, tmp_path), "val")
    server.shutdown()  # it still accepts connections, but never answers
    began = time.monotonic()
    with fetched_ahead(clip.file for clip in locate(remote_index, clips_of(index), ["positive"])):
        time.sleep(0.2)
    assert time.monotonic() - began < 1


def test_shards_are_fetched_before_they_are_needed(index, config, tmp_path, serve):
    server = serve(tmp_path / "made")
    remote_index = open_index(remote(config, server.url, tmp_path), "val")
    first, *_, last = locate(remote_index, clips_of(index), ["positive"])
    # The last clip is in the other shard, and far behind what is read ahead.
    batches = Loader(remote_index.features, threads=1).load(
        [PlannedBatch([clip], np.arange(1)) for clip in [first] * 50 + [last]]
    )
    next(batches)
    deadline = threading.Event()
    for _ in range(500):
        if len(list((tmp_path / "cache").rglob("*.tar"))) == 2:
            break
        deadline.wait(0.01)
    else:
        pytest.fail("only the shard of the first batch came")


def test_a_shard_that_cannot_be_fetched_does_not_hold_up_the_others(index, config, tmp_path, serve):
    server = serve(tmp_path / "made")
    remote_index = open_index(remote(config, server.url, tmp_path), "val")
    first, *_, last = (clip.file for clip in locate(remote_index, clips_of(index), ["positive"]))
    missing = [
        ShardFile(replace(first.shard, name=f"none-{number}.tar"), first.path.parent, server.url) for number in range(5)
    ]
    with fetched_ahead([*missing, last]):
        for _ in range(500):
            if last.path.exists():
                break
            time.sleep(0.01)
        else:
            pytest.fail("the last shard did not come")


def test_a_server_that_lacks_the_index_or_does_not_exist_is_named(config, tmp_path, serve):
    server = serve(tmp_path)
    with pytest.raises(UserError, match=r"/val/index\.json cannot be read .*see execution\.shards_url"):
        open_index(remote(config, server.url, tmp_path), "val")
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match="could not be fetched in 6 attempts; the last one: ClientConnectorError"):
        open_index(remote(config, server.url, tmp_path), "val")


def test_shards_are_streamed_from_s3(index, config, tmp_path, serve, monkeypatch):
    server = serve(tmp_path / "made", drops=1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (tmp_path / "made/bucket").symlink_to(tmp_path / "made")
    assert equal(read_all(open_index(remote(config, "s3://bucket", tmp_path), "val")), read_all(index))
