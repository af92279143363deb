"""Options of a run that do not change its result: processes, workers, checkpoints."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from resnetlab.serialization import at_least, check
from resnetlab.system.cache_folder import CACHE_GIB, check_cache_gib
from resnetlab.system.process_group import ProcessGroup

if TYPE_CHECKING:
    from resnetlab.training.execution.execution import Execution


@dataclass(frozen=True)
class RuntimeOptions:
    """Options that do not affect the result of a run.

    Raises:
        ConfigError: if a value is outside the range given at its field.
    """

    process_group: ProcessGroup = field(default_factory=ProcessGroup)
    """The processes that train together; the first one writes files and prints."""
    workers: int = 0
    """Threads that decode images ahead of the training step, at least 0; with 0 the training thread decodes."""
    cache_gib: float = CACHE_GIB
    """Upper limit of the cache for remote shards, in GiB; above 0."""
    resume: bool = False
    """Continue the run in the directory instead of refusing it."""
    fresh: bool = False
    """Replace the run in the directory, which is deleted when the training starts."""
    allow_config_change: bool = False
    """Continue even if the configuration differs from the run's own."""
    checkpoint_s: float = 300.0
    """Seconds between checkpoints, at least; checkpoints take at most 1 % of the time."""
    checkpoint_steps: int | None = None
    """Steps between checkpoints, at least 1; replaces `checkpoint_s`."""
    keep_states_epochs: int | None = None
    """Epochs between states of the weights that stay in `states/` of the run directory, at least 1; none are kept if
    not given."""
    loss_steps: int | None = None
    """Steps between two reads of the loss, at least 1: callbacks hear of the steps then, and a signal stops the run
    then. If not given: 32 on a GPU, which would wait for the host at each read, and 1 elsewhere or if processes or
    micro-batches share a step."""
    track: str | None = None
    """`tensorboard` also writes event files."""
    log: Callable[[str], None] | None = None
    """Receives lines about what is being done before the first step: images scanned, executions measured."""
    execution: "Execution | None" = None
    """The execution of the steps, if it was measured before. The configuration must say the same."""
    expected_s: float | None = None
    """Time of the run in seconds, if it was estimated before."""
    max_expected_s: float | None = None
    """Longest expected time in seconds; a longer run is refused before its first step. No limit if not given."""

    def __post_init__(self) -> None:
        at_least(0, self, "workers")
        at_least(1, self, "checkpoint_steps", "loss_steps")
        check_cache_gib(self.cache_gib)
        check(
            self.checkpoint_s >= 0, f"checkpoint_s (--checkpoint-seconds) must be at least 0, not {self.checkpoint_s}"
        )
        every = self.keep_states_epochs
        check(every is None or every >= 1, f"keep_states_epochs (--keep-states) must be at least 1, not {every}")
        check(self.track in (None, "tensorboard"), f"track {self.track!r} is unknown; known: tensorboard")
