"""A hostile clip cannot make extraction hang, use up the machine or reach other files, and no process stays."""

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from helpers import REPOSITORY, run_ffmpeg
from numbered_clips import with_limits

from pipeline.extraction.clip_file import open_clip
from pipeline.extraction.clip_reader import read_clip
from pipeline.extraction.ffmpeg_decoder import decode_with_ffmpeg
from pipeline.extraction.reasons import REASONS, MediaError
from pipeline.extraction.sandbox import CHILD_MODULE, Sandbox
from pipeline.extraction.timeline import sample_pts


@pytest.fixture
def sandbox():
    sandbox = Sandbox()
    yield sandbox
    sandbox.close()


@pytest.fixture(scope="module")
def lasting_sandbox():
    """One sandbox for many clips, for tests of its answers alone."""
    sandbox = Sandbox()
    yield sandbox
    sandbox.close()


def reason_of(sandbox, path, settings):
    with pytest.raises(MediaError) as error:
        sandbox.read_clip(path, settings)
    assert error.value.reason in REASONS
    return error.value.reason


def test_a_clip_is_read_as_without_the_sandbox(sandbox, one_clip, clip_settings):
    inside = sandbox.read_clip(one_clip, clip_settings)
    outside = read_clip(one_clip, clip_settings)
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
def test_a_file_can_have_any_name(name, decoder, lasting_sandbox, one_clip, clip_settings, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes(one_clip.read_bytes())
    monkeypatch.chdir(tmp_path)
    clip = lasting_sandbox.read_clip(Path(name), with_limits(clip_settings, decoder=decoder))
    assert len(clip.jpegs) == clip_settings.features.frames


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
    kind, decoder, lasting_sandbox, one_clip, clip_settings, tmp_path, listener
):
    url, asked = listener
    sentinel = tmp_path / "sentinel.mp4"
    sentinel.write_bytes(one_clip.read_bytes())
    os.utime(sentinel, (1, 1))
    playlist = tmp_path / "playlist.mp4"
    playlist.write_text(PLAYLISTS[kind].format(sentinel=sentinel, url=url))
    settings = with_limits(clip_settings, decoder=decoder)
    assert reason_of(lasting_sandbox, playlist, settings) == "unreadable"
    assert asked == []
    assert sentinel.stat().st_atime == 1  # nobody read it


def test_ffmpeg_itself_refuses_a_playlist(one_clip, clip_settings, tmp_path):
    playlist = tmp_path / "playlist.mp4"
    playlist.write_text(PLAYLISTS["concat script"].format(sentinel=one_clip))
    with open_clip(one_clip, clip_settings) as clip:
        clip = replace(clip, path=playlist)
        with pytest.raises(MediaError, match="video_undecodable: 0 of"):
            decode_with_ffmpeg(clip, sample_pts(clip.timeline, clip_settings.features.frames), clip_settings)


def make_black(path, size, *options, seconds=5, rate=25):
    run_ffmpeg(
        *("-f", "lavfi", "-i", f"color=black:size={size}:rate={rate}:duration={seconds}"),
        *("-c:v", "libx264", "-preset", "ultrafast", *options, path),
    )


@pytest.mark.parametrize("decoder", ["in_process", "ffmpeg"])
def test_a_huge_picture_and_a_long_clip_are_refused_at_once(decoder, sandbox, clip_settings, tmp_path):
    settings = with_limits(clip_settings, decoder=decoder, timeout_s=10.0)
    make_black(tmp_path / "huge.mp4", "8000x8000", seconds=0.4, rate=5)
    make_black(tmp_path / "hour.mp4", "32x32", seconds=3600, rate=1)
    start = time.monotonic()
    assert reason_of(sandbox, tmp_path / "huge.mp4", settings) == "too_large"
    assert reason_of(sandbox, tmp_path / "hour.mp4", settings) == "too_long"
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("decoder", ["in_process", "ffmpeg"])
def test_a_picture_that_grows_within_a_clip_stays_within_the_limits(decoder, sandbox, clip_settings, tmp_path):
    make_black(tmp_path / "small.ts", "64x64", seconds=1)
    make_black(tmp_path / "large.ts", "4096x4096", "-output_ts_offset", "1", seconds=1)
    (tmp_path / "grows.ts").write_bytes((tmp_path / "small.ts").read_bytes() + (tmp_path / "large.ts").read_bytes())
    settings = with_limits(clip_settings, decoder=decoder, max_pixels=10_000, timeout_s=20.0)
    assert reason_of(sandbox, tmp_path / "grows.ts", settings) in ("video_undecodable", "too_few_frames")


@pytest.mark.parametrize("decoder", ["in_process", "ffmpeg"])
def test_timestamps_that_are_years_apart_make_no_extra_frames(decoder, sandbox, clip_settings, tmp_path):
    # Three frames, years apart: what resampling to a frame rate would fill with millions of copies.
    run_ffmpeg(
        *("-f", "lavfi", "-i", "color=black:size=64x64:rate=1:duration=3", "-vf", "setpts=N*100000000"),
        *("-fps_mode", "passthrough", "-c:v", "libx264", "-video_track_timescale", "1", tmp_path / "bomb.mp4"),
    )
    assert (tmp_path / "bomb.mp4").stat().st_size < 4000
    settings = with_limits(clip_settings, decoder=decoder, timeout_s=10.0)
    assert reason_of(sandbox, tmp_path / "bomb.mp4", settings) == "too_long"


@pytest.fixture(scope="module")
def wide_clip(tmp_path_factory):
    """A clip for whose decoding seventeen pictures of 25 MB each must be kept."""
    path = tmp_path_factory.mktemp("wide") / "wide.mp4"
    make_black(path, "3840x2160", "-refs", "16", "-bf", "4", "-pix_fmt", "yuv420p10le", seconds=1)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["in_process", "ffmpeg"])
def test_pictures_that_need_more_memory_than_allowed_are_refused(decoder, wide_clip, sandbox, clip_settings):
    settings = with_limits(clip_settings, decoder=decoder)
    small = with_limits(settings, memory_mb=64)
    assert reason_of(sandbox, wide_clip, small) in ("out_of_memory", "video_undecodable")
    assert len(sandbox.read_clip(wide_clip, settings).jpegs) == clip_settings.features.frames


def test_a_clip_that_needs_too_much_memory_is_quarantined_and_the_run_goes_on(child, sandbox, one_clip, clip_settings):
    child("sandbox_child.read_clip = lambda *_: bytearray(2**29)")
    small = with_limits(clip_settings, memory_mb=256)
    assert reason_of(sandbox, one_clip, small) == "out_of_memory"
    assert sandbox._process is None, "the next clip is read by a child that has all of its memory"


def test_a_child_cannot_fill_the_disk(child, sandbox, one_clip, clip_settings, tmp_path):
    child(f"sandbox_child.read_clip = lambda *_: open({str(tmp_path / 'large')!r}, 'wb').write(bytes(2**27))")
    assert reason_of(sandbox, one_clip, clip_settings) == "crashed"
    assert (tmp_path / "large").stat().st_size < 2**22


def test_the_child_gets_no_tokens_and_keys(sandbox, one_clip, clip_settings, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    sandbox.read_clip(one_clip, clip_settings)
    names = {line.partition("=")[0] for line in proc_of(sandbox, "environ").split("\0")}
    assert "PATH" in names
    assert "AWS_SECRET_ACCESS_KEY" not in names


def proc_of(sandbox, name):
    return Path(f"/proc/{sandbox._process.pid}", name).read_text()


needs_namespaces = pytest.mark.skipif(
    subprocess.run(["unshare", "--user", "--net", "--mount", "true"], capture_output=True).returncode != 0,
    reason="this machine forbids user namespaces",
)


@needs_namespaces
def test_the_child_has_a_network_of_its_own_and_read_only_disks(sandbox, one_clip, clip_settings):
    sandbox.read_clip(one_clip, clip_settings)
    assert len(proc_of(sandbox, "net/dev").splitlines()) == 3  # two lines of headings, and the loopback device
    assert "\t0000" not in proc_of(sandbox, "net/route")
    options = [line.split()[5].split(",") for line in proc_of(sandbox, "mountinfo").splitlines()]
    assert options
    assert all("ro" in each for each in options)


@needs_namespaces
@pytest.mark.parametrize(
    ("attempt", "refusal"),
    [
        ("open('{file}', 'w')", "Read-only file system"),
        ("__import__('socket').create_connection(('127.0.0.1', 9), 1)", "Network is unreachable"),
        ("subprocess.run(['touch', '{file}'], check=True, stderr=subprocess.DEVNULL)", "non-zero exit status 1"),
    ],
)
def test_a_child_that_was_taken_over_can_neither_write_nor_connect(
    attempt, refusal, child, sandbox, one_clip, clip_settings, tmp_path
):
    child(
        "import subprocess\n"
        f"def attack(*_):\n    {attempt.format(file=tmp_path / 'written')}\n"
        "sandbox_child.read_clip = attack\n"
        "sandbox_child.isolate_this_process()"
    )
    with pytest.raises(MediaError, match=refusal):
        sandbox.read_clip(one_clip, clip_settings)


def test_a_child_that_hangs_is_killed_with_every_process_that_it_started(child, sandbox, one_clip, clip_settings):
    sleep = ["sleep", f"{30_000 + os.getpid()}"]  # no other run of the tests has it
    child(
        "import subprocess\n"
        "def hang(*_):\n"
        f"    subprocess.Popen({sleep})\n"
        f"    subprocess.run({sleep})\n"
        "sandbox_child.read_clip = hang"
    )
    start = time.monotonic()
    assert reason_of(sandbox, one_clip, with_limits(clip_settings, timeout_s=3.0)) == "timeout"
    assert time.monotonic() - start < 5
    time.sleep(0.2)
    orphans = [p.pid for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == sleep]
    assert orphans == []


ENDLESS = "os.write(connection.fileno(), bytes([0, 0, 16, 0]) + b'{'); time.sleep(60)"
LEFT_TO_ANOTHER = (
    "os.write(connection.fileno(), bytes([0, 0, 16, 0]) + b'{')\n"
    "    if os.fork() == 0: os.setsid()\n"
    "    time.sleep(8); os._exit(0)"
)


@pytest.mark.parametrize("answer", [ENDLESS, LEFT_TO_ANOTHER])
def test_a_child_that_never_ends_its_answer_is_killed_after_the_time(answer, child, sandbox, one_clip, clip_settings):
    child(f"def begin(connection, _):\n    {answer}\nConnection.send_bytes = begin")
    start = time.monotonic()
    assert reason_of(sandbox, one_clip, with_limits(clip_settings, timeout_s=3.0)) == "timeout"
    assert time.monotonic() - start < 5


WRONG_ANSWERS = {
    "nothing": "b''",
    "no JSON": "b'{\\n'",
    "no object": "b'[]\\n'",
    "deep": "b'[' * 100_000",
    "missing keys": """b'{"duration_s": 1}\\n'""",
    "unknown reason": """b'{"reason": "tired", "detail": ""}\\n'""",
}


@pytest.mark.parametrize("kind", WRONG_ANSWERS)
def test_a_child_that_answers_something_else_is_one_that_crashed(kind, child, sandbox, one_clip, clip_settings):
    child(
        f"send = Connection.send_bytes\nConnection.send_bytes = lambda asking, _: send(asking, {WRONG_ANSWERS[kind]})"
    )
    assert reason_of(sandbox, one_clip, clip_settings) == "crashed"
    assert sandbox._process is None, "the next clip is read by another child"


def test_an_answer_that_is_longer_than_the_childs_memory_is_not_read(child, sandbox, one_clip, clip_settings):
    child(
        "def announce(connection, _):\n"
        "    os.write(connection.fileno(), (2**30 + 1).to_bytes(4) + bytes(1000))\n"
        "    time.sleep(60)\n"
        "Connection.send_bytes = announce"
    )
    start = time.monotonic()
    assert reason_of(sandbox, one_clip, with_limits(clip_settings, memory_mb=1024, timeout_s=20.0)) == "crashed"
    assert time.monotonic() - start < 15, "it does not wait for the rest"


def test_a_sandbox_that_is_given_up_ends_what_another_thread_reads_and_starts_no_child(
    child, sandbox, one_clip, clip_settings
):
    child("sandbox_child.read_clip = lambda *_: time.sleep(60)")
    with ThreadPoolExecutor(1) as thread:
        read = thread.submit(sandbox.read_clip, one_clip, clip_settings)
        while sandbox._process is None:
            time.sleep(0.01)
        sandbox.give_up()
        with pytest.raises(MediaError, match="ended with -9"):
            read.result(timeout=5)
    assert reason_of(sandbox, one_clip, clip_settings) == "crashed"
    assert sandbox._process is None


def test_after_a_crash_the_clip_is_decoded_by_ffmpeg(child, sandbox, one_clip, clip_settings):
    by_ffmpeg = read_clip(one_clip, with_limits(clip_settings, decoder="ffmpeg"))
    child(
        "read_clip = sandbox_child.read_clip\n"
        "def crash(path, settings, window):\n"
        "    if settings.limits.decoder == 'in_process':\n"
        "        os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    return read_clip(path, settings)\n"
        "sandbox_child.read_clip = crash"
    )
    assert sandbox.read_clip(one_clip, clip_settings).jpegs == by_ffmpeg.jpegs


def test_after_a_kill_the_same_clip_is_read_again_in_the_same_way(child, sandbox, one_clip, clip_settings, tmp_path):
    child(
        "read_clip = sandbox_child.read_clip\n"
        "def killed_once(path, settings, window):\n"
        f"    marker = {str(tmp_path / 'killed')!r}\n"
        "    if not os.path.exists(marker):\n"
        "        open(marker, 'w').close()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    assert settings.limits.decoder == 'in_process'\n"
        "    return read_clip(path, settings)\n"
        "sandbox_child.read_clip = killed_once"
    )
    assert len(sandbox.read_clip(one_clip, clip_settings).jpegs) == clip_settings.features.frames


def test_after_a_kill_in_the_middle_of_an_answer_the_clip_is_read_again(
    child, sandbox, one_clip, clip_settings, tmp_path
):
    child(
        "send = Connection.send_bytes\n"
        "def killed_once(connection, answer):\n"
        f"    marker = {str(tmp_path / 'killed')!r}\n"
        "    if not os.path.exists(marker):\n"
        "        open(marker, 'w').close()\n"
        "        os.write(connection.fileno(), len(answer).to_bytes(4) + answer[:1000])\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    send(connection, answer)\n"
        "Connection.send_bytes = killed_once"
    )
    assert len(sandbox.read_clip(one_clip, clip_settings).jpegs) == clip_settings.features.frames


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGSEGV)", "1 / 0"])
def test_a_clip_that_always_crashes_its_reader_is_quarantined(end, child, sandbox, one_clip, clip_settings):
    child(f"def crash(*_):\n    {end}\nsandbox_child.read_clip = crash")
    assert reason_of(sandbox, one_clip, clip_settings) == "crashed"


def test_the_child_ends_when_the_asking_process_is_killed(one_clip, tmp_path):
    program = """
import os, sys, threading
from pipeline.extraction.sandbox import Sandbox
asking = Sandbox()
process, _ = asking._running_child()
print(process.pid, flush=True)
threading.Event().wait()
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(process.stdout.readline()))
    time.sleep(1)  # until it waits for a request
    process.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_the_child_imports_no_more_than_decoding_needs():
    command = [sys.executable, "-c", f"import sys, {CHILD_MODULE}; print(*sys.modules)"]
    loaded = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "librosa", "numba", "scipy", "pandas"} & set(loaded)


def test_the_child_opens_no_port(sandbox, one_clip, clip_settings):
    sandbox.read_clip(one_clip, clip_settings)
    process = psutil.Process(sandbox._process.pid)
    assert [c for c in process.net_connections() if c.family in (socket.AF_INET, socket.AF_INET6)] == []


def test_a_kernel_that_takes_no_map_of_users_does_not_keep_clips_from_being_read(
    child, sandbox, one_clip, clip_settings
):
    child(
        "from pathlib import Path\n"
        "def refused(*_):\n    raise PermissionError\n"
        "Path.write_text = refused\n"
        "assert not sandbox_child.isolate_this_process()"
    )
    assert len(sandbox.read_clip(one_clip, clip_settings).jpegs) == clip_settings.features.frames
