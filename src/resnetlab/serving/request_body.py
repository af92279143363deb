"""Request bodies: read them in chunks, within limits on bytes, seconds and encoding."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Generic, Protocol, TypeVar

from fastapi import Request

from resnetlab.serving.errors import ClientDisconnectedError, RequestError
from resnetlab.serving.limits import MIB

Parsed = TypeVar("Parsed")
ParsedCo = TypeVar("ParsedCo", covariant=True)


class BodyParser(Protocol, Generic[ParsedCo]):
    """A parser of bodies that reads them as they arrive, and may reject them early with `RequestError`."""

    def feed(self, chunk: bytes) -> None:
        """Parse a part of the body."""
        ...

    def finish(self) -> ParsedCo:
        """Return the result after the last part."""
        ...


class WholeBody:
    """Joins the parts of a body."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []

    def feed(self, chunk: bytes) -> None:
        """Store a part of the body."""
        self._chunks.append(chunk)

    def finish(self) -> bytes:
        """Return the body."""
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        return body


class RequestBodyReader:
    """Reads request bodies, and limits the memory of all bodies together."""

    def __init__(self, timeout_s: float, budget_bytes: int) -> None:
        """Allow `timeout_s` seconds for one body, and `budget_bytes` for all bodies that are held at a time."""
        self._timeout_s = timeout_s
        self._budget_bytes = budget_bytes
        self.held_bytes = 0
        """Bytes of all bodies in memory, complete or not."""

    @asynccontextmanager
    async def read(self, request: Request, max_bytes: int, parser: BodyParser[Parsed]) -> AsyncGenerator[Parsed]:
        """Yield what a parser makes of the body of a request, and count its bytes as held until the context ends.

        Raises:
            RequestError: 413 as soon as the body is known to exceed `max_bytes`; 408 if it takes too long; 415 if it
                is compressed; 503 if all bodies together exceed the budget; or what the parser raises.
            ClientDisconnectedError: If the client disconnected.
        """
        _check_headers(request, max_bytes)
        size = 0
        try:
            async with asyncio.timeout(self._timeout_s):
                async for chunk, more in _stream(request):
                    size += len(chunk)
                    self.held_bytes += len(chunk)
                    if size > max_bytes:
                        raise _too_large(max_bytes, close=more)
                    if self.held_bytes > self._budget_bytes:
                        raise RequestError(
                            503, "the server holds too many request bodies; retry in 1 s", retry_after_s=1, close=more
                        )
                    _feed(parser, chunk, more=more)
            yield parser.finish()
        except TimeoutError:
            raise RequestError(
                408, f"the body did not arrive within {self._timeout_s:g} s ({size:,} bytes did)", close=True
            ) from None
        finally:
            self.held_bytes -= size


def _feed(parser: BodyParser[object], chunk: bytes, *, more: bool) -> None:
    """Parse a part of a body; one that is rejected with `more` to come is not read to its end."""
    try:
        parser.feed(chunk)
    except RequestError as error:
        raise RequestError(error.status, error.detail, close=more) from None


def _check_headers(request: Request, max_bytes: int) -> None:
    """Raise for a body that its headers already rule out."""
    coding = request.headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        raise RequestError(
            415, f"content-encoding {coding[:40]} is not supported; send the body without it", close=True
        )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise _too_large(max_bytes, int(length), close=True)


async def _stream(request: Request) -> AsyncGenerator[tuple[bytes, bool]]:
    """Yield the chunks of a body, and whether there is more to come after each."""
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError
        more = message.get("more_body", False)
        if chunk := message.get("body", b""):
            yield chunk, more


def _too_large(max_bytes: int, length: int | None = None, *, close: bool) -> RequestError:
    size = "the body has" if length is None else f"the body has {length:,} bytes,"
    return RequestError(413, f"{size} more than {max_bytes / MIB:.4g} MiB; send a smaller image", close=close)
