"""What a run tells whoever watches it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Progress:
    """How the last few steps went."""

    epoch: int
    """Counted from 1."""
    step: int
    """Steps taken so far in the run."""
    total_steps: int
    num_steps: int
    """Steps this word is about."""
    loss: float
    """Mean over those steps, in nats."""
    train_error_pct: float
    """Mean over their images: augmented, training mode, before each step's update."""
    lr: float
    images_per_s: float
    """Of those steps, waiting for data included."""

    def tracked(self) -> dict[str, float | None]:
        """Return what a tracker is told, under its names there."""
        return {
            "train/loss": self.loss,
            "train/error_pct": self.train_error_pct,
            "lr": self.lr,
            "images_per_s": self.images_per_s,
        }


class Callback:
    """Hears what a run says, and does nothing about it; override what you want to hear."""

    def start(self, lines: Sequence[str]) -> None:
        """Hear the resolved configuration, a few lines for people."""

    def see(self, progress: Progress) -> None:
        """Hear, about 13 times an epoch, how it goes."""

    def epoch(self, line: Mapping[str, Any]) -> None:
        """Hear what the record says of an epoch that is over."""

    def warn(self, message: str) -> None:
        """Hear what the user should know."""
