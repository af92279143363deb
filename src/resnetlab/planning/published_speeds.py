"""Training speeds that others published, to compare with the plan's predictions."""

from dataclasses import dataclass

from resnetlab.planning.devices import DEVICES, GB, TERA, Device

IMAGENET_TRAIN = 1_281_167
"""Training images of ILSVRC-2012."""


@dataclass(frozen=True)
class PublishedSpeed:
    """A published training speed and its conditions."""

    model: str
    device: str
    devices: int
    half: bool
    """Whether activations and products have 16 bits."""
    sizes: tuple[tuple[int, float], ...]
    """Side of the training images in pixels, and the share of the epochs with that side."""
    batch_size: int
    """Images of a step on each device."""
    images_per_s: float
    source: str
    held_out: bool = False
    """Whether the speed was looked up after the plan's constants had been set, and changed none of them."""


def _training_speed(epochs: int, minutes: float) -> float:
    """Return images per second from the time of a whole training on ImageNet."""
    return IMAGENET_TRAIN * epochs / (60 * minutes)


FIXED = ((224, 1.0),)
PROGRESSIVE = ((160, 0.75), (192, 0.25))
"""ffcv resizes from 160 to 192 pixels after three quarters of the epochs."""
_NVIDIA = "NVIDIA DeepLearningExamples, ResNet50 v1.5 for PyTorch, container 21.03"
_MXNET = "NVIDIA DeepLearningExamples, ResNet50 v1.5 for MXNet, container 20.12"
_FFCV = "libffcv/ffcv-imagenet, 88 epochs, p4.24xlarge"
_TIMM = "huggingface/pytorch-image-models, results/benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv"

# model, device, devices, 16 bits, sizes, images of a step on each device, images/s, source
_FITTED = (
    ("resnet50", "a100", 1, True, FIXED, 256, 2470, _NVIDIA),
    ("resnet50", "a100", 8, True, FIXED, 256, 16_621, _NVIDIA),
    ("resnet50", "a100", 1, False, FIXED, 256, 938, f"{_NVIDIA}, TF32"),
    ("resnet50", "a100", 8, False, FIXED, 256, 7248, f"{_NVIDIA}, TF32"),
    ("resnet50", "v100", 1, True, FIXED, 128, 1156, f"{_NVIDIA}, DGX-1 32 GB"),
    ("resnet50", "v100", 8, True, FIXED, 128, 8056, f"{_NVIDIA}, DGX-1 32 GB"),
    ("resnet50", "v100", 1, False, FIXED, 128, 356, f"{_NVIDIA}, DGX-1 32 GB"),
    ("resnet50", "v100", 8, False, FIXED, 128, 2766, f"{_NVIDIA}, DGX-1 32 GB"),
    ("resnet50", "a100-40gb", 8, True, PROGRESSIVE, 128, _training_speed(88, 77.2), _FFCV),
    ("resnet18", "a100-40gb", 1, True, PROGRESSIVE, 1024, _training_speed(88, 187.3), _FFCV),
)
_HELD_OUT = (
    ("resnet50", "a100", 1, True, FIXED, 256, 2180, _MXNET),
    ("resnet50", "a100", 2, True, FIXED, 256, 4332, _MXNET),
    ("resnet50", "a100", 8, True, FIXED, 256, 16_925, _MXNET),
    ("resnet50", "a100", 1, False, FIXED, 256, 1022, f"{_MXNET}, TF32"),
    ("resnet50", "a100", 8, False, FIXED, 256, 8001, f"{_MXNET}, TF32"),
    # A DGX-2 has 16 devices in a node; the plan treats them as two DGX-1.
    ("resnet50", "v100", 1, True, FIXED, 256, 1492, f"{_MXNET}, DGX-2"),
    ("resnet50", "v100", 16, True, FIXED, 256, 21_484, f"{_MXNET}, DGX-2"),
    ("resnet50", "v100", 1, False, FIXED, 128, 417, f"{_MXNET}, DGX-2"),
    ("resnet50", "v100", 16, False, FIXED, 128, 6338, f"{_MXNET}, DGX-2"),
    ("resnet18", "rtx3090", 1, True, FIXED, 512, 3482, _TIMM),
    ("resnet34", "rtx3090", 1, True, FIXED, 512, 2037, _TIMM),
    ("resnet50", "rtx3090", 1, True, FIXED, 512, 1218, _TIMM),
    ("resnet101", "rtx3090", 1, True, FIXED, 256, 748, _TIMM),
    ("resnet152", "rtx3090", 1, True, FIXED, 192, 501, _TIMM),
)

PUBLISHED_SPEEDS = tuple(
    PublishedSpeed(
        model=model,
        device=device,
        devices=devices,
        half=half,
        sizes=sizes,
        batch_size=batch_size,
        images_per_s=images_per_s,
        source=source,
        held_out=held_out,
    )
    for held_out, rows in ((False, _FITTED), (True, _HELD_OUT))
    for model, device, devices, half, sizes, batch_size, images_per_s, source in rows
)
"""The speeds on which the plan's constants were set, then those that were held out."""

COMPARED_DEVICES = DEVICES | {
    "rtx3090": Device(
        name="rtx3090",
        title="GeForce RTX 3090",
        memory_gib=24,
        memory_bytes_per_s=936 * GB,
        half_ops_per_s=71 * TERA,
        single_ops_per_s=35.6 * TERA,
        tf32_ops_per_s=35.6 * TERA,
        node_bytes_per_s=12 * GB,
        network_bytes_per_s=1.25 * GB,
        devices_per_node=1,
        cores=8,
        source="NVIDIA GA102 whitepaper, Appendix A; 16-bit products summed in 32 bits",
    )
}
"""The devices of the published speeds. Plans do not offer the GeForce, because its predicted speed is a third low."""
