"""A split of two shards that the tests make, and a server on loopback that breaks connections."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np

from pipeline.shards.format import Sample, write_shard
from pipeline.shards.index import ShardIndex, write_index


def random_sample(number, features):
    size = features.frame_size_px
    rng = np.random.default_rng(number)
    pictures = [rng.integers(0, 255, (size, size, 3), np.uint8) for _ in range(features.frames)]
    jpegs = [cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures]
    times_s = [float(i) for i in range(features.frames)]
    log_mel = rng.normal(size=(features.mel_bins, 500)).astype(np.float16)
    return Sample(f"{number}_1", 5.0, 25.0, jpegs, times_s, log_mel)


def write_split(folder, features):
    """Two shards of three clips with their index, as the extract stage leaves them."""
    folder.mkdir(parents=True)
    shards = [
        write_shard(folder, f"val-{n:06d}.tar", "f", [random_sample(3 * n + i, features) for i in range(3)])
        for n in range(2)
    ]
    index = ShardIndex(folder, features, shards)
    write_index(index)
    return index


class Server(ThreadingHTTPServer):
    """Serves a folder. It breaks off the first `drops` answers of each file, and spoils the next `spoils` answers."""

    def __init__(self, folder, drops=0, spoils=0):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.drops, self.spoils = folder, drops, spoils
        self.requests = {}

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        path = self.server.folder / self.path.lstrip("/").partition("?")[0]
        if not path.is_file():
            self.send_error(404)
            return
        content = bytearray(path.read_bytes())
        if body:
            request = self.server.requests[path.name] = self.server.requests.get(path.name, 0) + 1
            if self.server.drops < request <= self.server.drops + self.server.spoils and path.suffix == ".tar":
                content[-2000] ^= 255
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Last-Modified", "Sun, 22 Nov 2026 00:00:00 GMT")
        self.send_header("ETag", '"0"')
        self.end_headers()
        if body and request <= self.server.drops:
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        elif body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def servers():
    """Gives a function that starts a server; all of them are stopped in the end."""
    started = []

    def start(*arguments, **settings):
        server = Server(*arguments, **settings)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        started.append(server)
        return server

    try:
        yield start
    finally:
        for server in started:
            server.shutdown()
            server.server_close()
