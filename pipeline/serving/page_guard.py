"""Refusing requests to the page's server before they are read: those of other sites' pages, and too many uploads."""

from pathlib import Path
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

UPLOAD_PATH = "/upload"


class PageGuard:
    """ASGI middleware that answers 403 to a request from another site's page, and 429 to an upload beyond `max_clips`.

    `folder` holds the uploads until they are predicted. An upload that is still in progress counts too.
    """

    def __init__(self, app: ASGIApp, folder: Path, max_clips: int) -> None:
        self.app, self.folder, self.max_clips = app, folder, max_clips
        self.uploads_in_progress = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
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
        self.uploads_in_progress += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.uploads_in_progress -= 1
