"""Whole splits: the same bytes with any number of workers, after any interruption, and no process left behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext

import psutil
import pytest
import yaml
from helpers import REPOSITORY, clips_of, extraction_in_this_process
from numbered_clips import with_features, with_limits

from pipeline.clips.manifest import write_manifest
from pipeline.common.config import parse_config
from pipeline.common.errors import UserError
from pipeline.common.machine import exclusive_use
from pipeline.extraction import librosa_check, tasks
from pipeline.extraction.log_mel import log_mel
from pipeline.extraction.reasons import MediaError
from pipeline.extraction.sandbox import CHILD_MODULE
from pipeline.extraction.splits import extract_splits
from pipeline.extraction.tasks import extract_shard, plan_tasks
from pipeline.shards.index import INDEX_NAME

PER_SHARD = {"clips_per_shard": 4}


@pytest.fixture
def clips(drawn_root):
    return clips_of(drawn_root, "train")


@pytest.fixture
def settings(clip_settings):
    return with_limits(clip_settings, **PER_SHARD)


@pytest.fixture
def extract(drawn_root, clips, settings):
    def extract(folder, workers=None, root=drawn_root, clips=clips):
        with nullcontext() if workers else extraction_in_this_process():
            return extract_splits({"train": clips}, root, folder, settings, workers or 1).indexes["train"]

    return extract


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow  # it starts three pools of workers
def test_any_number_of_workers_writes_the_same_bytes_wherever_the_clips_lie(drawn_root, extract, tmp_path):
    written = []
    for workers in (1, 2, 4):
        root = tmp_path / f"root-{workers}"
        shutil.copytree(drawn_root, root)
        text, cut, damaged = sorted((root / "Train").glob("*.mp4"))[:3]
        text.write_text("not a video")
        cut.write_bytes(cut.read_bytes()[:-1000])
        content = bytearray(damaged.read_bytes())
        content[len(content) // 3 :: 7] = bytes(len(content[len(content) // 3 :: 7]))
        damaged.write_bytes(content)
        index = extract(tmp_path / f"{workers}", workers, root, clips_of(root, "train"))
        written.append(contents(index.folder))
    assert len(index.quarantined) == 3
    assert written[0] == written[1] == written[2]
    assert len(written[0]) == 4  # three shards and the index


def test_every_clip_is_extracted_or_quarantined_once(drawn_root, clips, extract, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(drawn_root, root)
    (root / clips[2].path).write_text("not a video")
    broken = clips_of(root, "train")
    index = extract(tmp_path / "shards", root=root, clips=broken)
    extracted = [entry.clip_id for shard in index.shards for entry in shard.entries]
    assert sorted([*extracted, clips[2].clip_id]) == [clip.clip_id for clip in clips]
    assert [(row.clip_id, row.reason) for row in index.quarantined] == [(clips[2].clip_id, "unreadable")]


def test_finished_shards_are_kept_and_others_made_again(extract, tmp_path):
    extract(tmp_path)
    before = contents(tmp_path)
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("train/*.tar")}
    damaged = tmp_path / "train/train-000001.tar"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    extract(tmp_path)
    assert contents(tmp_path) == before
    kept = [path.name for path in tmp_path.glob("train/*.tar") if path.stat().st_mtime_ns == times[path.name]]
    assert sorted(kept) == ["train-000000.tar", "train-000002.tar"]


def test_no_shard_is_written_if_the_log_mel_is_not_librosas(extract, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(librosa_check, "log_mel", lambda waveform, features: 1.001 * log_mel(waveform, features))
        with pytest.raises(AssertionError, match="differs by"):
            extract(tmp_path)
    assert list(tmp_path.glob("train/*.tar")) == []
    extract(tmp_path)
    assert list(tmp_path.glob("train/*.tar"))


def test_shards_made_with_other_settings_are_made_again(drawn_root, clips, settings, tmp_path):
    for quality, folder in ((90, "changed"), (50, "changed"), (50, "new")):
        changed = with_features(settings, jpeg_quality=quality)
        with extraction_in_this_process():
            extract_splits({"train": clips[:2]}, drawn_root, tmp_path / folder, changed, 1)
    assert contents(tmp_path / "changed") == contents(tmp_path / "new")


def test_a_clip_that_may_have_failed_because_of_the_machine_is_tried_again(
    extract, drawn_root, clips, settings, tmp_path, monkeypatch
):
    def overloaded(*_):
        raise MediaError("timeout", "still reading after 60 s")

    with monkeypatch.context() as patch:
        patch.setattr(tasks, "extract_sample", overloaded)
        for task in plan_tasks("train", clips, drawn_root, tmp_path / "train", settings):
            extract_shard(task)
    assert extract(tmp_path).quarantined == []


def test_shards_whose_records_cannot_be_read_are_made_again(extract, tmp_path):
    before = extract(tmp_path)
    (tmp_path / "train/index.json").write_text("{")
    (tmp_path / "train/train-000000.tar.json").write_text("")
    assert extract(tmp_path) == before


def test_two_runs_in_one_folder_are_refused(extract, tmp_path):
    with (
        exclusive_use(tmp_path, "extraction"),
        pytest.raises(UserError, match="another extraction is writing to"),
    ):
        extract(tmp_path)
    extract(tmp_path)


@pytest.fixture
def start(drawn_root, clips, values, tmp_path):
    """Starts the stage in a new workspace, with two workers and shards of four clips; returns the process."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/demo").symlink_to(drawn_root)
    values["extract"] |= PER_SHARD
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    config = parse_config(values, "params.yaml")
    (tmp_path / config.manifests).mkdir(parents=True)
    for split in ("train", "val"):
        write_manifest(clips_of(drawn_root, split), tmp_path / config.manifests / f"{split}.csv")

    def start():
        return subprocess.Popen(
            [sys.executable, "-m", "stages.extract"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stderr=subprocess.PIPE,
            text=True,
            # In a background job of a script, Ctrl-C is ignored, and the process would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return start


def wait_for_shards(folder, count, process):
    while len(list(folder.rglob("*.tar.json"))) < count:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.001)


def tree_of(process):
    parent = psutil.Process(process.pid)
    return [parent, *parent.children(recursive=True)]


def assert_all_ended(processes):
    _, alive = psutil.wait_procs(processes, timeout=5)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.slow
def test_a_run_that_is_killed_and_started_again_writes_the_same_bytes(start, tmp_path):
    shards = tmp_path / "data/shards/demo"
    process = start()
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    whole = contents(shards)
    shutil.rmtree(shards)
    for finished in (1, 3):  # kill it as soon as that many of the six shards are finished
        process = start()
        wait_for_shards(shards, finished, process)
        processes = tree_of(process)
        process.kill()
        assert_all_ended(processes)
        assert not (shards / "train" / INDEX_NAME).exists()
    assert start().wait() == 0
    assert contents(shards) == whole


@pytest.mark.slow
def test_a_killed_worker_stops_the_run_with_a_sentence_and_the_next_run_finishes(start, tmp_path):
    shards = tmp_path / "data/shards/demo"
    process = start()
    wait_for_shards(shards, 1, process)
    processes = tree_of(process)
    worker = next(p for p in processes if CHILD_MODULE in p.cmdline()).parent()
    worker.kill()
    _, errors = process.communicate()
    assert process.returncode == 2
    assert "error: a worker process was killed" in errors
    assert "Traceback" not in errors
    assert_all_ended(processes)
    assert start().wait() == 0
    assert (next(shards.glob("*/val")) / INDEX_NAME).exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_stopped_run_leaves_no_process(number, code, start, tmp_path):
    process = start()
    wait_for_shards(tmp_path / "data/shards/demo", 1, process)
    processes = tree_of(process)
    assert sum(CHILD_MODULE in p.cmdline() for p in processes) == 2
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == code
    assert "Traceback" not in errors
    assert_all_ended(processes)
