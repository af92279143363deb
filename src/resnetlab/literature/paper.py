"""Every number of the paper's Tables 1 to 8, and how each was measured. No torch here.

Source: He, Zhang, Ren, Sun, *Deep Residual Learning for Image Recognition*, arXiv 1512.03385 (2015).
"FLOPs" in the paper are multiply-adds; we say MACs. What others published is in `reproductions.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

LAST_EPOCH, BEST_ON_VAL, BEST_ON_TEST = "the last epoch", "the best epoch on validation", "the best epoch on test"
"""What `Protocol.kept` says: which weights were tested."""


@dataclass(frozen=True)
class Protocol:
    """How a number was measured: what a run must have in common with it to be called a reproduction.

    `None` in a field: it is not published, or has no meaning there. Two protocols are equal where their fields are;
    `words` do not count.
    """

    words: str = field(compare=False)
    """The protocol for people."""
    data: str
    """The data set, as the field calls it: `CIFAR-10`."""
    num_train: int | None = None
    num_val: int | None = None
    """Images held out of the training set, on which choices are made."""
    num_test: int | None = None
    """Images that the number was measured on."""
    image_size: int | None = None
    """Side in pixels of what the network sees in training."""
    steps: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    """Highest learning rate."""
    schedule: str | None = None
    """How the learning rate falls: `divided by 10 at 50 % and 75 %` of the run."""
    warmup: str | None = None
    """How training starts: `no warm-up`, `lr 0.01 until the training error is below 80 %`."""
    momentum: float | None = None
    weight_decay: float | None = None
    augmentation: tuple[str, ...] | None = None
    """What is done to training images, each in words: `flips`."""
    normalise: str | None = None
    """What is subtracted from images, and what they are divided by."""
    kept: str | None = None
    """The epoch whose weights were tested."""
    views: str | None = None
    """What the network sees of a test image: `single view`, `10 crops`."""
    precision: str | None = None
    """Of convolutions and products in training."""


@dataclass(frozen=True)
class PublishedResult:
    """One published number; `value` is in the unit of `quantity`."""

    network: str
    """A name that `model_config` knows, with the shortcut's letter where a table has several; else as printed."""
    quantity: str
    value: float
    table: str
    """`Table 6`, or where else it stands."""
    column: str
    """The column's head, as printed."""
    protocol: Protocol
    spread: float | None = None
    """Standard deviation over runs, in the unit of the value, where it is published."""
    num_runs: int | None = 1
    """Runs behind the number; `None` where nobody says."""
    source: str = "paper"
    """`paper`, or who else published the number."""
    above: bool = False
    """Published is only that the number is above `value`."""

    @property
    def where(self) -> str:
        """Where to look it up: `Table 6`, or whose reproduction it is."""
        return self.table if self.source == "paper" else self.source


def published_results(
    table: str,
    columns: Mapping[str, str],
    protocol: Protocol,
    rows: Mapping[str, Sequence[float | None]],
    source: str = "paper",
) -> tuple[PublishedResult, ...]:
    """Return a table's cells row by row; `columns` are quantities and their heads, `None` is a dash."""
    return tuple(
        PublishedResult(network, quantity, value, table, column, protocol, source=source)
        for network, values in rows.items()
        for (quantity, column), value in zip(columns.items(), values, strict=True)
        if value is not None
    )


# The paper names no precision; single was what its tools had. "Trained on the training set" and "a 45k/5k train/val
# split" (both section 4.2) are read as: trained on the 45k.
CIFAR = Protocol(
    "test set, single view; trained on 45k of 50k, 64k steps of batch 128, lr 0.1 divided at 32k and 48k (section 4.2)",
    "CIFAR-10",
    num_train=45_000,
    num_val=5_000,
    num_test=10_000,
    image_size=32,
    steps=64_000,
    batch_size=128,
    lr=0.1,
    schedule="divided by 10 at 50 % and 75 %",
    warmup="no warm-up",
    momentum=0.9,
    weight_decay=1e-4,
    augmentation=("crops from 4 pixels of padding", "flips"),
    normalise="mean per pixel",
    kept=LAST_EPOCH,
    views="single view",
    precision="fp32",
)
CIFAR_DEEP = replace(
    CIFAR,
    words=f"{CIFAR.words}, after lr 0.01 until the training error is below 80 %",
    warmup="lr 0.01 until the training error is below 80 %",
)
"""From 110 layers on (section 4.2)."""
CIFAR_OTHERS = Protocol("test set; each by its own authors' recipe, with augmentation", "CIFAR-10", num_test=10_000)

TEN_CROP = Protocol(
    "validation, 10 crops; up to 600k steps of batch 256, lr 0.1 divided where the error plateaus (section 3.4)",
    "ImageNet",
    num_train=1_281_167,  # ILSVRC 2012; the paper says 1.28 million
    num_test=50_000,
    image_size=224,
    steps=600_000,
    batch_size=256,
    lr=0.1,
    schedule="divided by 10 where the error plateaus",
    momentum=0.9,
    weight_decay=1e-4,
    augmentation=("crops after scaling the shorter side to 256 … 480", "flips", "PCA lighting"),
    normalise="mean per pixel",
    views="10 crops",
)
DENSE = replace(
    TEN_CROP,
    words="validation, single model, fully convolutional at shorter sides 224, 256, 384, 480 and 640 (section 3.4)",
    views="fully convolutional, 5 scales",
)
TEN_CROP_OTHERS = Protocol(
    "validation, 10 crops; by its own authors' recipe", "ImageNet", num_test=50_000, views="10 crops"
)
SINGLE_OTHERS = Protocol("validation, single model, by its own authors' recipe and views", "ImageNet", num_test=50_000)
SINGLE_ON_TEST = Protocol("test server, single model, by its own authors' recipe and views", "ImageNet test")
ENSEMBLE = Protocol("test server, ensembles", "ImageNet test")
MACS = Protocol("multiply-adds of one image of 224x224, printed with two or three figures", "ImageNet", image_size=224)
PARAMS = Protocol("counted, printed with two or three figures", "CIFAR-10", image_size=32)

TOP5, ERROR = {"top5_error_pct": "top-5 err."}, {"test_error_pct": "error (%)"}
BOTH = {"top1_error_pct": "top-1 err.", **TOP5}

LEDGER: tuple[PublishedResult, ...] = (
    *published_results(
        "Table 1",
        {"macs": "FLOPs"},
        MACS,
        {
            "plain18": [1.8e9],
            "plain34": [3.6e9],
            "resnet18": [1.8e9],
            "resnet34": [3.6e9],
            "resnet50-v1": [3.8e9],
            "resnet101-v1": [7.6e9],
            "resnet152-v1": [11.3e9],
        },
    ),
    *published_results("Table 2", {"top1_error_pct": "plain"}, TEN_CROP, {"plain18": [27.94], "plain34": [28.54]}),
    *published_results(
        "Table 2", {"top1_error_pct": "ResNet"}, TEN_CROP, {"resnet18-A": [27.88], "resnet34-A": [25.03]}
    ),
    *published_results(
        "Table 3",
        BOTH,
        replace(TEN_CROP_OTHERS, words="validation, 10 crops; the paper's own test of it"),
        {
            "VGG-16": [28.07, 9.33],
        },
    ),
    *published_results("Table 3", BOTH, TEN_CROP_OTHERS, {"GoogLeNet": [None, 9.15], "PReLU-net": [24.27, 7.38]}),
    *published_results(
        "Table 3",
        BOTH,
        TEN_CROP,
        {
            "plain34": [28.54, 10.02],
            "resnet34-A": [25.03, 7.76],
            "resnet34-B": [24.52, 7.46],
            "resnet34-C": [24.19, 7.40],
            "resnet50-v1": [22.85, 6.71],
            "resnet101-v1": [21.75, 6.05],
            "resnet152-v1": [21.43, 5.71],
        },
    ),
    *published_results("Table 4", TOP5, SINGLE_ON_TEST, {"VGG (ILSVRC'14)": [8.43]}),
    *published_results(
        "Table 4",
        BOTH,
        SINGLE_OTHERS,
        {
            "GoogLeNet (ILSVRC'14)": [None, 7.89],
            "VGG (v5)": [24.4, 7.1],
            "PReLU-net": [21.59, 5.71],
            "BN-inception": [21.99, 5.81],
        },
    ),
    *published_results(
        "Table 4",
        BOTH,
        DENSE,
        {
            "resnet34-B": [21.84, 5.71],
            "resnet34-C": [21.53, 5.60],
            "resnet50-v1": [20.74, 5.25],
            "resnet101-v1": [19.87, 4.60],
            "resnet152-v1": [19.38, 4.49],
        },
    ),
    *published_results(
        "Table 5",
        {"top5_error_pct": "top-5 err. (test)"},
        ENSEMBLE,
        {
            "VGG (ILSVRC'14)": [7.32],
            "GoogLeNet (ILSVRC'14)": [6.66],
            "VGG (v5)": [6.8],
            "PReLU-net": [4.94],
            "BN-inception": [4.82],
            "ResNet (ILSVRC'15)": [3.57],
        },
    ),
    *published_results(
        "Table 6",
        ERROR,
        CIFAR_OTHERS,
        {
            "Maxout": [9.38],
            "NIN": [8.81],
            "DSN": [8.22],
            "FitNet, 19 layers": [8.39],
            "Highway, 32 layers": [8.80],
        },
    ),
    *published_results(
        "Table 6", ERROR, CIFAR, {"resnet20": [8.75], "resnet32": [7.51], "resnet44": [7.17], "resnet56": [6.97]}
    ),
    *published_results("Table 6", ERROR, CIFAR_DEEP, {"resnet1202": [7.93]}),
    PublishedResult(
        "Highway, 19 layers", "test_error_pct", 7.72, "Table 6", "error (%), mean", CIFAR_OTHERS, 0.16, None
    ),
    PublishedResult(
        "Highway, 19 layers", "best_test_error_pct", 7.54, "Table 6", "error (%), best", CIFAR_OTHERS, None, None
    ),
    PublishedResult("resnet110", "test_error_pct", 6.61, "Table 6", "error (%), mean", CIFAR_DEEP, 0.16, 5),
    PublishedResult("resnet110", "best_test_error_pct", 6.43, "Table 6", "error (%), best", CIFAR_DEEP, None, 5),
    *published_results(
        "Table 6",
        {"params": "# params"},
        PARAMS,
        {
            "FitNet, 19 layers": [2.5e6],
            "Highway, 19 layers": [2.3e6],
            "Highway, 32 layers": [1.25e6],
            "resnet20": [0.27e6],
            "resnet32": [0.46e6],
            "resnet44": [0.66e6],
            "resnet56": [0.85e6],
            "resnet110": [1.7e6],
            "resnet1202": [19.4e6],
        },
    ),
    PublishedResult("plain110", "test_error_pct", 60.0, "Figure 6", "error (%)", CIFAR_DEEP, above=True),
    *published_results(
        "Table 7",
        {"map_pct": "07+12"},
        Protocol("baseline Faster R-CNN", "VOC 07 test"),
        {
            "VGG-16": [73.2],
            "ResNet-101": [76.4],
        },
    ),
    *published_results(
        "Table 7",
        {"map_pct": "07++12"},
        Protocol("baseline Faster R-CNN", "VOC 12 test"),
        {
            "VGG-16": [70.4],
            "ResNet-101": [73.8],
        },
    ),
    *published_results(
        "Table 8",
        {"map50_pct": "mAP@.5", "map_pct": "mAP@[.5, .95]"},
        Protocol("baseline Faster R-CNN", "COCO validation"),
        {
            "VGG-16": [41.5, 21.2],
            "ResNet-101": [48.4, 27.2],
        },
    ),
)
"""Table by table. Of ResNet-110 both numbers are kept, the best of five runs and their mean: a run is compared with the
mean, since the best of five was chosen on the test set."""


def find_result(network: str, quantity: str) -> PublishedResult | None:
    """Return the paper's cell for a network and a quantity, the first of its tables, or `None` where it has none."""
    return next((cell for cell in LEDGER if (cell.network, cell.quantity) == (network, quantity)), None)
