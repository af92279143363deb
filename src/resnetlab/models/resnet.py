"""Stem, stages, head: one class for the plain and the residual network.

Paper: section 3.3 and Table 1 (ImageNet), section 4.2 (CIFAR).
"""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from resnetlab.config import ModelConfig
from resnetlab.models.activation_checkpointing import run_checkpointed
from resnetlab.models.blocks import BLOCKS, BasicBlock, Bottleneck, conv, norm, relu


class ResNet(nn.Module):
    """A network of the paper, plain (`shortcut="none"`) or residual, with torchvision's state-dict keys.

    Takes float images of shape (batch, in_channels, height, width), normalised as the model's `Preprocessing` says;
    gives logits of shape (batch, num_classes).

    `activation_checkpointing = True` has training keep few activations and make the others again in the backward pass: about
    sqrt(depth) of the memory for a third more time, and the same numbers to the last bit (`models.activation_checkpointing`). It is
    no part of the configuration or of the state dict, and changes nothing in evaluation mode or without gradients;
    `features`, whose maps are kept, takes no part in it.
    """

    activation_checkpointing: bool

    def __init__(self, config: ModelConfig, generator: Generator | None = None) -> None:
        """Build the layers and initialise them from `generator` (PyTorch's global one if `None`)."""
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        channels = config.stage_channels[0]
        kernel, stride = (7, 2) if config.stem == "imagenet" else (3, 1)
        self.conv1 = conv(config, config.in_channels, channels, kernel, stride)
        self.bn1 = norm(config, channels)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if config.stem == "imagenet" else nn.Identity()
        block = BLOCKS[config.block]
        for index, (num_blocks, inner) in enumerate(zip(config.stage_blocks, config.stage_channels, strict=True)):
            stage = nn.Sequential()
            for position in range(num_blocks):
                stage.append(block(config, channels, inner, stride=2 if index > 0 and position == 0 else 1))
                channels = inner * config.expansion
            self.add_module(f"layer{index + 1}", stage)
        self.fc = nn.Linear(channels, config.num_classes)
        initialise(self, generator)

    @property
    def stages(self) -> dict[str, nn.Sequential]:
        """The stages by name, in order: `stage1` … `stageN` (the modules `layer1` … `layerN`)."""
        return {
            f"stage{i}": self.get_submodule(f"layer{i}")  # pyright: ignore[reportReturnType]  # made in __init__
            for i in range(1, len(self.config.stage_blocks) + 1)
        }

    @property
    def feature_channels(self) -> dict[str, int]:
        """Channels of each map that `features` returns, by name."""
        inner = self.config.stage_channels
        maps = {f"stage{i}": c * self.config.expansion for i, c in enumerate(inner, start=1)}
        return {"stem": inner[0], **maps}

    @property
    def feature_strides(self) -> dict[str, int]:
        """Image pixels between neighbouring positions of each map that `features` returns, by name."""
        first = 4 if self.config.stem == "imagenet" else 1
        maps = {f"stage{i}": first * 2 ** (i - 1) for i in range(1, len(self.config.stage_blocks) + 1)}
        return {"stem": first, **maps}

    def stem(self, images: Tensor) -> Tensor:
        """Return what the first stage reads: convolution, BN, ReLU, and the max pool of the ImageNet stem."""
        return self.maxpool(relu(self.bn1(self.conv1(images))))

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Return the map after the stem (pooling included) and after each stage: a backbone's outputs.

        Each has shape (batch, feature_channels[name], about height / feature_strides[name], likewise width).
        """
        x = self.stem(images)
        maps = {"stem": x}
        for name, stage in self.stages.items():
            x = maps[name] = stage(x)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Return logits: the last stage, averaged over the map, through the fully connected layer."""
        x = self.stem(images)
        if self.activation_checkpointing and self.training and torch.is_grad_enabled():
            x = run_checkpointed(self.stages.values(), x)
        else:
            for stage in self.stages.values():
                x = stage(x)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def initialise(model: ResNet, generator: Generator | None = None) -> None:
    """Draw every weight anew: He initialisation for convolutions, times `init_scale`; biases 0.

    Projections are drawn last, after the head, so that for one generator state the plain network and options A, B and
    C share every weight they have in common: the arms of a study start from the same point.

    Paper: section 3.4 and its reference [13]. Differs: the fan-out form, as in the authors' CIFAR networks' public
    descendants (fb.resnet.torch, torchvision); for equal channels and stride 1 the two forms are the same.
    """
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    layers.sort(key=lambda item: "downsample" in item[0])  # stable: the main path keeps its order
    for _, layer in layers:
        if isinstance(layer, nn.Linear):
            bound = 1 / math.sqrt(layer.in_features)  # PyTorch's own default
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
        else:
            std = math.sqrt(2 / (layer.out_channels * math.prod(layer.kernel_size)))
            nn.init.normal_(layer.weight, 0.0, model.config.init_scale * std, generator=generator)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    if model.config.zero_init_residual:
        for module in model.modules():
            if isinstance(module, BasicBlock | Bottleneck):
                last = module.bn2 if isinstance(module, BasicBlock) else module.bn3
                nn.init.zeros_(last.weight)  # pyright: ignore[reportArgumentType]  # norm="batch" is checked
