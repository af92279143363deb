"""What every request passes: which host is meant, whether the server is stopping; headers for safety; counting."""

import asyncio
import ipaddress
import time
from collections.abc import Callable, Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resnetlab.serving.errors import GONE, RequestError, error_response
from resnetlab.serving.metrics import ServerMetrics

LINGER_S, LINGER_BYTES = 1.0, 8 << 20
"""How long, and how much, is still read of a body that was refused: who is cut off while sending sees no answer."""
SAFETY = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
"""Headers of every answer that does not say otherwise."""
WORK = "/v1/predict"
"""What paths begin with whose requests are finished before the server stops."""
READY = "/readyz"


class RequestMiddleware:
    """An ASGI application around another one."""

    def __init__(
        self,
        app: ASGIApp,
        meters: ServerMetrics,
        paths: Iterable[str],
        hosts: frozenset[str] | None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        """Let through to `app` what asks for one of `hosts` (for any where that is `None`).

        `paths` are counted each by itself; `log` is told one line a request.
        """
        self._app = app
        self._meters = meters
        self._paths = frozenset(paths)
        self._hosts = hosts
        self._log = log
        self.draining = False
        """Whether new work is refused, because the server is stopping."""
        self.in_flight = 0
        """Requests for work that have no answer yet."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        begun, status, closes = time.monotonic(), GONE, False
        work = scope["path"].startswith(WORK)

        async def tell(message: Message) -> None:
            nonlocal status, closes
            if message["type"] == "http.response.start":
                status, closes = message["status"], _complete(message)
            elif closes and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await _linger(receive)
                message = {"type": "http.response.body"}
            await send(message)

        refusal = self._refusal(scope, work)
        self.in_flight += work
        try:
            await (self._app if refusal is None else error_response(refusal))(scope, receive, tell)
        finally:
            self.in_flight -= work
            self._count(scope, status, time.monotonic() - begun)

    def _refusal(self, scope: Scope, work: bool) -> RequestError | None:
        """Return why a request goes no further, if it does not."""
        headers = Headers(scope=scope)
        if self._hosts is not None and (host := headers.get("host")) is not None and not _meant(host, self._hosts):
            return RequestError(
                421,
                f"this server is not {host[:80]!r}; where it is meant to be, start it with --allow-host",
                close=True,
            )
        if work and headers.get("sec-fetch-site") == "cross-site":
            return RequestError(403, "a page of another site may not have this server work", close=True)
        if self.draining and (work or scope["path"] == READY):
            return RequestError(503, "the server is stopping; ask again later", retry_after_s=5, close=True)
        return None

    def _count(self, scope: Scope, status: int, took_s: float) -> None:
        path = scope["path"] if scope["path"] in self._paths else "other"
        self._meters.requests.labels(path, status).inc()
        self._meters.request_s.labels(path).observe(took_s)
        if self._log is not None:
            client = (scope.get("client") or ("-",))[0]
            asked = "".join(letter if letter.isprintable() else "?" for letter in scope["path"][:200])
            self._log(f"{client} {scope['method']} {asked} {status} {1000 * took_s:.1f} ms")


def _complete(message: Message) -> bool:
    """Add the headers for safety to the start of an answer; say whether it closes the connection."""
    headers = MutableHeaders(scope=message)
    for name, value in SAFETY.items():
        headers.setdefault(name, value)
    return headers.get("connection") == "close"


async def _linger(receive: Receive) -> None:
    """Read on for a moment what the client still sends."""
    left = LINGER_BYTES
    try:
        async with asyncio.timeout(LINGER_S):
            while left > 0:
                message = await receive()
                if not message.get("more_body", False):
                    return
                left -= len(message["body"])
    except TimeoutError:
        return


def _meant(host: str, hosts: frozenset[str]) -> bool:
    """Say whether a `Host` names this server. An address always does: only a name can be bound to another one."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    name = name.lower().rstrip(".")
    if name in hosts:
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
