"""Agreement between processes and micro-batches at every step: gradients, loss, counts and stop requests."""

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
    """Loss and error counts of some images of a batch."""

    loss_sum: float = 0.0
    num_wrong: int = 0
    num_images: int = 0
    exact_mean: float | None = None
    """The mean loss as it was computed, if the images were one micro-batch: `loss_sum / num_images` may round."""

    @property
    def loss(self) -> float:
        """Mean loss over the images, in nats."""
        return self.exact_mean if self.exact_mean is not None else self.loss_sum / self.num_images

    def add(self, loss: float, num_wrong: int, num_images: int) -> None:
        """Add a micro-batch with the mean loss `loss`."""
        self.exact_mean = None if self.num_images else loss
        self.loss_sum += loss * num_images
        self.num_wrong += num_wrong
        self.num_images += num_images


@dataclass
class GradSync:
    """Takes a training step over several processes and micro-batches; with one of each it changes nothing."""

    process_group: ProcessGroup = field(default_factory=ProcessGroup)
    micro_batches: int = 1
    """Micro-batches that each process splits its images of a step into (gradient accumulation)."""
    network: nn.Module | None = None
    """The module of the forward pass; DistributedDataParallel averages gradients after the last micro-batch."""
    stop_signal: StopSignal | None = None

    @property
    def size(self) -> int:
        """Number of processes."""
        return self.process_group.size

    @property
    def is_shared(self) -> bool:
        """Whether a step has more than one process or micro-batch."""
        return self.size * self.micro_batches > 1

    @contextmanager
    def delay_all_reduce(self, index: int) -> Iterator[None]:
        """Accumulate gradients locally in the body, unless micro-batch `index` is the last."""
        if isinstance(self.network, DistributedDataParallel) and index < self.micro_batches - 1:
            with self.network.no_sync():
                yield
        else:
            yield

    def reduce(self, local: BatchStats) -> BatchStats:
        """Return the statistics of the whole batch, and learn whether another process was asked to stop.

        If the loss of one process is not finite, the sum is not finite in all of them.
        """
        if self.size == 1:
            return local
        stop = self.stop_signal or StopSignal()
        asked = stop.signum is not None
        sums = self.process_group.all_reduce_sum([local.loss_sum, local.num_wrong, local.num_images, asked])
        loss_sum, num_wrong, num_images, num_asked = sums
        if num_asked:
            stop.agreed, stop.signum = True, stop.signum or signal.SIGTERM
        return BatchStats(loss_sum, int(num_wrong), int(num_images))
