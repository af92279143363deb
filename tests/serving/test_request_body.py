"""Request bodies: limits on bytes and seconds, and parsing of images and batches."""

import asyncio
import base64
import json
from typing import Any

import pytest

from helpers.odd_images import encode_as

pytest.importorskip("fastapi")

from fastapi import Request

from resnetlab.serving.errors import ClientDisconnectedError, RequestError
from resnetlab.serving.limits import Limits
from resnetlab.serving.request_body import RequestBodyReader
from resnetlab.serving.routes import check_image, parse_batch


class ChunkedRequest:
    """A request whose body arrives in chunks."""

    def __init__(self, *chunks: bytes | None, interval_s: float = 0.0, **headers: str) -> None:
        """The chunk `None` is a client that disconnects."""
        self.chunks = list(chunks)
        self.num_received = 0
        self.interval_s = interval_s
        names = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self.request = Request({"type": "http", "method": "POST", "headers": names}, self.receive)

    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(self.interval_s)
        self.num_received += 1
        chunk = self.chunks[self.num_received - 1]
        if chunk is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunk, "more_body": self.num_received < len(self.chunks)}


def read(
    incoming: ChunkedRequest, max_bytes: int = 100, timeout_s: float = 5, budget_bytes: int = 1000
) -> tuple[bytes, int]:
    """Return the body and the bytes held inside the context; assert that none are held after it."""
    reader = RequestBodyReader(timeout_s, budget_bytes)

    async def read_body() -> tuple[bytes, int]:
        async with reader.read(incoming.request, max_bytes) as body:
            return body, reader.held_bytes

    try:
        return asyncio.run(read_body())
    finally:
        assert reader.held_bytes == 0


def rejection(incoming: ChunkedRequest, **limits: Any) -> RequestError:
    with pytest.raises(RequestError) as raised:
        read(incoming, **limits)
    assert raised.value.headers["connection"] == "close"
    return raised.value


def test_chunks_are_joined():
    assert read(ChunkedRequest(b"ab", b"", b"c")) == (b"abc", 3)
    assert read(ChunkedRequest(b"x" * 100)) == (b"x" * 100, 100)
    assert read(ChunkedRequest(b"")) == (b"", 0)


def test_a_too_large_content_length_is_rejected_unread():
    incoming = ChunkedRequest(b"x" * 101, content_length="101")
    error = rejection(incoming)
    assert (error.status, incoming.num_received) == (413, 0)
    assert "101 bytes" in error.detail


def test_a_body_without_content_length_is_read_to_the_limit():
    incoming = ChunkedRequest(*[b"x" * 30] * 50)
    error = rejection(incoming)
    assert (error.status, incoming.num_received) == (413, 4)


def test_a_slow_body_times_out():
    incoming = ChunkedRequest(*[b"x"] * 50, interval_s=0.02)
    error = rejection(incoming, timeout_s=0.1)
    assert error.status == 408
    assert 1 <= incoming.num_received < 10


def test_a_compressed_body_is_rejected_unread():
    incoming = ChunkedRequest(b"x", content_encoding="gzip")
    assert (rejection(incoming).status, incoming.num_received) == (415, 0)
    assert read(ChunkedRequest(b"x", content_encoding="identity")) == (b"x", 1)


def test_a_client_that_disconnects():
    with pytest.raises(ClientDisconnectedError):
        read(ChunkedRequest(b"x", None))


def test_all_bodies_together_are_limited():
    reader = RequestBodyReader(5, 150)

    async def read_concurrently() -> int:
        async with reader.read(ChunkedRequest(b"x" * 100).request, 100):
            with pytest.raises(RequestError) as raised:
                async with reader.read(ChunkedRequest(b"x" * 60).request, 100):
                    raise AssertionError("the budget is exceeded")
            async with reader.read(ChunkedRequest(b"x" * 50).request, 100):
                assert reader.held_bytes == 150
            assert raised.value.headers["retry-after"] == "1"
            return raised.value.status

    assert asyncio.run(read_concurrently()) == 503
    assert reader.held_bytes == 0


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"", "empty"),
        (b"--form\r\nContent", "not -F"),
        (b' {"images": []}', "/v1/predict/batch"),
        (b"words", "JPEG, PNG"),
    ],
)
def test_a_body_that_is_not_an_image_is_rejected_with_a_hint(data, hint):
    with pytest.raises(RequestError, match=hint) as raised:
        check_image(data)
    assert raised.value.status == 415


def batch_json(*images: object) -> bytes:
    return json.dumps({"images": images}).encode()


def test_parse_batch_returns_an_error_for_each_invalid_image():
    valid = encode_as("png")
    text = base64.b64encode(valid).decode()
    limits = Limits(max_mib=1)
    too_large = base64.b64encode(encode_as("png") + bytes(1 << 20)).decode()
    words = base64.b64encode(b"words").decode()
    batch = batch_json(text, "%%%", f"data:image/png;base64,{text}", words, too_large, "é", text)
    images = parse_batch(batch, limits)
    assert images[0] == images[-1] == valid
    errors = [image for image in images if isinstance(image, RequestError)]
    assert [error.status for error in errors] == [422, 422, 415, 413, 422]
    assert "up to the comma" in errors[1].detail
    assert "the body" not in errors[2].detail


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 422),
        (b"words", 422),
        (b"[]", 422),
        (b"{}", 422),
        (batch_json(), 422),
        (batch_json(1), 422),
        (b'{"images": ["eA=="], "more": 1}', 422),
        (b"\xff\xfe", 422),
        (b"[" * 100_000, 422),
        (batch_json(*["eA=="] * 17), 413),
    ],
)
def test_an_invalid_batch_is_rejected(data, status):
    with pytest.raises(RequestError) as raised:
        parse_batch(data, Limits())
    assert raised.value.status == status
    assert raised.value.detail.startswith(("the body is invalid: ", "17 images"))
