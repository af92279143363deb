"""Measure the cost of augmentation: batches of a recipe and training steps, in turn, in one process.

ResNet-20, 128 images of 32 pixels. The images are random: their content changes the time of no operation. Times are of
the processor, with one thread, so that other programs on the machine count less.

    python benchmarks/augmentation_cost.py --rounds 15
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch

from resnetlab.system.allocator import use_huge_pages

use_huge_pages()  # as the command line does

from resnetlab.config import Preprocessing, Recipe  # noqa: E402
from resnetlab.data.dataset import Split  # noqa: E402
from resnetlab.data.loader import train_batches  # noqa: E402
from resnetlab.models.zoo import build_model  # noqa: E402
from resnetlab.training.execution.execution import Execution, make_forward  # noqa: E402
from resnetlab.training.loss import make_loss  # noqa: E402

BOUND_PCT = 10.0
"""Largest cost of all of a batch's augmentation, as a share of a step."""
NUM_IMAGES, NUM_CLASSES = 1280, 10
Result = TypeVar("Result")

PAPER = Recipe(batch_size=128, crop_padding=4, flip=True)
CASES = {
    "crop and flip": PAPER,
    "mixup and CutMix": replace(PAPER, mixup=0.2, cutmix=1.0),
    "TrivialAugment": replace(PAPER, trivial_augment=True),
    "RandAugment": replace(PAPER, rand_augment=6.0),
    "random erasing": replace(PAPER, random_erasing=0.1),
    "as timm-a3": replace(PAPER, mixup=0.1, cutmix=1.0, rand_augment=6.0, loss="bce", bce_threshold=0.2),
    "as torchvision-v2": replace(
        PAPER, mixup=0.2, cutmix=1.0, trivial_augment=True, random_erasing=0.1, augment_repeats=4, label_smoothing=0.1
    ),
}


def main() -> int:
    """Measure every case; return 1 if one costs more than the bound."""
    parser = argparse.ArgumentParser(description="time batches and training steps")
    parser.add_argument("--rounds", type=int, default=15, help="batches and steps of each recipe, after one unmeasured")
    options = parser.parse_args()
    torch.set_num_threads(1)
    highest = 0.0
    for name, recipe in CASES.items():
        batch_s, step_s = measure(recipe, options.rounds)
        highest = max(highest, 100 * batch_s / step_s)
        print(
            f"{name}: batch {1e3 * batch_s:.1f} ms, step {1e3 * step_s:.0f} ms, {100 * batch_s / step_s:.1f} % of it",
            flush=True,
        )
    return int(highest > BOUND_PCT)


def measure(recipe: Recipe, rounds: int) -> tuple[float, float]:
    """Return the median seconds of making a batch and of a step on it, without the batch."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (NUM_IMAGES, 3, 32, 32), generator=generator, dtype=torch.uint8)
    split = Split(images, torch.randint(NUM_CLASSES, (NUM_IMAGES,), generator=generator))
    preprocessing = Preprocessing(32, (0.5,) * 3, (0.25,) * 3)
    model = build_model("resnet20").train().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    forward = make_forward(model, Execution(), make_loss(recipe))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=True)
    epochs = (
        train_batches(split, preprocessing, recipe, seed=0, epoch=epoch, num_classes=NUM_CLASSES)
        for epoch in itertools.count()
    )
    batches = itertools.chain.from_iterable(epochs)

    def step(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        optimizer.zero_grad()
        loss, _ = forward(*batch)
        loss.backward()
        optimizer.step()

    times: list[tuple[float, float]] = []
    for _ in range(rounds + 1):
        batch_s, batch = timed(lambda: next(batches))
        step_s, _ = timed(lambda batch=batch: step(batch))
        times.append((batch_s, step_s))
    batch_s, step_s = (statistics.median(column) for column in zip(*times[1:], strict=True))
    return batch_s, step_s


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """Return the processor's seconds of a piece of work, and its result."""
    start_s = time.process_time()
    result = work()
    return time.process_time() - start_s, result


if __name__ == "__main__":
    sys.exit(main())
