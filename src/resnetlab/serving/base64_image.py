"""Incremental decoding of one image in base64: standard or URL-safe alphabet, padded or not, with line breaks.

Text is decoded as it arrives, so that neither the text nor a copy of it is held. An image that is invalid or too large
is not stored any further.
"""

import binascii
import re

from resnetlab.data.images.file_types import HEAD_BYTES
from resnetlab.data.images.sniff import detect_format
from resnetlab.serving.errors import RequestError
from resnetlab.serving.image_body import check_image

ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
LINE_BREAKS = b"\r\n\t"
"""Characters that are skipped: encoders for mail break lines after 76 characters."""
ESCAPABLE = ALPHABET + LINE_BREAKS + b"-_="
FROM_URL_SAFE = bytes.maketrans(b"-_", b"+/")
UNICODE_ESCAPE = re.compile(rb"\\u[0-9a-fA-F]{4}")
NOT_BASE64 = b"\x80"


def unescape(text: bytes) -> bytes:
    r"""Return part of a JSON string with the escapes resolved that base64 may contain: `\n \r \t \/` and `\u0041`.

    A backslash stays where another character was escaped. It is not base64, so the image is then rejected.
    """
    if b"\\" not in text:
        return text
    for letter, character in ((b"n", b"\n"), (b"r", b"\r"), (b"t", b"\t"), (b"/", b"/")):
        text = text.replace(b"\\" + letter, character)
    if b"\\u" in text:
        for escape in set(UNICODE_ESCAPE.findall(text)):  # few, or one of them is not base64
            code = int(escape[2:], 16)
            if code > 127 or bytes([code]) not in ESCAPABLE:
                return NOT_BASE64
            text = text.replace(escape, bytes([code]))
    return text


class Base64Image:
    """Decodes one image in base64 from parts of its text."""

    def __init__(self, max_bytes: int) -> None:
        """Accept an image of at most `max_bytes` bytes."""
        self._max_bytes = max_bytes
        self._data = bytearray()
        self._quad = b""  # characters that do not yet make four
        self._padding = 0
        self._head = b""
        self._error: RequestError | None = None

    def feed(self, text: bytes) -> None:
        """Decode a part of the text."""
        if self._error is not None:
            return
        self._head += text[: 8 - len(self._head)] if len(self._head) < 8 else b""
        text = text.translate(FROM_URL_SAFE, LINE_BREAKS)
        characters, equals_sign, rest = text.partition(b"=")
        if (self._padding and characters) or rest.strip(b"="):
            self._fail("characters after the padding")
        elif others := characters.translate(None, ALPHABET):
            self._fail(_describe_character(others))
        else:
            self._decode(characters, len(equals_sign) + len(rest))

    def _decode(self, characters: bytes, padding: int) -> None:
        """Decode characters of the standard alphabet as far as they make quadruples."""
        self._padding += padding
        characters = self._quad + characters
        whole = len(characters) // 4 * 4
        self._data += binascii.a2b_base64(characters[:whole])
        self._quad = characters[whole:]
        if len(self._data) > self._max_bytes:
            self._error = RequestError(413, f"the image has more than {self._max_bytes:,} bytes; send a smaller image")
        elif len(self._data) > HEAD_BYTES and detect_format(bytes(self._data[:12])) is None:
            self._check()
        if self._error is not None:
            self._data.clear()

    def finish(self) -> bytes | RequestError:
        """Return the image after its last part, or the reason why it is none."""
        if self._error is not None:
            return self._error
        missing = -len(self._quad) % 4
        if missing == 3:
            self._fail("its length is not possible; is the text cut?")
        elif self._padding not in (0, missing):
            self._fail("wrong padding; leave it out, or pad to a multiple of 4 characters")
        else:
            self._data += binascii.a2b_base64(self._quad + b"=" * missing) if self._quad else b""
            if len(self._data) > self._max_bytes:
                return RequestError(413, f"the image has {len(self._data):,} bytes, more than {self._max_bytes:,}")
            self._check()
        return bytes(self._data) if self._error is None else self._error

    def _check(self) -> None:
        try:
            check_image(bytes(self._data[:HEAD_BYTES]))
        except RequestError as error:
            self._error = RequestError(error.status, error.detail.replace("the body", "the image"))

    def _fail(self, reason: str) -> None:
        if self._head.startswith(b"data:"):
            reason += "; remove the data URI prefix up to the comma"
        self._error = RequestError(422, f"not base64 ({reason})")
        self._data.clear()


def _describe_character(others: bytes) -> str:
    """Describe the first character that base64 does not have."""
    character = others[:1]
    if character == b" ":
        return "a space; a + may have become one in a form: use the URL-safe alphabet, or JSON"
    return f"the character {character.decode('latin-1')!a}" if character < b"\x80" else "a character beyond ASCII"
