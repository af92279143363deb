"""The network: stem, stages of blocks, and head. One class serves plain and residual networks.

Paper: He et al. (2015), section 3.3 and Table 1 (ImageNet), section 4.2 (CIFAR).
"""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from resnetlab.config import ModelConfig
from resnetlab.models.activation_checkpointing import run_checkpointed
from resnetlab.models.block_registry import BLOCKS
from resnetlab.models.blocks import Block, make_conv, make_norm, relu


class ResNet(nn.Module):
    """A network of the paper, plain (`shortcut="none"`) or residual, with torchvision's state-dict keys.

    Maps float images (batch, in_channels, height, width), normalised by the model's `Preprocessing`, to logits
    (batch, num_classes).

    With `activation_checkpointing = True`, training stores few activations and recomputes the others in the backward
    pass: about sqrt(depth) of the memory for a third more time, and bit-identical results. The switch is not part of
    the configuration or the state dict. It has no effect in evaluation mode, without gradients, or on `features`.
    """

    activation_checkpointing: bool

    def __init__(self, config: ModelConfig, generator: Generator | None = None) -> None:
        """Build the layers and initialise them from `generator` (PyTorch's global one if `None`)."""
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        channels = config.stem_width
        self.conv1 = make_stem(config)
        self.bn1 = make_norm(config, channels)
        self.maxpool = nn.Identity() if config.stem == "cifar" else nn.MaxPool2d(3, 2, padding=1)
        block_class = BLOCKS[config.block]
        for index, (num_blocks, inner) in enumerate(zip(config.stage_blocks, config.stage_channels, strict=True)):
            stage = nn.Sequential()
            for position in range(num_blocks):
                stride = 2 if index > 0 and position == 0 else 1
                stage.append(block_class(config, channels, inner, stride=stride))
                channels = inner * config.expansion
            self.add_module(f"layer{index + 1}", stage)
        self.final_bn = make_norm(config, channels) if block_class.final_norm else None
        self.fc = nn.Linear(channels, config.num_classes)
        self.number_blocks()
        initialise(self, generator)

    def number_blocks(self) -> None:
        """Give each block its position; call it after a block was added."""
        blocks = self.blocks
        for index, block in enumerate(blocks):
            block.set_position(index, len(blocks))

    @property
    def blocks(self) -> list[Block]:
        """All blocks, in the order of computation."""
        return [block for stage in self.stages.values() for block in stage if isinstance(block, Block)]

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
        return {"stem": self.config.stem_width, **maps}

    @property
    def feature_strides(self) -> dict[str, int]:
        """Image pixels between neighbouring positions of each map that `features` returns, by name."""
        first = 1 if self.config.stem == "cifar" else 4
        maps = {f"stage{i}": first * 2 ** (i - 1) for i in range(1, len(self.config.stage_blocks) + 1)}
        return {"stem": first, **maps}

    @property
    def stem_layers(self) -> dict[str, tuple[nn.Conv2d, nn.Module]]:
        """Each convolution of the stem by name, with the layer behind it, in the order of computation."""
        if isinstance(self.conv1, nn.Conv2d):
            return {"conv1": (self.conv1, self.bn1)}
        convs = {f"conv1.{at}": layer for at, layer in enumerate(self.conv1) if isinstance(layer, nn.Conv2d)}
        norms = (self.conv1[1], self.conv1[4], self.bn1)
        return {name: (conv, norm) for (name, conv), norm in zip(convs.items(), norms, strict=True)}

    def stem(self, images: Tensor) -> Tensor:
        """Return the input of the first stage: convolution, BN, ReLU, and the max pool of the ImageNet stem."""
        return self.maxpool(relu(self.bn1(self.conv1(images))))

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Return the map after the stem (with its max pool) and after each stage, for use as a backbone.

        The last map is the one that the head reads: after the last BN and ReLU of a network of pre-activation blocks.

        With s = feature_strides[name], a map has shape
        (batch, feature_channels[name], ceil(height / s), ceil(width / s)).
        """
        x = self.stem(images)
        maps = {"stem": x}
        for name, stage in self.stages.items():
            x = maps[name] = stage(x)
        if self.final_bn is not None:
            *_, last = maps
            maps[last] = self.finish(x)
        return maps

    def finish(self, x: Tensor) -> Tensor:
        """Return the map that the head reads, from the output of the last block."""
        return x if self.final_bn is None else relu(self.final_bn(x))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (batch, num_classes): stem, stages, global average pooling, fully connected layer."""
        x = self.stem(images)
        if self.activation_checkpointing and self.training and torch.is_grad_enabled():
            x = run_checkpointed(self.stages.values(), x)
        else:
            for stage in self.stages.values():
                x = stage(x)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(self.finish(x), 1), 1))


def make_stem(config: ModelConfig) -> nn.Conv2d | nn.Sequential:
    """Return the convolutions of the stem up to its last BN; the deep stem has timm's keys (`conv1.0` … `conv1.6`)."""
    images, channels = config.in_channels, config.stem_width
    if config.stem != "deep":
        kernel, stride = (7, 2) if config.stem == "imagenet" else (3, 1)
        return make_conv(config, images, channels, kernel=kernel, stride=stride)
    half = channels // 2
    return nn.Sequential(
        make_conv(config, images, half, kernel=3, stride=2),
        make_norm(config, half),
        nn.ReLU(inplace=True),
        make_conv(config, half, half, kernel=3),
        make_norm(config, half),
        nn.ReLU(inplace=True),
        make_conv(config, half, channels, kernel=3),
    )


def initialise(model: ResNet, generator: Generator | None = None) -> None:
    """Draw every weight anew: He initialisation times `init_scale` for convolutions; all biases are 0.

    Projections are drawn after the head, and last the layers that only some blocks have. For one generator state, the
    plain network, options A, B and C and other blocks then share every weight they have in common, so all arms of a
    study start from the same point.

    Paper: section 3.4 and its reference [13]. Differs: the fan-out form, as in fb.resnet.torch and torchvision. For
    equal channels and stride 1 both forms are the same.
    """
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    layers.sort(key=lambda item: _draw_rank(item[0]))  # stable: the main path keeps its order
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
    BLOCKS[model.config.block].initialise_network(model.blocks, model.fc)
    if model.config.zero_init_residual:
        for block in model.blocks:
            block.zero_residual()


def _draw_rank(name: str) -> int:
    """Return the place of a layer in the order in which weights are drawn."""
    parts = name.split(".")
    return 2 if {"gate", "se"} & set(parts) else 1 if "downsample" in parts else 0
