"""Properties of a network that its weights do not determine: the user's overrides, and what is assumed and why."""

from dataclasses import dataclass, replace
from typing import Literal

from resnetlab.config import ConfigError, ModelConfig
from resnetlab.models.importing.infer_architecture import InferredArchitecture, with_zoo_name
from resnetlab.models.importing.key_formats import ZeroChannels


@dataclass(frozen=True)
class AssumptionOverrides:
    """The user's values for properties that weights do not determine; `None` leaves a property to the convention."""

    shortcut: Literal["none", "pad"] | None = None
    zero_channels: ZeroChannels | None = None
    bottleneck_stride: Literal["1x1", "3x3"] | None = None


@dataclass(frozen=True)
class Assumption:
    """A property of the network that its weights do not determine."""

    subject: str
    value: str
    """The assumed or given value."""
    reason: str
    """The convention behind the value, or that the user gave it."""
    option: str = ""
    """The command-line option for another value; empty if `ModelConfig` has no other."""


def apply_overrides(config: ModelConfig, overrides: AssumptionOverrides) -> ModelConfig:
    """Return the configuration with the user's overrides.

    Raises:
        ConfigError: if an override contradicts the weights or does not apply to the network.
    """
    if overrides.shortcut is not None and config.shortcut != "pad":
        option = "B" if config.shortcut == "project" else "C"
        raise ConfigError(
            "--shortcut applies to shortcuts without weights, and the shortcuts of this network have weights "
            f"(option {option}); leave it out"
        )
    if overrides.bottleneck_stride is not None and config.block != "bottleneck":
        raise ConfigError("--bottleneck-stride applies to bottlenecks, and this network has basic blocks; leave it out")
    if overrides.zero_channels is not None and (config.shortcut != "pad" or overrides.shortcut == "none"):
        raise ConfigError("--zero-channels applies to option A, and this network has other shortcuts; leave it out")
    stride = overrides.bottleneck_stride or config.bottleneck_stride
    return with_zoo_name(replace(config, shortcut=overrides.shortcut or config.shortcut, bottleneck_stride=stride))


def list_assumptions(
    network: InferredArchitecture, overrides: AssumptionOverrides, zero_channels: tuple[ZeroChannels, str]
) -> list[Assumption]:
    """List the properties that weights do not determine, with the value of each.

    `zero_channels` is the position of option A's zero channels, and the reason for it.
    """
    config, key_format = network.config, network.key_format
    convention = f"as in {key_format.name}" if key_format.pattern else "the usual convention"
    given, paper = "given by the user", "as in the paper"
    found = []
    if config.shortcut in ("none", "pad"):
        value = "residual (option A)" if config.shortcut == "pad" else "plain"
        other = "none" if config.shortcut == "pad" else "pad"
        reason = given if overrides.shortcut else "the usual network; a plain one has the same tensors"
        found.append(Assumption("plain or residual", value, reason, f"--shortcut {other}"))
    if config.shortcut == "pad" and config.stage_channels[0] < config.stage_channels[-1] * config.expansion:
        position, reason = zero_channels
        value = "behind the others" if position == "append" else "half in front of the others, half behind"
        other = "split" if position == "append" else "append"
        found.append(Assumption("option A's zero channels", value, reason, f"--zero-channels {other}"))
        found.append(Assumption("option A's subsampling", "every second position, no average", paper))
    found += _projection_assumptions(network)
    if config.block == "bottleneck":
        first = config.bottleneck_stride == "1x1"
        value = "in the first 1x1 (v1)" if first else "in the 3x3 (v1.5)"
        reason = given if overrides.bottleneck_stride else convention
        option = f"--bottleneck-stride {'3x3' if first else '1x1'}"
        found.append(Assumption("stride of bottlenecks", value, reason, option))
    stem = "stride 2, then 3x3/2 max pool" if config.stem == "imagenet" else "stride 1, no pool"
    found.append(Assumption("stem", stem, paper))
    found.append(Assumption("map", "halved by each later stage, averaged at the end", paper))
    found.append(Assumption("ReLU", "after each BN but the last of a block, and after the addition", paper))
    if config.norm == "batch" and config.block == "basic" and len(set(config.stage_channels)) == 1:
        found.append(Assumption("BN", "after each convolution", f"{paper}; BN before each (pre-activation) fits too"))
    if config.norm == "batch":
        found.append(Assumption("epsilon of BN", "1e-5", "PyTorch's default"))
    return found


def _projection_assumptions(network: InferredArchitecture) -> list[Assumption]:
    """List the assumptions about the strides of projections."""
    config, paper, found = network.config, "as in the paper", []
    if config.shortcut in ("project", "project_all") and len(config.stage_blocks) > 1:
        found.append(Assumption("stride of projections", "in the 1x1 convolution, no average", paper))
    num_projecting = sum(key.endswith("downsample.0.weight") for key in network.keys)
    everywhere = num_projecting == sum(config.stage_blocks) > len(config.stage_blocks)
    first = network.keys.get("layer1.0.downsample.0.weight")
    if first is not None and config.expansion == 1 and not everywhere:  # the first stage may have a stride
        name = first.removesuffix(".weight")
        found.append(Assumption(f"stride of {name}", "1", f"{paper}, although channels do not change there"))
    return found
