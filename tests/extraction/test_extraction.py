import os
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import psutil
import pytest
import yaml
from conftest import REPOSITORY, run_ffmpeg

from pipeline.clips.manifest import index_split, write_manifest
from pipeline.common.config import parse_config
from pipeline.common.errors import UserError
from pipeline.common.machine import alone_in
from pipeline.extraction import tasks as extraction
from pipeline.extraction.clip_reader import Sandbox
from pipeline.extraction.outcomes import check_failures, summary_table
from pipeline.extraction.tasks import Extraction, extract_clip, extract_shard, extract_splits, plan_tasks
from pipeline.extraction.timeline import MediaError
from pipeline.loading.loader import decode_jpeg
from pipeline.shards.format import INDEX_NAME

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
        settings = limits.model_copy(update=PER_SHARD)
        return extract_splits({"train": clips}, root, folder, features, settings, workers).indexes["train"]

    return extract


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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
        index = extract(tmp_path / f"{workers}", workers, root, index_split(root, "train")[0])
        written.append(contents(index.folder))
    assert len(index.quarantined) == 3
    assert written[0] == written[1] == written[2]
    assert len(written[0]) == 4  # three shards and the index


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
    silent = sum(not entry.has_audio for shard in index.shards for entry in shard.entries)
    header, row, reasons, speed = summary_table(Extraction({"train": index}, 6, 2.0)).splitlines()
    assert header.split() == ["clips", "extracted", "no", "sound", "quarantined", "shards", "MB"]
    assert row.split()[:6] == ["train", "9", "8", str(silent), "1", "3"]
    assert reasons == "quarantined, unreadable: 1"
    assert speed == "6 clips in 2.0 s, 3.0 clips/s; 3 kept of an earlier run"


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


def test_shards_of_another_setting_are_made_again(drawn_root, clips, features, limits, tmp_path):
    for quality, folder in ((90, "changed"), (50, "changed"), (50, "new")):
        settings = features.model_copy(update={"jpeg_quality": quality})
        extract_splits({"train": clips[:2]}, drawn_root, tmp_path / folder, settings, limits, 1)
    assert contents(tmp_path / "changed") == contents(tmp_path / "new")


def test_a_clip_that_may_have_failed_for_the_machines_sake_is_tried_again(extract, plan, clips, tmp_path, monkeypatch):
    def overloaded(*_):
        raise MediaError("timeout", "still reading after 60 s")

    with monkeypatch.context() as patch:
        patch.setattr(extraction, "extract_clip", overloaded)
        for task in plan(clips, tmp_path / "train"):
            extract_shard(task)
    assert extract(tmp_path).quarantined == []


def test_records_that_cannot_be_read_are_made_again(extract, tmp_path):
    before = extract(tmp_path)
    (tmp_path / "train/index.json").write_text("{")
    (tmp_path / "train/train-000000.tar.json").write_text("")
    assert extract(tmp_path) == before


def test_a_changed_setting_or_clip_changes_the_fingerprint_a_label_or_executor_does_not(
    clips, features, limits, tmp_path
):
    def fingerprint(clips=clips, features=features, limits=limits):
        return plan_tasks("train", clips, tmp_path, tmp_path, features, limits)[0].fingerprint

    def changed(settings, **values):
        return settings.model_copy(update=values)

    assert fingerprint(features=changed(features, jpeg_quality=80)) != fingerprint()
    assert fingerprint(features=changed(features, front_end="kaldi")) != fingerprint()
    assert fingerprint(limits=changed(limits, decoder="ffmpeg")) != fingerprint()
    other = type(clips[0])(**{**vars(clips[0]), "sha256": "0"})
    assert fingerprint([other, *clips[1:]]) != fingerprint()
    relabelled = type(clips[0])(**{**vars(clips[0]), "label": "neutral"})
    assert fingerprint([relabelled, *clips[1:]]) == fingerprint()
    assert fingerprint(limits=changed(limits, executor="dask", scheduler="tcp://x:1")) == fingerprint()


def test_a_worker_with_other_code_or_libraries_than_the_planners_is_refused(plan, clips, tmp_path, monkeypatch):
    task = plan(clips, tmp_path)[0]
    monkeypatch.setattr(extraction, "ffmpeg_version", lambda: "ffmpeg version 0")
    with pytest.raises(UserError, match="other code, libraries or ffmpeg than the one that planned train-000000"):
        extract_shard(task)


def test_two_runs_in_one_folder_are_refused(extract, tmp_path):
    with (
        alone_in(tmp_path, "extraction"),
        pytest.raises(UserError, match="another extraction is writing to"),
    ):
        extract(tmp_path)
    extract(tmp_path)


@pytest.fixture
def start(drawn_root, clips, values, tmp_path):
    """Starts the stage in a workspace of its own, with two workers and shards of four; gives the process."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/demo").symlink_to(drawn_root)
    values["extract"] |= PER_SHARD
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    config = parse_config(values, "params.yaml")
    (tmp_path / config.manifests).mkdir(parents=True)
    for split in ("train", "val"):
        write_manifest(index_split(drawn_root, split)[0], tmp_path / config.manifests / f"{split}.csv")

    def start():
        return subprocess.Popen(
            [sys.executable, "-m", "stages.extract"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stderr=subprocess.PIPE,
            text=True,
            # A job in the background of a script inherits that Ctrl-C is ignored.
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
def test_killed_at_any_moment_and_run_again_the_bytes_are_the_same(start, tmp_path):
    shards = tmp_path / "data/shards/demo"
    process = start()
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    whole = contents(shards)
    shutil.rmtree(shards)
    for finished in (1, 3):  # kill it as soon as that many of the six shards are there
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
    worker = next(p for p in processes if "pipeline.extraction.clip_reader" in p.cmdline()).parent()
    worker.kill()
    _, errors = process.communicate()
    assert process.returncode == 2
    assert "error: an extraction worker was killed" in errors
    assert "Traceback" not in errors
    assert_all_ended(processes)
    assert start().wait() == 0
    assert (shards / "val" / INDEX_NAME).exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_stopped_run_leaves_no_process(number, code, start, tmp_path):
    process = start()
    wait_for_shards(tmp_path / "data/shards/demo", 1, process)
    processes = tree_of(process)
    assert sum("pipeline.extraction.clip_reader" in p.cmdline() for p in processes) == 2
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == code
    assert "Traceback" not in errors
    assert_all_ended(processes)


def test_a_sample_holds_frames_times_and_log_mel(one_clip, features, limits):
    sandbox = Sandbox()
    sample = extract_clip(one_clip, one_clip.stem, features, limits, sandbox)
    sandbox.close()
    assert len(sample.jpegs) == len(sample.frame_times_s) == features.frames
    size = features.frame_size_px
    assert cv2.imdecode(np.frombuffer(sample.jpegs[0], np.uint8), cv2.IMREAD_COLOR).shape == (size, size, 3)
    hops = round(sample.duration_s * features.sample_rate_hz) // features.hop_length + 1
    assert sample.log_mel.shape == (features.mel_bins, hops)
    assert sample.frame_times_s == sorted(sample.frame_times_s)
    assert 0 <= sample.frame_times_s[0] < sample.frame_times_s[-1] < sample.duration_s


def test_red_stays_red(features, limits, tmp_path):
    run_ffmpeg("-f", "lavfi", "-i", "color=red:size=64x64:duration=1", tmp_path / "1_1.mp4")
    sandbox = Sandbox()
    sample = extract_clip(tmp_path / "1_1.mp4", "1_1", features, limits, sandbox)
    sandbox.close()
    np.testing.assert_allclose(decode_jpeg(sample.jpegs[0], "1_1").mean((0, 1)), [255, 0, 0], atol=4)
