"""Errors of a network whose blocks are removed or reordered, without further training.

Paper: Veit, Wilber and Belongie (2016), sections 4.1 and 4.2, Figures 3 and 5.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from resnetlab.config import ConfigError
from resnetlab.data.rng import make_generator
from resnetlab.evaluation.lesions.path_gradients import PathGradients, measure_path_gradients
from resnetlab.models.block_edits import BlockShape, block_shapes, removed_blocks, reordered_blocks
from resnetlab.models.evaluation_mode import evaluation_mode
from resnetlab.models.resnet import ResNet
from resnetlab.system.tf32 import float32_products

BATCH_SIZE = 256
"""Images in a forward pass."""

Progress = Callable[[str, int, int], None]
"""Called with a stage, the number of steps done and their total."""


@dataclass(frozen=True)
class LesionOptions:
    """The changes of each network.

    Raises:
        ConfigError: if a number is below 0, or below 1 where 1 is required.
    """

    most_removed: int = 10
    """Largest number of blocks that are removed together; 0 for none."""
    most_swaps: int = 10
    """Largest number of swaps of two blocks; 0 for none."""
    repeats: int = 5
    """Random choices for each number of removed blocks and of swaps, at least 1."""
    paths: int = 64
    """Random paths of each length whose gradient is measured; 0 for none."""
    seed: int = 0
    """Selects blocks, swaps and paths. Networks with blocks of the same shapes get the same ones."""

    def __post_init__(self) -> None:
        for name, least in (("most_removed", 0), ("most_swaps", 0), ("repeats", 1), ("paths", 0)):
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"{name.replace('_', '-')} must be at least {least}, not {value}")


@dataclass(frozen=True)
class BlockError:
    """The error of a network without one block."""

    block: str
    """Its module, such as `layer1.0`."""
    keeps_shape: bool
    """Whether its input and output have one shape. If not, a plain block leaves option A's padding behind."""
    error_pct: float
    """Top-1 error without it, in %."""


@dataclass(frozen=True)
class RemovalError:
    """The error of a network without some blocks that keep the shape."""

    blocks: tuple[str, ...]
    """The removed blocks, in the order of the network."""
    error_pct: float
    """Top-1 error without them, in %."""


@dataclass(frozen=True)
class OrderError:
    """The error of a network whose blocks are in another order."""

    num_swaps: int
    """Swaps of two blocks of equal shape within a stage."""
    kendall_tau: float
    """Kendall's rank correlation between the new order and the old: 1 for the same order, −1 for the reverse."""
    error_pct: float
    """Top-1 error in the new order, in %."""


@dataclass(frozen=True)
class LesionResult:
    """The errors of one network whole, without blocks and in other orders, and its paths."""

    network: str
    """Name of the network, such as `resnet56`."""
    is_plain: bool
    """Whether it has no shortcuts."""
    num_images: int
    """Images behind each error."""
    error_pct: float
    """Top-1 error of the whole network, in %."""
    chance_error_pct: float
    """Top-1 error of a constant guess, in %: every image gets the most frequent class."""
    without_block: tuple[BlockError, ...]
    """The error without each block in turn."""
    without_blocks: tuple[RemovalError, ...]
    """The errors without several random blocks that keep the shape."""
    reordered: tuple[OrderError, ...]
    """The errors with swapped blocks."""
    paths: PathGradients | None
    """The paths by length and their gradients; `None` for a plain network, which has one path, or if not measured."""

    @property
    def has_learnt(self) -> bool:
        """Whether the error of the whole network is at most half of a constant guess's."""
        return self.error_pct <= self.chance_error_pct / 2


def measure_lesions(
    model: ResNet,
    images: Tensor,
    labels: Tensor,
    *,
    options: LesionOptions = LesionOptions(),  # frozen
    on_progress: Progress | None = None,
) -> LesionResult:
    """Measure the error of a network without each block, without several, and with reordered blocks.

    The network is in evaluation mode meanwhile, and unchanged afterwards.

    Args:
        model: The network, on the device of the images.
        images: Normalised images (batch, channels, height, width), at least 1.
        labels: int64 (batch,).
        options: Number of changes and seed.
        on_progress: Called with a stage, the number of networks or paths measured and their total.

    Raises:
        ConfigError: if a block cannot be changed.
    """
    case = _Case(model, block_shapes(model, images), images, labels, options, on_progress or (lambda *_: None))
    with evaluation_mode(model):
        return LesionResult(
            network=model.config.name,
            is_plain=model.config.shortcut == "none",
            num_images=len(images),
            error_pct=error_pct(model, images, labels),
            chance_error_pct=100 * (1 - float(labels.bincount().max()) / len(labels)),
            without_block=case.without_block(),
            without_blocks=case.without_blocks(),
            reordered=case.reordered(),
            paths=case.paths(),
        )


@torch.no_grad()
@float32_products(tf32=False)
def error_pct(model: ResNet, images: Tensor, labels: Tensor) -> float:
    """Return the top-1 error in %; logits that are not finite count as wrong."""
    wrong = 0
    for batch, truth in zip(images.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True):
        logits = model(batch)
        right = (logits.argmax(1) == truth) & logits.isfinite().all(1)
        wrong += len(truth) - int(right.sum())
    return 100 * wrong / len(labels)


def draw_removals(shapes: Sequence[BlockShape], options: LesionOptions) -> list[tuple[int, ...]]:
    """Return random sets of positions of blocks that keep the shape: `repeats` sets of 1, 2, … blocks each."""
    candidates = [position for position, shape in enumerate(shapes) if shape.keeps_shape]
    sets = []
    for count in range(1, min(options.most_removed, len(candidates)) + 1):
        for draw in range(options.repeats):
            rng = make_generator(options.seed, "removal", count, draw)
            chosen = torch.randperm(len(candidates), generator=rng)[:count].tolist()
            sets.append(tuple(sorted(candidates[index] for index in chosen)))
    return sets


def draw_orders(shapes: Sequence[BlockShape], options: LesionOptions) -> list[tuple[int, list[int]]]:
    """Return numbers of swaps and the orders after them; swapped blocks are in one stage and keep the shape."""
    pairs = [
        (first, second)
        for first in range(len(shapes))
        for second in range(first + 1, len(shapes))
        if shapes[first].keeps_shape and shapes[second].keeps_shape and shapes[first].stage == shapes[second].stage
    ]
    orders = []
    for num_swaps in range(1, options.most_swaps + 1) if pairs else ():
        for draw in range(options.repeats):
            rng = make_generator(options.seed, "swaps", num_swaps, draw)
            order = list(range(len(shapes)))
            for index in torch.randint(len(pairs), (num_swaps,), generator=rng).tolist():
                first, second = pairs[index]
                order[first], order[second] = order[second], order[first]
            orders.append((num_swaps, order))
    return orders


def kendall_tau(order: Sequence[int]) -> float:
    """Return Kendall's rank correlation of a permutation with the identity, −1 to 1; 1 for fewer than two items."""
    pairs = math.comb(len(order), 2)
    inversions = sum(order[i] > order[j] for i in range(len(order)) for j in range(i + 1, len(order)))
    return 1 - 2 * inversions / pairs if pairs else 1.0


@dataclass(frozen=True)
class _Case:
    """A network in evaluation mode, and what is measured on it."""

    model: ResNet
    shapes: Sequence[BlockShape]
    images: Tensor
    labels: Tensor
    options: LesionOptions
    report: Progress

    def without_block(self) -> tuple[BlockError, ...]:
        errors = []
        for position, shape in enumerate(self.shapes):
            errors.append(BlockError(shape.name, shape.keeps_shape, self._error_without([position])))
            self.report("one block removed", position + 1, len(self.shapes))
        return tuple(errors)

    def without_blocks(self) -> tuple[RemovalError, ...]:
        errors = []
        sets = draw_removals(self.shapes, self.options)
        for done, positions in enumerate(sets, start=1):
            names = tuple(self.shapes[position].name for position in positions)
            errors.append(RemovalError(names, self._error_without(positions)))
            self.report("several blocks removed", done, len(sets))
        return tuple(errors)

    def reordered(self) -> tuple[OrderError, ...]:
        errors = []
        orders = draw_orders(self.shapes, self.options)
        for done, (num_swaps, order) in enumerate(orders, start=1):
            with reordered_blocks(self.model, order):
                error = error_pct(self.model, self.images, self.labels)
            errors.append(OrderError(num_swaps, kendall_tau(order), error))
            self.report("blocks reordered", done, len(orders))
        return tuple(errors)

    def paths(self) -> PathGradients | None:
        if self.options.paths == 0 or self.model.config.shortcut == "none":
            return None
        return measure_path_gradients(
            self.model,
            self.images,
            self.labels,
            per_length=self.options.paths,
            seed=self.options.seed,
            on_progress=lambda done, total: self.report("gradients along paths", done, total),
        )

    def _error_without(self, positions: Sequence[int]) -> float:
        with removed_blocks(self.model, self.shapes, positions):
            return error_pct(self.model, self.images, self.labels)
