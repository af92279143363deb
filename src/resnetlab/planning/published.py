"""Training speeds that others published, to hold the plan against. No torch here."""

from dataclasses import dataclass

IMAGENET_TRAIN = 1_281_167
"""Training images of ILSVRC-2012."""


@dataclass(frozen=True)
class Published:
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


def _in_minutes(epochs: int, minutes: float) -> float:
    return IMAGENET_TRAIN * epochs / (60 * minutes)


WHOLE = ((224, 1.0),)
GROWING = ((160, 0.75), (192, 0.25))
_NVIDIA = "NVIDIA DeepLearningExamples, ResNet50 v1.5 for PyTorch, container 21.03"
_FFCV = "libffcv/ffcv-imagenet, 88 epochs, p4.24xlarge"

FIGURES = (
    Published("resnet50", "a100", 1, True, WHOLE, 256, 2470, _NVIDIA),
    Published("resnet50", "a100", 8, True, WHOLE, 256, 16_621, _NVIDIA),
    Published("resnet50", "a100", 1, False, WHOLE, 256, 938, f"{_NVIDIA}, TF32"),
    Published("resnet50", "a100", 8, False, WHOLE, 256, 7248, f"{_NVIDIA}, TF32"),
    Published("resnet50", "v100", 1, True, WHOLE, 128, 1156, f"{_NVIDIA}, DGX-1 32 GB"),
    Published("resnet50", "v100", 8, True, WHOLE, 128, 8056, f"{_NVIDIA}, DGX-1 32 GB"),
    Published("resnet50", "v100", 1, False, WHOLE, 128, 356, f"{_NVIDIA}, DGX-1 32 GB"),
    Published("resnet50", "v100", 8, False, WHOLE, 128, 2766, f"{_NVIDIA}, DGX-1 32 GB"),
    Published("resnet50", "a100-40gb", 8, True, GROWING, 128, _in_minutes(88, 77.2), _FFCV),
    Published("resnet18", "a100-40gb", 1, True, GROWING, 1024, _in_minutes(88, 187.3), _FFCV),
)
"""ffcv's times are of whole trainings; they resize from 160 to 192 pixels after three quarters."""
