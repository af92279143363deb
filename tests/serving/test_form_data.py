"""`FormParser`: forms as clients write them, whatever the parts of the body are, and malformed ones."""

import pytest

from helpers.odd_images import encode_as

pytest.importorskip("fastapi")

from resnetlab.serving.errors import RequestError
from resnetlab.serving.form_data import FormParser

IMAGE = encode_as("png")
STEPS = (1, 2, 5, 1 << 30)
HEADERS = b'Content-Disposition: form-data; name="f"; filename="a.png"\r\nContent-Type: image/png\r\n'


def parse(body: bytes, step: int = 1 << 16, *, kind: str = "multipart/form-data; boundary=XX", most: int = 4):
    parser = FormParser(kind, most, 1 << 16)
    for start in range(0, len(body), step):
        parser.feed(body[start : start + step])
    return parser.finish()


def form(*parts: bytes, headers: bytes = HEADERS) -> bytes:
    return b"".join(b"--XX\r\n" + headers + b"\r\n" + part + b"\r\n" for part in parts) + b"--XX--\r\n"


@pytest.mark.parametrize("step", STEPS)
def test_the_files_of_a_form(step):
    assert parse(form(IMAGE), step) == [IMAGE]
    tricky = [IMAGE + end for end in (b"\r\n", b"\r\n--X", b"--XX", b"\n--XX--", b"\r\n--")]
    assert parse(form(*tricky[:4]), step) == tricky[:4]
    assert parse(form(tricky[4]), step) == tricky[4:]
    assert parse(form(IMAGE, headers=b""), step) == [IMAGE]
    assert parse(b"preamble\r\n" + form(IMAGE) + b"epilogue" * 9999, step) == [IMAGE]
    assert parse(form(IMAGE), step, kind='multipart/form-data; charset=x; Boundary="XX"') == [IMAGE]


@pytest.mark.parametrize("step", STEPS)
def test_each_file_has_its_own_error(step):
    images = parse(form(IMAGE, b"words", b"", IMAGE + bytes(1 << 16) * (step > 9)), step)
    assert images[0] == IMAGE
    statuses = [image.status if isinstance(image, RequestError) else 200 for image in images]
    assert statuses == [200, 415, 415, 413 if step > 9 else 200]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "incomplete"),
        (form(IMAGE)[:-8], "incomplete"),
        (b"--XX--", "no file"),
        (b"words" * 4000, "does not start with its boundary"),
        (b"--XXwords", "followed by neither"),
        (b"--XX\r\n" + b"h" * 20_000, "more than 8,192 bytes"),
        (form(IMAGE, headers=HEADERS + b"Content-Transfer-Encoding: base64\r\n"), "content-transfer-encoding"),
        (form(*[IMAGE] * 5), "more than 4 files"),
    ],
)
def test_a_malformed_form_is_rejected(body, reason, step):
    with pytest.raises(RequestError, match=reason) as raised:
        parse(body, step)
    assert raised.value.status == (413 if "files" in reason else 422)


def test_a_form_without_a_boundary_is_rejected():
    for kind in ("multipart/form-data", "multipart/form-data; boundary=", f"multipart/form-data; boundary={'x' * 71};"):
        with pytest.raises(RequestError) as raised:
            parse(b"", kind=kind)
        assert raised.value.status == 422
