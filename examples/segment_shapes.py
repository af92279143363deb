"""Use a residual network as a backbone: its maps, summed from coarse to fine, classify every pixel.

The images are circles, squares and triangles on noise, generated here. All shapes take colour, texture and area from
the same distributions, and so does the background for colour and texture. A small patch therefore does not determine
the class of its pixels; only the whole shape does, and deep stages see it. The same head on the stem's map alone shows
the loss without them.

    python examples/segment_shapes.py
    python examples/segment_shapes.py --backbone resnet34 --shortcut none  # the plain network of as many layers
    python examples/segment_shapes.py --from runs/cifar10-resnet20-seed0 --freeze
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

import resnetlab
from resnetlab.data.transforms import normalise

SIDES = {"circle": 24, "square": 4, "triangle": 3}  # regular polygons; 24 sides are a circle to the eye
CLASSES = ("background", *SIDES)
COLOURS = np.array([(236, 236, 236), (0, 114, 178), (213, 94, 0), (0, 158, 115)], np.uint8)  # Okabe and Ito's
PIXELS = 96  # side of an image; the network accepts every size
SHORTCUTS = ("none", "pad", "project")
CHANNELS = (32, 64, 128, 256)  # half as wide as the paper's
PREPROCESSING = resnetlab.Preprocessing(PIXELS, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
WIDTH = 32  # channels of the head
BATCH, LR, WARMUP = 16, 5e-3, 30
NUM_TEST = 200  # images for evaluation


def main() -> int:
    """Read the options and run the comparison; print errors in one line."""
    parser = argparse.ArgumentParser(description="train a segmentation network on a resnetlab backbone")
    parser.add_argument("--steps", type=int, default=600, help=f"training steps of {BATCH} images (default: 600)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and images (default: 0)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/segment-shapes"), help="folder of the figure (%(default)s)"
    )
    parser.add_argument("--backbone", default="resnet18", help="an ImageNet network by name (default: %(default)s)")
    parser.add_argument("--shortcut", choices=SHORTCUTS, help="none: a plain network; pad, project: options A and B")
    parser.add_argument("--from", dest="file", metavar="MODEL", help="start from a model file or run directory")
    parser.add_argument("--freeze", action="store_true", help="train the head alone; the backbone stays as it is")
    options = parser.parse_args()
    if options.steps < 1 or options.seed < 0:
        parser.error("--steps must be at least 1, and --seed at least 0")
    if options.file is not None and options.shortcut is not None:
        parser.error("--shortcut is for new networks; that of --from is fixed")
    try:
        compare(options)
    except (resnetlab.ConfigError, OSError) as error:
        print(f"segment_shapes: {error}", file=sys.stderr)
        return 2 if isinstance(error, resnetlab.ConfigError) else 1
    return 0


def compare(options: argparse.Namespace) -> None:
    """Train with the stem's map alone and with all maps; print the IoU of both on the same images and save a figure."""
    load_backbone(options)  # raises before the output folder is created
    options.out.mkdir(parents=True, exist_ok=True)
    images, truth = make_images(NUM_TEST, np.random.default_rng((options.seed, 1)))
    predictions = {"always background": torch.zeros_like(truth)}
    for name in ("stem alone", "all stages"):
        torch.manual_seed(options.seed)
        backbone, preprocessing = load_backbone(options)
        maps = ["stem"] if name == "stem alone" else list(backbone.feature_channels)
        model = Segmenter(backbone.requires_grad_(not options.freeze), maps, preprocessing)
        print(f"{name}: a head on {', '.join(maps)}{' of a frozen backbone' if options.freeze else ''}")
        train(model, options.steps, np.random.default_rng((options.seed, 0)))
        predictions[name] = predict(model, images)
    print_iou(predictions, truth)
    figure = draw(images, {"truth": truth, **{name: predictions[name] for name in ("all stages", "stem alone")}})
    figure.savefig(options.out / "segments.png", dpi=120)
    print(f"figure: {options.out / 'segments.png'}")


class Segmenter(nn.Module):
    """A backbone, and a head that classifies every pixel from the sum of its maps.

    Maps uint8 images (batch, 3, height, width) to logits (batch, classes, height, width).
    """

    def __init__(self, backbone: resnetlab.ResNet, maps: list[str], preprocessing: resnetlab.Preprocessing) -> None:
        super().__init__()
        self.backbone, self.preprocessing = backbone, preprocessing
        self.lateral = nn.ModuleDict({name: nn.Conv2d(backbone.feature_channels[name], WIDTH, 1) for name in maps})
        self.smooth = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.classify = nn.Conv2d(WIDTH, len(CLASSES), 1)

    def forward(self, images: Tensor) -> Tensor:
        """Project every map to the same number of channels, add them from coarse to fine, and classify."""
        x = normalise(images, self.preprocessing)
        maps = self.backbone.features(x) if len(self.lateral) > 1 else {"stem": self.backbone.stem(x)}
        coarsest, *finer = list(self.lateral)[::-1]
        total = self.lateral[coarsest](maps[coarsest])
        for name in finer:
            total = self.lateral[name](maps[name]) + resize_like(total, maps[name])
        return resize_like(self.classify(F.relu(self.smooth(total))), images)


def resize_like(x: Tensor, like: Tensor) -> Tensor:
    """Interpolate a map to the height and width of another."""
    return F.interpolate(x, like.shape[-2:], mode="bilinear")


def load_backbone(options: argparse.Namespace) -> tuple[resnetlab.ResNet, resnetlab.Preprocessing]:
    """Return a network and its preprocessing, from a model file or with random weights."""
    if options.file is None:
        wiring = {} if options.shortcut is None else {"shortcut": options.shortcut}
        return resnetlab.build_model(options.backbone, stage_channels=CHANNELS, **wiring), PREPROCESSING
    model, card = resnetlab.load_model(options.file)
    if card.model.in_channels != 3:
        raise resnetlab.ConfigError(f"{options.file} reads {card.model.in_channels}-channel images; the example has 3")
    return model, replace(card.preprocessing, pixel_mean=())  # a mean for each pixel fits only one size


def train(model: Segmenter, steps: int, rng: np.random.Generator) -> None:
    """Train for `steps` steps, each on new images, and print the loss six times."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    model.train()
    model.backbone.train(model.backbone.get_parameter("conv1.weight").requires_grad)  # frozen: BN keeps its statistics
    start_s = time.perf_counter()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = LR * min((step + 1) / WARMUP, 1 - step / steps)
        images, truth = make_images(BATCH, rng)
        loss = F.cross_entropy(model(images), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if 6 * (step + 1) // steps > 6 * step // steps:
            print(f"  step {step + 1:>5,}  loss {loss.item():.3f}  {time.perf_counter() - start_s:5.1f} s", flush=True)


@torch.no_grad()
def predict(model: Segmenter, images: Tensor) -> Tensor:
    """Return the predicted class of every pixel, int64 (batch, height, width)."""
    model.eval()
    return torch.cat([model(batch).argmax(1) for batch in images.split(50)])


def print_iou(predictions: dict[str, Tensor], truth: Tensor) -> None:
    """Print the intersection over union of predicted and true pixels for each class, and the mean."""
    print(f"\nIoU in %, {len(truth)} test images")
    print(f"{'':<18}{'mean':>6}", *(f"{name:>10}" for name in CLASSES))
    for name, labels in predictions.items():
        masks = [(labels == index, truth == index) for index in range(len(CLASSES))]
        iou = [100 * int((a & b).sum()) / max(1, int((a | b).sum())) for a, b in masks]
        print(f"{name:<18}{sum(iou) / len(iou):>6.1f}", *(f"{value:>10.1f}" for value in iou))


def make_images(count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Generate images, uint8 (count, 3, height, width), and the class of each pixel, int64 (count, height, width)."""
    images, truth = zip(*(make_image(rng) for _ in range(count)), strict=True)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(np.stack(truth))


def make_image(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Generate one to three shapes on a background, later ones over earlier ones."""
    image, truth = texture(rng), np.zeros((PIXELS, PIXELS), np.int64)
    for label in rng.integers(1, len(CLASSES), rng.integers(1, 4)):
        inside = polygon(SIDES[CLASSES[label]], rng)
        image[inside], truth[inside] = texture(rng)[inside], label
    return (255 * image.clip(0, 1)).astype(np.uint8), truth


def texture(rng: np.random.Generator) -> np.ndarray:
    """Return a random colour with noise of random grain and strength, (height, width, 3), about 0 to 1."""
    grain, strength = rng.integers(1, 7), rng.uniform(0.03, 0.13)
    side = -(-PIXELS // grain)
    coarse = rng.uniform(0.15, 0.85, 3) + rng.normal(0, strength, (side, side, 3))
    return coarse.repeat(grain, 0).repeat(grain, 1)[:PIXELS, :PIXELS]


def polygon(sides: int, rng: np.random.Generator) -> np.ndarray:
    """Return the mask of a regular polygon with random position, area and tilt; all shapes have the same areas."""
    area = rng.uniform(0.05, 0.18) * PIXELS**2
    apothem = np.sqrt(area / (sides * np.tan(np.pi / sides)))
    y, x = np.mgrid[:PIXELS, :PIXELS] - rng.uniform(0.2 * PIXELS, 0.8 * PIXELS, (2, 1, 1))
    angles = np.pi / 2 + rng.uniform(-0.3, 0.3) + np.arange(sides)[:, None, None] * 2 * np.pi / sides
    return (x * np.cos(angles) + y * np.sin(angles)).max(0) < apothem  # inside of every side


def draw(images: Tensor, labels: dict[str, Tensor], rows: int = 6) -> Figure:
    """Return a figure of images, true labels and predictions, with a legend."""
    figure = Figure(figsize=(1.5 * (1 + len(labels)), 1.5 * rows + 0.7), layout="constrained")
    columns = {"image": images.permute(0, 2, 3, 1).numpy()}
    columns |= {name: COLOURS[x.numpy()] for name, x in labels.items()}
    axes = figure.subplots(rows, len(columns))
    for column, (name, pixels) in enumerate(columns.items()):
        axes[0, column].set_title(name)
        for row in range(rows):
            axes[row, column].imshow(pixels[row])
            axes[row, column].set_axis_off()
    patches = [Rectangle((0, 0), 1, 1, color=tuple(colour / 255)) for colour in COLOURS]
    figure.legend(patches, CLASSES, loc="outside lower center", ncols=len(CLASSES), frameon=False)
    return figure


if __name__ == "__main__":
    sys.exit(main())
