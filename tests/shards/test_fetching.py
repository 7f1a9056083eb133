"""Fetching files: whole or not at all."""

import pytest
from shard_server import servers, write_split

from pipeline.common.config import parse_config
from pipeline.common.errors import UserError
from pipeline.shards import fetching
from pipeline.shards.fetching import fetch, filesystem


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"drops": 99}, "could not be fetched in 6 attempts; the last one: ClientPayloadError"),
        ({"spoils": 99}, "could not be fetched in 6 attempts; the last one: its SHA-256 begins with"),
    ],
)
def test_a_server_that_never_sends_the_whole_shard_is_named(settings, named, features, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "FIRST_PAUSE_S", 0.01)
    shard = write_split(tmp_path / "made/val", features).shards[0]
    with servers() as start:
        url = f"{start(tmp_path / 'made', **settings).url}/val/{shard.name}"
        with pytest.raises(UserError, match=named):
            fetch(url, tmp_path / "cache" / shard.name, shard.sha256)
    assert not list((tmp_path / "cache").iterdir())


def test_s3_without_its_library_names_what_to_install(monkeypatch):
    monkeypatch.setattr(fetching.fsspec, "filesystem", lambda *_: (_ for _ in ()).throw(ImportError()))
    with pytest.raises(UserError, match=r"s3fs, .*is not installed: run make setup"):
        filesystem("s3://bucket/x")


@pytest.mark.parametrize("url", ["pipe:cat x", "file:///etc", "ftp://host/x", "/data/shards"])
def test_only_http_and_s3_are_allowed_as_urls_of_shards(values, url):
    values["execution"]["shards_url"] = url
    with pytest.raises(UserError, match="expected null, http"):
        parse_config(values, "params.yaml")
