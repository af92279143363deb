"""Networks that cannot be imported: checks for their kind, and the error that names it."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from resnetlab.config import ConfigError
from resnetlab.models.importing.state_dict_layers import Shape, StateDictLayer

if TYPE_CHECKING:
    from resnetlab.models.importing.residual_branch import ResidualBlockLayers

FAMILIES: tuple[tuple[str, str], ...] = (
    (r"denselayer|denseblock|dense_block", "a DenseNet"),
    (r"(^|\.)(Mixed_\d|inception)", "an Inception network"),
    (r"rpn|roi_heads|bbox|(^|\.)fpn", "a detector"),
    (r"weight_ih_l\d|weight_hh_l\d", "a recurrent network"),
    (r"dwconv|gamma_1", "a ConvNeXt"),
    (r"_se_reduce|_depthwise_conv|conv_dw|conv_pw", "a MobileNet or an EfficientNet"),
    (r"weight_g$|weight_v$|weight_orig$|parametrizations", "a network with re-parametrised weights"),
    (r"(lora_|\.lora)", "a network with LoRA adapters"),
    (r"_packed_params|zero_point|weight_fake_quant|qweight", "a quantised network"),
)
"""Patterns of keys, and the family that has such keys; the first match counts."""

ATTENTION = re.compile(
    r"(^|[._])(se|fc\d*|attn|attention|ca|sa|cbam|eca|gate|squeeze|excitation|mlp)([._\d]|$|_)", re.I
)

TRAINING_KEYS = re.compile(
    r"(^|\.)\w*(criterion|loss|metric)\w*\.|(^|\.)(epoch|step|global_step|iteration|num_updates)$", re.IGNORECASE
)
"""Keys that no prediction uses: weights of a loss, sums of a metric, counters."""
_PREPROCESSING_KEYS = re.compile(r"(^|[._])(mean|std)$", re.IGNORECASE)


class UnsupportedError(ConfigError):
    """A network that `ModelConfig` cannot describe; the message names its kind and the reason."""


def unsupported(kind: str, reason: str) -> UnsupportedError:
    """Return the error for a network of a known kind."""
    return UnsupportedError(f"this is {kind}, which is not supported: {reason}")


def refuse_families(layers: Sequence[StateDictLayer]) -> None:
    """Refuse networks whose keys or shapes are those of another family.

    Raises:
        UnsupportedError: naming the family.
    """
    convs = [layer for layer in layers if layer.kind == "conv"]
    if sum(layer.kind == "linear" for layer in layers) > max(3, len(convs)):
        raise unsupported(
            "a transformer, or another network of linear layers", "a ResNet has convolutions and one linear layer"
        )
    keys = [key for layer in layers for key in layer.keys.values()]
    for pattern, family in FAMILIES:
        match = next((key for key in keys if re.search(pattern, key)), None)
        if match is not None:
            raise unsupported(
                family, f"it has {match}, and a ResNet has convolutions, batch normalisation and one linear layer"
            )
    if not convs:
        raise UnsupportedError("the file has no convolution, so it is no ResNet")
    depthwise = [layer for layer in convs if layer.shape[1] == 1 and layer.kernel > 1]
    if len(depthwise) > 1:
        raise unsupported("a network of depthwise convolutions", f"such as {depthwise[1].name}")


def refuse_chain(layers: Sequence[StateDictLayer]) -> None:
    """Refuse a network without blocks, whose strides and pools are unknown.

    Raises:
        UnsupportedError: always.
    """
    num_convs = sum(layer.kind == "conv" for layer in layers)
    num_linear = sum(layer.kind == "linear" for layer in layers)
    raise unsupported(
        f"a chain of {num_convs} convolutions and {num_linear} linear layers",
        "it has no blocks (numbered modules of two or three convolutions, such as layer1.0), so its strides and pools "
        "are unknown, as in a VGG or an AlexNet",
    )


def refuse_copies(blocks: Sequence[str]) -> None:
    """Refuse several networks in one file, such as a student and a teacher.

    Raises:
        UnsupportedError: naming them.
    """
    paths = [name.split(".") for name in blocks]
    depth = next(
        at
        for at in range(len(paths[0]))
        if len({tuple(path[: at + 1]) for path in paths}) > 1 or at + 1 == min(map(len, paths))
    )
    contents: dict[str, set[str]] = {}
    for path in paths:
        contents.setdefault(path[depth], set()).add(".".join(path[depth + 1 :]))
    for name, content in contents.items():
        equal = [other for other, other_content in contents.items() if other_content == content]
        stages = {block.rpartition(".")[0] for block in content}
        if len(equal) > 1 and len(stages) > 1:  # the stages of one network can be equal too, but contain blocks only
            raise unsupported(
                f"{len(equal)} networks in one file ({', '.join(equal)})",
                f"save one of them alone, such as {name}; or choose it with --tensors {name}",
            )


def refuse_narrowed(blocks: Sequence["ResidualBlockLayers"], name: str) -> None:
    """Refuse blocks of one stage with different inner channels, and basic blocks that have others inside than outside.

    Raises:
        UnsupportedError: naming the block.
    """
    first: dict[tuple[str, int], ResidualBlockLayers] = {}
    for block in blocks:
        before = first.setdefault((block.container, block.out_channels), block)
        if len(block.branch) == 2 and block.inner_channels != block.out_channels:
            how = "narrowed" if block.inner_channels < block.out_channels else "widened"
            raise unsupported(
                f"{name} with {how} channels (as after pruning)",
                f"{block.name} has {block.inner_channels} channels inside and {block.out_channels} outside, and a "
                "basic block has as many",
            )
        if block.inner_channels != before.inner_channels:
            raise unsupported(
                f"{name} with narrowed channels (as after pruning)",
                f"{block.name} has {block.inner_channels} inner channels, and {before.name} of the same stage has "
                f"{before.inner_channels}",
            )


def refuse_stem(convs: Sequence[StateDictLayer], name: str) -> None:
    """Refuse a stem that is not one 3x3 or 7x7 convolution.

    Raises:
        UnsupportedError: always.
    """
    kernels = ", ".join(f"{conv.kernel}x{conv.kernel}" for conv in convs)
    if len(convs) > 1:
        raise unsupported(
            f"{name} with a deep stem of other widths than ResNet-C's",
            f"{len(convs)} convolutions ({kernels}) stand outside the blocks; supported are one, and three of 3x3 of "
            "which the first two have half of the channels",
        )
    reason = f"its first convolution is {kernels}" if convs else "no convolution stands before its blocks"
    raise unsupported(f"{name} with another stem", f"{reason}; supported are 3x3 and 7x7")


def is_attention(block: str, layer: StateDictLayer) -> bool:
    """Return whether a layer of a block has a name of squeeze-and-excitation or another attention module."""
    return ATTENTION.search(layer.name.removeprefix(f"{block}.")) is not None


def refuse_extra_layer(block: str, layer: StateDictLayer, name: str) -> None:
    """Refuse a block with a layer that is neither convolution nor batch normalisation.

    Raises:
        UnsupportedError: naming the layer.
    """
    inner = layer.name.removeprefix(block).strip(".") or next(iter(layer.keys))
    if is_attention(block, layer):
        raise unsupported(f"{name} with squeeze-and-excitation or another attention", f"{block} has {inner}")
    if len(layer.shape) == 1:
        raise unsupported(
            f"{name} without running statistics (group, layer or instance normalisation)",
            f"{layer.name} has a scale, but no running_mean",
        )
    raise unsupported(f"{name} with more in its blocks", f"{block} has {inner}")


def refuse_unused_keys(unused: Mapping[str, Shape], name: str, in_channels: int) -> None:
    """Refuse keys outside the blocks that belong to no layer of the network, except those that only training uses.

    Raises:
        UnsupportedError: naming the keys and a remedy.
    """
    keys = [key for key in unused if not TRAINING_KEYS.search(key)]
    if not keys:
        return
    some = ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
    if all(_PREPROCESSING_KEYS.search(key) and math.prod(unused[key]) == in_channels for key in keys):
        raise unsupported(
            f"{name} that normalises its images itself",
            f"it has {some}; save the state_dict() without them, and give their values as --mean and --std",
        )
    raise unsupported(
        f"{name} with more outside its blocks",
        f"it has {some}; if no prediction uses them, save the state_dict() without them",
    )
