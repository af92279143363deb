"""Lines about the progress of opening the images, for a run that is being prepared."""

import time
from collections.abc import Callable

from resnetlab.data.images.scan import Progress

INTERVAL_S = 2.0
"""Seconds between two lines; the first one comes as late, so that a quick scan prints nothing."""


def scan_progress(log: Callable[[str], None] | None) -> Progress | None:
    """Return a callback for `open_data` that logs a line such as `decoding images: 3,200 of 9,469` every two seconds.

    Without `log` there is no callback.
    """
    if log is None:
        return None
    next_line_s = time.monotonic() + INTERVAL_S

    def report(stage: str, done: int, total: int) -> None:
        nonlocal next_line_s
        if time.monotonic() >= next_line_s:
            next_line_s = time.monotonic() + INTERVAL_S
            log(f"{stage} images: {done:,} of {total:,}")

    return report
