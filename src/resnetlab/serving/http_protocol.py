"""uvicorn's HTTP protocol with limits on connections: their number, and the time and size of request headers.

uvicorn waits for headers without a deadline, and with httptools accepts headers of any length. A client that reads its
response slowly occupies its own connection only, so it needs no limit.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from resnetlab.serving.errors import RequestError, error_response

HEADER_TIMEOUT_S = 10.0
"""Seconds within which the headers of a request must arrive."""
MAX_HEADER_BYTES = 1 << 16
"""Bytes of a request before its body."""
MAX_DISCARDED_BYTES = 32 << 20
"""Bytes of a body that are read and discarded after an early response, such as 429 for a full queue."""
MAX_CONNECTIONS = 512
"""Connections at a time: below the 1,024 files that a process usually may open."""
TOO_MANY_CONNECTIONS = RequestError(
    503, f"{MAX_CONNECTIONS} connections are open already; retry in 1 s", retry_after_s=1, close=True
)


class LimitedHttpProtocol(AutoHTTPProtocol):  # pyright: ignore[reportGeneralTypeIssues, reportUntypedBaseClass]
    """uvicorn's protocol (httptools if installed, otherwise h11) with connection limits."""

    connections: set[Any]
    cycle: Any
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    _header_timer: asyncio.TimerHandle | None = None
    _pending_bytes = 0  # received since the application last started on a request

    def connection_made(self, transport: Any) -> None:
        """Start the header timer, or reject the connection if too many are open."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.write(_raw_response(TOO_MANY_CONNECTIONS))
            transport.close()
        else:
            self._start_header_timer()

    def data_received(self, data: bytes) -> None:
        """Pass data to uvicorn, then check whether a request has started and whether a limit is exceeded."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_header_timer()
            return
        self._pending_bytes += len(data)
        reading_headers = self.cycle is None or not self.cycle.more_body
        if self._pending_bytes > (MAX_HEADER_BYTES if reading_headers else MAX_DISCARDED_BYTES):
            self.transport.close()
        self._start_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the header timer."""
        self._stop_header_timer()
        super().connection_lost(exc)

    def _start_header_timer(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(HEADER_TIMEOUT_S, self._on_header_timeout)

    def _stop_header_timer(self) -> None:
        self._pending_bytes = 0
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _on_header_timeout(self) -> None:
        self._header_timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def _raw_response(error: RequestError) -> bytes:
    """Return the HTTP response for an error as bytes, headers included."""
    response = error_response(error)
    status_line = f"HTTP/1.1 {error.status} {error.problem_details()['title']}".encode()
    headers = [name + b": " + value for name, value in response.raw_headers]
    return b"\r\n".join([status_line, *headers, b"", bytes(response.body)])
