"""`BatchParser`: what it accepts, what it rejects and how early, whatever the parts of the body are."""

import base64
import json
import time

import pytest

from helpers.odd_images import encode_as

pytest.importorskip("fastapi")

from resnetlab.serving.batch_json import BatchParser
from resnetlab.serving.errors import RequestError

IMAGE = encode_as("png")
TEXT = base64.b64encode(IMAGE).decode()
MAX_BYTES = 1 << 20
STEPS = (1, 2, 3, 7, 1 << 30)
"""Bytes of each part of a body."""


def parse(body: bytes, step: int = 1 << 16) -> list[bytes | RequestError]:
    parser = BatchParser(16, MAX_BYTES)
    for start in range(0, len(body), step):
        parser.feed(body[start : start + step])
    return parser.finish()


def batch_json(*images: object) -> bytes:
    return json.dumps({"images": images}).encode()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "body",
    [
        batch_json(TEXT, TEXT),
        json.dumps({"images": [TEXT, TEXT]}, indent=4).encode(),
        batch_json(base64.encodebytes(IMAGE).decode(), TEXT.replace("=", "")),
        batch_json(base64.encodebytes(IMAGE).decode().replace("\n", "\r\n"), "\t" + TEXT),
        batch_json(base64.urlsafe_b64encode(IMAGE).decode(), base64.urlsafe_b64encode(IMAGE).decode().rstrip("=")),
        batch_json(TEXT, TEXT).replace(b"/", rb"\/").replace(b"+", rb"\u002b").replace(b"=", rb"\u003D"),
        batch_json(TEXT, TEXT).replace(b"images", rb"im\u0061ges"),
    ],
)
def test_images_in_every_way_that_encoders_write_them(body, step):
    assert parse(body, step) == [IMAGE, IMAGE]


@pytest.mark.parametrize("step", STEPS)
def test_each_invalid_image_has_its_own_error(step):
    too_large = base64.b64encode(IMAGE + bytes(MAX_BYTES)).decode()
    words = base64.b64encode(b"words").decode()
    texts = [
        TEXT,
        "%%%",
        f"data:image/png;base64,{TEXT}",
        words,
        "é",
        "\x01",
        "a b",
        "A",
        "AA=A",
        "\\",
        "",
        'a"b',
        '\\"',
        '"',
    ]
    images = parse(batch_json(*texts, *([too_large] * (step > 99)), TEXT), step)
    assert images[0] == images[-1] == IMAGE
    errors = [image for image in images if isinstance(image, RequestError)]
    expected = [422, 422, 415, 422, 422, 422, 422, 422, 422, 415, 422, 422, 422, *([413] * (step > 99))]
    assert [error.status for error in errors] == expected
    assert "up to the comma" in errors[1].detail
    assert "the body" not in errors[2].detail
    assert max(len(error.detail) for error in errors) < 200


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"words", "must be an object"),
        (b"[]", "an array"),
        (b"{}", "the key images is missing"),
        (batch_json(), "at least 1 image"),
        (batch_json(1), "a string, not a number (at byte 12)"),
        (batch_json(TEXT, None), "a string, not null"),
        (batch_json([TEXT]), "a string, not an array"),
        (b'{"images": "' + TEXT.encode() + b'"}', "an array of strings, not a string"),
        (b'{"images": ["eA=="], "more": 1}', "only one key"),
        (b'{"images": ["eA=="], "images": ["eA=="]}', "only one key"),
        (b'{"' + b"k" * 5000 + b'": 1}', "'" + "k" * 40 + "'… is unknown"),
        (b'{"' + rb"\u006b" * 5000 + b'": 1}', "is unknown"),
        (b'{"\\ud800\\u001b": 1}', r"\ud800"),
        (b'{"images": ["eA==",]}', "a string, not the byte ']'"),
        (b'{"images": ["eA=="] ', "is it cut?"),
        (b'{"images": ["eA==', "is it cut?"),
        (b'{"images": ["eA=="]} 1', "nothing may follow"),
        (b'{"images": ["eA\n=="]}', "base64 -w 0"),
        (b'{"images": ["eA\x01=="]}', "control character"),
        (b'{"ima\\"ges": ["eA=="]}', "is unknown"),
        (b'{"images": ["eA\\"\n=="]}', "base64 -w 0"),
        (b"\xff\xfe", "must be an object"),
        (b"[" * 5000, "must be an object"),
        (b'{"images":' + b"[" * 5000, "not an array"),
        (batch_json(*["eA=="] * 17), "more than 16 images"),
    ],
)
def test_an_invalid_batch_is_rejected(body, reason, step):
    with pytest.raises(RequestError) as raised:
        parse(body, step)
    assert raised.value.status == (413 if "16" in reason else 422)
    assert reason in raised.value.detail
    assert len(raised.value.detail) < 200


@pytest.mark.parametrize(
    "body",
    [
        b'{"images":[' + b"1," * 99,
        b'{"images":[' + b'"",' * 99,
        b'{"images":' + b"[" * 99,
        b'{"' + b"k" * 999,
        b"9" * 99,
    ],
)
def test_a_body_is_rejected_at_its_beginning(body):
    """The rest of it, however long, is never parsed."""
    with pytest.raises(RequestError):
        BatchParser(16, MAX_BYTES).feed(body)


@pytest.mark.parametrize("text", [rb"\u0041", rb"\n", rb"\\", rb"\"", b"A", b"%", b" ", b"="])
def test_a_long_string_is_parsed_in_short_steps(text):
    """The server answers others between the parts of a body, so each takes milliseconds."""
    parser, slowest_s = BatchParser(16, 1 << 24), 0.0
    parser.feed(b'{"images":["')
    for _ in range(40):
        start = time.process_time()
        parser.feed(text * ((1 << 16) // len(text)))
        slowest_s = max(slowest_s, time.process_time() - start)
    parser.feed(b'"]}')
    assert len(parser.finish()) == 1
    assert slowest_s < 0.2
