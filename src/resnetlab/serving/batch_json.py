"""Incremental parser of a batch request, `{"images": ["BASE64", …]}`: nothing else is read into memory.

A general JSON parser builds an object for each value of a body before anything can reject it: a body of 80 MB can
become gigabytes. This one reads the body as it arrives and raises at the first byte that does not fit.
"""

import json
import re

from resnetlab.serving.base64_image import NOT_BASE64, Base64Image, unescape
from resnetlab.serving.errors import RequestError

WHITESPACE = re.compile(rb"[ \t\r\n]*+")
STRING_PART = re.compile(rb'[^"\x00-\x1f]*+')
"""Characters of a string up to a quote or an invalid one. Escapes are resolved afterwards, all at once: a loop over
them takes seconds for a body of nothing else."""
REJECTED_PART = re.compile(rb'(?:[^"\\\x00-\x1f]++|\\[^\x00-\x1f])*+')
"""Characters of a string that is no base64, and escaped ones; possessive, to need no memory for backtracking."""
ESCAPE_BYTES = 6
"""Bytes of the longest escape."""
BACKSLASH, QUOTE = 0x5C, 0x22
KEY = "images"
MAX_KEY_BYTES = 6 * 41
"""Bytes of a key that are read; a longer one is not `images`, even if each character is an escape."""
SHOWN_CHARACTERS = 40
"""Characters of an unknown key that an error repeats."""
EXAMPLE = '{"images": ["BASE64", …]}'

STEPS = {
    ("start", b"{"): "first key",
    ("first key", b'"'): "key",
    ("first key", b"}"): "end",
    ("next key", b'"'): "key",
    ("colon", b":"): "value",
    ("value", b"["): "first image",
    ("first image", b'"'): "image",
    ("first image", b"]"): "after images",
    ("next image", b'"'): "image",
    ("after image", b","): "next image",
    ("after image", b"]"): "after images",
    ("after images", b","): "next key",
    ("after images", b"}"): "end",
}
"""The next state by state and byte; every other byte is an error."""
EXPECTED = {
    "start": f"it must be an object, {EXAMPLE}",
    "first key": f"the key {KEY} must follow",
    "next key": "another key must follow the comma",
    "colon": "a colon must follow the key",
    "value": f"{KEY} must be an array of strings",
    "first image": f"each of {KEY} must be a string",
    "next image": f"each of {KEY} must be a string",
    "after image": "a comma or ] must follow the string",
    "after images": "a comma or } must follow the array",
    "end": "nothing may follow the object",
}
FOUND = {
    b"{": "an object",
    b"[": "an array",
    b'"': "a string",
    b"t": "true",
    b"f": "false",
    b"n": "null",
    b"-": "a number",
}


class BatchParser:
    """Parser of one batch request; `feed` it the body in parts, then call `finish`."""

    def __init__(self, max_images: int, max_bytes: int) -> None:
        """Accept at most `max_images` images of at most `max_bytes` bytes each."""
        self._max_images = max_images
        self._max_bytes = max_bytes
        self._state = "start"
        self._offset = 0  # of `_rest` in the body
        self._rest = b""  # the beginning of an escape
        self._key: bytes | None = None
        self._rejected = False  # the string has an escaped quote: neither the key nor base64 has one
        self._image = Base64Image(max_bytes)
        self._images: list[bytes | RequestError] = []

    def feed(self, chunk: bytes) -> None:
        """Parse a part of the body.

        Raises:
            RequestError: 422 if the body is not a batch request, 413 if it has too many images.
        """
        data, position = self._rest + chunk, 0
        while position < len(data):
            if self._state in ("key", "image"):
                position, complete = self._read_string(data, position)
                if not complete:
                    break  # the rest of an escape may follow
            else:
                position = WHITESPACE.match(data, position).end()  # pyright: ignore[reportOptionalMemberAccess]
                if position < len(data):
                    self._step(data[position : position + 1], self._offset + position)
                    position += 1
        self._rest = data[position:]
        self._offset += position

    def _read_string(self, data: bytes, start: int) -> tuple[int, bool]:
        """Read a string as far as `data` has it; return where to go on, and whether that needs no more data."""
        match = (REJECTED_PART if self._rejected else STRING_PART).match(data, start)
        assert match is not None
        end = match.end()
        at_end = end == len(data)
        if not self._rejected:
            if not at_end and data[end] == QUOTE and _backslashes(data, start, end) % 2:
                self._add_to_string(NOT_BASE64)  # an escaped quote
                self._rejected = True
                return end - 1, True
            if at_end:
                end = _without_incomplete_escape(data, start)
            self._add_to_string(unescape(data[start:end]) if self._state == "image" else data[start:end])
        if at_end:
            return end, end == len(data)
        if data[end] == QUOTE:
            self._rejected = False
            self._end_string()
            return end + 1, True
        if data[end] == BACKSLASH:
            return end, False
        raise _string_error(data[end], self._offset + end)

    def finish(self) -> list[bytes | RequestError]:
        """Return the encoded images, or the error of each.

        Raises:
            RequestError: 422 if the body is incomplete.
        """
        if self._state == "start":
            raise _invalid(f"it is empty; send {EXAMPLE}")
        if self._state != "end":
            raise _invalid(f"it ends after {self._offset + len(self._rest):,} bytes; is it cut?")
        if self._key is None:
            raise _invalid(f"the key {KEY} is missing; send {EXAMPLE}")
        return self._images

    def _step(self, byte: bytes, offset: int) -> None:
        state = STEPS.get((self._state, byte))
        if state is None:
            found = FOUND.get(byte, "a number" if byte.isdigit() else f"the byte {byte.decode('latin-1')!a}")
            raise _invalid(f"{EXPECTED[self._state]}, not {found} (at byte {offset:,})")
        if state == "after images" and not self._images:
            raise _invalid(f"{KEY} is empty; it must have at least 1 image")
        if state == "key":
            self._raise_if_known()
            self._key = b""
        elif state == "image":
            if len(self._images) == self._max_images:
                raise RequestError(
                    413, f"the body has more than {self._max_images} images; send them in several requests"
                )
            self._image = Base64Image(self._max_bytes)
        self._state = state

    def _raise_if_known(self) -> None:
        if self._key is not None:
            raise _invalid(f"only one key is allowed, {KEY}")

    def _add_to_string(self, part: bytes) -> None:
        if self._state == "image":
            self._image.feed(part)
        else:
            assert self._key is not None
            self._key += part[: MAX_KEY_BYTES - len(self._key) + 1]
            if len(self._key) > MAX_KEY_BYTES:
                raise _unknown_key(self._key)

    def _end_string(self) -> None:
        if self._state == "image":
            self._images.append(self._image.finish())
            self._state = "after image"
            return
        assert self._key is not None
        if _key_text(self._key) != KEY:
            raise _unknown_key(self._key)
        self._state = "colon"


def _without_incomplete_escape(data: bytes, start: int) -> int:
    """Return the end of the string part that begins at `start`, without an escape at its end that may be incomplete."""
    last = data.rfind(b"\\", max(start, len(data) - ESCAPE_BYTES + 1))
    return last if last >= 0 and _backslashes(data, start, last + 1) % 2 else len(data)


def _backslashes(data: bytes, start: int, end: int) -> int:
    """Return the number of backslashes before `end`; an odd one escapes what follows."""
    part = data[start:end]
    return len(part) - len(part.rstrip(b"\\"))


def _string_error(byte: int, offset: int) -> RequestError:
    if byte in b"\r\n":
        reason = r"a line break inside a string; write it as \n, or encode without line breaks (base64 -w 0)"
    else:
        reason = "a control character inside a string"
    return _invalid(f"{reason} (at byte {offset:,})")


def _key_text(key: bytes) -> str:
    try:
        return json.loads(b'"' + key + b'"')
    except ValueError:  # not UTF-8, or cut within an escape
        return key.decode("ascii", "backslashreplace")


def _unknown_key(key: bytes) -> RequestError:
    text = _key_text(key)
    shown = ascii(text[:SHOWN_CHARACTERS]) + ("…" if len(text) > SHOWN_CHARACTERS else "")
    return _invalid(f"the key {shown} is unknown; the only key is {KEY}")


def _invalid(reason: str) -> RequestError:
    return RequestError(422, f"the body is invalid: {reason}")
