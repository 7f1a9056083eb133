import os
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from pipeline import extraction
from pipeline.errors import UserError
from pipeline.extraction import check_failures, extract_clip, extract_split, plan_tasks
from pipeline.manifest import index_split, read_manifest, write_manifest
from pipeline.media import MediaError
from pipeline.shards import INDEX_NAME

PER_SHARD = {"clips_per_shard": 4}


@pytest.fixture
def clips(drawn_root):
    return index_split(drawn_root, "train")[0]


@pytest.fixture
def plan(drawn_root, features, limits):
    def plan(clips, folder):
        return plan_tasks("train", clips, drawn_root, folder, features, limits.model_copy(update=PER_SHARD))

    return plan


@pytest.fixture
def extract(drawn_root, clips, features, limits):
    def extract(folder, workers=1, root=drawn_root, clips=clips):
        return extract_split("train", clips, root, folder, features, limits.model_copy(update=PER_SHARD), workers)

    return extract


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_one_and_two_workers_write_the_same_bytes(extract, tmp_path):
    extract(tmp_path / "one", 1)
    extract(tmp_path / "two", 2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(contents(tmp_path / "one")) == 4  # three shards and the index


def test_every_clip_is_extracted_or_quarantined_once(drawn_root, clips, extract, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(drawn_root, root)
    (root / clips[2].path).write_text("not a video")
    broken = index_split(root, "train")[0]
    index = extract(tmp_path / "shards", 1, root, broken)
    extracted = [entry.clip_id for shard in index.shards for entry in shard.entries]
    assert sorted([*extracted, clips[2].clip_id]) == [clip.clip_id for clip in clips]
    assert [(row.clip_id, row.reason) for row in index.quarantined] == [(clips[2].clip_id, "unreadable")]
    with pytest.raises(UserError, match="1 of 9 train clips were quarantined"):
        check_failures({"train": index}, {"train": broken}, 0.1)
    check_failures({"train": index}, {"train": broken}, 0.12)


def test_finished_shards_are_kept_and_others_made_again(extract, tmp_path):
    extract(tmp_path)
    before = contents(tmp_path)
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.tar")}
    damaged = tmp_path / "train-000001.tar"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    extract(tmp_path)
    assert contents(tmp_path) == before
    kept = [path.name for path in tmp_path.glob("*.tar") if path.stat().st_mtime_ns == times[path.name]]
    assert sorted(kept) == ["train-000000.tar", "train-000002.tar"]


def test_a_clip_that_may_have_failed_for_the_machines_sake_is_tried_again(extract, plan, clips, tmp_path, monkeypatch):
    def disk_full(*_):
        raise MediaError("decode_failed", "ffmpeg exit 228: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(extraction, "extract_clip", disk_full)
        for task in plan(clips, tmp_path):
            extraction.extract_shard(task)
    index = extract(tmp_path)
    assert index.quarantined == []


def test_records_that_cannot_be_read_are_made_again(extract, tmp_path):
    before = extract(tmp_path)
    (tmp_path / "index.json").write_text("{")
    (tmp_path / "train-000000.tar.json").write_text("")
    assert extract(tmp_path) == before


def test_a_changed_setting_or_clip_changes_the_fingerprint_a_label_does_not(clips, features, limits, tmp_path):
    def fingerprint(clips, features):
        return plan_tasks("train", clips, tmp_path, tmp_path, features, limits)[0].fingerprint

    original = fingerprint(clips, features)
    assert fingerprint(clips, features.model_copy(update={"jpeg_quality": 80})) != original
    changed = type(clips[0])(**{**vars(clips[0]), "sha256": "0"})
    assert fingerprint([changed, *clips[1:]], features) != original
    relabelled = type(clips[0])(**{**vars(clips[0]), "label": "neutral"})
    assert fingerprint([relabelled, *clips[1:]], features) == original


@pytest.mark.slow
def test_killed_at_any_moment_and_run_again_the_bytes_are_the_same(extract, drawn_root, clips, tmp_path):
    extract(tmp_path / "whole")
    write_manifest(clips, tmp_path / "train.csv")
    script = f"""
from pathlib import Path
from conftest import REPOSITORY
import yaml
from pipeline.config import parse_config
from pipeline.extraction import extract_split
from pipeline.manifest import read_manifest
if __name__ == "__main__":
    config = parse_config(yaml.safe_load((REPOSITORY / "params.yaml").read_text()), "params.yaml")
    extract_split("train", read_manifest(Path({str(tmp_path)!r}), "train"), Path({str(drawn_root)!r}),
        Path({str(tmp_path / "killed")!r}), config.recipe.features, config.extract.model_copy(update={PER_SHARD!r}), 2)
"""
    (tmp_path / "run.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}  # noqa: PTH120
    for finished in (1, 2):  # kill it as soon as that many of the three shards are there, and no index is
        process = subprocess.Popen([sys.executable, tmp_path / "run.py"], env=environment, start_new_session=True)
        while len(list((tmp_path / "killed").glob("*.tar.json"))) < finished:
            assert process.poll() is None
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "killed" / INDEX_NAME).exists()
    subprocess.run([sys.executable, tmp_path / "run.py"], env=environment, check=True)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert (tmp_path / "killed" / INDEX_NAME).exists()
    assert read_manifest(tmp_path, "train") == clips


def test_a_sample_holds_frames_times_and_log_mel(one_clip, features, limits):
    sample = extract_clip(one_clip, one_clip.stem, features, limits)
    assert len(sample.jpegs) == len(sample.frame_times_s) == features.frames
    size = features.frame_size_px
    assert cv2.imdecode(np.frombuffer(sample.jpegs[0], np.uint8), cv2.IMREAD_COLOR).shape == (size, size, 3)
    hops = round(sample.duration_s * features.sample_rate_hz) // features.hop_length + 1
    assert sample.log_mel.shape == (features.mel_bins, hops)
    assert sample.frame_times_s == sorted(sample.frame_times_s)
    assert 0 <= sample.frame_times_s[0] < sample.frame_times_s[-1] < sample.duration_s
