"""Published sizes of the networks of later papers."""

from dataclasses import dataclass

TORCHVISION = "torchvision/models/resnet.py, num_params and _ops"
WIDE = "Zagoruyko and Komodakis (2016), Wide Residual Networks, Table 4"
TRICKS = "He, T. et al. (2019), Bag of Tricks for Image Classification, Table 5"


@dataclass(frozen=True)
class PublishedSize:
    """The published size of a network."""

    params: float | None
    """Trainable numbers; `None` if not published."""
    macs: float | None
    """Multiply-adds of one image; `None` if not published."""
    source: str


LATER_NETWORK_SIZES: dict[str, PublishedSize] = {
    "wide_resnet50_2": PublishedSize(68_883_240, 11.398e9, TORCHVISION),
    "wide_resnet101_2": PublishedSize(126_886_696, 22.753e9, TORCHVISION),
    "resnext50_32x4d": PublishedSize(25_028_904, 4.23e9, TORCHVISION),
    "resnext101_32x8d": PublishedSize(88_791_336, 16.414e9, TORCHVISION),
    "resnext101_64x4d": PublishedSize(83_455_272, 15.46e9, TORCHVISION),
    "resnet50c": PublishedSize(None, 4.3e9, TRICKS),
    "resnet50d": PublishedSize(None, 4.3e9, TRICKS),
    "wrn16-8": PublishedSize(11.0e6, None, WIDE),
    "wrn40-4": PublishedSize(8.9e6, None, WIDE),
    "wrn28-10": PublishedSize(36.5e6, None, WIDE),
}
"""The published size of each network by name."""
