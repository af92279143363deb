"""Changes of a network's blocks that are undone afterwards: remove, reorder, and choose a gradient's path.

Paper: Veit, Wilber and Belongie (2016), Residual Networks Behave Like Ensembles of Relatively Shallow Networks.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resnetlab.models.blocks import Block, PadShortcut
from resnetlab.models.evaluation_mode import evaluation_mode
from resnetlab.models.resnet import ResNet
from resnetlab.serialization import check


@dataclass(frozen=True)
class BlockShape:
    """The place of a block in a network, and the change of shape that it makes."""

    name: str
    """Its module, such as `layer1.0`."""
    stage: int
    """From 1."""
    extra_channels: int
    """Output channels minus input channels."""
    stride: int
    """Input height over output height."""

    @property
    def keeps_shape(self) -> bool:
        """Whether input and output have one shape, so that the block can be left out or moved within its stage."""
        return self.extra_channels == 0 and self.stride == 1


def list_blocks(model: ResNet) -> list[Block]:
    """Return the blocks of every stage, in the order of the forward pass."""
    return [block for stage in model.stages.values() for block in stage if isinstance(block, Block)]


@torch.no_grad()
def block_shapes(model: ResNet, images: Tensor) -> list[BlockShape]:
    """Return the shape of each block, from one forward pass in evaluation mode.

    Args:
        model: The network.
        images: Normalised images (batch, channels, height, width); the first one is used.

    Raises:
        ConfigError: if the forward pass of a block does not call `Block.residual`, so that F cannot be replaced.
    """
    blocks = list_blocks(model)
    observed: dict[Block, tuple[torch.Size, torch.Size]] = {}
    called: set[Block] = set()

    def observe(block: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        assert isinstance(block, Block)
        observed[block] = inputs[0].shape, output.shape

    def count_call(block: Block, original: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        called.add(block)
        return original(x)

    handles = [block.register_forward_hook(observe) for block in blocks]
    try:
        with evaluation_mode(model), replaced_residuals(blocks, count_call):
            model(images[:1])
    finally:
        for handle in handles:
            handle.remove()
    without = next((block for block in blocks if block not in called), None)
    check(
        without is None,
        f"{type(without).__name__}.forward does not call `residual`, so F cannot be replaced; call it there",
    )
    names = {block: name for name, block in model.named_modules()}
    stages = [number for number, stage in enumerate(model.stages.values(), start=1) for _ in stage]
    return [
        BlockShape(names[block], stage, after[1] - before[1], -(-before[2] // after[2]))
        for (block, stage) in zip(blocks, stages, strict=True)
        for before, after in [observed[block]]
    ]


@contextmanager
def removed_blocks(model: ResNet, shapes: Sequence[BlockShape], positions: Iterable[int]) -> Iterator[None]:
    """Replace F by zero in the blocks at some positions: only their shortcut stays.

    A block of a plain network has no shortcut; the identity takes its place, or option A's padding where the shape
    changes. The last ReLU stays.

    Args:
        model: The network.
        shapes: The shape of each block (`block_shapes`).
        positions: Positions in `list_blocks(model)`.
    """
    blocks = list_blocks(model)
    shape_of = {blocks[position]: shapes[position] for position in positions}

    def remove(block: Block, _original: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if block.downsample is not None:
            return torch.zeros_like(block.downsample(x))
        shape = shape_of[block]
        return x.clone() if shape.keeps_shape else PadShortcut(shape.extra_channels, shape.stride)(x)

    with replaced_residuals(shape_of, remove):
        yield


@contextmanager
def reordered_blocks(model: ResNet, order: Sequence[int]) -> Iterator[None]:
    """Compute the blocks in another order; the block at position `order[i]` takes position i.

    Args:
        model: The network.
        order: A permutation of the positions in `list_blocks(model)` within each stage.
    """
    blocks = list_blocks(model)

    def place(permutation: Sequence[int]) -> None:
        remaining = iter(permutation)
        for stage in model.stages.values():
            for position in range(len(stage)):
                stage[position] = blocks[next(remaining)]

    place(order)
    try:
        yield
    finally:
        place(range(len(blocks)))


@contextmanager
def routed_gradients(model: ResNet, through_branch: Tensor) -> Iterator[None]:
    """Let the gradient of each image take one path: in each block through F or through the shortcut, not both.

    The forward pass does not change.

    Args:
        model: A residual network, in evaluation mode, so that no image affects another.
        through_branch: bool (num_blocks, batch): whether the path of an image goes through F of a block.
    """
    blocks = list_blocks(model)
    routes = {block: route[:, None, None, None] for block, route in zip(blocks, through_branch, strict=True)}

    def route_branch(block: Block, original: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        branch = original(x)
        return torch.where(routes[block], branch, branch.detach())

    def route_shortcut(block: Block) -> Callable[..., Tensor]:
        return lambda _module, _inputs, output: torch.where(routes[block], output.detach(), output)

    handles = [
        block.downsample.register_forward_hook(route_shortcut(block))
        for block in blocks
        if block.downsample is not None
    ]
    try:
        with replaced_residuals(blocks, route_branch):
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replaced_residuals(
    blocks: Iterable[Block], replacement: Callable[[Block, Callable[[Tensor], Tensor], Tensor], Tensor]
) -> Iterator[None]:
    """Compute `replacement(block, original, x)` in place of F(x) in some blocks."""
    blocks = list(blocks)

    def replace(block: Block) -> None:
        original = block.residual
        block.residual = lambda x: replacement(block, original, x)  # hides the method until it is deleted

    for block in blocks:
        replace(block)
    try:
        yield
    finally:
        for block in blocks:
            del block.residual
