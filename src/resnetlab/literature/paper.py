"""The numbers of the paper's Tables 1 to 8 and the protocol of each.

Source: He, Zhang, Ren, Sun, *Deep Residual Learning for Image Recognition*, arXiv 1512.03385 (2015).
"FLOPs" in the paper are multiply-adds; this package calls them MACs. Numbers from other sources are in
`reproductions.py`.
"""

from dataclasses import replace

from resnetlab.literature.protocol import LAST_EPOCH, Protocol, PublishedResult, published_results

# The paper names no precision; its tools used fp32. "Trained on the training set" and "a 45k/5k train/val split" (both
# section 4.2) are taken to mean: trained on the 45k.
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
    tested_epoch=LAST_EPOCH,
    views="single view",
    precision="fp32",
)
CIFAR_DEEP = replace(
    CIFAR,
    description=f"{CIFAR.description}, after lr 0.01 until the training error is below 80 %",
    warmup="lr 0.01 until the training error is below 80 %",
)
"""For 110 layers and more (section 4.2)."""
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
    description=(
        "validation, single model, fully convolutional at shorter sides 224, 256, 384, 480 and 640 (section 3.4)"
    ),
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

PUBLISHED: tuple[PublishedResult, ...] = (
    *published_results(
        "Table 1",
        {"macs": "FLOPs"},
        MACS,
        rows={
            "plain18": [1.8e9],
            "plain34": [3.6e9],
            "resnet18": [1.8e9],
            "resnet34": [3.6e9],
            "resnet50-v1": [3.8e9],
            "resnet101-v1": [7.6e9],
            "resnet152-v1": [11.3e9],
        },
    ),
    *published_results("Table 2", {"top1_error_pct": "plain"}, TEN_CROP, rows={"plain18": [27.94], "plain34": [28.54]}),
    *published_results(
        "Table 2", {"top1_error_pct": "ResNet"}, TEN_CROP, rows={"resnet18-A": [27.88], "resnet34-A": [25.03]}
    ),
    *published_results(
        "Table 3",
        BOTH,
        replace(TEN_CROP_OTHERS, description="validation, 10 crops; the paper's own test of it"),
        rows={
            "VGG-16": [28.07, 9.33],
        },
    ),
    *published_results("Table 3", BOTH, TEN_CROP_OTHERS, rows={"GoogLeNet": [None, 9.15], "PReLU-net": [24.27, 7.38]}),
    *published_results(
        "Table 3",
        BOTH,
        TEN_CROP,
        rows={
            "plain34": [28.54, 10.02],
            "resnet34-A": [25.03, 7.76],
            "resnet34-B": [24.52, 7.46],
            "resnet34-C": [24.19, 7.40],
            "resnet50-v1": [22.85, 6.71],
            "resnet101-v1": [21.75, 6.05],
            "resnet152-v1": [21.43, 5.71],
        },
    ),
    *published_results("Table 4", TOP5, SINGLE_ON_TEST, rows={"VGG (ILSVRC'14)": [8.43]}),
    *published_results(
        "Table 4",
        BOTH,
        SINGLE_OTHERS,
        rows={
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
        rows={
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
        rows={
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
        rows={
            "Maxout": [9.38],
            "NIN": [8.81],
            "DSN": [8.22],
            "FitNet, 19 layers": [8.39],
            "Highway, 32 layers": [8.80],
        },
    ),
    *published_results(
        "Table 6", ERROR, CIFAR, rows={"resnet20": [8.75], "resnet32": [7.51], "resnet44": [7.17], "resnet56": [6.97]}
    ),
    *published_results("Table 6", ERROR, CIFAR_DEEP, rows={"resnet1202": [7.93]}),
    PublishedResult(
        "Highway, 19 layers",
        "test_error_pct",
        7.72,
        table="Table 6",
        column="error (%), mean",
        protocol=CIFAR_OTHERS,
        std=0.16,
        num_runs=None,
    ),
    PublishedResult(
        "Highway, 19 layers",
        "best_test_error_pct",
        7.54,
        table="Table 6",
        column="error (%), best",
        protocol=CIFAR_OTHERS,
        num_runs=None,
    ),
    PublishedResult(
        "resnet110",
        "test_error_pct",
        6.61,
        table="Table 6",
        column="error (%), mean",
        protocol=CIFAR_DEEP,
        std=0.16,
        num_runs=5,
    ),
    PublishedResult(
        "resnet110",
        "best_test_error_pct",
        6.43,
        table="Table 6",
        column="error (%), best",
        protocol=CIFAR_DEEP,
        num_runs=5,
    ),
    *published_results(
        "Table 6",
        {"params": "# params"},
        PARAMS,
        rows={
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
    PublishedResult(
        "plain110",
        "test_error_pct",
        60.0,
        table="Figure 6",
        column="error (%)",
        protocol=CIFAR_DEEP,
        is_lower_bound=True,
    ),
    *published_results(
        "Table 7",
        {"map_pct": "07+12"},
        Protocol("baseline Faster R-CNN", "VOC 07 test"),
        rows={
            "VGG-16": [73.2],
            "ResNet-101": [76.4],
        },
    ),
    *published_results(
        "Table 7",
        {"map_pct": "07++12"},
        Protocol("baseline Faster R-CNN", "VOC 12 test"),
        rows={
            "VGG-16": [70.4],
            "ResNet-101": [73.8],
        },
    ),
    *published_results(
        "Table 8",
        {"map50_pct": "mAP@.5", "map_pct": "mAP@[.5, .95]"},
        Protocol("baseline Faster R-CNN", "COCO validation"),
        rows={
            "VGG-16": [41.5, 21.2],
            "ResNet-101": [48.4, 27.2],
        },
    ),
)
"""All numbers, table by table.

Two numbers are listed for ResNet-110, the mean and the best of five runs. Runs are compared with the mean, because the
best run was selected on the test set.
"""


def find_result(network: str, quantity: str) -> PublishedResult | None:
    """Return the paper's first result for a network and a quantity, or `None` if the paper has none."""
    return next((cell for cell in PUBLISHED if (cell.network, cell.quantity) == (network, quantity)), None)
