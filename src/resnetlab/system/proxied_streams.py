"""Standard streams below the ones that take their place while a command or a bar of rich runs."""

from typing import TextIO


def innermost_stream(stream: TextIO) -> TextIO:
    """Return the stream at the bottom of proxies, for control sequences that are meant; another stream unchanged.

    Rich itself looks below one proxy only. A started bar adds a second one, above the stream that escapes.
    """
    while (below := getattr(stream, "rich_proxied_file", None)) is not None:
        stream = below
    return stream
