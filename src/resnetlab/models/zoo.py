"""Named networks: a name such as `resnet56` to a `ModelConfig`, and that to a network."""

import dataclasses
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnetlab.config import BLOCK_PROPERTIES, ConfigError, ModelConfig, block_properties
from resnetlab.extension import load_extensions
from resnetlab.serialization import check_type

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

CIFAR_CHANNELS = (16, 32, 64)
"""Channels of the three stages of a CIFAR network (section 4.2)."""

CATALOGUE: tuple[str, ...] = (
    *("plain18", "plain34", "resnet18", "resnet34"),
    *("resnet50", "resnet50-v1", "resnet101", "resnet101-v1", "resnet152", "resnet152-v1"),
    *(f"plain{depth}" for depth in (20, 32, 44, 56, 110)),
    *(f"resnet{depth}" for depth in (20, 32, 44, 56, 110, 1202)),
)
"""The networks of the paper. Every other depth 6n+2 has a name too: `resnet8`, `plain164`, `resnet50-cifar`."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "wide_resnet50_2": ("resnet50", {"width_per_group": 128}),
    "wide_resnet101_2": ("resnet101", {"width_per_group": 128}),
    "resnext50_32x4d": ("resnet50", {"groups": 32, "width_per_group": 4}),
    "resnext101_32x8d": ("resnet101", {"groups": 32, "width_per_group": 8}),
    "resnext101_64x4d": ("resnet101", {"groups": 64, "width_per_group": 4}),
    "resnet50c": ("resnet50", {"stem": "deep"}),
    "resnet50d": ("resnet50", {"stem": "deep", "average_shortcut": True}),
    "resnet101d": ("resnet101", {"stem": "deep", "average_shortcut": True}),
}
"""Networks of later papers by torchvision's and timm's names → the network of Table 1, and the fields that differ.

Paper: Zagoruyko and Komodakis (2016), "Wide Residual Networks"; Xie et al. (2017), "Aggregated Residual Transformations
for Deep Neural Networks"; He, T. et al. (2019), "Bag of Tricks for Image Classification".
"""

LATER_NETWORKS: tuple[str, ...] = (
    *("wide_resnet50_2", "wide_resnet101_2", "resnext50_32x4d", "resnext101_32x8d"),
    *("resnet50d", "wrn28-10"),
)
"""The networks of later papers that `resnetlab models` measures and lists."""

_WIDE = re.compile(r"wrn(\d+)-(\d+)")
_NAME = re.compile(r"(resnet|plain)(\d+)(-cifar)?(-v1)?(?:-(.+))?")


def model_config(name: str, **changes: Any) -> ModelConfig:
    """Return the configuration of a named network.

    `resnet18` … `resnet152` and `plain18` … are the ImageNet networks (option B; v1.5, or v1 with `-v1`). `resnetN` and
    `plainN` with N = 6n+2 are the CIFAR networks (option A); with `block="bottleneck"`, N = 9n+2. The suffix `-cifar`
    selects the CIFAR network where N is also an ImageNet depth (`resnet50-cifar`). The name of a block at the end
    replaces the blocks: `resnet56-preact`, `resnet164-preact-bottleneck`, `resnet50-preact`.

    `VARIANTS` has the names of torchvision and timm for wide networks, ResNeXt, ResNet-C and ResNet-D. `wrn28-10` is
    the wide CIFAR network of 28 layers, counted with its three projections, with 10 times the channels (Zagoruyko and
    Komodakis, 2016, Table 1).

    Args:
        name: A name of the catalogue, or of another depth 6n+2.
        **changes: Fields of `ModelConfig` and their values, such as `num_classes=37`.

    Raises:
        ConfigError: (a `ValueError`) for an unknown name, field or value; the message names the nearest that works.
    """
    check_type("name", name, str, example="'resnet20'")
    fields = _named_fields(name, changes)
    needed = block_properties(changes.get("block", fields["block"])).required_norm
    if needed is not None:
        fields["norm"] = needed
    unknown = sorted(set(changes) - {f.name for f in dataclasses.fields(ModelConfig)})
    if unknown:
        known = ", ".join(f.name for f in dataclasses.fields(ModelConfig))
        raise ConfigError(f"ModelConfig has no field {unknown[0]!r}; it has: {known}")
    return ModelConfig(**(fields | changes))


def _named_fields(name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the named network; the depth of a CIFAR network may depend on the block in `changes`.

    Raises:
        ConfigError: for an unknown name.
    """
    if name in VARIANTS:
        base, fields = VARIANTS[name]
        return {**_named_fields(base, changes), **fields, "name": name}
    if wide := _WIDE.fullmatch(name):
        return {"name": name, **_wide_fields(int(wide[1]), int(wide[2]))}
    match = _NAME.fullmatch(name)
    if match and match[5] and match[5] not in BLOCK_PROPERTIES:
        load_extensions()
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
        fields |= {"stem": "cifar", "stage_channels": CIFAR_CHANNELS, "num_classes": 10}
        fields["stage_blocks"] = (blocks_per_stage(depth, fields["block"]),) * 3
        fields["shortcut"] = fields["shortcut"] or "pad"
    if v1:
        if block_properties(fields["block"]).num_convs != 3:
            raise ConfigError(f"model {name!r} has no bottlenecks; use -v1 with 50, 101 or 152 layers")
        fields["bottleneck_stride"] = "1x1"
    return fields


def _wide_fields(depth: int, width: int) -> dict[str, Any]:
    """Return the fields of WRN-depth-width: pre-activation blocks, and projections where a stage begins.

    Raises:
        ConfigError: for a depth that is not of the form 6n+4, or a width below 1.
    """
    n, rest = divmod(depth - 4, 6)
    if rest or n < 1 or width < 1:
        nearest = 6 * max(1, n) + 4
        raise ConfigError(
            f"a wide network has 6n+4 layers and a width of at least 1, such as wrn{nearest}-{width or 1}"
        )
    return {
        "block": "preact",
        "stage_blocks": (n,) * 3,
        "stage_channels": tuple(channels * width for channels in CIFAR_CHANNELS),
        "stem_channels": CIFAR_CHANNELS[0],
        "stem": "cifar",
        "shortcut": "project",
        "num_classes": 10,
    }


def find_name(config: ModelConfig) -> str:
    """Return the name under which `model_config` knows a network, apart from shortcut and head; `custom` if none."""
    family = "plain" if config.shortcut == "none" else "resnet"
    suffix = "" if config.block in ("basic", "bottleneck") else f"-{config.block}"
    names = [f"{family}{config.depth}{kind}{suffix}" for kind in ("", "-v1", "-cifar", "-cifar-v1")]
    width = config.stage_channels[0] // CIFAR_CHANNELS[0]
    for name in (*names, *VARIANTS, f"wrn{6 * config.stage_blocks[0] + 4}-{width}"):
        with suppress(ConfigError):
            known = model_config(name, block=config.block)
            if all(getattr(known, field) == getattr(config, field) for field in _shape_fields(config)):
                return known.name
    return "custom"


def _shape_fields(config: ModelConfig) -> tuple[str, ...]:
    """Return the fields that a name determines, apart from the shortcut; v1 and v1.5 differ in bottlenecks only."""
    fields = ("stage_blocks", "stage_channels", "block", "stem", "stem_width", "groups", "width_per_group")
    if config.shortcut in ("project", "project_all"):
        fields += ("average_shortcut",)
    return (*fields, "bottleneck_stride") if block_properties(config.block).num_convs == 3 else fields


def _imagenet_block(name: str, block: str | None, paper_block: str) -> str:
    """Return the block of an ImageNet network whose name ends with `block`, in place of Table 1's.

    Raises:
        ConfigError: if no such block has the convolutions and the expansion of Table 1's.
    """
    if block is None:
        return paper_block
    expected = block_properties(paper_block)
    for candidate in (block, f"{block}-{paper_block}"):
        found = BLOCK_PROPERTIES.get(candidate)
        if found is not None and (found.num_convs, found.expansion) == (expected.num_convs, expected.expansion):
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

    check_type("model", model, str | ModelConfig, example="'resnet20'")
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
    if config.stem != "cifar" and image_size < 64:
        return (
            f"{config.name} is an ImageNet network: on {image_size}-pixel images its last stage works on a map of "
            f"{-(-image_size // 32)}x{-(-image_size // 32)}; use a 6n+2 network such as resnet20 or resnet56"
        )
    return None
