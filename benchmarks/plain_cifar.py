"""The baseline of `train_speed.py`: CIFAR training in plain PyTorch.

A `Dataset` of PIL images, torchvision's four transforms on one image at a time, `DataLoader` with worker processes,
fp32, eager, NCHW, `torch.optim.SGD` with its defaults, loss and accuracy read at every step. The transforms are copied
from torchvision 0.20, so that it need not be installed. The network is ours, in its default memory layout.

    python benchmarks/plain_cifar.py resnet20 --steps 100 --workers 2
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from resnetlab.models.zoo import build_model

BATCH_SIZE = 128
NUM_IMAGES = 50_000
WARM_UP_STEPS = 5
MEAN = torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1)
STD = torch.tensor([0.2470, 0.2435, 0.2616]).view(3, 1, 1)


def main() -> int:
    """Train for some steps and print the speed."""
    parser = argparse.ArgumentParser(description="time CIFAR training in plain PyTorch")
    parser.add_argument("model", nargs="?", default="resnet20", help="a network for images of 32x32 pixels")
    parser.add_argument("--steps", type=int, default=100, help=f"timed steps, after {WARM_UP_STEPS} warm-up steps")
    parser.add_argument(
        "--workers", type=int, default=2, help="processes that load images; 0: the training process loads them"
    )
    parser.add_argument("--images", type=Path, help=".npy or .npz of uint8 (n, 32, 32, 3); default: noise")
    parser.add_argument("--num-images", type=int, default=NUM_IMAGES, help="number of noise images")
    parser.add_argument("--threads", type=int, help="threads of the training process; default: PyTorch's")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    images = noise(options.num_images) if options.images is None else read_images(options.images)
    speed = steps(options.model, options.steps, options.workers, images)
    if options.json:
        print(json.dumps({"model": options.model, "workers": options.workers, "images_per_s": speed}))
    else:
        print(f"{options.model}, {options.workers} workers: {speed:,.1f} images/s")
    return 0


def steps(name: str, num_steps: int, workers: int, images: np.ndarray | None = None) -> float:
    """Train a network for some steps of 128 images; return images per second without the warm-up.

    Args:
        name: A network by name; it gets ten classes.
        num_steps: Timed steps.
        workers: Processes that load and augment images; 0 for the training process itself.
        images: uint8 of shape (n, 32, 32, 3), at least 128; noise if `None`. The labels are random.
    """
    images = noise(NUM_IMAGES) if images is None else images
    loader = DataLoader(
        Images(images), BATCH_SIZE, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=workers > 0
    )
    model = build_model(name, 10).train()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    total_loss = total_correct = 0.0
    start = time.perf_counter()
    for step, (batch, labels) in zip(range(WARM_UP_STEPS + num_steps), endless(loader), strict=False):
        if step == WARM_UP_STEPS:
            start = time.perf_counter()
        logits = model(batch)
        loss = criterion(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total_loss += loss.item()
        total_correct += (logits.argmax(1) == labels).float().mean().item()
    return num_steps * BATCH_SIZE / (time.perf_counter() - start)


def endless(loader: DataLoader[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of one epoch after another, without end."""
    while True:
        yield from loader


class Images(Dataset[tuple[Tensor, int]]):
    """CIFAR-10 images, one at a time, augmented as in section 4.2."""

    def __init__(self, images: np.ndarray) -> None:
        """Store uint8 images of shape (n, 32, 32, 3) with random labels."""
        self.images = images
        self.labels = np.random.default_rng(0).integers(0, 10, len(images)).tolist()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.images[index])
        image = random_crop(image, 32, padding=4)
        image = random_horizontal_flip(image)
        return normalise(to_tensor(image)), self.labels[index]


def random_crop(image: Image.Image, size: int, padding: int) -> Image.Image:
    """Pad an image with black and crop a square of `size` pixels."""
    image = ImageOps.expand(image, border=padding, fill=0)
    top = int(torch.randint(0, image.height - size + 1, size=(1,)).item())
    left = int(torch.randint(0, image.width - size + 1, size=(1,)).item())
    return image.crop((left, top, left + size, top + size))


def random_horizontal_flip(image: Image.Image) -> Image.Image:
    """Mirror an image with probability 0.5."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if torch.rand(1) < 0.5 else image


def to_tensor(image: Image.Image) -> Tensor:
    """Return an image as floats from 0 to 1, of shape (3, height, width)."""
    pixels = torch.from_numpy(np.array(image, np.uint8, copy=True))
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1).contiguous().to(torch.float32).div(255)


def normalise(image: Tensor) -> Tensor:
    """Subtract CIFAR-10's mean and divide by its standard deviation, per channel."""
    return image.clone().sub_(MEAN).div_(STD)


def noise(num_images: int) -> np.ndarray:
    """Return random images: uint8 of shape (num_images, 32, 32, 3)."""
    return np.random.default_rng(0).integers(0, 256, (num_images, 32, 32, 3), dtype=np.uint8)


def read_images(path: Path) -> np.ndarray:
    """Read uint8 images of shape (n, 32, 32, 3) from a .npy file, or the array `images` (else the first) of a .npz.

    Raises:
        SystemExit: If the file holds something else.
    """
    loaded = np.load(path)
    if not isinstance(loaded, np.ndarray):
        loaded = loaded["images" if "images" in loaded.files else loaded.files[0]]
    if loaded.dtype != np.uint8 or loaded.shape[1:] != (32, 32, 3):
        raise SystemExit(f"{path}: {loaded.dtype} of shape {loaded.shape}; uint8 of shape (n, 32, 32, 3) is needed")
    return loaded


if __name__ == "__main__":
    sys.exit(main())
