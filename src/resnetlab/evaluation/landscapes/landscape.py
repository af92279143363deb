"""The loss of a network on a line or a plane through its weights.

Paper: Li, Xu, Taylor, Studer and Goldstein (2018), Visualizing the Loss Landscape of Neural Nets.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnetlab.config import ConfigError
from resnetlab.evaluation.landscapes.directions import Weights, moved
from resnetlab.models.evaluation_mode import evaluation_mode
from resnetlab.system.tf32 import float32_products

BATCH_SIZE = 256
"""Images in a forward pass."""

FEWEST, MOST = 11, 51
"""Points along an axis of a plane that is sized by time."""

MOST_ON_LINE = 101
"""Points of a line that is sized by time."""


@dataclass(frozen=True)
class Grid:
    """The points at which a landscape is measured.

    Raises:
        ConfigError: if a number of points is even or below 3, or a range is empty or not finite.
    """

    num_points: int
    """Points along each axis, odd, so that the middle one is the network itself where the range is symmetric."""
    x_range: tuple[float, float] = (-1.0, 1.0)
    """First and last step along the first direction."""
    y_range: tuple[float, float] | None = (-1.0, 1.0)
    """As `x_range` for the second direction; `None` for a line."""

    def __post_init__(self) -> None:
        if self.num_points < 3 or self.num_points % 2 == 0:
            raise ConfigError(f"points must be an odd number of at least 3, not {self.num_points}")
        for low, high in (self.x_range, self.y_range or self.x_range):
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ConfigError(f"the range of an axis must be finite and ascending, not {low:g} to {high:g}")

    @property
    def xs(self) -> list[float]:
        """Steps along the first direction, ascending."""
        return _steps(self.x_range, self.num_points)

    @property
    def ys(self) -> list[float]:
        """Steps along the second direction, ascending; a single 0 on a line."""
        return [0.0] if self.y_range is None else _steps(self.y_range, self.num_points)

    @property
    def total(self) -> int:
        """Number of points."""
        return len(self.xs) * len(self.ys)


@dataclass(frozen=True)
class Point:
    """The loss and the error of the network at one point."""

    column: int
    """Position in `Grid.xs`."""
    row: int
    """Position in `Grid.ys`."""
    loss: float
    """Mean cross entropy in nats; not finite where the network overflows."""
    error_pct: float
    """Top-1 error in %."""


@float32_products(tf32=False)
@torch.no_grad()
def loss_and_error(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return the mean cross entropy in nats and the top-1 error in %; logits that are not finite count as wrong."""
    loss, wrong = 0.0, 0
    for batch, truth in zip(images.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True):
        logits = model(batch).double()
        loss += float(F.cross_entropy(logits, truth, reduction="sum"))
        wrong += len(truth) - int(((logits.argmax(1) == truth) & logits.isfinite().all(1)).sum())
    return loss / len(labels), 100 * wrong / len(labels)


def measure_points(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    directions: Sequence[Weights],
    grid: Grid,
    known: Mapping[tuple[int, int], Point],
) -> Iterator[Point]:
    """Measure the points of a grid that are not known yet, in evaluation mode; yield each as soon as it is measured.

    Each point is a function of the network, the images and its place, so the order of measuring does not matter.

    Args:
        model: The network at the origin; unchanged between points.
        images: Normalised images (batch, channels, height, width).
        labels: int64 (batch,).
        directions: One for a line, two for a plane.
        grid: The points.
        known: Points by (column, row) that are left out.
    """
    with evaluation_mode(model):
        for row, y in enumerate(grid.ys):
            for column, x in enumerate(grid.xs):
                if (column, row) in known:
                    continue
                with moved(model, directions, (x, y)[: len(directions)]):
                    loss, error = loss_and_error(model, images, labels)
                yield Point(column, row, loss, error)


def points_in_time(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    time_s: float,
    dimensions: Literal[1, 2],
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """Return the odd number of points along an axis that can be measured in `time_s` seconds, from two timed passes.

    At least `FEWEST` and at most `MOST` (`MOST_ON_LINE` for a line) points, whatever the time.
    """
    with evaluation_mode(model):
        loss_and_error(model, images, labels)  # the first pass plans its kernels
        start = clock()
        loss_and_error(model, images, labels)
        pass_s = clock() - start
    count = time_s / max(pass_s, 1e-6)
    along = math.isqrt(int(count)) if dimensions == 2 else int(count)
    along = min(max(along, FEWEST), MOST if dimensions == 2 else MOST_ON_LINE)
    return along if along % 2 else along - 1


def _steps(limits: tuple[float, float], count: int) -> list[float]:
    low, high = limits
    return [low + (high - low) * index / (count - 1) for index in range(count)]
