"""How long a core of this machine needs for one training image: measured on the network in question."""

import statistics
import time

import torch
import torch.nn.functional as F

from resnetlab.models.resnet import ResNet

MEASURED = 128, 32
"""Images of a measured step at most: small ones, and from `LARGE` pixels a side on."""
LARGE = 64


def time_training_image(
    network: ResNet, image_size: int, batch_size: int, *, half: bool, seconds: float = 2.0
) -> float:
    """Return the seconds that one thread of this process needs for a training image, measured on noise.

    Whole steps are repeated for so many seconds, three times at least; the median counts. The network is changed.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network.train().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # a stub lacks it
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, fused=True)
        number = max(2, min(batch_size, MEASURED[image_size >= LARGE]))
        images = torch.randn(number, network.config.in_channels, image_size, image_size)
        images, labels = images.contiguous(memory_format=torch.channels_last), torch.zeros(number, dtype=torch.long)
        times: list[float] = []
        while len(times) < 4 or sum(times[1:]) < seconds:  # the first one warms up
            start_s = time.perf_counter()
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                logits = network(images)
            F.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
            times.append(time.perf_counter() - start_s)
        return statistics.median(times[1:]) / number
    finally:
        torch.set_num_threads(threads)
