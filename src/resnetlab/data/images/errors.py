"""Errors of images that cannot be decoded; a reason says damaged only where bytes are wrong."""

from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from resnetlab.data.images.varieties import unread_variety


class BadImageError(ValueError):
    """An image that cannot be decoded; the message is only the reason, and callers add the image's name."""


class TooLargeError(BadImageError):
    """An image with more pixels than are allowed or fit into memory; it may be undamaged."""


@contextmanager
def convert_errors(data: bytes, kind: str) -> Iterator[None]:
    """Convert any exception of a decoder to `BadImageError` with a short reason.

    Args:
        data: The encoded image.
        kind: Its format.
    """
    try:
        yield
    except BadImageError:
        raise
    except MemoryError as error:
        raise TooLargeError("needs more memory than is available") from error
    except Image.DecompressionBombError as error:
        raise TooLargeError(f"has more pixels than Pillow reads from a {kind}") from error
    except Exception as error:  # damage raises anything from OSError and SyntaxError to struct.error
        text = str(error).split("\n")[0]
        if isinstance(error, EOFError) or "truncated" in text.lower():
            raise BadImageError(f"truncated after {len(data):,} bytes") from error
        if variety := unread_variety(data, kind, text):
            raise BadImageError(variety) from error
        raise BadImageError(f"damaged {kind} ({text or type(error).__name__})") from error
