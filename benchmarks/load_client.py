"""A lean HTTP client that loads a server on this machine: many connections, one process, requests made beforehand.

It shares the cores with the server that it measures, so it does nothing but send, count and look at the clock.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

MOST_LINES = 1024
"""Connections, at most; an arrival that finds all of them busy is not sent, and counted as `unsent`."""
LONGEST_S = 60.0
"""Seconds after which an answer is no longer waited for."""


@dataclass
class Tally:
    """What came back."""

    statuses: Counter[str] = field(default_factory=Counter)
    """By HTTP status; `broken` where the connection ended without an answer, `late`, `unsent`."""
    accepted: list[tuple[float, float]] = field(default_factory=list)
    """Of each 200: when it was due, of `time.perf_counter`, and the seconds until its answer."""
    began: float = 0.0
    """Of `time.perf_counter`."""
    seconds: float = 0.0
    """For which it was asked; answers may come later."""
    client_s: float = 0.0
    """CPU seconds of this process while it sent."""

    @property
    def offered(self) -> float:
        """Requests a second."""
        return self.statuses.total() / self.seconds

    @property
    def per_second(self) -> float:
        """Images answered with 200 in this time, a second."""
        end = self.began + self.seconds
        return sum(due + latency <= end for due, latency in self.accepted) / self.seconds

    @property
    def latencies(self) -> list[float]:
        """Seconds of each 200, in order of size."""
        return sorted(latency for _, latency in self.accepted)


def post(path: str, port: int, body: bytes) -> bytes:
    """Return a whole request."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + body


class Line(asyncio.Protocol):
    """A connection that is kept; one request at a time."""

    def __init__(self) -> None:
        self.open = False
        self._heard = b""
        self._answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.open = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        self.open = False
        if self._answer and not self._answer.done():
            self._answer.set_exception(ConnectionError(str(exc or "closed")))

    def data_received(self, data: bytes) -> None:
        """Look whether the answer is whole."""
        self._heard += data
        head, end, body = self._heard.partition(b"\r\n\r\n")
        if not end:
            return
        lines = head.lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        if len(body) < length or self._answer is None or self._answer.done():
            return
        if b"connection: close" in lines:
            self.close()
        self._heard = b""
        self._answer.set_result(int(head[9:12]))

    async def ask(self, request: bytes) -> int:
        """Send a request; return the status of its answer.

        Raises:
            ConnectionError: where the connection ends before.
        """
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Hang up."""
        self.open = False
        self._transport.close()


class Client:
    """Requests to one port of this machine, again and again."""

    def __init__(self, port: int, requests: Sequence[bytes]) -> None:
        self._port = port
        self.requests = requests
        self._next: Iterator[bytes] = itertools.cycle(requests)
        self._idle: list[Line] = []
        self._lines = 0

    async def one_after_another(self, clients: int, seconds: float) -> Tally:
        """Have so many clients, each of which asks again as soon as it is answered."""
        tally = Tally(began=time.perf_counter(), seconds=seconds)
        cpu = time.process_time()

        async def client() -> None:
            while (due := time.perf_counter()) < tally.began + seconds:
                await self._send(tally, due)

        await asyncio.gather(*(client() for _ in range(clients)))
        tally.client_s = time.process_time() - cpu
        return tally

    async def at_rate(self, rate: float, seconds: float) -> Tally:
        """Send so many requests a second, whether or not those before are answered; wait for the last answers.

        A latency begins when the request was due, so that a client that falls behind hides nothing.
        """
        tally = Tally(began=time.perf_counter(), seconds=seconds)
        underway, cpu = set[asyncio.Task[None]](), time.process_time()
        for number in range(round(rate * seconds)):
            due = tally.began + number / rate
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            elif number % 16 == 0:
                await asyncio.sleep(0)  # behind: answers must be heard all the same
            task = asyncio.create_task(self._send(tally, due))
            underway.add(task)
            task.add_done_callback(underway.discard)
        tally.client_s = time.process_time() - cpu
        while underway:
            await asyncio.wait(underway)
        return tally

    def close(self) -> None:
        """Hang up all connections."""
        for line in self._idle:
            line.close()

    async def _send(self, tally: Tally, due: float) -> None:
        line = await self._line()
        if line is None:
            tally.statuses["unsent"] += 1
            return
        try:
            async with asyncio.timeout(LONGEST_S):
                status = str(await line.ask(next(self._next)))
        except ConnectionError:
            status = "broken"
        except TimeoutError:
            status = "late"
            line.close()
        tally.statuses[status] += 1
        if status == "200":
            tally.accepted.append((due, time.perf_counter() - due))
        if line.open:
            self._idle.append(line)
        else:
            self._lines -= 1

    async def _line(self) -> Line | None:
        """Return a connection that is free, a new one if need be; `None` where there may be no more."""
        while self._idle:
            line = self._idle.pop()
            if line.open:
                return line
            self._lines -= 1
        if self._lines >= MOST_LINES:
            return None
        self._lines += 1
        with suppress(OSError):
            loop = asyncio.get_running_loop()
            return (await loop.create_connection(Line, "127.0.0.1", self._port))[1]
        self._lines -= 1
        return None
