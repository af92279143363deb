"""Numbers that the paper's authors and others published after the paper, and the protocol of each.

The protocols come from each source's page and, where it has one, its training script. A value that a source leaves open
is `None`, and no run can match it.
"""

from dataclasses import replace

from resnetlab.literature.paper import CIFAR, TEN_CROP
from resnetlab.literature.protocol import BEST_ON_TEST, Protocol, PublishedResult, published_results

ONE_CROP = replace(TEN_CROP, description="validation, centre crop of 224 of the shorter side 256", views="1 crop")
FAIR = Protocol(
    "validation, centre crop of 224; trained with crops of random scale and aspect ratio and stronger colours",
    "ImageNet",
    num_test=50_000,
    image_size=224,
    views="1 crop",
)

NABLA = replace(
    CIFAR,
    description="as the paper, except that images are normalised by mean and deviation of each channel",
    normalise="mean and deviation per channel",
)
NABLA_DEEP = replace(
    NABLA,
    description=f"{NABLA.description}; lr 0.01 for 400 steps, 0.1, and at 32k at once 0.001 (its train.py)",
    warmup="lr 0.01 for 400 steps",
    schedule="divided by 100 at 50 % and by 10 at 75 %",
)
TECHXZEN = replace(
    CIFAR,
    description="trained on all 50k, batch 100, padding by edge pixels; tested in every epoch (its run.py), and which "
    "number is printed is not stated",
    num_train=50_000,
    num_val=0,
    batch_size=100,
    augmentation=("crops from 4 edge pixels repeated", "flips"),
    normalise="mean per channel",
    tested_epoch=None,
)
FISH145 = Protocol("without augmentation; nothing else is published", "CIFAR-10", num_test=10_000, augmentation=())
IDELBAYEV = replace(
    CIFAR,
    description="trained on all 50k for 200 epochs; the best epoch on the test set",
    num_train=50_000,
    num_val=0,
    steps=78_200,  # 200 epochs of 391, the last batch of each a short one
    normalise="mean and deviation per channel",
    tested_epoch=BEST_ON_TEST,
)
IDELBAYEV_DEEP = replace(
    IDELBAYEV, description=f"{IDELBAYEV.description}; lr 0.01 for one epoch", warmup="lr 0.01 for one epoch"
)

TIMM_A3 = Protocol(
    "ResNet strikes back, A3: validation, centre crop of 224 on 0.95 of the resized image; the recipe timm-a3",
    "ImageNet",
    num_train=1_281_167,
    num_test=50_000,
    image_size=160,
    steps=62_500,  # 100 epochs of 625
    batch_size=2048,
    lr=0.008,
    schedule="falling to 0 along a cosine",
    warmup="lr rising over 5 epochs",
    weight_decay=0.02,
    augmentation=("crops of random scale and aspect ratio", "flips"),
    normalise="mean and deviation per channel",
    views="1 crop",
    extras=(
        'optimizer="lamb"',
        "clip_grad_norm=1.0",
        'loss="bce"',
        "bce_threshold=0.2",
        "mixup=0.1",
        "cutmix=1.0",
        "rand_augment=6.0",
        "decay_norms=false",
    ),
)
TORCHVISION_V2 = Protocol(
    "IMAGENET1K_V2: validation, centre crop of 224 of the shorter side 232; the recipe torchvision-v2",
    "ImageNet",
    num_train=1_281_167,
    num_test=50_000,
    image_size=176,
    batch_size=1024,
    lr=0.5,
    schedule="falling to 0 along a cosine",
    warmup="lr rising over 5 epochs",
    momentum=0.9,
    weight_decay=2e-5,
    augmentation=("crops of random scale and aspect ratio", "flips"),
    normalise="mean and deviation per channel",
    views="1 crop",
    extras=(
        "label_smoothing=0.1",
        "mixup=0.2",
        "cutmix=1.0",
        "trivial_augment=true",
        "random_erasing=0.1",
        "augment_repeats=4",
        f"ema_decay={1 - (1 - 0.99998) * 1024 / 600}",  # a step's share of its averages over 32 steps
        "decay_norms=false",
    ),
)

REPRODUCTIONS: tuple[PublishedResult, ...] = (
    *published_results(
        "README",
        {"top1_error_pct": "top-1", "top5_error_pct": "top-5"},
        ONE_CROP,
        rows={
            "resnet50-v1": [24.7, 7.8],
            "resnet101-v1": [23.6, 7.1],
            "resnet152-v1": [23.0, 6.7],
        },
        source="KaimingHe/deep-residual-networks",
    ),
    # According to its page, its ResNet-50 normalises after the addition. Strides are in the 3x3 (v1.5).
    *published_results(
        "README",
        {"top1_error_pct": "Top-1 error", "top5_error_pct": "Top-5 error"},
        FAIR,
        rows={
            "resnet18": [30.43, 10.76],
            "resnet34": [26.73, 8.74],
            "resnet50": [24.01, 7.02],
            "resnet101": [22.44, 6.21],
            "resnet152": [22.16, 6.16],
        },
        source="facebook/fb.resnet.torch",
    ),
    *(
        PublishedResult(
            network,
            "test_error_pct",
            mean,
            table="README",
            column="test error (%)",
            protocol=protocol,
            std=std,
            num_runs=5,
            source="nabla0001/resnet",
        )
        for network, mean, std, protocol in (
            ("plain20", 9.78, 0.13, NABLA),
            ("plain56", 12.95, 0.22, NABLA),
            ("resnet20", 8.51, 0.22, NABLA),
            ("resnet56", 7.40, 0.27, NABLA),
            ("resnet110", 7.14, 0.20, NABLA_DEEP),
        )
    ),
    *published_results(
        "README",
        {"test_error_pct": "Error rate (%)"},
        TECHXZEN,
        rows={
            "plain20": [10.08],
            "plain32": [11.15],
            "plain44": [14.12],
            "plain56": [15.39],
            "resnet20": [8.74],
            "resnet32": [8.30],
            "resnet44": [7.16],
            "resnet56": [7.41],
        },
        source="techxzen/pytorch-residual-networks",
    ),
    *published_results(
        "README",
        {"test_error_pct": "PlainNet, 100 − accuracy"},
        FISH145,
        rows={
            "plain20": [9.90],
            "plain32": [13.04],
            "plain44": [15.55],
            "plain56": [14.74],
        },
        source="fish145/ResNet-on-Cifar10",
    ),
    *published_results(
        "README",
        {"test_error_pct": "Test err(this impl.)"},
        IDELBAYEV,
        rows={
            "resnet20": [8.27],
            "resnet32": [7.37],
            "resnet44": [6.90],
            "resnet56": [6.61],
        },
        source="akamaster/pytorch_resnet_cifar10",
    ),
    *published_results(
        "README",
        {"test_error_pct": "Test err(this impl.)"},
        IDELBAYEV_DEEP,
        rows={
            "resnet110": [6.32],
            "resnet1202": [6.18],
        },
        source="akamaster/pytorch_resnet_cifar10",
    ),
    *published_results(
        "model cards of timm's ResNets, table of comparison, resnet50.a3_in1k",
        {"top1_error_pct": "100 − top1", "top5_error_pct": "100 − top5"},
        TIMM_A3,
        rows={"resnet50": [21.94, 6.22]},
        source="huggingface/pytorch-image-models",
    ),
    *published_results(
        "ResNet50_Weights.IMAGENET1K_V2",
        {"top1_error_pct": "100 − acc@1", "top5_error_pct": "100 − acc@5"},
        TORCHVISION_V2,
        rows={"resnet50": [19.142, 4.566]},
        source="pytorch/vision",
    ),
)
"""All numbers, source by source; the source with a standard deviation precedes those with single values."""


def independent_results(network: str, quantity: str) -> tuple[PublishedResult, ...]:
    """Return the results of a network and a quantity that were published after the paper."""
    return tuple(cell for cell in REPRODUCTIONS if (cell.network, cell.quantity) == (network, quantity))
