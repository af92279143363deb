"""uvicorn's HTTP protocol with limits on connections: their number, and the time and size of request headers.

uvicorn waits for headers without a deadline, and with httptools accepts headers of any length. A client that reads its
response slowly occupies its own connection only, so it needs no limit.
"""

import asyncio
from collections import deque
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
HEADERS_TOO_LARGE = RequestError(431, f"the headers have more than {MAX_HEADER_BYTES:,} bytes", close=True)
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
    _header_bytes = 0  # of the current request, and of the trailers after its body

    def connection_made(self, transport: Any) -> None:
        """Start the header timer, or reject the connection if too many are open."""
        self._unanswered: deque[Any] = deque()  # requests of this connection (httptools); several may be pipelined
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.write(_raw_response(TOO_MANY_CONNECTIONS))
            transport.close()
        else:
            self._start_header_timer()

    def on_message_begin(self) -> None:
        """Count the headers of the next request (httptools; h11 has a limit of its own)."""
        self._header_bytes = 0
        super().on_message_begin()  # pyright: ignore[reportAttributeAccessIssue]

    def on_url(self, url: bytes) -> None:
        """Count a part of the address."""
        self._header_bytes += len(url)
        super().on_url(url)  # pyright: ignore[reportAttributeAccessIssue]

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header, in whatever number of reads it arrived; headers beyond the limit are not stored."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes <= MAX_HEADER_BYTES:
            super().on_header(name, value)  # pyright: ignore[reportAttributeAccessIssue]

    def on_headers_complete(self) -> None:
        """Start the request, unless its headers are too large."""
        if self._header_bytes <= MAX_HEADER_BYTES:
            super().on_headers_complete()  # pyright: ignore[reportAttributeAccessIssue]
            while self._unanswered and self._unanswered[0].response_complete:
                self._unanswered.popleft()
            self._unanswered.append(self.cycle)
        elif not self.transport.is_closing():
            self.transport.write(_raw_response(HEADERS_TOO_LARGE))

    def data_received(self, data: bytes) -> None:
        """Pass data to uvicorn, then check whether a request has started and whether a limit is exceeded."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._header_bytes > MAX_HEADER_BYTES:
            self._close()
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_header_timer()
            return
        self._pending_bytes += len(data)
        reading_headers = self.cycle is None or not self.cycle.more_body
        if self._pending_bytes > (MAX_HEADER_BYTES if reading_headers else MAX_DISCARDED_BYTES):
            if reading_headers and not self.transport.is_closing():
                self.transport.write(_raw_response(HEADERS_TOO_LARGE))
            self._close()
        self._start_header_timer()

    def send_400_response(self, msg: str) -> None:
        """Respond to what is not HTTP with problem details, as to every other error."""
        del msg  # uvicorn's words for all of them
        if not self.transport.is_closing():
            self.transport.write(_raw_response(RequestError(400, "the request is not valid HTTP/1.1", close=True)))
        self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the header timer, and the responses that cannot be sent any more."""
        self._stop_header_timer()
        self._abandon_responses()
        super().connection_lost(exc)

    def _close(self) -> None:
        self._abandon_responses()
        self.transport.close()

    def _abandon_responses(self) -> None:
        """Tell every request that its client is gone.

        uvicorn tells the last one of a connection only. Others (pipelined) would write to a closed connection, which
        raises with uvloop.
        """
        for cycle in self._unanswered:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self._unanswered.clear()

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
            self._close()


def _raw_response(error: RequestError) -> bytes:
    """Return the HTTP response for an error as bytes, headers included."""
    response = error_response(error)
    status_line = f"HTTP/1.1 {error.status} {error.problem_details()['title']}".encode()
    headers = [name + b": " + value for name, value in response.raw_headers]
    return b"\r\n".join([status_line, *headers, b"", bytes(response.body)])
