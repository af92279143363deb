"""Infer the architecture of a network from the keys and shapes of its state dict.

Names are used as little as possible. Blocks are the innermost numbered modules with at least two convolutions, and
shapes tell the convolutions of a block apart. So unknown repositories are understood as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from resnetlab.config import ModelConfig, Shortcut
from resnetlab.models.importing.conv_bn_pairs import ConvBN
from resnetlab.models.importing.heads import refuse_normalised_head
from resnetlab.models.importing.key_formats import KeyFormat, detect_key_format
from resnetlab.models.importing.residual_branch import ResidualBlockLayers, analyse_block
from resnetlab.models.importing.state_dict_layers import (
    LEAVES,
    NetworkOutline,
    Shape,
    StateDictLayer,
    find_blocks,
    is_registration_order,
    layers_of,
)
from resnetlab.models.importing.stems import Stem, find_stem
from resnetlab.models.importing.unsupported import (
    UnsupportedError,
    refuse_chain,
    refuse_copies,
    refuse_families,
    refuse_narrowed,
    refuse_unused_keys,
    unsupported,
)
from resnetlab.models.importing.widths import averages_in_shortcuts, infer_widths
from resnetlab.models.zoo import find_name


@dataclass(frozen=True)
class InferredArchitecture:
    """The architecture of a file's network, and the file's key of each of its tensors."""

    config: ModelConfig
    """Inferred from keys and shapes; the key format's conventions fill in the rest (`assumptions`)."""
    keys: Mapping[str, str]
    """The key in `ResNet` → the key in the file. Biases before BN are included; tensors the file lacks are not."""
    key_format: KeyFormat
    unused_keys: tuple[str, ...]
    """Keys of the file that belong to no layer of the network; only training uses them."""


def infer_architecture(shapes: Mapping[str, Shape], *, in_order: bool) -> InferredArchitecture:
    """Infer which network has these keys and shapes.

    `in_order` states that the file stores the order of its keys; the keys tell whether that is the network's order.

    Raises:
        UnsupportedError: for every other network; the message names its kind as far as it can be determined.
    """
    in_order = in_order and is_registration_order(shapes)
    layers = layers_of(shapes, in_order=in_order)
    refuse_families(layers)
    outline = find_blocks(layers)
    if not outline.blocks:
        refuse_chain(layers)
    refuse_copies(tuple(outline.blocks))
    blocks = [analyse_block(name, inner, in_order=in_order) for name, inner in outline.blocks.items()]
    stem, head, unused_layers = _find_stem_and_head(outline, blocks, in_order=in_order)
    if in_order:
        _check_stem(stem, layers, blocks)
    unused = {key: shapes[key] for layer in unused_layers for key in layer.keys.values()}
    refuse_unused_keys(unused, _describe(blocks), _first_conv(stem).shape[1])
    config = _make_config(blocks, stem, head)
    key_format = detect_key_format(blocks[0].branch[0].conv.name, _shortcut_name(blocks), head.name)
    config = with_zoo_name(replace(config, bottleneck_stride=key_format.bottleneck_stride))
    keys = _map_keys(config, blocks, stem, head)
    return InferredArchitecture(config=config, keys=keys, key_format=key_format, unused_keys=tuple(unused))


def _find_stem_and_head(
    outline: NetworkOutline, blocks: Sequence[ResidualBlockLayers], *, in_order: bool
) -> tuple[Stem, StateDictLayer, list[StateDictLayer]]:
    """Return the stem, the head, and the other layers outside the blocks.

    Raises:
        UnsupportedError: if stem or head are not the paper's, or another layer would compute something.
    """
    name, channels = _describe(blocks), blocks[-1].out_channels
    convs = [layer for layer in outline.outside if layer.kind == "conv"]
    norms = [layer for layer in outline.outside if layer.kind == "norm"]
    linear = [layer for layer in outline.outside if layer.kind == "linear"]
    conv_heads = [conv for conv in convs if conv.shape[1:] == (channels, 1, 1)]
    if not linear and len(convs) == 2 and conv_heads:  # a 1x1 convolution of the averaged map is a linear layer
        linear, convs = conv_heads, [conv for conv in convs if conv is not conv_heads[0]]
    if any(block.norm_first for block in blocks) or (not norms and blocks[0].branch[0].norm is not None):
        raise unsupported(
            f"{name} with pre-activation (He et al. 2016, Identity Mappings)",
            "its batch normalisation comes before the convolutions",
        )
    stem = find_stem(convs, norms, blocks[0].in_channels, in_order=in_order, name=name)
    if norms and blocks[0].branch[0].norm is None:
        raise unsupported(f"{name} with more batch normalisation outside its blocks", f"such as {norms[-1].name}")
    refuse_normalised_head(outline.outside, channels, name)
    if len(linear) != 1:
        heads = f"{len(linear)} linear layers: {', '.join(layer.name for layer in linear)}" if linear else "none"
        raise unsupported(f"{name} without a head of one linear layer", f"it has {heads}")
    if linear[0].shape[1] != channels:
        raise unsupported(
            f"{name} with a head that does not read the average of the last map",
            f"{linear[0].name} reads {linear[0].shape[1]} numbers, and the last stage has {channels} output channels",
        )
    used = [*convs, *norms, *linear]
    return stem, linear[0], [x for x in outline.outside if x not in used]


def _first_conv(stem: Stem) -> StateDictLayer:
    return next(iter(stem.values())).conv


def _check_stem(stem: Stem, layers: Sequence[StateDictLayer], blocks: Sequence[ResidualBlockLayers]) -> None:
    """Refuse batch normalisation that is registered behind blocks and so is not the stem's.

    Raises:
        UnsupportedError: naming the layer.
    """
    *_, last = stem.values()
    if last.norm is None:
        return
    between = layers[layers.index(last.conv) : layers.index(last.norm)]
    if any(block.branch[0].conv in between for block in blocks):
        raise unsupported(
            f"{_describe(blocks)} with batch normalisation behind its blocks",
            f"{last.norm.name} is registered after them; the paper has it after the first convolution",
        )


def _make_config(blocks: Sequence[ResidualBlockLayers], stem: Stem, head: StateDictLayer) -> ModelConfig:
    """Return the architecture that the shapes determine.

    Raises:
        UnsupportedError: if blocks differ in kind, normalisation or proportions.
    """
    stages = _group_stages(blocks)
    channels = tuple(stage[0].stage_channels for stage in stages)
    num_convs = {len(block.branch) for block in blocks}
    name, first = _describe(blocks), blocks[0].in_channels
    if len(num_convs) != 1:
        raise unsupported(f"{name} of two kinds of block", "all blocks of a network have two convolutions, or three")
    without_norm = {block.branch[0].norm is None for block in blocks}
    if len(without_norm) != 1:
        raise unsupported(f"{name} with batch normalisation in some blocks only", "all blocks have it, or none")
    groups, width_per_group = infer_widths(blocks, name)
    refuse_narrowed(blocks, name)
    conv = _first_conv(stem)
    return ModelConfig(
        stage_blocks=tuple(len(stage) for stage in stages),
        stage_channels=channels,
        block="basic" if num_convs == {2} else "bottleneck",
        stem="deep" if len(stem) == 3 else "imagenet" if conv.kernel == 7 else "cifar",
        shortcut=_infer_shortcut(stages, name),
        norm="none" if True in without_norm else "batch",
        num_classes=head.shape[0],
        in_channels=conv.shape[1],
        stem_channels=None if first == channels[0] else first,
        groups=groups,
        width_per_group=width_per_group,
        average_shortcut=averages_in_shortcuts(blocks, name),
    )


def _group_stages(blocks: Sequence[ResidualBlockLayers]) -> list[list[ResidualBlockLayers]]:
    """Group blocks of one container and one number of inner channels into stages.

    Raises:
        UnsupportedError: if a block's input channels are not the output channels of the block before it.
    """
    stages: list[list[ResidualBlockLayers]] = []
    before: ResidualBlockLayers | None = None
    for block in blocks:
        if before is not None and block.in_channels != before.out_channels:
            raise UnsupportedError(
                f"{block.name} reads {block.in_channels} channels, and {before.name} before it has "
                f"{before.out_channels} output channels, so the blocks are no chain as in a ResNet"
            )
        if before is None or (block.container, block.inner_channels) != (before.container, before.inner_channels):
            stages.append([])
        stages[-1].append(block)
        before = block
    return stages


def _infer_shortcut(stages: Sequence[Sequence[ResidualBlockLayers]], name: str) -> Shortcut:
    """Return the paper's option; `pad` if no shortcut has weights, although it may be `none`, which has none either.

    Raises:
        UnsupportedError: if the blocks with projections are those of no option.
    """
    all_blocks = [block for stage in stages for block in stage]
    projecting = {block.name for block in all_blocks if block.shortcut is not None}
    if not projecting:
        if any(block.out_channels < block.in_channels for block in all_blocks):
            raise unsupported(f"{name} that gets narrower", "without projections, its identities cannot do that")
        return "pad"
    reshaping = _reshaping_blocks(stages)
    if len(projecting) == len(all_blocks):
        return "project_all" if len(all_blocks) > len(stages) or reshaping != projecting else "project"
    if projecting == reshaping:
        return "project"
    if projecting > reshaping:  # converted to option C, where the other projections are the identity
        _refuse_strides(stages, name)
        return "project_all"
    raise unsupported(
        f"{name} whose shortcuts are neither option A, B nor C",
        f"they have weights in {', '.join(sorted(projecting))}; B has them where the shape changes, C everywhere",
    )


def _refuse_strides(stages: Sequence[Sequence[ResidualBlockLayers]], name: str) -> None:
    """Refuse projections inside a stage if other blocks of the network have none: they may exist because of a stride.

    Raises:
        UnsupportedError: naming one.
    """
    inside = next((block.name for stage in stages for block in stage[1:] if block.shortcut is not None), None)
    if inside is not None:
        raise unsupported(
            f"{name} whose shortcuts are neither option A, B nor C",
            f"{inside} projects within a stage, unlike other blocks; it may have a stride, which weights do not show",
        )


def _reshaping_blocks(stages: Sequence[Sequence[ResidualBlockLayers]]) -> set[str]:
    """Return the names of the blocks that have a stride or change the number of channels."""
    first = {stage[0].name for stage in stages[1:]}
    return first | {stages[0][0].name} if stages[0][0].in_channels != stages[0][0].out_channels else first


def _map_keys(
    config: ModelConfig, blocks: Sequence[ResidualBlockLayers], stem: Stem, head: StateDictLayer
) -> dict[str, str]:
    """Return the key in `ResNet` → the key in the file."""
    keys: dict[str, str] = {}
    for (conv, norm), pair in stem.items():
        keys |= _map_pair(conv, norm, pair)
    remaining = iter(blocks)
    for stage, count in enumerate(config.stage_blocks, start=1):
        for position in range(count):
            block, target = next(remaining), f"layer{stage}.{position}"
            for number, pair in enumerate(block.branch, start=1):
                keys |= _map_pair(f"{target}.conv{number}", f"{target}.bn{number}", pair)
            if block.shortcut is not None:
                keys |= _map_pair(f"{target}.downsample.0", f"{target}.downsample.1", block.shortcut)
    return keys | {f"fc.{leaf}": key for leaf, key in head.keys.items() if leaf in LEAVES}


def _map_pair(conv: str, norm: str, pair: ConvBN) -> dict[str, str]:
    keys = {f"{conv}.{leaf}": key for leaf, key in pair.conv.keys.items()}
    return keys if pair.norm is None else keys | {f"{norm}.{leaf}": key for leaf, key in pair.norm.keys.items()}


def _shortcut_name(blocks: Sequence[ResidualBlockLayers]) -> str:
    """Return the name of the first projection's convolution; empty if no block projects."""
    return next((block.shortcut.conv.name for block in blocks if block.shortcut is not None), "")


def _describe(blocks: Sequence[ResidualBlockLayers]) -> str:
    """Return the words for a ResNet of such blocks in error messages."""
    return f"a ResNet of {sum(len(block.branch) for block in blocks) + 2} layers"


def with_zoo_name(config: ModelConfig) -> ModelConfig:
    """Return the configuration with its catalogue name, or `custom` if it is not in the catalogue."""
    return replace(config, name=find_name(config))
