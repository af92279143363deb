"""Activation checkpointing: store few activations in the forward pass and recompute the others in the backward pass.

It trades time for memory, so that the paper's 1202-layer network fits ordinary machines.
Source: Chen et al. (2016), "Training Deep Nets with Sublinear Memory Cost".
"""

import contextlib
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from resnetlab.models.blocks import Block
from resnetlab.models.variants.step_noise import StepNoise

Segment = tuple[nn.Module, ...]
"""Consecutive blocks; of their activations, only the input of the first block is stored."""


def run_checkpointed(stages: Iterable[nn.Sequential], x: Tensor) -> Tensor:
    """Run the stages on maps `x` (batch, channels, height, width), storing only the input of each segment.

    Loss, gradients and batch-normalisation statistics are bit-identical to those without checkpointing. The second
    half of the last stage stores its activations: they are smallest there, while a block takes as long as any other.
    That leaves a sixth less to recompute.

    A segment's input is read a second time, so nothing may overwrite it in between. Blocks guarantee this: a ReLU
    overwrites a sum or the output of a convolution or BN, never the input of its block.
    """
    *full, last = (checkpoint_segments(stage) for stage in stages)
    half = len(last) // 2
    for segment in (segment for stage in (*full, last[:half]) for segment in stage):
        if torch.compiler.is_compiling():  # the compiler itself updates the statistics only once
            x = checkpoint(_run, segment, x, use_reentrant=False, preserve_rng_state=False)
        else:
            frozen = _FrozenStatistics(segment)
            x = checkpoint(
                _run,
                segment,
                x,
                use_reentrant=False,
                preserve_rng_state=_takes_random_numbers(segment),
                determinism_check="none",  # recording all shapes would take 5 % of a small step
                context_fn=lambda frozen=frozen: (contextlib.nullcontext(), frozen),
            )
    for segment in last[half:]:
        x = _run(segment, x)
    return x


def checkpoint_segments(stage: nn.Sequential) -> list[Segment]:
    """Cut a stage of n blocks into segments of about sqrt(n / c) blocks, with sizes as equal as possible.

    With s blocks in a segment, n / s inputs are stored, and the c maps of each of s blocks are alive at one time;
    n / s + c s is least at s = sqrt(n / c). Here c counts, in units of the block's output, what the backward pass
    reads: the input of each BN and the output of each ReLU. It is 4 for a basic block and 3 for a bottleneck (2 maps,
    and 4 of a quarter of the channels).

    Every stage is cut by the same rule although its maps are half the size of those before it: the memory peaks of the
    stages, which run backward one after another, are then equal.
    """
    blocks = list(stage)
    block = blocks[0]
    assert isinstance(block, Block)
    maps_per_block = 2 + 2 * (block.num_convs - 1) / block.expansion
    size = max(1, round(math.sqrt(len(blocks) / maps_per_block)))
    count = math.ceil(len(blocks) / size)
    cuts = [len(blocks) * i // count for i in range(count + 1)]
    return [tuple(blocks[cuts[i] : cuts[i + 1]]) for i in range(count)]


def _takes_random_numbers(segment: Segment) -> bool:
    """Return whether a forward pass may take random numbers from PyTorch's generators, which change with each pass.

    Blocks of this package take none while the trainer gives them the key of the step. What other blocks do is unknown.
    A generator cannot be read while a CUDA graph is captured.
    """
    noises = (getattr(block, "noise", None) for block in segment)
    if all(type(block).__module__.startswith("resnetlab.") for block in segment) and not any(
        isinstance(noise, StepNoise) and not noise.is_set for noise in noises
    ):
        return False
    return not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())


def _run(segment: Segment, x: Tensor) -> Tensor:
    for block in segment:
        x = block(x)
    return x


class _FrozenStatistics(contextlib.AbstractContextManager[None]):
    """A context in which forward passes in training mode leave the segment's running statistics unchanged.

    `track_running_stats=False` would not do: BN would then give autograd other tensors than the first time, and
    `checkpoint` refuses that. The context can be entered again, for a second backward pass (`retain_graph`).
    """

    def __init__(self, segment: Segment) -> None:
        self._norms = [m for block in segment for m in block.modules() if isinstance(m, _BatchNorm) and m.training]
        self._before: list[tuple[float | None, Tensor | None]] = []

    def __enter__(self) -> None:
        self._before = [(norm.momentum, norm.num_batches_tracked) for norm in self._norms]
        for norm in self._norms:
            norm.momentum = 0.0  # new = (1 - 0) * old + 0 * batch
            norm.num_batches_tracked = None

    def __exit__(self, *_error: object) -> None:
        for norm, (momentum, num_batches) in zip(self._norms, self._before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, num_batches
