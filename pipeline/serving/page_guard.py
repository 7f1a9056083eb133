"""What the page's server refuses before it reads a request: pages of other sites, and more clips than it keeps."""

from pathlib import Path
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

UPLOAD_PATH = "/upload"


class PageGuard:
    """ASGI middleware: 403 for a request that another site's page sends, 429 for an upload while `most` clips lie here.

    `folder` is where uploads are kept until they are predicted. An upload that is still running counts too.
    """

    def __init__(self, app: ASGIApp, folder: Path, most: int) -> None:
        self.app, self.folder, self.most = app, folder, most
        self.running = 0

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
        if self.running + sum(path.is_file() for path in self.folder.rglob("*")) >= self.most:
            await PlainTextResponse("too many clips are waiting; try again in some minutes", 429)(scope, receive, send)
            return
        self.running += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.running -= 1
