"""Incremental parser of `multipart/form-data` (RFC 7578): each part is an image, as browsers and `curl -F` send it."""

import re

from resnetlab.serving.errors import RequestError
from resnetlab.serving.image_body import check_image

BOUNDARY = re.compile(r"""boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))""", re.IGNORECASE)
"""RFC 2046: at most 70 characters."""
MAX_PART_HEADER_BYTES = 8192
TRANSFER_ENCODINGS = ("binary", "8bit", "7bit")


class FormParser:
    """Parser of one form; `feed` it the body in parts, then call `finish`."""

    def __init__(self, content_type: str, max_images: int, max_bytes: int) -> None:
        """Accept at most `max_images` parts of at most `max_bytes` bytes each.

        Raises:
            RequestError: 422 if the content type has no boundary.
        """
        found = BOUNDARY.search(content_type)
        if found is None:
            raise _invalid("its content type has no boundary; do not set the header yourself, the client does it")
        self._boundary = b"--" + (found[1] or found[2]).encode("latin-1", "replace")
        self._max_images = max_images
        self._max_bytes = max_bytes
        self._state = "boundary"
        self._rest = b"\r\n"  # so that the first boundary also follows a line break
        self._part: list[bytes] = []
        self._part_bytes = 0
        self._images: list[bytes | RequestError] = []

    def feed(self, chunk: bytes) -> None:
        """Parse a part of the body.

        Raises:
            RequestError: 422 if the body is not such a form, 413 if it has too many parts.
        """
        self._rest += chunk
        steps = {
            "boundary": self._skip_to_boundary,
            "tail": self._tail,
            "headers": self._headers,
            "part": self._content,
        }
        while self._state != "end" and steps[self._state]():
            pass
        if self._state == "end":
            self._rest = b""

    def finish(self) -> list[bytes | RequestError]:
        """Return the content of each part, or its error.

        Raises:
            RequestError: 422 if the body is incomplete or has no part.
        """
        if self._state != "end":
            raise _invalid("it is incomplete: the last boundary is missing")
        if not self._images:
            raise _invalid("it has no file")
        return self._images

    def _skip_to_boundary(self) -> bool:
        """Skip what precedes the first boundary; return whether the state has changed."""
        before, found, after = self._rest.partition(b"\r\n" + self._boundary)
        if found:
            self._state, self._rest = "tail", after
        elif len(before) > MAX_PART_HEADER_BYTES:
            raise _invalid("it does not start with its boundary")
        return bool(found)

    def _tail(self) -> bool:
        """Read what follows a boundary: a line break, or two dashes at the end."""
        if len(self._rest) < 2:
            return False
        tail, self._rest = self._rest[:2], self._rest[2:]
        if tail not in (b"--", b"\r\n"):
            raise _invalid("a boundary is followed by neither a line break nor two dashes")
        self._state = "end" if tail == b"--" else "headers"
        if self._state == "headers" and len(self._images) == self._max_images:
            several = self._max_images > 1
            where = "send them in several requests" if several else "send several to /v1/predict/batch"
            raise RequestError(
                413 if several else 422, f"the form has more than {self._max_images} file{'s' * several}; {where}"
            )
        return True

    def _headers(self) -> bool:
        if self._rest.startswith(b"\r\n"):  # a part without headers
            headers, found, after = b"", b"\r\n", self._rest[2:]
        else:
            headers, found, after = self._rest.partition(b"\r\n\r\n")
        if len(headers) > MAX_PART_HEADER_BYTES:
            raise _invalid(f"the header of a part has more than {MAX_PART_HEADER_BYTES:,} bytes")
        if not found:
            return False
        for line in headers.lower().split(b"\r\n"):
            name, _, value = line.partition(b":")
            if (
                name.strip() == b"content-transfer-encoding"
                and value.strip().decode("latin-1") not in TRANSFER_ENCODINGS
            ):
                raise _invalid("a part has a content-transfer-encoding; send the bytes of the image")
        self._part, self._part_bytes = [], 0
        self._state, self._rest = "part", after
        return True

    def _content(self) -> bool:
        """Store the content up to the next boundary; keep what may be the beginning of one."""
        delimiter = b"\r\n" + self._boundary
        at = self._rest.find(delimiter)
        end = at if at >= 0 else max(0, len(self._rest) - len(delimiter) + 1)
        content = self._rest[:end]
        self._part_bytes += len(content)
        if self._part_bytes <= self._max_bytes:
            self._part.append(content)
        else:
            self._part.clear()
        if at < 0:
            self._rest = self._rest[end:]
            return False
        self._rest = self._rest[at + len(delimiter) :]
        self._images.append(self._image())
        self._part.clear()
        self._state = "tail"
        return True

    def _image(self) -> bytes | RequestError:
        if self._part_bytes > self._max_bytes:
            return RequestError(
                413, f"the image has {self._part_bytes:,} bytes, more than {self._max_bytes:,}; send a smaller image"
            )
        data = b"".join(self._part)
        try:
            check_image(data)
        except RequestError as error:
            return RequestError(error.status, error.detail.replace("the body", "the file in the form"))
        return data


def _invalid(reason: str) -> RequestError:
    return RequestError(422, f"the form is invalid: {reason}")
