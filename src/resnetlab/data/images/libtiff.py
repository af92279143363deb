"""Capture of libtiff's error messages, which otherwise go to standard error.

libtiff continues after damage in a fax-compressed TIFF, and Pillow reports success: only libtiff's message reveals the
damage. Damage that libtiff does not detect, such as a fax line of other valid codes, stays undetected.
"""

import ctypes
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image

ErrorHandler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p)
"""`void (const char *module, const char *format, va_list)`. The caller removes the arguments from the stack, so the
`va_list` can be left out."""
_CONVERSION = re.compile(r"%[^a-zA-Z%]*[a-zA-Z]+")

MISSING_CODEC = "The compression is not configured"
"""The message of a libtiff that was built without a compression."""


class _ThreadErrors(threading.local):
    """The errors captured in this thread; `None` outside `capture_errors`."""

    messages: list[str] | None = None


_errors = _ThreadErrors()


@contextmanager
def capture_errors() -> Iterator[list[str]]:
    """Capture the first libtiff error of this thread until the block ends, without the numbers in its text.

    From the first block on, no thread's errors go to standard error. If the handler of Pillow's libtiff is not
    accessible (libtiff is linked statically on some systems), nothing is captured and nothing changes.
    """
    if _set_error_handler is not None:
        _set_error_handler(_HANDLER)  # each time: no lock is needed, and it replaces a handler that other code has set
    _errors.messages = messages = []
    try:
        yield messages
    finally:
        _errors.messages = None


def readable_message(module: str, message: str) -> str:
    """Return the text of a `printf` format up to its first conversion: `Bad code word at line …`."""
    if "not configured" in message or "not implemented" in message:
        return MISSING_CODEC
    before, *more = _CONVERSION.split(message.removeprefix("%s: "), maxsplit=1)
    words = before.strip().rstrip(".") or f"an error in {module}"
    return f"{words} …" if more and before.strip() else words


def _record(module: bytes | None, message: bytes | None) -> None:
    """Record an error in the thread that decodes; libtiff calls this."""
    messages = _errors.messages
    if messages is not None and not messages:  # a fax may have an error in every line: the first is enough
        messages.append(readable_message(*((text or b"").decode("ascii", "replace") for text in (module, message))))


def _find_handler_setter() -> Any | None:
    """Return `TIFFSetErrorHandler` of the library that Pillow is linked to, or `None` if it is not accessible."""
    try:
        found = ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler  # the lookup includes the module's dependencies
    except (OSError, AttributeError):
        return None
    found.argtypes, found.restype = [ErrorHandler], ctypes.c_void_p
    return found


_HANDLER = ErrorHandler(_record)  # a global: libtiff stores the address only, and nothing else references it
_set_error_handler = _find_handler_setter()
