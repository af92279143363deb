"""Training speeds that others published, to hold the plan against. No torch here."""

from dataclasses import dataclass

from resnetlab.planning.devices import DEVICES, GB, TERA, Device

IMAGENET_TRAIN = 1_281_167
"""Training images of ILSVRC-2012."""


@dataclass(frozen=True)
class PublishedSpeed:
    """A measured speed, and how it was measured."""

    model: str
    device: str
    devices: int
    half: bool
    sizes: tuple[tuple[int, float], ...]
    """Side of the training images in pixels, and the share of the epochs."""
    batch_size: int
    """Images of a step on each device."""
    images_per_s: float
    source: str
    held_out: bool = False
    """Whether the figure was looked up after the plan's constants had been set, and changed none."""


def _in_minutes(epochs: int, minutes: float) -> float:
    return IMAGENET_TRAIN * epochs / (60 * minutes)


WHOLE = ((224, 1.0),)
GROWING = ((160, 0.75), (192, 0.25))
_NVIDIA = "NVIDIA DeepLearningExamples, ResNet50 v1.5 for PyTorch, container 21.03"
_MXNET = "NVIDIA DeepLearningExamples, ResNet50 v1.5 for MXNet, container 20.12"
_FFCV = "libffcv/ffcv-imagenet, 88 epochs, p4.24xlarge"
_TIMM = "huggingface/pytorch-image-models, results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv"

FIGURES = (
    PublishedSpeed("resnet50", "a100", 1, True, WHOLE, 256, 2470, _NVIDIA),
    PublishedSpeed("resnet50", "a100", 8, True, WHOLE, 256, 16_621, _NVIDIA),
    PublishedSpeed("resnet50", "a100", 1, False, WHOLE, 256, 938, f"{_NVIDIA}, TF32"),
    PublishedSpeed("resnet50", "a100", 8, False, WHOLE, 256, 7248, f"{_NVIDIA}, TF32"),
    PublishedSpeed("resnet50", "v100", 1, True, WHOLE, 128, 1156, f"{_NVIDIA}, DGX-1 32 GB"),
    PublishedSpeed("resnet50", "v100", 8, True, WHOLE, 128, 8056, f"{_NVIDIA}, DGX-1 32 GB"),
    PublishedSpeed("resnet50", "v100", 1, False, WHOLE, 128, 356, f"{_NVIDIA}, DGX-1 32 GB"),
    PublishedSpeed("resnet50", "v100", 8, False, WHOLE, 128, 2766, f"{_NVIDIA}, DGX-1 32 GB"),
    PublishedSpeed("resnet50", "a100-40gb", 8, True, GROWING, 128, _in_minutes(88, 77.2), _FFCV),
    PublishedSpeed("resnet18", "a100-40gb", 1, True, GROWING, 1024, _in_minutes(88, 187.3), _FFCV),
    PublishedSpeed("resnet50", "a100", 1, True, WHOLE, 256, 2180, _MXNET, held_out=True),
    PublishedSpeed("resnet50", "a100", 2, True, WHOLE, 256, 4332, _MXNET, held_out=True),
    PublishedSpeed("resnet50", "a100", 8, True, WHOLE, 256, 16_925, _MXNET, held_out=True),
    PublishedSpeed("resnet50", "a100", 1, False, WHOLE, 256, 1022, f"{_MXNET}, TF32", held_out=True),
    PublishedSpeed("resnet50", "a100", 8, False, WHOLE, 256, 8001, f"{_MXNET}, TF32", held_out=True),
    PublishedSpeed("resnet50", "v100", 1, True, WHOLE, 256, 1492, f"{_MXNET}, DGX-2", held_out=True),
    PublishedSpeed("resnet50", "v100", 16, True, WHOLE, 256, 21_484, f"{_MXNET}, DGX-2", held_out=True),
    PublishedSpeed("resnet50", "v100", 1, False, WHOLE, 128, 417, f"{_MXNET}, DGX-2", held_out=True),
    PublishedSpeed("resnet50", "v100", 16, False, WHOLE, 128, 6338, f"{_MXNET}, DGX-2", held_out=True),
    PublishedSpeed("resnet18", "rtx3090", 1, True, WHOLE, 512, 3482, _TIMM, held_out=True),
    PublishedSpeed("resnet34", "rtx3090", 1, True, WHOLE, 512, 2037, _TIMM, held_out=True),
    PublishedSpeed("resnet50", "rtx3090", 1, True, WHOLE, 512, 1218, _TIMM, held_out=True),
    PublishedSpeed("resnet101", "rtx3090", 1, True, WHOLE, 256, 748, _TIMM, held_out=True),
    PublishedSpeed("resnet152", "rtx3090", 1, True, WHOLE, 192, 501, _TIMM, held_out=True),
)
"""ffcv's times are of whole trainings; they resize from 160 to 192 pixels after three quarters. A DGX-2 has 16
devices in a node; the plan takes them for those of two DGX-1."""

COMPARED = DEVICES | {
    "rtx3090": Device(
        "rtx3090",
        "GeForce RTX 3090",
        24,
        936 * GB,
        71 * TERA,
        35.6 * TERA,
        True,
        12 * GB,
        1.25 * GB,
        1,
        8,
        "NVIDIA GA102 whitepaper, Appendix A; 16-bit products summed in 32 bits",
    )
}
"""What the figures were measured on. The GeForce is not offered: it is predicted a third too slow."""
