"""What concerns this time alone: nothing in it changes what comes out of a run. No torch here."""

from dataclasses import dataclass, field

from resnetlab.system.process_group import ProcessGroup


@dataclass(frozen=True)
class RuntimeOptions:
    """How a run is carried out this time. Nothing here changes what comes out of it."""

    world: ProcessGroup = field(default_factory=ProcessGroup)
    """The processes that train together; the first one writes and speaks."""
    workers: int = 0
    """Threads that decode images ahead; 0 decodes in the training's own."""
    cache_gib: float = 10.0
    """GiB of the cache for shards behind an address, at most."""
    resume: bool = False
    """Continue the run that the folder holds, instead of refusing."""
    fresh: bool = False
    """Delete the run that the folder holds."""
    allow_config_change: bool = False
    """Continue although the configuration is not the one before."""
    checkpoint_s: float = 300.0
    """Seconds between checkpoints, at least; they take 1 % of the time at most."""
    checkpoint_steps: int | None = None
    """Steps between checkpoints, in place of seconds."""
    track: str | None = None
    """`tensorboard` writes its event files as well."""
