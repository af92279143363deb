"""Connections that do not hold the server: headers have a deadline and a length, and there are only so many at a time.

uvicorn waits for a request's headers for ever, and by httptools takes any length of them. A client that reads its
answer slowly holds its connection, and nothing else.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from resnetlab.serving.errors import RequestError, error_response

HEADERS_S = 10.0
"""Seconds in which the headers of a request must have come."""
HEADERS_BYTES = 1 << 16
"""Bytes of a request before its body, at most."""
REST_BYTES = 32 << 20
"""Bytes of a body that was not waited for (a full queue says so at once) and is thrown away, at most."""
MOST = 512
"""Connections at a time: below the 1,024 files that a process usually may open."""
FULL = RequestError(503, f"{MOST} connections are open already; ask again", retry_after_s=1, close=True)


class LimitedHttpProtocol(AutoHTTPProtocol):  # pyright: ignore[reportGeneralTypeIssues, reportUntypedBaseClass]
    """uvicorn's protocol (by httptools where that is installed, else by h11) with limits."""

    connections: set[Any]
    cycle: Any
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    _deadline: asyncio.TimerHandle | None = None
    _bytes = 0  # that came since the last request began to be worked on

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for headers."""
        super().connection_made(transport)
        if len(self.connections) > MOST:
            transport.write(_plain(FULL))
            transport.close()
        else:
            self._wait()

    def data_received(self, data: bytes) -> None:
        """Look after each part whether a request has begun."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
            return
        self._bytes += len(data)
        if self._bytes > (HEADERS_BYTES if self.cycle is None or not self.cycle.more_body else REST_BYTES):
            self.transport.close()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEADERS_S, self._give_up)

    def _stop_waiting(self) -> None:
        self._bytes = 0
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def _plain(problem: RequestError) -> bytes:
    """Return the whole HTTP answer of a problem."""
    answer = error_response(problem)
    lines = [f"HTTP/1.1 {problem.status} {problem.content()['title']}".encode()]
    return b"\r\n".join(
        [*lines, *(name + b": " + value for name, value in answer.raw_headers), b"", bytes(answer.body)]
    )
