"""What the page's server answers to requests that its own page would not send."""

import contextlib
import json
import os
import socket
from types import SimpleNamespace

import pytest

from pipeline.common.errors import UserError

httpx = pytest.importorskip("httpx")
pytest.importorskip("gradio")
pytestmark = pytest.mark.slow  # importing Gradio takes seconds


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the server keeps uploads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder := tmp_path_factory.mktemp("uploads")))
        yield folder


@contextlib.contextmanager
def serving(host):
    """The address of the page of a model that is asked for nothing here."""
    from pipeline.serving.page import build_page, serve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model = SimpleNamespace(labels=["a", "b"], takes={"scene": "frames"})
    predictor = SimpleNamespace(scorer=SimpleNamespace(model=model))
    yield serve(page := build_page(predictor), host, port).rstrip("/")
    page.close()


@pytest.fixture(scope="module")
def address(folder):
    """That of the page on this machine."""
    with serving("127.0.0.1") as address:
        yield address


@pytest.fixture(autouse=True)
def without_uploads(folder):
    """Each test begins without uploads."""
    for path in files_in(folder):
        path.unlink()


def files_in(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


def upload(address, **headers):
    return httpx.post(f"{address}/gradio_api/upload", files={"files": ("clip.mp4", b"a clip")}, headers=headers)


@pytest.mark.parametrize("port", [0, -1, 80_000])
def test_a_port_that_does_not_exist_is_named(folder, port):
    from pipeline.serving.page import serve

    with pytest.raises(UserError, match=f"^port {port} does not exist; name one from 1 to 65535 with --port$"):
        serve(None, "127.0.0.1", port)


def test_the_page_starts_beside_a_proxy_that_does_not_reach_this_machine(folder, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "elsewhere.test")
    with serving("127.0.0.1") as address:
        assert httpx.get(address).status_code == 200
    assert os.environ["no_proxy"].split(",")[0] == "elsewhere.test"


def test_a_server_that_does_not_answer_this_machine_is_one_sentence(folder, monkeypatch):
    from pipeline.serving import page

    monkeypatch.setattr(page, "ask_without_proxy", lambda host: None)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"^the page on port \d+ of 127\.0\.0\.1 does not answer this machine"):
        serving("127.0.0.1").__enter__()


def test_an_address_in_place_of_a_clip_is_refused_and_not_asked(address):
    with socket.socket() as elsewhere:
        elsewhere.bind(("127.0.0.1", 0))
        elsewhere.listen()
        elsewhere.setblocking(False)
        url = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/clip.mp4"
        (click,) = httpx.get(f"{address}/config").json()["dependencies"]
        clip = {"path": url, "url": url, "orig_name": "clip.mp4", "meta": {"_type": "gradio.FileData"}}
        request = {"data": [clip], "fn_index": click["id"], "session_hash": "test"}
        assert httpx.post(f"{address}/gradio_api/queue/join", json=request).status_code == 200
        events = httpx.get(f"{address}/gradio_api/queue/data", params={"session_hash": "test"}, timeout=60).text
        answers = [json.loads(line.removeprefix("data:")) for line in events.splitlines() if line.startswith("data:")]
        (answer,) = [answer for answer in answers if answer["msg"] == "process_completed"]
        assert not answer["success"]
        assert "expected an uploaded clip, not an address" in json.dumps(answer)
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


def test_the_page_of_another_site_is_refused(address):
    assert httpx.get(address, headers={"Origin": address}).status_code == 200
    refused = upload(address, Origin="https://elsewhere.test")
    assert (refused.status_code, refused.text) == (403, "a page of https://elsewhere.test may not use this server")
    assert upload(address, Origin="null").status_code == 403
    assert upload(address, Origin="http://[").status_code == 403


def test_a_name_of_another_site_that_leads_here_is_refused(address):
    port = address.rpartition(":")[2]
    assert httpx.get(address, headers={"Host": f"localhost:{port}"}).status_code == 200
    rebound = {"Host": f"elsewhere.test:{port}", "Origin": f"http://elsewhere.test:{port}"}
    assert httpx.get(address, headers=rebound).status_code == 400


@pytest.mark.parametrize("host", ["127.0.0.2", "127.1"])
def test_no_loopback_address_answers_to_a_name_of_another_site(folder, host):
    with serving(host) as address:
        port = address.rpartition(":")[2]
        for name, status in ((host, 200), ("localhost", 200), ("127.0.0.1", 200), ("elsewhere.test", 400)):
            assert httpx.get(address, headers={"Host": f"{name}:{port}"}).status_code == status, name


def test_an_address_that_other_machines_reach_answers_to_any_name():
    from pipeline.serving.page import accepted_names

    assert accepted_names("0.0.0.0") == ["*"]
    assert accepted_names("[::1]") == ["127.0.0.1", "localhost", "[::1]"]


def test_more_clips_than_are_kept_are_refused_until_one_is_gone(address, folder):
    from pipeline.serving.page import MAX_UPLOADS

    clips = [folder / f"{number}.mp4" for number in range(MAX_UPLOADS - 1)]
    for clip in clips:
        clip.touch()
    assert upload(address).status_code == 200
    refused = upload(address)
    assert (refused.status_code, refused.text) == (429, "too many clips are waiting; try again in some minutes")
    clips[0].unlink()
    assert upload(address).status_code == 200


def test_a_request_brings_one_clip(address, folder):
    files = [("files", (f"{number}.mp4", b"a clip")) for number in range(2)]
    several = httpx.post(f"{address}/gradio_api/upload", files=files)
    assert several.status_code == 400
    assert several.text == "an upload has several parts, expected one clip; send each clip on its own"
    assert files_in(folder) == set()


def test_a_request_that_is_larger_than_a_clip_is_refused_whether_it_says_so_or_not(address, folder):
    from pipeline.serving.page import MAX_FILE_MB

    form = {"Content-Type": "multipart/form-data; boundary=x"}
    begin = b'--x\r\nContent-Disposition: form-data; name="text"\r\n\r\n'  # a field, not a file, which Gradio bounds
    content = [begin, *[bytes(2**20)] * (MAX_FILE_MB + 1), b"\r\n--x--\r\n"]
    size = sum(map(len, content))
    unsaid = httpx.post(f"{address}/gradio_api/upload", content=iter(content), headers=form, timeout=60)
    assert (unsaid.status_code, "exceeds the maximum allowed size" in unsaid.text) == (413, True)
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=60) as connection:
        lines = [
            "POST /gradio_api/upload HTTP/1.1",
            "Host: 127.0.0.1",
            f"Content-Length: {size}",
            *map(": ".join, form.items()),
        ]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())  # nothing follows, and nothing is waited for
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
    assert files_in(folder) == set()


def test_equal_clips_of_two_visitors_are_two_files(address, folder):
    """The answer to the first visitor removes the first file."""
    first, second = (upload(address).json() for _ in range(2))
    assert first != second
    assert len(files_in(folder)) == 2
