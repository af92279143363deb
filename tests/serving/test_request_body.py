"""Request bodies: limits on bytes and seconds, and parsing of images and batches."""

import asyncio
from typing import Any

import pytest

from helpers.odd_images import encode_as

pytest.importorskip("fastapi")

from fastapi import Request

from resnetlab.serving.errors import ClientDisconnectedError, RequestError
from resnetlab.serving.image_body import URL_ENCODED, check_image
from resnetlab.serving.request_body import RequestBodyReader, WholeBody


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
        async with reader.read(incoming.request, max_bytes, WholeBody()) as body:
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
        async with reader.read(ChunkedRequest(b"x" * 100).request, 100, WholeBody()):
            with pytest.raises(RequestError) as raised:
                async with reader.read(ChunkedRequest(b"x" * 60).request, 100, WholeBody()):
                    raise AssertionError("the budget is exceeded")
            async with reader.read(ChunkedRequest(b"x" * 50).request, 100, WholeBody()):
                assert reader.held_bytes == 150
            assert raised.value.headers["retry-after"] == "1"
            return raised.value.status

    assert asyncio.run(read_concurrently()) == 503
    assert reader.held_bytes == 0


class RejectingParser:
    """A parser that rejects a body at its second part."""

    def __init__(self) -> None:
        self.num_parts = 0

    def feed(self, chunk: bytes) -> None:
        self.num_parts += 1
        if self.num_parts == 2:
            raise RequestError(422, "the second part is wrong")

    def finish(self) -> None:
        raise AssertionError("the body is wrong")


def test_a_parser_rejects_a_body_before_its_end():
    incoming, reader = ChunkedRequest(*[b"x"] * 50), RequestBodyReader(5, 1000)

    async def read_body() -> None:
        async with reader.read(incoming.request, 100, RejectingParser()):
            raise AssertionError("the body is wrong")

    with pytest.raises(RequestError, match="second part") as raised:
        asyncio.run(read_body())
    assert (incoming.num_received, reader.held_bytes) == (2, 0)
    assert raised.value.headers["connection"] == "close"


@pytest.mark.parametrize("limits", [{"max_bytes": 3}, {"budget_bytes": 3}, {"parser": True}])
@pytest.mark.parametrize("is_complete", [True, False])
def test_the_connection_closes_only_if_more_of_the_body_is_to_come(limits, is_complete):
    """A body that was read to its end leaves nothing to wait for."""
    incoming = ChunkedRequest(b"ab", b"cd", *(() if is_complete else (b"e",)))
    reader = RequestBodyReader(5, limits.get("budget_bytes", 1000))
    parser = RejectingParser() if "parser" in limits else WholeBody()

    async def read_body() -> None:
        async with reader.read(incoming.request, limits.get("max_bytes", 100), parser):
            raise AssertionError("the body is rejected")

    with pytest.raises(RequestError) as raised:
        asyncio.run(read_body())
    assert ("connection" in raised.value.headers) == (not is_complete)


@pytest.mark.parametrize(
    ("data", "media_type", "hint"),
    [
        (b"", "", "empty"),
        (b"--form\r\nContent", "", "-F file=@FILE"),
        (b' {"images": []}', "", "/v1/predict/batch"),
        (b"words", "", "JPEG, PNG"),
        (b"file=a.jpg", URL_ENCODED, "curl -d sends text"),
        (encode_as("png").translate(None, b"\0\r\n"), URL_ENCODED, "--data-binary @FILE"),
        (encode_as("jpg").translate(None, b"\0\r\n"), URL_ENCODED, "lacks all line breaks and zero bytes: curl -d"),
        (encode_as("webp").translate(None, b"\0\r\n"), URL_ENCODED, "curl -d sends text"),
    ],
)
def test_a_body_that_is_not_an_image_is_rejected_with_a_hint(data, media_type, hint):
    with pytest.raises(RequestError, match=hint) as raised:
        check_image(data, media_type)
    assert raised.value.status == 415


def test_curl_declares_a_form_with_data_binary_too():
    for suffix in ("jpg", "png", "webp", "tif", "ppm", "gif", "bmp"):
        check_image(encode_as(suffix), URL_ENCODED)
