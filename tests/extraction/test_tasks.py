"""Shard tasks: what their fingerprint covers, and which worker may do them."""

import shutil
from dataclasses import replace

import pytest
from helpers import REPOSITORY, clips_of
from numbered_clips import with_features, with_limits

from pipeline.common import provenance
from pipeline.common.errors import UserError
from pipeline.common.provenance import code_digest
from pipeline.extraction import tasks
from pipeline.extraction.tasks import (
    CODE_DIGEST,
    WORKER_MODULES,
    WORKER_ZONES,
    extract_shard,
    plan_tasks,
    shard_fingerprint,
)


@pytest.fixture
def clips(drawn_root):
    return clips_of(drawn_root, "train")


def test_a_plan_has_every_clip_once_in_the_manifests_order(clips, drawn_root, clip_settings, tmp_path):
    plan = plan_tasks("train", clips, drawn_root, tmp_path, with_limits(clip_settings, clips_per_shard=4))
    assert [task.name for task in plan] == ["train-000000.tar", "train-000001.tar", "train-000002.tar"]
    assert [clip for task in plan for clip in task.clips] == clips


def test_the_fingerprint_covers_the_settings_and_clips_but_no_label_executor_or_time_limit(clips, clip_settings):
    before = shard_fingerprint(clips, clip_settings)
    assert shard_fingerprint(clips, with_features(clip_settings, jpeg_quality=80)) != before
    assert shard_fingerprint(clips, with_features(clip_settings, front_end="kaldi")) != before
    assert shard_fingerprint(clips, with_limits(clip_settings, decoder="ffmpeg")) != before
    assert shard_fingerprint([replace(clips[0], sha256="0"), *clips[1:]], clip_settings) != before
    assert shard_fingerprint([replace(clips[0], label="neutral"), *clips[1:]], clip_settings) == before
    assert shard_fingerprint(clips, with_limits(clip_settings, executor="dask", scheduler="tcp://x:1")) == before
    assert shard_fingerprint(clips, with_limits(clip_settings, timeout_s=120.0)) == before


def test_a_worker_with_other_code_or_libraries_is_refused(clips, drawn_root, clip_settings, tmp_path, monkeypatch):
    task = plan_tasks("train", clips, drawn_root, tmp_path, clip_settings)[0]
    monkeypatch.setattr(tasks, "ffmpeg_version", lambda: "ffmpeg version 0")
    with pytest.raises(UserError, match="other code, libraries or ffmpeg than the process that planned train-000000"):
        extract_shard(task)


@pytest.fixture
def edited_digest(tmp_path, monkeypatch):
    """Gives the code digest of a copy of the project in which a text of one file is replaced."""

    def edited_digest(file="", old="", new=""):
        copy = tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(REPOSITORY / "pipeline", copy / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
        if file:
            path = copy / "pipeline" / file
            assert old in path.read_text()
            path.write_text(path.read_text().replace(old, new, 1))
        monkeypatch.setattr(provenance, "PROJECT", copy)
        return code_digest(WORKER_MODULES, WORKER_ZONES)

    return edited_digest


def test_the_digest_of_a_copy_of_the_code_is_that_of_the_code(edited_digest):
    assert edited_digest() == CODE_DIGEST


@pytest.mark.parametrize("decoder", ["ffmpeg_decoder", "pyav_decoder"])
def test_a_changed_comment_or_docstring_keeps_finished_shards(decoder, edited_digest):
    file = f"extraction/{decoder}.py"
    assert edited_digest(file, "\n\n\n", "\n\n\n# A new comment.\n") == CODE_DIGEST
    assert edited_digest(file, '"""The ', '"""A better sentence. The ') == CODE_DIGEST


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("extraction/ffmpeg_decoder.py", "threads=1", "threads=2"),
        ("extraction/pyav_decoder.py", "thread_count = 1", "thread_count = 2"),
        ("extraction/h264.py", "IDR_SLICE = 5", "IDR_SLICE = 1"),
        ("extraction/filters.py", '"area"', '"bilinear"'),
        ("extraction/timeline.py", "2 * i + 1", "2 * i"),
        ("extraction/clip_file.py", "PREROLL_S = 1.0", "PREROLL_S = 2.0"),
        ("extraction/packets.py", "VP8_SHOW_FRAME = 0x10", "VP8_SHOW_FRAME = 0x20"),
        ("extraction/clip_reader.py", '".jpg"', '".png"'),
        ("extraction/suspicion.py", "SILENT_PEAK = 1e-4", "SILENT_PEAK = 1e-3"),
        ("extraction/sandbox.py", "signal.SIGBUS, ", ""),
        ("extraction/sandbox_child.py", "2**20", "2**21"),
        ("extraction/log_mel.py", "0.5 - 0.5", "0.5 - 0.4"),
        ("extraction/sample_extraction.py", "np.float16", "np.float32"),
        ("extraction/tasks.py", "error.reason, error.detail", "error.detail, error.reason"),
        ("shards/format.py", "0o444", "0o644"),
        ("shards/log_mel_units.py", "MIN_POWER = 1e-10", "MIN_POWER = 1e-9"),
    ],
)
def test_a_changed_statement_of_code_that_makes_shards_makes_them_again(file, old, new, edited_digest):
    assert edited_digest(file, old, new) != CODE_DIGEST


@pytest.mark.parametrize(
    "file",
    [
        "extraction/executors.py",
        "extraction/outcomes.py",
        "extraction/splits.py",
        "clips/demo_set.py",
        "shards/index.py",
        "results/report.py",
    ],
)
def test_a_changed_statement_elsewhere_keeps_finished_shards(file, edited_digest):
    assert edited_digest(file, "\n\n\n", "\n\n\nANSWER = 42\n") == CODE_DIGEST
