"""ASGI middleware for every request: host check, draining during shutdown, security headers, metrics, access log."""

import asyncio
import ipaddress
import time
from collections.abc import Callable, Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resnetlab.serving.errors import CLIENT_CLOSED_REQUEST, RequestError, error_response
from resnetlab.serving.metrics import ServerMetrics

LINGER_TIMEOUT_S, MAX_LINGER_BYTES = 1.0, 8 << 20
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
PREDICT_PREFIX = "/v1/predict"
"""Requests to paths that start with it are finished before the server stops."""
READY_PATH = "/readyz"


class RequestMiddleware:
    """ASGI middleware around an application."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: ServerMetrics,
        *,
        paths: Iterable[str],
        allowed_hosts: frozenset[str] | None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        """Wrap an application.

        Args:
            app: The application to call.
            metrics: The metrics to update.
            paths: Paths that the metrics count separately; all other paths are counted as `other`.
            allowed_hosts: Values of the `Host` header to accept; `None` for any.
            log: Called with one line per request.
        """
        self._app = app
        self._metrics = metrics
        self._paths = frozenset(paths)
        self._allowed_hosts = allowed_hosts
        self._log = log
        self.draining = False
        """Whether new predict requests are rejected because the server is shutting down."""
        self.in_flight = 0
        """Predict requests without a complete response."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return
        start_s, status, closes = time.monotonic(), CLIENT_CLOSED_REQUEST, False
        is_predict = scope["path"].startswith(PREDICT_PREFIX)

        async def send_response(message: Message) -> None:
            nonlocal status, closes
            if message["type"] == "http.response.start":
                _add_security_headers(message)
                status, closes = message["status"], _closes_connection(message)
            elif closes and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await _discard_body(receive)
                message = {"type": "http.response.body"}
            await send(message)

        rejection = self._rejection(scope, is_predict)
        self.in_flight += is_predict
        try:
            await (self._app if rejection is None else error_response(rejection))(scope, receive, send_response)
        finally:
            self.in_flight -= is_predict
            self._record(scope, status, time.monotonic() - start_s)

    def _rejection(self, scope: Scope, is_predict: bool) -> RequestError | None:
        """Return the error for a request that must not reach the application, otherwise `None`."""
        headers = Headers(scope=scope)
        host = headers.get("host")
        if self._allowed_hosts is not None and host is not None and not _is_allowed(host, self._allowed_hosts):
            return RequestError(
                421,
                f"host {host[:80]!r} is not allowed; to allow it, start the server with --allow-host",
                close=True,
            )
        if is_predict and headers.get("sec-fetch-site") == "cross-site":
            return RequestError(403, "cross-site requests from web pages are not allowed", close=True)
        if self.draining and (is_predict or scope["path"] == READY_PATH):
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
            self._log(f"{client} {scope['method']} {printable_path} {status} {1000 * elapsed_s:.1f} ms")


def _add_security_headers(message: Message) -> None:
    headers = MutableHeaders(scope=message)
    for name, value in SECURITY_HEADERS.items():
        headers.setdefault(name, value)


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


def _is_allowed(host: str, allowed_hosts: frozenset[str]) -> bool:
    """Return whether a `Host` header may be served.

    IP addresses are always allowed: DNS rebinding needs a name that it can bind to another address.
    """
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    name = name.lower().rstrip(".")
    if name in allowed_hosts:
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
