"""The time that one core of this machine needs for a training image, measured on the given network."""

import statistics
import time

import torch
import torch.nn.functional as F

from resnetlab.models.resnet import ResNet

MAX_BATCH_SIZES = 128, 32
"""Largest batch of a measured step: for images below `LARGE_SIDE` pixels a side, and for images from there on."""
LARGE_SIDE = 64


def time_training_image(network: ResNet, image_size: int, batch_size: int, *, half: bool, time_s: float = 2.0) -> float:
    """Return the seconds that one thread needs for a training image, measured on random pixels.

    Whole training steps are repeated for `time_s`, at least three times, and the median counts. The weights of the
    network change.

    Args:
        network: The network; it is moved to the channels-last memory format.
        image_size: Side of the images, in pixels.
        batch_size: Images of a step. Larger steps than `MAX_BATCH_SIZES` are measured with that many.
        half: Whether to compute in bf16 under autocast.
        time_s: Minimum measuring time in seconds.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network.train().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # a stub lacks it
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, fused=True)
        num_images = max(2, min(batch_size, MAX_BATCH_SIZES[image_size >= LARGE_SIDE]))
        images = torch.randn(num_images, network.config.in_channels, image_size, image_size)
        images, labels = images.contiguous(memory_format=torch.channels_last), torch.zeros(num_images, dtype=torch.long)
        times_s: list[float] = []
        while len(times_s) < 4 or sum(times_s[1:]) < time_s:  # the first step warms up
            start_s = time.perf_counter()
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                logits = network(images)
            F.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
            times_s.append(time.perf_counter() - start_s)
        return statistics.median(times_s[1:]) / num_images
    finally:
        torch.set_num_threads(threads)
