"""`python -m stages.app`: a page that predicts a clip in a real browser, asks for nothing and keeps nothing."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from urllib.request import urlopen

import pytest
from helpers import REPOSITORY, run_ffmpeg

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.slow
ANSWER_MS = 180_000  # on a busy machine


@pytest.fixture(scope="module")
def browser():
    """Chromium that can open nothing but this machine's pages."""
    if not (path := shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("needs Chromium")
    options = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    options += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with playwright.sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=path, args=options)


@pytest.fixture(scope="module")
def served(finished, tmp_path_factory):
    """The page's address, and the folder in which the server keeps what it is given."""
    folder = tmp_path_factory.mktemp("served")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "stages.app", "--run", str(finished[0]), "--port", str(port)]
    environment = {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True)
    assert f"http://127.0.0.1:{port}" in server.stdout.readline()
    yield f"http://127.0.0.1:{port}", folder
    server.send_signal(signal.SIGTERM)
    assert server.wait(30) == 0
    assert list(folder.iterdir()) == []


@pytest.fixture
def page(browser, served):
    """The page, opened. In the end, the browser must have asked no other host, and nothing must have gone wrong."""
    page = browser.new_page()
    requested, errors = [], []
    page.on("request", lambda request: requested.append(request.url))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(served[0])
    yield page
    page.close()
    assert [url for url in requested if not url.startswith((served[0], "data:", "blob:"))] == []
    assert errors == []


# The browser has the clip, or cannot play it. Before that, it may ask for parts of a clip that the answer has removed.
CLIP_IS_SHOWN = (
    "() => { const clip = document.querySelector('video'); return clip && (clip.readyState > 1 || clip.error) }"
)


def predict(page, path, expected):
    page.set_input_files("input[type=file]", path)
    page.wait_for_function(CLIP_IS_SHOWN)
    page.get_by_role("button", name="Predict").click()
    page.wait_for_selector(expected, timeout=ANSWER_MS)


def uploads(folder):
    """The files that the server still keeps."""
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_clip_is_predicted_and_explained_and_removed(page, served, one_clip):
    predict(page, one_clip, "img[src^='data:image']")
    assert {"positive", "neutral", "negative"} <= set(re.findall(r"\w+", page.inner_text("body")))
    assert uploads(served[1]) == []


def test_a_clip_that_cannot_be_used_is_refused_and_removed(page, served, tmp_path):
    (tmp_path / "damaged.mp4").write_text("not a video")
    predict(page, tmp_path / "damaged.mp4", "text=cannot be used")
    assert uploads(served[1]) == []


def test_a_long_clip_is_predicted_in_windows_and_a_longer_one_refused(page, served, one_clip, tmp_path):
    run_ffmpeg("-stream_loop", "3", "-i", one_clip, "-c", "copy", tmp_path / "long.mp4")
    predict(page, tmp_path / "long.mp4", "text=The mean of")
    run_ffmpeg("-stream_loop", "30", "-i", one_clip, "-c", "copy", tmp_path / "longer.mp4")
    predict(page, tmp_path / "longer.mp4", "text=more than 60 s")
    assert uploads(served[1]) == []


def start_recording(page):
    """Press the button until it records: on a busy machine the camera is not there yet when it is first pressed."""
    for _ in range(3):
        page.get_by_label("capture photo").or_(page.get_by_text("Record")).first.click()
        with contextlib.suppress(playwright.TimeoutError):
            page.get_by_text("Stop").wait_for(timeout=5000)
            return
    raise AssertionError("the camera does not record")


def test_a_recorded_clip_is_predicted(page, served):
    picture, refusal = page.locator("img[src^='data:image']"), page.get_by_text("cannot be used")
    for _ in range(5):  # on a busy machine the camera can give too few frames, and the page says so
        page.reload()  # so that the refusal of the attempt before is not taken for that of this one
        page.get_by_label("Capture from camera").click()
        page.get_by_text("Click to Access Webcam").click()
        start_recording(page)
        page.wait_for_timeout(4500)
        page.get_by_text("Stop").click()
        page.wait_for_selector("video[src*='file=']", state="attached")
        page.get_by_role("button", name="Predict").click()
        picture.or_(refusal).first.wait_for(timeout=ANSWER_MS)
        if picture.count():
            break
    assert picture.count(), refusal.first.text_content()
    assert uploads(served[1]) == []


def test_a_file_that_is_too_large_is_refused(browser, served, tmp_path):
    with (tmp_path / "large.mp4").open("wb") as file:
        file.truncate(101 * 2**20)
    page = browser.new_page()
    page.goto(served[0])
    page.set_input_files("input[type=file]", tmp_path / "large.mp4")
    page.wait_for_selector("text=exceed the maximum allowed size", timeout=ANSWER_MS)
    page.close()
    assert uploads(served[1]) == []


def test_only_this_machine_can_open_the_page(served):
    port = int(served[0].rpartition(":")[2])
    assert urlopen(served[0]).status == 200
    # 127.0.0.2 is this machine, too. A server that listens on all addresses would answer.
    with pytest.raises(ConnectionError), socket.create_connection(("127.0.0.2", port), timeout=2):
        pass


def test_an_address_is_not_downloaded():
    gradio = pytest.importorskip("gradio")  # seconds that only this test needs
    from pipeline.serving.page import only_uploads

    with pytest.raises(gradio.Error, match="not an address"):
        only_uploads(gradio.Video()).async_move_resource_to_block_cache("http://localhost/clip.mp4").send(None)
