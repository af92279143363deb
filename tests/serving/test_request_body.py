"""A body is read no further than it may be, in bytes and in seconds."""

import asyncio
import base64
import json
from typing import Any

import pytest

from helpers.odd_images import one

pytest.importorskip("fastapi")

from fastapi import Request

from resnetlab.serving.errors import ClientDisconnectedError, RequestError
from resnetlab.serving.limits import Limits
from resnetlab.serving.request_body import RequestBodyReader
from resnetlab.serving.routes import check_image, read_batch


class Coming:
    """A request whose body comes in parts."""

    def __init__(self, *parts: bytes | None, every_s: float = 0.0, **headers: str) -> None:
        """`None` is a client that leaves."""
        self.parts = list(parts)
        self.given = 0
        self.every_s = every_s
        names = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self.request = Request({"type": "http", "method": "POST", "headers": names}, self.receive)

    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(self.every_s)
        self.given += 1
        part = self.parts[self.given - 1]
        if part is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": part, "more_body": self.given < len(self.parts)}


def read(coming: Coming, max_bytes: int = 100, timeout_s: float = 5, budget: int = 1000) -> tuple[bytes, int]:
    """Return the body, and how many bytes were held while it was used; none must be afterwards."""
    intake = RequestBodyReader(timeout_s, budget)

    async def reading() -> tuple[bytes, int]:
        async with intake.body(coming.request, max_bytes) as data:
            return data, intake.held

    try:
        return asyncio.run(reading())
    finally:
        assert intake.held == 0


def refused(coming: Coming, **limits: Any) -> RequestError:
    with pytest.raises(RequestError) as raised:
        read(coming, **limits)
    assert raised.value.headers["connection"] == "close"
    return raised.value


def test_a_body_is_put_together():
    assert read(Coming(b"ab", b"", b"c")) == (b"abc", 3)
    assert read(Coming(b"x" * 100)) == (b"x" * 100, 100)
    assert read(Coming(b"")) == (b"", 0)


def test_what_says_that_it_is_too_large_is_not_read():
    coming = Coming(b"x" * 101, content_length="101")
    problem = refused(coming)
    assert (problem.status, coming.given) == (413, 0)
    assert "101 bytes" in problem.detail


def test_what_does_not_say_it_is_read_to_the_limit():
    coming = Coming(*[b"x" * 30] * 50)
    problem = refused(coming)
    assert (problem.status, coming.given) == (413, 4)


def test_a_slow_body_is_given_up():
    coming = Coming(*[b"x"] * 50, every_s=0.02)
    problem = refused(coming, timeout_s=0.1)
    assert problem.status == 408
    assert 1 <= coming.given < 10


def test_a_compressed_body_is_not_unpacked():
    coming = Coming(b"x", content_encoding="gzip")
    assert (refused(coming).status, coming.given) == (415, 0)
    assert read(Coming(b"x", content_encoding="identity")) == (b"x", 1)


def test_a_client_that_leaves():
    with pytest.raises(ClientDisconnectedError):
        read(Coming(b"x", None))


def test_all_bodies_together_are_bounded():
    intake = RequestBodyReader(5, 150)

    async def two() -> int:
        async with intake.body(Coming(b"x" * 100).request, 100):
            with pytest.raises(RequestError) as raised:
                async with intake.body(Coming(b"x" * 60).request, 100):
                    raise AssertionError("too much is held")
            async with intake.body(Coming(b"x" * 50).request, 100):
                assert intake.held == 150
            assert raised.value.headers["retry-after"] == "1"
            return raised.value.status

    assert asyncio.run(two()) == 503
    assert intake.held == 0


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"", "empty"),
        (b"--form\r\nContent", "not -F"),
        (b' {"images": []}', "/v1/predict/batch"),
        (b"words", "JPEG, PNG"),
    ],
)
def test_no_image_is_told_with_what_it_seems_to_be(data, hint):
    with pytest.raises(RequestError, match=hint) as raised:
        check_image(data)
    assert raised.value.status == 415


def packed(*images: object) -> bytes:
    return json.dumps({"images": images}).encode()


def test_a_batch_keeps_what_is_wrong_with_single_images():
    good = one("png")
    text = base64.b64encode(good).decode()
    limits = Limits(max_mib=1)
    large = base64.b64encode(one("png") + bytes(1 << 20)).decode()
    words = base64.b64encode(b"words").decode()
    read_back = read_batch(packed(text, "%%%", f"data:image/png;base64,{text}", words, large, "é", text), limits)
    assert read_back[0] == read_back[-1] == good
    wrong = [one for one in read_back if isinstance(one, RequestError)]
    assert [one.status for one in wrong] == [422, 422, 415, 413, 422]
    assert "before the comma" in wrong[1].detail
    assert "the body" not in wrong[2].detail


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 422),
        (b"words", 422),
        (b"[]", 422),
        (b"{}", 422),
        (packed(), 422),
        (packed(1), 422),
        (b'{"images": ["eA=="], "more": 1}', 422),
        (b"\xff\xfe", 422),
        (b"[" * 100_000, 422),
        (packed(*["eA=="] * 17), 413),
    ],
)
def test_a_batch_that_is_none(data, status):
    with pytest.raises(RequestError) as raised:
        read_batch(data, Limits())
    assert raised.value.status == status
    assert raised.value.detail.startswith(("the body: ", "17 images"))
