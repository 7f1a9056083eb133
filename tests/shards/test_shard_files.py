"""Shards that were cut, damaged or are elsewhere; the server is a real one, on loopback, that breaks connections."""

import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import webdataset

from pipeline.clips.manifest import Clip
from pipeline.common.errors import UserError
from pipeline.loading.loader import eval_batches, load, locate
from pipeline.shards import files as shard_files
from pipeline.shards.files import ShardFile, fetch, fetched_ahead, filesystem, open_index
from pipeline.shards.format import Sample, ShardIndex, write_index, write_shard


def sample(number, features):
    import cv2

    size = features.frame_size_px
    rng = np.random.default_rng(number)
    pictures = [rng.integers(0, 255, (size, size, 3), np.uint8) for _ in range(features.frames)]
    jpegs = [cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures]
    times_s = [float(i) for i in range(features.frames)]
    return Sample(
        f"{number}_1", 5.0, 25.0, jpegs, times_s, rng.normal(size=(features.mel_bins, 500)).astype(np.float16)
    )


@pytest.fixture
def index(tmp_path, features):
    """Two shards of three clips, as the extract stage leaves them."""
    folder = tmp_path / "made/val"
    folder.mkdir(parents=True)
    shards = [
        write_shard(folder, f"val-{n:06d}.tar", "f", [sample(3 * n + i, features) for i in range(3)]) for n in range(2)
    ]
    index = ShardIndex(folder, features, shards)
    write_index(index)
    return index


def clips_of(index):
    ids = [entry.clip_id for shard in index.shards for entry in shard.entries]
    return [Clip(clip_id, "1", "positive", f"Val/{clip_id}.mp4", 1, "0" * 64) for clip_id in ids]


def read_all(index):
    batches = eval_batches(locate(index, clips_of(index)), 4, index.features, 0, 1, 2)
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
    """What is left is a valid tar file of fewer clips."""
    path.write_bytes(path.read_bytes()[: shard.entries[2].offset])


def flip_a_bit_of_a_picture(path, shard):
    content = bytearray(path.read_bytes())
    content[shard.entries[1].offset + 3000] ^= 1
    path.write_bytes(content)


def put_another_shard_there(path, shard):
    path.write_bytes(path.with_name("val-000001.tar").read_bytes())


@pytest.mark.parametrize("damage", [cut_between_members, flip_a_bit_of_a_picture, put_another_shard_there])
def test_a_shard_that_is_not_what_the_index_says_is_named(index, damage):
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


def test_a_shard_that_is_gone_is_named(index):
    (index.folder / "val-000001.tar").unlink()
    with pytest.raises(UserError, match=r"val-000001\.tar is missing.* run the extract stage"):
        read_all(index)


class Server(ThreadingHTTPServer):
    """Serves a folder; breaks the first `drops` answers of each file in their middle, spoils the next `spoils`."""

    def __init__(self, folder, drops=0, spoils=0):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.drops, self.spoils = folder, drops, spoils
        self.asked = {}

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path = self.server.folder / self.path.lstrip("/").partition("?")[0]
        if not path.is_file():
            self.send_error(404)
            return
        content = bytearray(path.read_bytes())
        if body:
            asked = self.server.asked[path.name] = self.server.asked.get(path.name, 0) + 1
            if self.server.drops < asked <= self.server.drops + self.server.spoils and path.suffix == ".tar":
                content[-2000] ^= 255
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Last-Modified", "Sun, 22 Nov 2026 00:00:00 GMT")
        self.send_header("ETag", '"0"')
        self.end_headers()
        if body and asked <= self.server.drops:
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        elif body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(monkeypatch):
    """Start a server; its clients do not pause long between attempts."""
    monkeypatch.setattr(shard_files, "FIRST_PAUSE_S", 0.01)
    started = []

    def start(*arguments, **settings):
        server = Server(*arguments, **settings)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def remote(config, url, tmp_path):
    execution = config.execution.model_copy(update={"shards_url": url, "cache": str(tmp_path / "cache")})
    return config.model_copy(update={"execution": execution})


def equal(first, second):
    return first.keys() == second.keys() and all((first[name] == second[name]).all() for name in first)


def test_shards_are_streamed_from_a_server_that_drops_connections_and_kept(index, config, tmp_path, serve):
    server = serve(tmp_path / "made", drops=2, spoils=1)
    there = remote(config, server.url, tmp_path)
    assert equal(read_all(open_index(there, "val")), read_all(index))
    assert server.asked["val-000000.tar"] == 4, "two broken answers, a spoilt one, a good one"
    assert not list((tmp_path / "cache").rglob("*.tmp"))
    asked = dict(server.asked)
    assert equal(read_all(open_index(there, "val")), read_all(index))
    assert {**asked, "index.json": asked["index.json"] + 1} == server.asked, "shards come from the cache"


def test_a_damaged_file_in_the_cache_is_fetched_again(index, config, tmp_path, serve):
    there = remote(config, serve(tmp_path / "made").url, tmp_path)
    read_all(open_index(there, "val"))
    (cached,) = (tmp_path / "cache").rglob("val-000000.tar")
    cut_between_members(cached, index.shards[0])
    assert equal(read_all(open_index(there, "val")), read_all(index))


def test_a_file_that_is_removed_from_the_cache_is_fetched_again(index, config, tmp_path, serve):
    there = open_index(remote(config, serve(tmp_path / "made").url, tmp_path), "val")
    (first, *_) = locate(there, clips_of(index))
    content = first.file.read(first.entry)
    first.file.path.unlink()
    assert first.file.read(first.entry) == content


def test_a_cache_that_cannot_be_written_to_is_named(index, config, tmp_path, serve):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"cannot be written to .*see execution\.cache"):
        open_index(remote(config, serve(tmp_path / "made").url, tmp_path), "val")


def test_leaving_does_not_wait_for_a_server_that_does_not_answer(index, config, tmp_path, serve):
    server = serve(tmp_path / "made")
    there = open_index(remote(config, server.url, tmp_path), "val")
    server.shutdown()  # it still takes connections, and says nothing
    began = time.monotonic()
    with fetched_ahead(clip.file for clip in locate(there, clips_of(index))):
        time.sleep(0.2)
    assert time.monotonic() - began < 1


def test_shards_are_fetched_before_they_are_needed(index, config, tmp_path, serve):
    server = serve(tmp_path / "made")
    there = open_index(remote(config, server.url, tmp_path), "val")
    first, *_, last = locate(there, clips_of(index))
    batches = load([[first]] * 50 + [[last]], there.features, 1)  # the other shard is far behind what is read ahead
    next(batches)
    deadline = threading.Event()
    for _ in range(500):
        if len(list((tmp_path / "cache").rglob("*.tar"))) == 2:
            break
        deadline.wait(0.01)
    else:
        pytest.fail("only the shard of the first batch came")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"drops": 99}, "could not be fetched in 6 attempts; the last one: ClientPayloadError"),
        ({"spoils": 99}, "could not be fetched in 6 attempts; the last one: its SHA-256 begins with"),
    ],
)
def test_a_server_that_never_gives_the_shard_is_named(index, tmp_path, serve, settings, named):
    server = serve(tmp_path / "made", **settings)
    shard = index.shards[0]
    with pytest.raises(UserError, match=named):
        fetch(f"{server.url}/val/{shard.name}", tmp_path / "cache" / shard.name, shard)
    assert not list((tmp_path / "cache").iterdir())


def test_a_server_without_the_index_or_none_at_all_is_named(config, tmp_path, serve):
    server = serve(tmp_path)
    with pytest.raises(UserError, match=r"/val/index\.json cannot be had .*see execution\.shards_url"):
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


def test_s3_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.setattr(shard_files.fsspec, "filesystem", lambda *_: (_ for _ in ()).throw(ImportError()))
    with pytest.raises(UserError, match=r"pip install 'group-emotion\[s3\]'"):
        filesystem("s3://bucket/x")


@pytest.mark.parametrize("url", ["pipe:cat x", "file:///etc", "ftp://host/x", "/data/shards"])
def test_only_http_and_s3_are_urls_of_shards(values, url):
    from pipeline.common.config import parse_config

    values["execution"]["shards_url"] = url
    with pytest.raises(UserError, match="expected null, http"):
        parse_config(values, "params.yaml")


def test_an_index_cannot_name_files_elsewhere(index):
    write_index(replace(index, shards=[replace(index.shards[0], name="../val-000000.tar")]))
    from pipeline.shards.format import read_index

    with pytest.raises(UserError, match=r"names '\.\./val-000000\.tar', which is no shard's name"):
        read_index(index.folder, index.features, "http://host/val")
