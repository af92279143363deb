"""An event loop whose clock jumps to the next timer instead of waiting for it."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class _SimulatedTimeSelector(selectors.DefaultSelector):
    """Polls the files, and advances the clock by the time it was asked to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "the coroutine waits for something that no timer brings"
        self.now_s += max(0.0, timeout)
        return super().select(0)


class SimulatedTimeLoop(asyncio.SelectorEventLoop):
    """Sleeps and timeouts take no time and end in order, so results depend on no other load of the machine."""

    def __init__(self) -> None:
        self._simulated = _SimulatedTimeSelector()
        super().__init__(self._simulated)

    def time(self) -> float:
        """Simulated seconds since the loop was made."""
        return self._simulated.now_s


def run_in_simulated_time(loop: SimulatedTimeLoop, coroutine: Coroutine[Any, Any, None]) -> None:
    """Run `coroutine` to its end and close the loop."""
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(coroutine)
