"""A request's body, taken as it comes: no more bytes, no more seconds and no other form than was agreed."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import Request

from resnetlab.serving.errors import ClientDisconnectedError, RequestError

MIB = 1 << 20


class RequestBodyReader:
    """Reads bodies, and knows how many bytes of them the server holds."""

    def __init__(self, timeout_s: float, budget: int) -> None:
        """Allow a body `timeout_s` seconds, and all bodies together `budget` bytes."""
        self._timeout_s = timeout_s
        self._budget = budget
        self.held = 0
        """Bytes of bodies that came, whole or not, and are still needed."""

    @asynccontextmanager
    async def body(self, request: Request, max_bytes: int) -> AsyncGenerator[bytes]:
        """Read the body of a request, and count it as held until the context ends.

        Raises:
            Problem: 413 beyond `max_bytes`, as soon as that is known; 408 where it takes too long; 415 where it is
                compressed; 503 where the server holds too much already.
            ClientGoneError: where the client left.
        """
        _check_headers(request, max_bytes)
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._timeout_s):
                async for part in _stream(request):
                    size += len(part)
                    self.held += len(part)
                    parts.append(part)
                    if size > max_bytes:
                        raise _too_large(max_bytes)
                    if self.held > self._budget:
                        raise RequestError(
                            503, "the server holds too many images; ask again", retry_after_s=1, close=True
                        )
            data = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            yield data
        except TimeoutError:
            raise RequestError(
                408, f"the body did not come within {self._timeout_s:g} s ({size:,} bytes did)", close=True
            ) from None
        finally:
            self.held -= size


def _check_headers(request: Request, max_bytes: int) -> None:
    """Refuse by its headers what need not be read."""
    coding = request.headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        raise RequestError(
            415, f"content-encoding {coding[:40]} is not understood; send the image as it is", close=True
        )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise _too_large(max_bytes, int(length))


async def _stream(request: Request) -> AsyncGenerator[bytes]:
    """Yield the parts of a body."""
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError
        more = message.get("more_body", False)
        if body := message.get("body", b""):
            yield body


def _too_large(max_bytes: int, length: int | None = None) -> RequestError:
    said = "the body has" if length is None else f"the body has {length:,} bytes,"
    return RequestError(413, f"{said} more than {max_bytes / MIB:.4g} MiB; send a smaller image", close=True)
