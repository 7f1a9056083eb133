"""Refusing requests to the page's server: those of other sites' pages, and uploads that are too many or too large."""

from pathlib import Path
from urllib.parse import urlsplit

from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

UPLOAD_PATH = "/upload"
OVERHEAD_BYTES = 2**16  # of an upload's request, beyond its clip: the name of the file, and what surrounds it


class PageGuard:
    """ASGI middleware that answers 403 to a request from another site's page, and 429 to an upload beyond `max_clips`.

    `folder` holds the uploads until they are predicted. An upload that is still in progress counts too. A request for
    more than `max_bytes` or for more than one file is refused, so that `max_clips` bounds the disk that uploads take.
    """

    def __init__(self, app: ASGIApp, folder: Path, max_clips: int, max_bytes: int) -> None:
        self.app, self.folder, self.max_clips = app, folder, max_clips
        self.max_bytes = max_bytes + OVERHEAD_BYTES
        self.uploads_in_progress = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        origin = request.headers.get("origin")
        if origin is not None and _host_of(origin) != request.headers.get("host"):
            refusal = PlainTextResponse(f"a page of {origin} may not use this server", 403)
            await refusal(scope, receive, send)
        elif request.method == "POST" and request.url.path.endswith(UPLOAD_PATH):
            await self._upload(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.uploads_in_progress + sum(path.is_file() for path in self.folder.rglob("*")) >= self.max_clips:
            await PlainTextResponse("too many clips are waiting; try again in some minutes", 429)(scope, receive, send)
            return
        headers = Request(scope).headers
        if int(headers.get("content-length", 0)) > self.max_bytes:
            await PlainTextResponse(_too_large(self.max_bytes), 413)(scope, receive, send)
            return
        self.uploads_in_progress += 1
        try:
            await self.app(scope, OneClip(receive, headers.get("content-type", ""), self.max_bytes), send)
        finally:
            self.uploads_in_progress -= 1


class OneClip:
    """The messages of an upload's request, passed on as long as they are of one part and at most `max_bytes`.

    A `MultiPartException` has Gradio answer with its text, 413 or 400, and remove what it has written of the clip.
    """

    def __init__(self, receive: Receive, content_type: str, max_bytes: int) -> None:
        self.receive, self.max_bytes = receive, max_bytes
        self.bytes = self.parts = 0
        boundary = parse_options_header(content_type)[1].get(b"boundary")
        # Without a boundary, Gradio reads nothing of the request.
        self.parser = MultipartParser(boundary, {"on_part_begin": self._begin_part}) if boundary else None

    async def __call__(self) -> Message:
        """The next message."""
        message = await self.receive()
        content = message.get("body", b"")
        self.bytes += len(content)
        if self.bytes > self.max_bytes:
            raise MultiPartException(_too_large(self.max_bytes))
        if self.parser:
            self.parser.write(content)
        if self.parts > 1:
            raise MultiPartException("an upload has several parts, expected one clip; send each clip on its own")
        return message

    def _begin_part(self) -> None:
        self.parts += 1


def _host_of(origin: str) -> str:
    """The host and port of an origin; no host for one that is no address."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _too_large(max_bytes: int) -> str:
    return f"an upload exceeds the maximum allowed size of {max_bytes} bytes; send a smaller clip"
