"""Keys and shapes → which network of ours it is, and which key is which of its tensors. No torch here.

What a name says is used as little as possible: the blocks are the innermost numbered parts of two convolutions or
more, and shapes say what each convolution is. So repositories that nobody has listed are understood as well.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from resnetlab.config import ConfigError, ModelConfig, Shortcut
from resnetlab.models.importing.conv_bn_pairs import ConvBN
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
from resnetlab.models.importing.unsupported import (
    UnsupportedError,
    refuse_chain,
    refuse_copies,
    refuse_families,
    refuse_left_over,
    refuse_stem,
    unsupported,
)
from resnetlab.models.zoo import model_config


@dataclass(frozen=True)
class InferredArchitecture:
    """A network of ours, and where its tensors are."""

    config: ModelConfig
    """What keys and shapes say; what they do not is filled in as the layout has it (`unknowns`)."""
    keys: Mapping[str, str]
    """Our key → the file's. A bias before BN is among them, and what the file lacks is not."""
    layout: KeyFormat
    """Whose keys these are."""
    left_over: tuple[str, ...]
    """Keys of the file that belong to no layer of the network: what only training uses."""


def infer_architecture(shapes: Mapping[str, Shape], *, in_order: bool) -> InferredArchitecture:
    """Say which network has these keys and shapes.

    `in_order` says that the file keeps the order of keys; whether it is that of the network the keys tell.

    Raises:
        UnsupportedError: for everything that is not a network of ours, saying what it is as far as that can be told.
    """
    in_order = in_order and is_registration_order(shapes)
    layers = layers_of(shapes, in_order=in_order)
    refuse_families(layers)
    found = find_blocks(layers)
    if not found.blocks:
        refuse_chain(layers)
    refuse_copies(tuple(found.blocks))
    blocks = [analyse_block(name, its, in_order=in_order) for name, its in found.blocks.items()]
    stem, head, left_over = _ends(found, blocks)
    if in_order:
        _check_stem(stem, layers, blocks)
    left = {key: shapes[key] for layer in left_over for key in layer.keys.values()}
    refuse_left_over(left, _ours(blocks), stem.conv.shape[1])
    config = _configuration(blocks, stem, head)
    layout = detect_key_format(blocks[0].branch[0].conv.name, _shortcut_name(blocks), head.name)
    config = with_zoo_name(replace(config, bottleneck_stride=layout.bottleneck_stride))
    keys = _keys(config, blocks, stem, head)
    return InferredArchitecture(config, keys, layout, tuple(left))


def _ends(
    found: NetworkOutline, blocks: Sequence[ResidualBlockLayers]
) -> tuple[ConvBN, StateDictLayer, list[StateDictLayer]]:
    """Return the stem, the head, and what stands outside the blocks without being either.

    Raises:
        UnsupportedError: where there is no such stem or head, or another layer that would compute something.
    """
    name, channels = _ours(blocks), blocks[-1].out_channels
    convs = [layer for layer in found.outside if layer.kind == "conv"]
    norms = [layer for layer in found.outside if layer.kind == "norm"]
    linear = [layer for layer in found.outside if layer.kind == "linear"]
    as_head = [conv for conv in convs if conv.shape[1:] == (channels, 1, 1)]
    if not linear and len(convs) == 2 and as_head:  # a 1x1 convolution of the averaged map is a linear layer
        linear, convs = as_head, [conv for conv in convs if conv is not as_head[0]]
    first = blocks[0].in_channels
    if any(block.norm_first for block in blocks) or (not norms and blocks[0].branch[0].norm is not None):
        raise unsupported(
            f"{name} with pre-activation (He et al. 2016, Identity Mappings)",
            "batch normalisation comes before the convolutions there",
        )
    if len(convs) != 1 or convs[0].kernel not in (3, 7) or convs[0].out_channels != first:
        refuse_stem(convs, name)
    if len(norms) > 1 or (norms and (norms[0].out_channels != first or blocks[0].branch[0].norm is None)):
        raise unsupported(f"{name} with more batch normalisation outside its blocks", f"such as {norms[-1].name}")
    if len(linear) != 1:
        heads = f"{len(linear)} linear layers: {', '.join(layer.name for layer in linear)}" if linear else "none"
        raise unsupported(f"{name} without a head of one linear layer", f"it has {heads}")
    if linear[0].shape[1] != channels:
        raise unsupported(
            f"{name} with a head that does not read the average of the last map",
            f"{linear[0].name} reads {linear[0].shape[1]} numbers, and the last stage puts out {channels} channels",
        )
    used = [*convs, *norms, *linear]
    return ConvBN(convs[0], norms[0] if norms else None), linear[0], [x for x in found.outside if x not in used]


def _check_stem(stem: ConvBN, layers: Sequence[StateDictLayer], blocks: Sequence[ResidualBlockLayers]) -> None:
    """Refuse batch normalisation that is registered behind blocks, and so is not the stem's.

    Raises:
        UnsupportedError: naming it.
    """
    if stem.norm is None:
        return
    between = layers[layers.index(stem.conv) : layers.index(stem.norm)]
    if any(block.branch[0].conv in between for block in blocks):
        raise unsupported(
            f"{_ours(blocks)} with batch normalisation behind its blocks",
            f"{stem.norm.name} is registered after them; the paper has it after the first convolution",
        )


def _configuration(blocks: Sequence[ResidualBlockLayers], stem: ConvBN, head: StateDictLayer) -> ModelConfig:
    """Return the architecture that shapes say."""
    stages = _stages(blocks)
    channels = tuple(stage[0].inner_channels for stage in stages)
    kinds = {len(block.branch) for block in blocks}
    name, first = _ours(blocks), blocks[0].in_channels
    if len(kinds) != 1:
        raise unsupported(f"{name} of two kinds of block", "all blocks of a network have two convolutions, or three")
    norms = {block.branch[0].norm is None for block in blocks}
    if len(norms) != 1:
        raise unsupported(f"{name} with batch normalisation in some blocks alone", "all blocks have it, or none")
    if channels[0] != first:
        raise unsupported(
            f"{name} whose stem is narrower or wider than its first stage (a wide ResNet)",
            f"the stem puts out {first} channels, and the first stage works with {channels[0]}",
        )
    block = "basic" if kinds == {2} else "bottleneck"
    return ModelConfig(
        stage_blocks=tuple(len(stage) for stage in stages),
        stage_channels=channels,
        block=block,
        stem="imagenet" if stem.conv.kernel == 7 else "cifar",
        shortcut=_shortcuts(stages, name),
        norm="none" if True in norms else "batch",
        num_classes=head.shape[0],
        in_channels=stem.conv.shape[1],
    )


def _stages(blocks: Sequence[ResidualBlockLayers]) -> list[list[ResidualBlockLayers]]:
    """Put blocks together that stand in one container and work with as many channels."""
    stages: list[list[ResidualBlockLayers]] = []
    before: ResidualBlockLayers | None = None
    for block in blocks:
        if before is not None and block.in_channels != before.out_channels:
            raise UnsupportedError(
                f"{block.name} reads {block.in_channels} channels, and {before.name} before it puts out "
                f"{before.out_channels}, so they are no chain of blocks as a ResNet is"
            )
        if before is None or (block.container, block.inner_channels) != (before.container, before.inner_channels):
            stages.append([])
        stages[-1].append(block)
        before = block
    return stages


def _shortcuts(stages: Sequence[Sequence[ResidualBlockLayers]], name: str) -> Shortcut:
    """Return the paper's option; `pad` where no shortcut has weights, which `none` has not either."""
    all_blocks = [block for stage in stages for block in stage]
    projecting = {block.name for block in all_blocks if block.shortcut is not None}
    if not projecting:
        if any(block.out_channels < block.in_channels for block in all_blocks):
            raise unsupported(f"{name} that gets narrower", "and without projections nothing fits its identities")
        return "pad"
    if len(projecting) == len(all_blocks):
        return "project_all" if len(all_blocks) > len(stages) or _changes(stages) != projecting else "project"
    if projecting == _changes(stages):
        return "project"
    if projecting > _changes(stages):  # held as option C, whose projections can pass on what they read
        _refuse_strides(stages, name)
        return "project_all"
    raise unsupported(
        f"{name} whose shortcuts are neither option A, B nor C",
        f"they have weights in {', '.join(sorted(projecting))}; B has them where the shape changes, C everywhere",
    )


def _refuse_strides(stages: Sequence[Sequence[ResidualBlockLayers]], name: str) -> None:
    """Refuse projections inside a stage where other blocks of the network have none: they may be there for a stride.

    Raises:
        UnsupportedError: naming one.
    """
    inside = next((block.name for stage in stages for block in stage[1:] if block.shortcut is not None), None)
    if inside is not None:
        raise unsupported(
            f"{name} whose shortcuts are neither option A, B nor C",
            f"{inside} projects within a stage, as if it strode there, which weights do not tell, and others do not "
            "project",
        )


def _changes(stages: Sequence[Sequence[ResidualBlockLayers]]) -> set[str]:
    """Return the names of the blocks that stride or change the number of channels."""
    first = {stage[0].name for stage in stages[1:]}
    return first | {stages[0][0].name} if stages[0][0].in_channels != stages[0][0].out_channels else first


def _keys(
    config: ModelConfig, blocks: Sequence[ResidualBlockLayers], stem: ConvBN, head: StateDictLayer
) -> dict[str, str]:
    """Return our key → the file's."""
    keys = _unit_keys("conv1", "bn1", stem)
    remaining = iter(blocks)
    for stage, count in enumerate(config.stage_blocks, start=1):
        for position in range(count):
            block, ours = next(remaining), f"layer{stage}.{position}"
            for number, unit in enumerate(block.branch, start=1):
                keys |= _unit_keys(f"{ours}.conv{number}", f"{ours}.bn{number}", unit)
            if block.shortcut is not None:
                keys |= _unit_keys(f"{ours}.downsample.0", f"{ours}.downsample.1", block.shortcut)
    return keys | {f"fc.{leaf}": key for leaf, key in head.keys.items() if leaf in LEAVES}


def _unit_keys(conv: str, norm: str, unit: ConvBN) -> dict[str, str]:
    keys = {f"{conv}.{leaf}": key for leaf, key in unit.conv.keys.items()}
    return keys if unit.norm is None else keys | {f"{norm}.{leaf}": key for leaf, key in unit.norm.keys.items()}


def _shortcut_name(blocks: Sequence[ResidualBlockLayers]) -> str:
    return next((block.shortcut.conv.name for block in blocks if block.shortcut is not None), "")


def _ours(blocks: Sequence[ResidualBlockLayers]) -> str:
    """Return what a ResNet of such blocks is called."""
    return f"a ResNet of {sum(len(block.branch) for block in blocks) + 2} layers"


def with_zoo_name(config: ModelConfig) -> ModelConfig:
    """Give a network the name that the catalogue has for one of its layers."""
    family = "plain" if config.shortcut == "none" else "resnet"
    for suffix in ("", "-v1", "-cifar", "-cifar-v1"):
        with suppress(ConfigError):
            known = model_config(f"{family}{config.depth}{suffix}", block=config.block)
            same = ("stage_blocks", "stage_channels", "block", "stem")
            if config.block == "bottleneck":
                same += ("bottleneck_stride",)
            if all(getattr(known, field) == getattr(config, field) for field in same):
                return replace(config, name=known.name)
    return replace(config, name="custom")
