"""What the processes of a run agree on at every step: loss, counts, and whether somebody asked them to stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from resnetlab.system.process_group import ProcessGroup
from resnetlab.training.signal_handling import StopSignal


@dataclass
class BatchStats:
    """What came of some images of a batch."""

    loss_sum: float = 0.0
    num_wrong: int = 0
    num_images: int = 0
    only: float | None = None
    """The mean loss as it was computed, where the images went together: a sum over their number may round."""

    @property
    def loss(self) -> float:
        """Mean over the images."""
        return self.only if self.only is not None else self.loss_sum / self.num_images

    def add(self, loss: float, num_wrong: int, num_images: int) -> None:
        """Take in the mean loss of some more images."""
        self.only = None if self.num_images else loss
        self.loss_sum += loss * num_images
        self.num_wrong += num_wrong
        self.num_images += num_images


@dataclass
class GradSync:
    """How the processes of a run take a step together; alone, with the whole batch at once, it is nothing."""

    world: ProcessGroup = field(default_factory=ProcessGroup)
    parts: int = 1
    """Parts that each process takes its images in, one after the other."""
    network: nn.Module | None = None
    """What the forward pass goes through; gradients are averaged after the last part alone."""
    interruption: StopSignal | None = None

    @property
    def size(self) -> int:
        """How many processes there are."""
        return self.world.size

    @property
    def is_shared(self) -> bool:
        """Whether what happens to one part must happen to others."""
        return self.world.size * self.parts > 1

    @contextmanager
    def kept_back(self, number: int) -> Iterator[None]:
        """Keep gradients to oneself in the body, unless it is for the last part."""
        if isinstance(self.network, DistributedDataParallel) and number < self.parts - 1:
            with self.network.no_sync():
                yield
        else:
            yield

    def agree(self, part: BatchStats) -> BatchStats:
        """Return what came of the whole batch, and hear whether one of the others was asked to stop.

        A loss that is not finite in one of them is not finite in all.
        """
        if self.size == 1:
            return part
        interruption = self.interruption or StopSignal()
        asked = interruption.signum is not None
        loss, wrong, images, some_asked = self.world.sums([part.loss_sum, part.num_wrong, part.num_images, asked])
        if some_asked:
            interruption.agreed, interruption.signum = True, interruption.signum or signal.SIGTERM
        return BatchStats(loss, int(wrong), int(images))


ALONE = GradSync()
