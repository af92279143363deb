"""ASGI middleware for every request: policy, path prefix, draining during shutdown, security headers, metrics, log."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resnetlab.serving.errors import CLIENT_CLOSED_REQUEST, RequestError, error_response
from resnetlab.serving.metrics import ServerMetrics
from resnetlab.serving.request_policy import PREDICT_PREFIX, RequestPolicy

LINGER_TIMEOUT_S, MAX_LINGER_BYTES = 5.0, 256 << 20
"""Lingering close: after a rejection, read the rest of the body up to these limits before closing the connection.

A client whose connection is closed while it is sending does not see the response.
"""
SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
"""Default headers of every response; a route may set its own values."""
READY_PATH = "/readyz"


class RequestMiddleware:
    """ASGI middleware around an application."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: ServerMetrics,
        *,
        paths: Iterable[str],
        policy: RequestPolicy,
        root_path: str = "",
        log: Callable[[str], None] | None = None,
    ) -> None:
        """Wrap an application.

        Args:
            app: The application to call.
            metrics: The metrics to update.
            paths: Paths that the metrics count separately; all other paths are counted as `other`.
            policy: The requests to accept.
            root_path: Path under which a proxy publishes the server, without a slash at its end. It is accepted both
                from a proxy that removes it and from one that does not.
            log: Called with one line per request.
        """
        self._app = app
        self._metrics = metrics
        self._paths = frozenset(paths)
        self._policy = policy
        self._root_path = root_path
        self._log = log
        self.draining = False
        """Whether new predict requests are rejected because the server is shutting down."""
        self.in_flight = 0
        """Requests to paths that start with `PREDICT_PREFIX`, without a complete response: they are finished before
        the server stops."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return
        start_s, exchange = time.monotonic(), _Exchange(receive, send, self._policy.cors_headers(scope))
        scope = self._application_scope(scope)
        is_predict = scope["path"].startswith(PREDICT_PREFIX)
        self.in_flight += is_predict
        try:
            await self._answer(scope)(scope, receive, exchange.send)
        finally:
            self.in_flight -= is_predict
            self._record(scope, exchange.status, time.monotonic() - start_s)

    def _application_scope(self, scope: Scope) -> Scope:
        """Return the request as the application sees it: without the path prefix, and HEAD as GET.

        uvicorn leaves out the body of a response to HEAD.
        """
        path, method = scope["path"], scope["method"]
        if self._root_path and path.startswith(self._root_path + "/"):
            path = path[len(self._root_path) :]
        return {**scope, "path": path, "method": "GET" if method == "HEAD" else method, "original_method": method}

    def _answer(self, scope: Scope) -> ASGIApp:
        """Return the application, or the response that stands for it."""
        rejection = self._policy.rejection(scope) or self._draining_error(scope)
        if rejection is not None:
            return error_response(rejection)
        if self._root_path and scope["path"] == self._root_path:  # relative addresses need the slash
            return RedirectResponse(quote(self._root_path) + "/", 308)
        return Response(status_code=204) if self._policy.is_preflight(scope) else self._app

    def _draining_error(self, scope: Scope) -> RequestError | None:
        if self.draining and (scope["path"].startswith(PREDICT_PREFIX) or scope["path"] == READY_PATH):
            return RequestError(503, "the server is shutting down; retry in 5 s", retry_after_s=5, close=True)
        return None

    def _record(self, scope: Scope, status: int, elapsed_s: float) -> None:
        """Update the metrics and write the access log."""
        path = scope["path"] if scope["path"] in self._paths else "other"
        self._metrics.requests.labels(path, status).inc()
        self._metrics.request_s.labels(path).observe(elapsed_s)
        if self._log is not None:
            client = (scope.get("client") or ("-",))[0]
            printable_path = "".join(char if char.isprintable() else "?" for char in scope["path"][:200])
            self._log(f"{client} {scope['original_method']} {printable_path} {status} {1000 * elapsed_s:.1f} ms")


@dataclass
class _Exchange:
    """One request and its response: adds headers, stores the status, and closes the connection without a reset."""

    receive: Receive
    send_message: Send
    cors_headers: Mapping[str, str]
    status: int = CLIENT_CLOSED_REQUEST
    closes: bool = False

    async def send(self, message: Message) -> None:
        """Send a part of the response."""
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            headers.update(self.cors_headers)
            headers.add_vary_header("Origin")
            self.status, self.closes = message["status"], _closes_connection(message)
        elif self.closes and not message.get("more_body", False):
            await self.send_message({**message, "more_body": True})
            await _discard_body(self.receive)
            message = {"type": "http.response.body"}
        await self.send_message(message)


def _closes_connection(message: Message) -> bool:
    return Headers(raw=message["headers"]).get("connection") == "close"


async def _discard_body(receive: Receive) -> None:
    """Read and discard the rest of a request body, within the limits of lingering close."""
    remaining = MAX_LINGER_BYTES
    try:
        async with asyncio.timeout(LINGER_TIMEOUT_S):
            while remaining > 0:
                message = await receive()
                if not message.get("more_body", False):
                    return
                remaining -= len(message["body"])
    except TimeoutError:
        return
