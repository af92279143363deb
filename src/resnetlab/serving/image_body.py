"""Checks of an image's first bytes before it is queued, with hints for common mistakes of clients."""

from resnetlab.data.images.file_types import OTHER, identify
from resnetlab.data.images.sniff import detect_format
from resnetlab.serving.errors import RequestError

IMAGE_FORMATS = "JPEG, PNG, WebP, GIF, BMP, TIFF or PPM"
URL_ENCODED = "application/x-www-form-urlencoded"
"""The content type that curl sends with -d and with --data-binary."""
USE_DATA_BINARY = "send the image itself as the body (curl --data-binary @FILE) or as a form (curl -F file=@FILE)"


def check_image(data: bytes, media_type: str = "") -> None:
    """Raise unless a body starts like an image of a supported format.

    Args:
        data: The body, or the beginning of an image.
        media_type: The content type of the request without parameters, for the hint.

    Raises:
        RequestError: 415, with a hint for common mistakes (`curl -d`, a form, JSON).
    """
    kind = detect_format(data[:12])
    if kind is not None:
        if media_type == URL_ENCODED and kind != "PPM" and not any(byte in data for byte in (b"\0", b"\r", b"\n")):
            raise RequestError(
                415, f"the {kind} lacks all line breaks and zero bytes: curl -d removed them; {USE_DATA_BINARY}"
            )
        return
    if not data:
        raise RequestError(415, f"the body is empty; send an image ({IMAGE_FORMATS}), such as --data-binary @FILE")
    hint = ""
    if data.startswith(b"--"):
        hint = f"; it looks like a form without its content type: {USE_DATA_BINARY}"
    elif data[:1024].lstrip()[:1] in (b"{", b"["):
        hint = "; send JSON with base64 images to /v1/predict/batch"
    elif media_type == URL_ENCODED:
        hint = f"; curl -d sends text, and removes line breaks and zero bytes: {USE_DATA_BINARY}"
    elif (found := identify(data)) != OTHER:
        hint = f": it is {found.reason()}"
    raise RequestError(415, f"the body is not an image in a supported format ({IMAGE_FORMATS}){hint}")
