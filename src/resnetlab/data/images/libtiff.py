"""What libtiff says of a damaged TIFF, heard by whoever decodes it instead of standard error.

libtiff goes on behind damage in a fax, and Pillow calls that a success: only what libtiff said tells it from a whole
one. Damage that libtiff itself overlooks is seen by nobody: a fax line of other valid codes, say.
"""

import ctypes
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image

ErrorHandler = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p)
"""`void (const char *module, const char *format, va_list)`; its caller takes the last argument away, so nobody need."""
_CONVERSION = re.compile(r"%[^a-zA-Z%]*[a-zA-Z]+")


class _ThreadErrors(threading.local):
    """What this thread has heard; `None` while it does not listen."""

    said: list[str] | None = None


_heard = _ThreadErrors()


@contextmanager
def capture_errors() -> Iterator[list[str]]:
    """Gather what libtiff calls an error in this thread until the block ends: the first only, and no numbers in it.

    From the first block on, no thread's errors go to standard error. Where Pillow's libtiff cannot be told so (it is
    linked statically on some systems), nothing is gathered and all is as it was.
    """
    if _set_error_handler is not None:
        _set_error_handler(_HANDLER)  # again and again: no lock, and it holds where somebody else has set theirs
    _heard.said = said = []
    try:
        yield said
    finally:
        _heard.said = None


def readable_message(module: str, message: str) -> str:
    """Return the words of a `printf` format up to the first value they ask for: `Bad code word at line …`."""
    before, *more = _CONVERSION.split(message.removeprefix("%s: "), maxsplit=1)
    words = before.strip().rstrip(".") or f"an error in {module}"
    return f"{words} …" if more and before.strip() else words


def _note(module: bytes | None, message: bytes | None) -> None:
    """Hear an error, in the thread that decodes."""
    said = _heard.said
    if said is not None and not said:  # a fax may have an error in each of its lines
        said.append(readable_message(*((text or b"").decode("ascii", "replace") for text in (module, message))))


def _find() -> Any | None:
    """Return the function that sets the handler, from the very library that Pillow is linked to."""
    try:
        found = ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler  # looked for in what the module depends on, too
    except (OSError, AttributeError):
        return None
    found.argtypes, found.restype = [ErrorHandler], ctypes.c_void_p
    return found


_HANDLER = ErrorHandler(_note)  # libtiff has its address, and nothing else keeps it
_set_error_handler = _find()
