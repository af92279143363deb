"""Standard output and standard error of a command: names from outside are escaped, and failed writes are handled.

`protected` replaces both streams while a command runs. Commands print with `print`, `print_lines` and `print_json`, or
on a console of `cli.console`.
"""

import contextlib
import errno
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TextIO, cast

from resnetlab.serialization import replace_non_finite
from resnetlab.system.proxied_streams import innermost_stream

WhenReaderLeaves = Literal["stop", "finish", "warn"]
"""`stop` the command; `finish` it without output; or finish it after one line on standard error (`warn`)."""

_CONTROL = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""Characters that move a terminal's cursor, start its commands, reorder its text, or are no text: C0 except tab and
line feed, DEL, C1, line separators, bidirectional overrides and isolates, surrogates."""
IN_TEXT = re.compile(f"[{_CONTROL}]")
"""A character that no output may contain."""
_IN_NAME = re.compile(f"[{_CONTROL}\t\n]")
_GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO, errno.ECONNRESET)
"""Errors of an output that will not work again, because its reader or its terminal is gone."""


class ReaderGoneError(BaseException):
    """The reader of standard output has closed it, as in `resnetlab models | head`.

    Like `KeyboardInterrupt` it is no `Exception`, so that code which handles failures does not catch it.
    """


class OutputError(OSError):
    """Standard output cannot be written, and its reader has not left: its disk may be full."""

    def __str__(self) -> str:
        return f"standard output cannot be written ({self.strerror})"


def escape(text: str) -> str:
    r"""Return a text in which each control character is its code, such as `\u001b`; line feeds and tabs stay.

    The code is that of JSON, so escaped JSON has the same value.
    """
    return IN_TEXT.sub(_code, text)


def escape_name(name: str) -> str:
    """Return a name on one line: as `escape`, and line feeds and tabs are escaped too."""
    return _IN_NAME.sub(_code, name)


def encodable(text: str, encoding: str) -> str:
    """Return a text with the code of each letter that an encoding lacks, in the form of `escape`."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(letter if _can_encode(letter, encoding) else _code(letter) for letter in text)
    return text


def print_lines(*lines: str) -> None:
    """Print lines that contain names. Each stays one line, even if a name contains a line feed."""
    for line in lines:
        print(escape_name(line))


def print_json(value: Any) -> None:
    """Print a value as one line of JSON. Letters that standard output cannot encode become codes, as JSON has them."""
    print(json_text(value), flush=True)


def json_text(value: Any) -> str:
    """Return a value as one line of JSON; numbers that are not finite, which JSON lacks, become null."""
    return escape(json.dumps(replace_non_finite(value), ensure_ascii=False, allow_nan=False))


def unescaped(stream: TextIO) -> TextIO:
    """Return the stream below the escaping one, for control sequences that are meant; another stream unchanged."""
    return innermost_stream(stream)


@contextlib.contextmanager
def protected(when_reader_leaves: WhenReaderLeaves = "stop") -> Iterator[None]:
    """Escape what is printed inside, and handle writes that fail. What standard error cannot take is dropped.

    Args:
        when_reader_leaves: What to do if standard output is closed. With `warn` any other failure of standard output,
            such as a full disk, is handled like that; each later write is tried again.

    Raises:
        ReaderGoneError: With `stop`, if the reader of standard output has left.
        OutputError: If standard output cannot be written for another reason; not with `warn`.
    """
    _open_missing_streams()
    stdout, stderr = sys.stdout, sys.stderr
    has_warned = False

    def on_failure(error: OSError) -> None:
        nonlocal has_warned
        if when_reader_leaves != "warn":
            if error.errno != errno.EPIPE:
                raise OutputError(error.errno, error.strerror) from None
            if when_reader_leaves == "stop":
                raise ReaderGoneError from None
        elif not has_warned:
            has_warned = True
            print(f"resnetlab: standard output cannot be written ({error.strerror}); going on", file=sys.stderr)

    sys.stdout = cast("TextIO", EscapedStream(LossyStream(stdout, on_failure)))
    sys.stderr = cast("TextIO", EscapedStream(LossyStream(stderr, lambda error: None)))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = stdout, stderr
        for stream in (stdout, stderr):
            _flush_or_discard(stream)


class LossyStream:
    """A text stream that reports a failed write to a function instead of raising it."""

    def __init__(self, stream: TextIO, on_failure: Callable[[OSError], None]) -> None:
        self._stream = stream
        self._on_failure = on_failure
        self._is_gone = False
        if isinstance(stream, io.TextIOWrapper):  # the handler of a C locale would pass bytes of names unchanged
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write a text; letters that the encoding lacks are written as their codes."""
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._attempt(lambda: self._stream.write(encodable(text, encoding)))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what is buffered."""
        self._attempt(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _attempt(self, action: Callable[[], object]) -> None:
        if self._is_gone:
            return
        try:
            action()
        except OSError as error:
            self._is_gone = error.errno in _GONE
            self._on_failure(error)


class EscapedStream(LossyStream):
    """A text stream that escapes control characters, for `print`, logging and tracebacks."""

    def __init__(self, stream: LossyStream) -> None:
        self._stream = cast("TextIO", stream)
        self.rich_proxied_file = self._stream
        """Rich consoles write here, since their control sequences are meant; they escape texts themselves."""

    def write(self, text: str) -> int:
        """Write a text with its control characters escaped."""
        self._stream.write(escape(text))
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        self._stream.flush()


def _open_missing_streams() -> None:
    """Open the null device for each standard stream that was closed (`>&-`), before a file takes its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123  # stays open


def _flush_or_discard(stream: TextIO) -> None:
    """Flush a stream; if that fails, discard what is buffered, since Python would report it at exit."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


def _can_encode(letter: str, encoding: str) -> bool:
    try:
        letter.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _code(letter: re.Match[str] | str) -> str:
    r"""Return the code of a character in JSON, such as `\u732b`; beyond U+FFFF a pair of codes."""
    letter = letter if isinstance(letter, str) else letter[0]
    return r"\u007f" if letter == "\x7f" else json.dumps(letter)[1:-1]
