"""Drawing the clips of the demo set."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from helpers import REPOSITORY, dataset_at

from pipeline.clips.demo_drawing import draw_clip, draw_set, draw_sound
from pipeline.clips.demo_set import plan_clips
from pipeline.clips.indexing import index_dataset
from pipeline.common.machine import ffmpeg_path
from pipeline.extraction.clip_file import open_clip


@pytest.fixture
def settings(config):
    return config.dataset.synthesize["demo"]


def test_a_set_is_drawn_into_its_folders(settings, drawn_root, tmp_path):
    draw_set("demo", settings.model_copy(update={"train_clips": 9, "val_clips": 9, "clips_per_source": 3}), tmp_path)
    assert index_dataset(dataset_at(tmp_path)) == index_dataset(dataset_at(drawn_root))


def test_clips_are_h264_and_aac_of_three_to_five_seconds(drawn_root, one_clip, clip_settings):
    durations = []
    for path in drawn_root.rglob("*.mp4"):
        with open_clip(path, clip_settings) as clip:
            durations.append(clip.timeline.duration_s)
    assert 2.9 < min(durations) < max(durations) < 5.1
    shown = subprocess.run([ffmpeg_path(), "-i", one_clip], capture_output=True, text=True).stderr
    assert re.search(r"Video: h264.*yuv420p", shown)
    assert "Audio: aac" in shown


def test_the_same_settings_draw_the_same_file(settings, tmp_path):
    clip = plan_clips(settings)[0]
    for name in ("a", "b"):
        (tmp_path / name / "Train").mkdir(parents=True)
        draw_clip(clip, settings, tmp_path / name)
    drawn = [(tmp_path / name / "Train" / f"{clip.clip_id}.mp4").read_bytes() for name in ("a", "b")]
    assert drawn[0] == drawn[1]


DRAW = """
import sys
from pathlib import Path
from pipeline.clips.demo_drawing import draw_clip
from pipeline.clips.demo_set import plan_clips
from pipeline.common.config import load_config
settings = load_config(Path("params.yaml")).dataset.synthesize["demo"]
for clip in plan_clips(settings)[:3]:
    draw_clip(clip, settings, Path(sys.argv[1]))
"""
# Calls ffmpeg without the instructions that only some processors have: those of its own code, and those of x264.
OLD_FFMPEG = """#!{python}
import os, sys
arguments = [argument.replace("cpu-independent=1", "cpu-independent=1:asm=0") for argument in sys.argv[1:]]
os.execv({ffmpeg!r}, [{ffmpeg!r}, "-cpuflags", "sse2", *arguments])
"""


def test_the_files_are_the_same_on_a_processor_without_extensions(tmp_path):
    from numpy._core._multiarray_umath import __cpu_dispatch__

    old_ffmpeg = tmp_path / "ffmpeg"
    old_ffmpeg.write_text(OLD_FFMPEG.format(python=sys.executable, ffmpeg=ffmpeg_path()))
    old_ffmpeg.chmod(0o755)
    old_processor = {
        "NPY_DISABLE_CPU_FEATURES": " ".join(__cpu_dispatch__),
        "OPENCV_CPU_DISABLE": "AVX2,FMA3,AVX",
        "OPENBLAS_CORETYPE": "Nehalem",
        "IMAGEIO_FFMPEG_EXE": str(old_ffmpeg),
    }
    for name, environment in {"here": {}, "old": old_processor}.items():
        (tmp_path / name / "Train").mkdir(parents=True)
        command = [sys.executable, "-c", DRAW, tmp_path / name]
        subprocess.run(command, cwd=REPOSITORY, env=os.environ | environment, check=True, capture_output=True)
    drawn = sorted((tmp_path / "here").rglob("*.mp4"))
    assert len(drawn) == 3
    for path in drawn:
        assert path.read_bytes() == (tmp_path / "old/Train" / path.name).read_bytes()


def test_a_sound_stays_within_its_clip():
    for seed in range(20):
        sound = draw_sound(np.random.default_rng(seed), np.random.default_rng(seed), 1, 3.0)
        assert len(sound) == 3 * 44_100
        assert sound.dtype == np.int16
        assert 1000 < np.abs(sound).max() < 32_767


def test_ctrl_c_ends_the_drawing_at_once_and_leaves_no_process(tmp_path):
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.synthesize"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # In a background job of a script, Ctrl-C is ignored, and the process would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not list(tmp_path.glob("data/demo/Train/*.mp4")):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "interrupted: what was finished and written is kept" in errors
    assert "Traceback" not in errors
    patience_until = time.monotonic() + 5  # the fork server sees that its parent is gone a moment later
    while left := [each for each in psutil.process_iter() if _session(each) == process.pid and _is_alive(each)]:
        assert time.monotonic() < patience_until, left
        time.sleep(0.05)


def _is_alive(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _session(process):
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return None
