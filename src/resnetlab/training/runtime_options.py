"""Options of a run that do not change its result: processes, workers, checkpoints."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from resnetlab.system.process_group import ProcessGroup

if TYPE_CHECKING:
    from resnetlab.training.execution.execution import Execution


@dataclass(frozen=True)
class RuntimeOptions:
    """Options that do not affect the result of a run."""

    process_group: ProcessGroup = field(default_factory=ProcessGroup)
    """The processes that train together; the first one writes files and prints."""
    workers: int = 0
    """Threads that decode images ahead of the training step; with 0 the training thread decodes."""
    cache_gib: float = 10.0
    """Upper limit of the cache for remote shards, in GiB."""
    resume: bool = False
    """Continue the run in the directory instead of refusing it."""
    fresh: bool = False
    """Delete the run in the directory first."""
    allow_config_change: bool = False
    """Continue even if the configuration differs from the run's own."""
    checkpoint_s: float = 300.0
    """Seconds between checkpoints, at least; checkpoints take at most 1 % of the time."""
    checkpoint_steps: int | None = None
    """Steps between checkpoints; replaces `checkpoint_s`."""
    keep_states_epochs: int | None = None
    """Epochs between states of the weights that stay in `states/` of the run directory, at least 1; none are kept if
    not given."""
    loss_steps: int | None = None
    """Steps between two reads of the loss: callbacks hear of the steps then, and a signal stops the run then. If not
    given: 32 on a GPU, which would wait for the host at each read, and 1 elsewhere or if processes or micro-batches
    share a step."""
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
