"""Random numbers of blocks that use some in training: a function of (seed, step, position of the image in the batch).

They are the same to the last bit after a resume. Several processes and micro-batches get the numbers of one process.
"""

import torch
from torch import nn

from resnetlab.config import RunConfig
from resnetlab.data.loader import own_slices
from resnetlab.data.rng import make_generator
from resnetlab.models.blocks import Block
from resnetlab.models.variants.step_noise import StepNoise
from resnetlab.system.process_group import ProcessGroup


class BlockNoise:
    """Gives the blocks of a network the key of a step, and the positions of this process's images.

    Args:
        model: The network that is trained.
        config: Its run; seed, batch size and micro-batches matter.
        process_group: This process's rank and the number of processes.
        device: Of the images.
    """

    def __init__(self, model: nn.Module, config: RunConfig, process_group: ProcessGroup, device: torch.device) -> None:
        self._blocks, self._seed, self._device = noise_of(model), config.seed, device
        slices = own_slices(slice(0, config.recipe.batch_size), process_group, config.grad_accum_steps)
        self._first = [part.start for part in slices]

    def set(self, step: int, micro_batch: int = 0) -> None:
        """Prepare the forward pass of one micro-batch of step `step`, counted from 0."""
        if self._blocks:
            key = make_generator(self._seed, "blocks", step).initial_seed()
            for noise in self._blocks:
                noise.set(key, self._first[micro_batch], self._device)


def noise_of(model: nn.Module) -> list[StepNoise]:
    """Return the random numbers of each block that uses some."""
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    return [noise for block in blocks if isinstance(noise := getattr(block, "noise", None), StepNoise)]
