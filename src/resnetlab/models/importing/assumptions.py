"""What weights do not tell of a network: what the user says, what is assumed, and whose convention it is. No torch."""

from dataclasses import dataclass, replace
from typing import Literal

from resnetlab.config import ConfigError, ModelConfig
from resnetlab.models.importing.infer_architecture import InferredArchitecture, with_zoo_name
from resnetlab.models.importing.key_formats import Placement


@dataclass(frozen=True)
class AssumptionOverrides:
    """What the user says of a network where its weights do not; `None` leaves it to the convention."""

    shortcut: Literal["none", "pad"] | None = None
    zero_channels: Placement | None = None
    bottleneck_stride: Literal["1x1", "3x3"] | None = None


@dataclass(frozen=True)
class Assumption:
    """Something that weights do not tell."""

    what: str
    taken: str
    """What was assumed, or was said."""
    because: str
    """Whose convention it is, or that the user said so."""
    otherwise: str = ""
    """The option for another answer; empty where there is no other that a network of ours can be."""


def apply_overrides(config: ModelConfig, choices: AssumptionOverrides) -> ModelConfig:
    """Return the configuration with what the user says of it.

    Raises:
        ConfigError: where the weights contradict, or there is nothing to choose.
    """
    if choices.shortcut is not None and config.shortcut != "pad":
        option = "B" if config.shortcut == "project" else "C"
        raise ConfigError(
            f"--shortcut is for shortcuts without weights, and those of this network have some (option {option}); "
            "leave it out"
        )
    if choices.bottleneck_stride is not None and config.block != "bottleneck":
        raise ConfigError("--bottleneck-stride is for bottlenecks, and this network has basic blocks; leave it out")
    if choices.zero_channels is not None and (config.shortcut != "pad" or choices.shortcut == "none"):
        raise ConfigError("--zero-channels is for option A, and this network has other shortcuts; leave it out")
    stride = choices.bottleneck_stride or config.bottleneck_stride
    return with_zoo_name(replace(config, shortcut=choices.shortcut or config.shortcut, bottleneck_stride=stride))


def list_assumptions(
    network: InferredArchitecture, choices: AssumptionOverrides, zeros: tuple[Placement, str]
) -> list[Assumption]:
    """List what weights do not tell of a network, and what was taken for it.

    `zeros` says where option A's zero channels were taken to be, and why.
    """
    config, layout = network.config, network.layout
    convention = f"as {layout.name} has it" if layout.pattern else "the usual way"
    said, paper = "you said so", "as in the paper"
    found = []
    if config.shortcut in ("none", "pad"):
        taken = "residual (option A)" if config.shortcut == "pad" else "plain"
        other = "none" if config.shortcut == "pad" else "pad"
        because = said if choices.shortcut else "as most are; a plain network has the same tensors"
        found.append(Assumption("plain or residual", taken, because, f"--shortcut {other}"))
    if config.shortcut == "pad" and config.stage_channels[0] < config.stage_channels[-1] * config.expansion:
        placement, why = zeros
        taken = "behind the others" if placement == "append" else "half in front of the others, half behind"
        other = "split" if placement == "append" else "append"
        found.append(Assumption("option A's zero channels", taken, why, f"--zero-channels {other}"))
        found.append(Assumption("option A's map where it halves", "every second position, no average", paper))
    found += _of_projections(network)
    if config.block == "bottleneck":
        first = config.bottleneck_stride == "1x1"
        taken = "in the first 1x1 (v1)" if first else "in the 3x3 (v1.5)"
        because = said if choices.bottleneck_stride else convention
        other = f"--bottleneck-stride {'3x3' if first else '1x1'}"
        found.append(Assumption("stride of bottlenecks", taken, because, other))
    stem = "stride 2, then 3x3/2 max pool" if config.stem == "imagenet" else "stride 1, no pool"
    found.append(Assumption("stem", stem, paper))
    found.append(Assumption("map", "halved by each later stage, averaged at the end", paper))
    found.append(Assumption("ReLU", "after each BN but the last of a block, and after the addition", paper))
    if config.norm == "batch" and config.block == "basic" and len(set(config.stage_channels)) == 1:
        found.append(Assumption("BN", "after each convolution", f"{paper}; before each (pre-activation) it fits too"))
    if config.norm == "batch":
        found.append(Assumption("epsilon of BN", "1e-5", "as PyTorch has it unless told otherwise"))
    return found


def _of_projections(network: InferredArchitecture) -> list[Assumption]:
    """List what is taken for granted of projections: where they stride, and that they alone do it."""
    config, paper, found = network.config, "as in the paper", []
    if config.shortcut in ("project", "project_all") and len(config.stage_blocks) > 1:
        found.append(Assumption("projection where it halves", "its 1x1 convolution strides, no average", paper))
    num_projecting = sum(key.endswith("downsample.0.weight") for key in network.keys)
    everywhere = num_projecting == sum(config.stage_blocks) > len(config.stage_blocks)
    first = network.keys.get("layer1.0.downsample.0.weight")
    if first is not None and config.expansion == 1 and not everywhere:  # nothing changes there but perhaps the size
        name = first.removesuffix(".weight")
        found.append(Assumption(f"stride of {name}", "1", f"{paper}, although channels do not change there"))
    return found
