"""What stands before the application: who may ask, how many at once, how long, and what a browser may do."""

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unival import limits
from unival.serve.metrics import Metrics

OPEN = ("/", "/page.css", "/page.js", "/health", "/ready")
"""Paths without secrets, for whoever has no token yet."""
ASK = "/predict"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Permissions-Policy": "camera=(self), microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware.

    Args:
        hosts: names of the server, so that no other name can point a browser at it; empty: any.
        token: what everybody must know; empty: whoever reaches the server may ask.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, hosts: Sequence[str], token: str) -> None:
        self.app, self.metrics, self.hosts, self.token = app, metrics, hosts, token
        self.under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, asks = time.monotonic(), scope["path"] == ASK

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
                if asks:
                    self.metrics.requests[message["status"]] += 1
                    self.metrics.seconds.add(time.monotonic() - began)
            await send(message)

        refused = self._refused(scope["path"], Headers(scope=scope))
        if refused is None and asks and self.under_way >= limits.REQUESTS:
            refused = said(503, f"{self.under_way} requests are under way: try again", {"Retry-After": "1"})
        if refused is not None:
            return await refused(scope, receive, answer)
        self.under_way += asks
        try:
            async with asyncio.timeout(limits.REQUEST_SECONDS):
                await self.app(scope, receive, answer)
        except TimeoutError:
            late = said(504, f"no answer within {limits.REQUEST_SECONDS:g} seconds: try again")
            await late(scope, receive, answer)
        finally:
            self.under_way -= asks

    def _refused(self, path: str, headers: Headers) -> JSONResponse | None:
        origin, host = headers.get("origin"), headers.get("host", "")
        if self.hosts and host.partition(":")[0] not in self.hosts:
            return said(400, f"this server is {' or '.join(self.hosts)}, not '{host[:100]}'")
        if origin is not None and urlsplit(origin).netloc != host:
            return said(403, "a page of another site asks: open the server's own page")
        given = headers.get("authorization", "").encode()
        if (
            self.token
            and path not in OPEN
            and not secrets.compare_digest(given, f"Bearer {self.token}".encode())
        ):
            return said(
                401, "send the header 'Authorization: Bearer <token>'", {"WWW-Authenticate": "Bearer"}
            )
        return None


def said(status: int, why: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """A refusal: its status and a sentence."""
    return JSONResponse({"error": why}, status, headers)
