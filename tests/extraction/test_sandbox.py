"""A clip is untrusted: it can neither hang nor exhaust nor reach anything, and no process is left behind (P6)."""

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from conftest import REPOSITORY, run_ffmpeg

from pipeline.extraction import clip_reader as sandbox_module
from pipeline.extraction.clip_reader import Sandbox
from pipeline.extraction.timeline import REASONS, MediaError


@pytest.fixture
def sandbox():
    sandbox = Sandbox()
    yield sandbox
    sandbox.close()


@pytest.fixture(scope="module")
def lasting_sandbox():
    """One for many clips, where only what it says of each matters."""
    sandbox = Sandbox()
    yield sandbox
    sandbox.close()


@pytest.fixture
def child(monkeypatch, tmp_path):
    """Replaces what the child runs by a script, of which one process reads one clip."""

    def child(body):
        script = tmp_path / "child.py"
        script.write_text(
            f"import os, signal, sys, time\nsys.path.insert(0, {str(REPOSITORY)!r})\n"
            "from multiprocessing.connection import Connection\n"
            "from pipeline.extraction import clip_reader as sandbox\n"
            f"{body}\nsandbox.serve(Connection(int(sys.argv[1])))\n"
        )
        popen = subprocess.Popen

        def start(command, **options):
            return popen([sys.executable, script, *command[-1:]], **options)

        monkeypatch.setattr(sandbox_module.subprocess, "Popen", start)

    return child


def reason_of(sandbox, path, features, limits):
    with pytest.raises(MediaError) as error:
        sandbox.read_clip(path, features, limits)
    assert error.value.reason in REASONS
    return error.value.reason


def test_a_clip_is_read_as_it_is_without_the_sandbox(sandbox, one_clip, features, limits):
    inside = sandbox.read_clip(one_clip, features, limits)
    outside = sandbox_module.read_clip(one_clip, features, limits)
    assert (inside.waveform == outside.waveform).all()
    assert (inside.duration_s, inside.frame_times_s, inside.jpegs) == (
        outside.duration_s,
        outside.frame_times_s,
        outside.jpegs,
    )


@pytest.mark.parametrize("decoder", ["in_process", "ffmpeg"])
@pytest.mark.parametrize(
    "name",
    ["with space.mp4", "-y.mp4", "qu'o\"te.mp4", "new\nline.mp4", "größe 群.mp4", "http:x.mp4", "a%03d.mp4", "#?.mp4"],
)
def test_any_file_name_will_do(name, decoder, lasting_sandbox, one_clip, features, limits, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes(one_clip.read_bytes())
    monkeypatch.chdir(tmp_path)
    clip = lasting_sandbox.read_clip(Path(name), features, limits.model_copy(update={"decoder": decoder}))
    assert len(clip.jpegs) == features.frames


@pytest.fixture
def listener():
    """A web server on loopback, and the paths that were asked of it."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


PLAYLISTS = {
    "concat script": "ffconcat version 1.0\nfile {sentinel}\n",
    "concat script, network": "ffconcat version 1.0\nfile {url}/clip.mp4\n",
    "HLS": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{sentinel}\n#EXT-X-ENDLIST\n",
    "HLS, network": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{url}/clip.ts\n#EXT-X-ENDLIST\n",
    "DASH": '<?xml version="1.0"?><MPD type="static" mediaPresentationDuration="PT5S"><Period><AdaptationSet '
    'mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{url}/clip.mp4</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>",
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
}


@pytest.mark.parametrize("decoder", ["in_process", "ffmpeg"])
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_named_mp4_reads_no_other_file_and_makes_no_connection(
    kind, decoder, lasting_sandbox, one_clip, features, limits, tmp_path, listener
):
    url, asked = listener
    sentinel = tmp_path / "sentinel.mp4"
    sentinel.write_bytes(one_clip.read_bytes())
    os.utime(sentinel, (1, 1))
    playlist = tmp_path / "playlist.mp4"
    playlist.write_text(PLAYLISTS[kind].format(sentinel=sentinel, url=url))
    limits = limits.model_copy(update={"decoder": decoder})
    assert reason_of(lasting_sandbox, playlist, features, limits) == "unreadable"
    assert asked == []
    assert sentinel.stat().st_atime == 1  # nobody read it


def test_a_playlist_that_got_as_far_as_ffmpeg_is_refused_there(one_clip, features, limits, tmp_path):
    from pipeline.extraction.decoding import decode_with_ffmpeg
    from pipeline.extraction.timeline import open_clip, sample_pts

    playlist = tmp_path / "playlist.mp4"
    playlist.write_text(PLAYLISTS["concat script"].format(sentinel=one_clip))
    with open_clip(one_clip, features, limits) as clip:
        clip = type(clip)(**{**vars(clip), "path": playlist})
        with pytest.raises(MediaError, match="video_undecodable: 0 of"):
            decode_with_ffmpeg(clip, sample_pts(clip.timeline, features.frames), features, limits)


def make_black(path, size, *options, seconds=5, rate=25):
    run_ffmpeg(
        *("-f", "lavfi", "-i", f"color=black:size={size}:rate={rate}:duration={seconds}"),
        *("-c:v", "libx264", "-preset", "ultrafast", *options, path),
    )


@pytest.mark.parametrize("decoder", ["in_process", "ffmpeg"])
def test_a_huge_picture_and_a_long_clip_are_refused_at_once(decoder, sandbox, features, limits, tmp_path):
    limits = limits.model_copy(update={"decoder": decoder, "timeout_s": 10.0})
    make_black(tmp_path / "huge.mp4", "8000x8000", seconds=0.4, rate=5)
    make_black(tmp_path / "hour.mp4", "32x32", seconds=3600, rate=1)
    start = time.monotonic()
    assert reason_of(sandbox, tmp_path / "huge.mp4", features, limits) == "too_large"
    assert reason_of(sandbox, tmp_path / "hour.mp4", features, limits) == "too_long"
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("decoder", ["in_process", "ffmpeg"])
def test_a_picture_that_grows_in_the_midst_of_a_clip_stays_within_the_limits(
    decoder, sandbox, features, limits, tmp_path
):
    make_black(tmp_path / "small.ts", "64x64", seconds=1)
    make_black(tmp_path / "large.ts", "4096x4096", "-output_ts_offset", "1", seconds=1)
    (tmp_path / "grows.ts").write_bytes((tmp_path / "small.ts").read_bytes() + (tmp_path / "large.ts").read_bytes())
    limits = limits.model_copy(update={"decoder": decoder, "max_pixels": 10_000, "timeout_s": 20.0})
    assert reason_of(sandbox, tmp_path / "grows.ts", features, limits) in ("video_undecodable", "too_few_frames")


@pytest.mark.parametrize("decoder", ["in_process", "ffmpeg"])
def test_sparse_timestamps_do_not_unfold(decoder, sandbox, features, limits, tmp_path):
    # Three frames, years apart: what resampling to a frame rate would fill with millions of copies.
    run_ffmpeg(
        *("-f", "lavfi", "-i", "color=black:size=64x64:rate=1:duration=3", "-vf", "setpts=N*100000000"),
        *("-fps_mode", "passthrough", "-c:v", "libx264", "-video_track_timescale", "1", tmp_path / "bomb.mp4"),
    )
    assert (tmp_path / "bomb.mp4").stat().st_size < 4000
    limits = limits.model_copy(update={"decoder": decoder, "timeout_s": 10.0})
    assert reason_of(sandbox, tmp_path / "bomb.mp4", features, limits) == "too_long"


@pytest.fixture(scope="module")
def wide_clip(tmp_path_factory):
    """A clip for whose decoding seventeen pictures of 25 MB each must be kept."""
    path = tmp_path_factory.mktemp("wide") / "wide.mp4"
    make_black(path, "3840x2160", "-refs", "16", "-bf", "4", "-pix_fmt", "yuv420p10le", seconds=1)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["in_process", "ffmpeg"])
def test_pictures_that_need_more_memory_than_allowed_are_refused(decoder, wide_clip, sandbox, features, limits):
    limits = limits.model_copy(update={"decoder": decoder})
    small = limits.model_copy(update={"memory_mb": 64})
    assert reason_of(sandbox, wide_clip, features, small) in ("out_of_memory", "video_undecodable")
    assert len(sandbox.read_clip(wide_clip, features, limits).jpegs) == features.frames


def test_memory_beyond_the_limit_is_the_clips_end_not_the_runs(child, sandbox, one_clip, features, limits):
    child("sandbox.read_clip = lambda *_: bytearray(2**29)")
    small = limits.model_copy(update={"memory_mb": 256})
    assert reason_of(sandbox, one_clip, features, small) == "out_of_memory"


def test_a_child_cannot_fill_the_disk(child, sandbox, one_clip, features, limits, tmp_path):
    child(f"sandbox.read_clip = lambda *_: open({str(tmp_path / 'large')!r}, 'wb').write(bytes(2**27))")
    assert reason_of(sandbox, one_clip, features, limits) == "crashed"
    assert (tmp_path / "large").stat().st_size < 2**22


def test_a_child_that_hangs_is_killed_with_all_that_it_started(child, sandbox, one_clip, features, limits):
    sleep = ["sleep", f"{30_000 + os.getpid()}"]  # no other run of the tests has it
    child(
        "import subprocess\n"
        "def hang(*_):\n"
        f"    subprocess.Popen({sleep})\n"
        f"    subprocess.run({sleep})\n"
        "sandbox.read_clip = hang"
    )
    start = time.monotonic()
    assert reason_of(sandbox, one_clip, features, limits.model_copy(update={"timeout_s": 3.0})) == "timeout"
    assert time.monotonic() - start < 5
    time.sleep(0.2)
    left = [p.pid for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == sleep]  # orphans included
    assert left == []


def test_a_child_that_crashes_leaves_the_video_to_ffmpeg(child, sandbox, one_clip, features, limits):
    by_ffmpeg = sandbox_module.read_clip(one_clip, features, limits.model_copy(update={"decoder": "ffmpeg"}))
    child(
        "read_clip = sandbox.read_clip\n"
        "def crash(path, features, limits, window):\n"
        "    if limits.decoder == 'in_process':\n"
        "        os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    return read_clip(path, features, limits)\n"
        "sandbox.read_clip = crash"
    )
    assert sandbox.read_clip(one_clip, features, limits).jpegs == by_ffmpeg.jpegs


def test_a_child_that_is_killed_is_asked_again_the_same(child, sandbox, one_clip, features, limits, tmp_path):
    child(
        "read_clip = sandbox.read_clip\n"
        "def killed_once(path, features, limits, window):\n"
        f"    marker = {str(tmp_path / 'killed')!r}\n"
        "    if not os.path.exists(marker):\n"
        "        open(marker, 'w').close()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    assert limits.decoder == 'in_process'\n"
        "    return read_clip(path, features, limits)\n"
        "sandbox.read_clip = killed_once"
    )
    assert len(sandbox.read_clip(one_clip, features, limits).jpegs) == features.frames


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGSEGV)", "1 / 0"])
def test_a_clip_that_always_crashes_its_reader_is_quarantined(end, child, sandbox, one_clip, features, limits):
    child(f"def crash(*_):\n    {end}\nsandbox.read_clip = crash")
    assert reason_of(sandbox, one_clip, features, limits) == "crashed"


def test_the_child_ends_with_whoever_asked_even_when_killed(one_clip, tmp_path):
    asker = """
import os, sys, threading
from pipeline.extraction import clip_reader as sandbox
asking = sandbox.Sandbox()
process, _ = asking._child()
print(process.pid, flush=True)
threading.Event().wait()
"""
    process = subprocess.Popen([sys.executable, "-c", asker], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(process.stdout.readline()))
    time.sleep(1)  # until it waits for a request
    process.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_what_reads_untrusted_files_imports_neither_torch_nor_librosa():
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, pipeline.extraction.clip_reader; print(*sys.modules)"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {"torch", "librosa", "numba", "scipy"} & set(loaded)


def test_no_port_is_open(sandbox, one_clip, features, limits):
    sandbox.read_clip(one_clip, features, limits)
    process = psutil.Process(sandbox._process.pid)
    assert [c for c in process.net_connections() if c.family in (socket.AF_INET, socket.AF_INET6)] == []
