"""A minimal HTTP client that loads a server on this machine: many connections, one process, prebuilt requests.

It shares the cores with the server that it measures, so it only sends, counts and reads the clock.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

MAX_CONNECTIONS = 1024
"""A request for which no connection is free at this limit is not sent, and counted as `unsent`."""
RESPONSE_TIMEOUT_S = 60.0


@dataclass
class LoadResult:
    """Statuses and latencies of one measurement."""

    statuses: Counter[str] = field(default_factory=Counter)
    """Number of requests by HTTP status, or `broken` (connection closed without a response), `late`, `unsent`."""
    accepted: list[tuple[float, float]] = field(default_factory=list)
    """For each 200: the time it was due (`time.perf_counter()`), and the seconds until its response."""
    start: float = 0.0
    """`time.perf_counter()`."""
    duration_s: float = 0.0
    """Seconds in which requests were sent; responses may arrive later."""
    client_cpu_s: float = 0.0
    """CPU seconds of this process while it sent requests."""

    @property
    def offered_per_s(self) -> float:
        """Requests per second."""
        return self.statuses.total() / self.duration_s

    @property
    def accepted_per_s(self) -> float:
        """Responses with status 200 per second, within `duration_s`."""
        end = self.start + self.duration_s
        return sum(due + latency <= end for due, latency in self.accepted) / self.duration_s

    @property
    def latencies_s(self) -> list[float]:
        """Latencies of all 200s, sorted."""
        return sorted(latency for _, latency in self.accepted)


def post_request(path: str, port: int, body: bytes) -> bytes:
    """Return a complete POST request."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + body


class Connection(asyncio.Protocol):
    """A persistent connection with one request at a time."""

    def __init__(self) -> None:
        self.open = False
        self._received = b""
        self._status: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.open = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the pending request."""
        self.open = False
        if self._status and not self._status.done():
            self._status.set_exception(ConnectionError(str(exc or "closed")))

    def data_received(self, data: bytes) -> None:
        """Resolve the pending request when its response is complete."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        lines = head.lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        if len(body) < length or self._status is None or self._status.done():
            return
        if b"connection: close" in lines:
            self.close()
        self._received = b""
        self._status.set_result(int(head[9:12]))

    async def send(self, request: bytes) -> int:
        """Send a request and return the status of its response.

        Raises:
            ConnectionError: If the connection is closed before the response.
        """
        self._status = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._status

    def close(self) -> None:
        """Close the connection."""
        self.open = False
        self._transport.close()


class LoadClient:
    """Sends the same requests to one port of this machine, in a cycle."""

    def __init__(self, port: int, requests: Sequence[bytes]) -> None:
        self._port = port
        self.requests = requests
        self._next_request: Iterator[bytes] = itertools.cycle(requests)
        self._idle: list[Connection] = []
        self._num_connections = 0

    async def closed_loop(self, num_clients: int, duration_s: float) -> LoadResult:
        """Simulate `num_clients` clients, each of which sends its next request after the response to the last one."""
        result = LoadResult(start=time.perf_counter(), duration_s=duration_s)
        cpu_start = time.process_time()

        async def client() -> None:
            while (due := time.perf_counter()) < result.start + duration_s:
                await self._send(result, due)

        await asyncio.gather(*(client() for _ in range(num_clients)))
        result.client_cpu_s = time.process_time() - cpu_start
        return result

    async def open_loop(self, rate_per_s: float, duration_s: float) -> LoadResult:
        """Send requests at a fixed rate, independent of responses; then wait for the last responses.

        A latency starts when the request was due, so that it includes any delay of this client.
        """
        result = LoadResult(start=time.perf_counter(), duration_s=duration_s)
        tasks, cpu_start = set[asyncio.Task[None]](), time.process_time()
        for index in range(round(rate_per_s * duration_s)):
            due = result.start + index / rate_per_s
            if (remaining_s := due - time.perf_counter()) > 0:
                await asyncio.sleep(remaining_s)
            elif index % 16 == 0:
                await asyncio.sleep(0)  # behind schedule: let the event loop read responses
            task = asyncio.create_task(self._send(result, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        result.client_cpu_s = time.process_time() - cpu_start
        while tasks:
            await asyncio.wait(tasks)
        return result

    def close(self) -> None:
        """Close all connections."""
        for connection in self._idle:
            connection.close()

    async def _send(self, result: LoadResult, due: float) -> None:
        connection = await self._acquire_connection()
        if connection is None:
            result.statuses["unsent"] += 1
            return
        try:
            async with asyncio.timeout(RESPONSE_TIMEOUT_S):
                status = str(await connection.send(next(self._next_request)))
        except ConnectionError:
            status = "broken"
        except TimeoutError:
            status = "late"
            connection.close()
        result.statuses[status] += 1
        if status == "200":
            result.accepted.append((due, time.perf_counter() - due))
        if connection.open:
            self._idle.append(connection)
        else:
            self._num_connections -= 1

    async def _acquire_connection(self) -> Connection | None:
        """Return an idle connection or a new one; `None` at the limit, or if the server refuses the connection."""
        while self._idle:
            connection = self._idle.pop()
            if connection.open:
                return connection
            self._num_connections -= 1
        if self._num_connections >= MAX_CONNECTIONS:
            return None
        self._num_connections += 1
        with suppress(OSError):
            loop = asyncio.get_running_loop()
            return (await loop.create_connection(Connection, "127.0.0.1", self._port))[1]
        self._num_connections -= 1
        return None
