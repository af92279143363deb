"""Trade time for memory: keep few maps in the forward pass, and make the others again for the backward pass.

Gradient checkpointing, as others call it (Chen et al., 2016, "Training Deep Nets with Sublinear Memory Cost"). It
brings the paper's 1202-layer network to machines of a usual size.
"""

import contextlib
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from resnetlab.models.blocks import Bottleneck

Segment = tuple[nn.Module, ...]
"""Blocks that follow one another; of their maps only the first one's input is kept."""


def run_checkpointed(stages: Iterable[nn.Sequential], x: Tensor) -> Tensor:
    """Run the stages on `x`, keeping each segment's input alone; the backward pass makes the rest again.

    Maps (batch, channels, height, width) to what the stages give one after another. Loss, gradients and the statistics
    of batch normalisation are the same, to the last bit, as without. The second half of the last stage keeps its maps:
    there they are smallest, while a block takes as long as any other. That is a sixth less to make again.

    A segment's input is read a second time, so nothing may overwrite it in between. The blocks see to that: a ReLU
    overwrites a sum, or what a convolution or BN gave, and never what its block was given.
    """
    *cut, last = (checkpoint_segments(stage) for stage in stages)
    half = len(last) // 2
    for segment in (segment for stage in (*cut, last[:half]) for segment in stage):
        if torch.compiler.is_compiling():  # statistics are an effect, and the compiler makes those once by itself
            x = checkpoint(_run, segment, x, use_reentrant=False, preserve_rng_state=False)
        else:
            once = _FrozenStatistics(segment)
            x = checkpoint(
                _run,
                segment,
                x,
                use_reentrant=False,
                preserve_rng_state=False,  # the network draws no random numbers
                determinism_check="none",  # shapes follow from the input; noting them all takes 5 % of a small step
                context_fn=lambda once=once: (contextlib.nullcontext(), once),
            )
    for segment in last[half:]:
        x = _run(segment, x)
    return x


def checkpoint_segments(stage: nn.Sequential) -> list[Segment]:
    """Cut a stage of n blocks into segments of about sqrt(n / c) blocks, as even as they come.

    With s blocks in a segment, n / s inputs are kept, and of s blocks the c maps that the backward pass reads are there
    at one time; n / s + c s is least at s = sqrt(n / c). A basic block has c = 4 (what each BN reads, and what each
    ReLU leaves), a bottleneck 3, counted in its output: 2 maps, and 4 of a quarter of the channels.

    Every stage is cut alike although its maps are half the size of those before it: the peaks while the stages go
    backward, one after another, then come out alike too.
    """
    blocks = list(stage)
    inner_maps = 3 if isinstance(blocks[0], Bottleneck) else 4
    size = max(1, round(math.sqrt(len(blocks) / inner_maps)))
    count = math.ceil(len(blocks) / size)
    cuts = [len(blocks) * i // count for i in range(count + 1)]
    return [tuple(blocks[cuts[i] : cuts[i + 1]]) for i in range(count)]


def _run(segment: Segment, x: Tensor) -> Tensor:
    for block in segment:
        x = block(x)
    return x


class _FrozenStatistics(contextlib.AbstractContextManager[None]):
    """While it is entered, a forward pass in training mode leaves the segment's running statistics as they are.

    Not by `track_running_stats=False`: BN then hands autograd other tensors than the first time, which `checkpoint`
    refuses. It may be entered again, for a backward pass that is made twice (`retain_graph`).
    """

    def __init__(self, segment: Segment) -> None:
        self._norms = [m for block in segment for m in block.modules() if isinstance(m, _BatchNorm) and m.training]
        self._before: list[tuple[float | None, Tensor | None]] = []

    def __enter__(self) -> None:
        self._before = [(norm.momentum, norm.num_batches_tracked) for norm in self._norms]
        for norm in self._norms:
            norm.momentum = 0.0  # new = (1 - 0) old + 0 seen
            norm.num_batches_tracked = None

    def __exit__(self, *_error: object) -> None:
        for norm, (momentum, num_batches) in zip(self._norms, self._before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, num_batches
