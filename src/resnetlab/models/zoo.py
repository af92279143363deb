"""Named networks: a name such as `resnet56` to a `ModelConfig`, and that to a network."""

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnetlab.config import BLOCK_PROPERTIES, ConfigError, ModelConfig, block_properties

if TYPE_CHECKING:
    from torch import Generator

    from resnetlab.models.resnet import ResNet

IMAGENET: dict[int, tuple[str, tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}
"""Table 1: depth → block, and blocks of each stage. These depths always mean the ImageNet networks."""

CATALOGUE: tuple[str, ...] = (
    *("plain18", "plain34", "resnet18", "resnet34"),
    *("resnet50", "resnet50-v1", "resnet101", "resnet101-v1", "resnet152", "resnet152-v1"),
    *(f"plain{depth}" for depth in (20, 32, 44, 56, 110)),
    *(f"resnet{depth}" for depth in (20, 32, 44, 56, 110, 1202)),
)
"""The networks of the paper. Every other depth 6n+2 has a name too: `resnet8`, `plain164`, `resnet50-cifar`."""

_NAME = re.compile(r"(resnet|plain)(\d+)(-cifar)?(-v1)?(?:-(.+))?")


def model_config(name: str, **changes: Any) -> ModelConfig:
    """Return the configuration of a named network.

    `resnet18` … `resnet152` and `plain18` … are the ImageNet networks (option B; v1.5, or v1 with `-v1`). `resnetN` and
    `plainN` with N = 6n+2 are the CIFAR networks (option A); with `block="bottleneck"`, N = 9n+2. The suffix `-cifar`
    selects the CIFAR network where N is also an ImageNet depth (`resnet50-cifar`). The name of a block at the end
    replaces the blocks: `resnet56-preact`, `resnet164-preact-bottleneck`, `resnet50-preact`.

    Args:
        name: A name of the catalogue, or of another depth 6n+2.
        **changes: Fields of `ModelConfig` and their values, such as `num_classes=37`.

    Raises:
        ConfigError: (a `ValueError`) for an unknown name, field or value; the message names the nearest that works.
    """
    match = _NAME.fullmatch(name)
    if match is None or (match[5] is not None and match[5] not in BLOCK_PROPERTIES):
        blocks = f"; the blocks are {', '.join(BLOCK_PROPERTIES)}" if match else ""
        raise ConfigError(
            f"model {name!r} is unknown; use a name such as resnet18, resnet50-v1, plain34, resnet56 or plain20{blocks}"
        )
    family, depth, cifar, v1, block = match[1], int(match[2]), match[3], match[4], match[5]
    fields: dict[str, Any] = {"name": name, "shortcut": "none" if family == "plain" else None}
    if depth in IMAGENET and not cifar:
        fields["block"], fields["stage_blocks"] = IMAGENET[depth]
        fields["block"] = _imagenet_block(name, block, fields["block"])
        fields["shortcut"] = fields["shortcut"] or "project"
    else:
        fields["block"] = changes.get("block", block or "basic")
        fields |= {"stem": "cifar", "stage_channels": (16, 32, 64), "num_classes": 10}
        fields["stage_blocks"] = (blocks_per_stage(depth, fields["block"]),) * 3
        fields["shortcut"] = fields["shortcut"] or "pad"
    if v1:
        if block_properties(fields["block"]).num_convs != 3:
            raise ConfigError(f"model {name!r} has no bottlenecks; use -v1 with 50, 101 or 152 layers")
        fields["bottleneck_stride"] = "1x1"
    unknown = sorted(set(changes) - {f.name for f in dataclasses.fields(ModelConfig)})
    if unknown:
        known = ", ".join(f.name for f in dataclasses.fields(ModelConfig))
        raise ConfigError(f"ModelConfig has no field {unknown[0]!r}; it has: {known}")
    return ModelConfig(**(fields | changes))


def _imagenet_block(name: str, block: str | None, paper_block: str) -> str:
    """Return the block of an ImageNet network whose name ends with `block`, in place of Table 1's.

    Raises:
        ConfigError: if no such block has as many convolutions as Table 1's.
    """
    if block is None:
        return paper_block
    expected = block_properties(paper_block)
    for candidate in (block, f"{block}-{paper_block}"):
        if BLOCK_PROPERTIES.get(candidate) == expected:
            return candidate
    raise ConfigError(
        f"model {name!r}: block {block} has no form with {expected.num_convs} convolutions like the {paper_block} "
        "block of Table 1; use another depth"
    )


def blocks_per_stage(depth: int, block: str = "basic") -> int:
    """Return n, the blocks of each of the three stages of a CIFAR network of `depth` = 6n+2 layers.

    A block of c convolutions gives 3c n + 2 layers: 9n+2 with bottlenecks.

    Raises:
        ConfigError: if the depth does not fit; the message names the nearest depths that do.
    """
    per_n = 3 * block_properties(block).num_convs
    n, rest = divmod(depth - 2, per_n)
    if rest == 0 and n >= 1:
        return n
    nearest = [per_n * k + 2 for k in (n, n + 1) if k >= 1] or [per_n + 2]
    which = f"nearest are {nearest[0]} and {nearest[1]}" if len(nearest) == 2 else f"nearest is {nearest[0]}"
    raise ConfigError(f"depth {depth} is not of the form {per_n}n+2; the {which}")


def build_model(
    model: str | ModelConfig,
    num_classes: int | None = None,
    *,
    weights: Path | str | None = None,
    generator: "Generator | None" = None,
    **changes: Any,
) -> "ResNet":
    """Build a network, such as `build_model("resnet34", num_classes=37, shortcut="pad")`, in training mode.

    With `weights`, as in `build_model("resnet50", weights="tv_in1k")`, it has the weights of a file. If `num_classes`
    differs from the file's, the head is new and random.

    Args:
        model: A name (`model_config`) or a configuration.
        num_classes: Outputs of the head; if `None` those of the file, or without `weights` those of `model`.
        weights: Published weights: the tag of one of the network's, such as `tv_in1k`, a whole name such as
            `resnet50.tv_in1k`, or `hf://owner/name`; or the path of a model file. Random weights if `None`.
        generator: Draws the weights; PyTorch's global generator (`torch.manual_seed`) if `None`.
        **changes: Other fields of `ModelConfig` and their values.

    Raises:
        ConfigError: (a `ValueError`) for an unknown name, field or value, and for weights of another network.
        DownloadError: if the weights are not on this machine and cannot be downloaded.
    """
    import torch  # here, so that `model_config` does not load it

    from resnetlab.models.resnet import ResNet

    if num_classes is not None:
        changes["num_classes"] = num_classes
    if weights is not None:
        from resnetlab.models.pretrained.network import pretrained_network

        return pretrained_network(model, weights, changes, generator=generator)
    config = model_config(model, **changes) if isinstance(model, str) else dataclasses.replace(model, **changes)
    with torch.random.fork_rng(devices=[], enabled=generator is not None):  # layers draw weights when built
        return ResNet(config, generator)


def size_warning(config: ModelConfig, image_size: int) -> str | None:
    """Return a warning if the images, of `image_size` pixels a side, are too small for the network, else `None`."""
    if config.stem == "imagenet" and image_size < 64:
        return (
            f"{config.name} is an ImageNet network: on {image_size}-pixel images its last stage works on a map of "
            f"{-(-image_size // 32)}x{-(-image_size // 32)}; use a 6n+2 network such as resnet20 or resnet56"
        )
    return None
