"""The proportions of bottlenecks (wide networks, ResNeXt) and the position of projections (ResNet-D)."""

from collections.abc import Sequence

from resnetlab.models.importing.residual_branch import ResidualBlockLayers
from resnetlab.models.importing.unsupported import unsupported


def infer_widths(blocks: Sequence[ResidualBlockLayers], name: str) -> tuple[int, int]:
    """Return `groups` and `width_per_group` of `ModelConfig`; 1 and 64 for basic blocks.

    Raises:
        UnsupportedError: for bottlenecks of other proportions.
    """
    if len(blocks[0].branch) == 2:
        return 1, 64
    groups = blocks[0].groups
    for block in blocks:
        width, quarter = block.inner_channels, block.stage_channels
        if block.out_channels % 4 or block.branch[1].conv.out_channels != width:
            raise unsupported(f"{name} with bottlenecks of other proportions", f"{block.name} is one")
        if block.groups != groups:
            raise unsupported(
                f"{name} with different numbers of groups",
                f"{block.name} has {block.groups}, and {blocks[0].name} {groups}",
            )
        if groups == 1 and width < quarter:
            raise unsupported(
                f"{name} with narrowed channels (as after pruning), or with bottlenecks of other proportions",
                f"the output of {block.name} has {block.out_channels / width:g} times its {width} inner channels",
            )
    per_group = blocks[0].inner_channels * 64 // (blocks[0].stage_channels * groups)
    for block in blocks:
        expected = block.stage_channels * per_group // 64 * groups
        if block.inner_channels != expected:
            raise unsupported(
                f"{name} with bottlenecks of other proportions",
                f"{block.name} has {block.inner_channels} channels inside, and by the proportions of {blocks[0].name} "
                f"it would have {expected}",
            )
    return groups, per_group


def averages_in_shortcuts(blocks: Sequence[ResidualBlockLayers], name: str) -> bool:
    """Return whether a module without weights stands in front of each projection: timm's ResNet-D averages there.

    Raises:
        UnsupportedError: if it does in some shortcuts only, or if more modules do.
    """
    positions = {}
    for block in blocks:
        if block.shortcut is not None:
            parent, _, position = block.shortcut.conv.name.rpartition(".")
            counted = position.isdecimal() and parent != block.name
            positions[block.shortcut.conv.name] = int(position) if counted else 0
    if set(positions.values()) <= {0}:
        return False
    conv = next(conv for conv, position in positions.items() if position > 0)
    if set(positions.values()) != {1} or not conv.rpartition(".")[0].endswith("downsample"):
        raise unsupported(
            f"{name} with modules without weights in its shortcuts",
            f"{conv} is not the first module of its shortcut; supported are timm's names of ResNet-D, with an average "
            "pool in front of every projection",
        )
    return True
