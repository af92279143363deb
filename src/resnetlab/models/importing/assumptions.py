"""Properties of a network that its weights do not determine: the user's overrides, and what is assumed and why."""

from dataclasses import dataclass, replace
from typing import Literal

from resnetlab.config import ConfigError, ModelConfig
from resnetlab.models.importing.conv_bn_pairs import BN_EPSILON
from resnetlab.models.importing.infer_architecture import InferredArchitecture, with_zoo_name
from resnetlab.models.importing.key_formats import ZeroChannels


@dataclass(frozen=True)
class AssumptionOverrides:
    """The user's values for properties that weights do not determine; `None` leaves a property to the convention."""

    shortcut: Literal["none", "pad"] | None = None
    zero_channels: ZeroChannels | None = None
    bottleneck_stride: Literal["1x1", "3x3"] | None = None
    channel_order: Literal["rgb", "bgr"] | None = None
    bn_epsilon: float | None = None
    average_shortcut: bool | None = None
    """Whether projections read averages of 2 x 2 positions, as in ResNet-D."""
    from_statistics: frozenset[str] = frozenset()
    """Names of the fields whose values the statistics of batch normalisation decided, not the user."""

    def reason(self, name: str, otherwise: str) -> str:
        """Return why a property has its value; `otherwise` is the convention behind a value that is not given."""
        if getattr(self, name) is None:
            return otherwise
        return "as its statistics show" if name in self.from_statistics else "given by the user"


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
    if overrides.channel_order == "bgr" and config.in_channels != 3:
        raise ConfigError(f"--channel-order applies to 3 channels, and this network reads {config.in_channels}")
    if overrides.bn_epsilon is not None and config.norm != "batch":
        raise ConfigError("--bn-epsilon applies to batch normalisation, and this network has none; leave it out")
    if overrides.bn_epsilon is not None and not 0 <= overrides.bn_epsilon < 1:
        raise ConfigError(f"--bn-epsilon must be from 0 to below 1, such as 1e-3, not {overrides.bn_epsilon:g}")
    average = config.average_shortcut if overrides.average_shortcut is None else overrides.average_shortcut
    return with_zoo_name(
        replace(
            config,
            shortcut=overrides.shortcut or config.shortcut,
            bottleneck_stride=overrides.bottleneck_stride or config.bottleneck_stride,
            average_shortcut=average,
        )
    )


def list_assumptions(
    network: InferredArchitecture, overrides: AssumptionOverrides, zero_channels: tuple[ZeroChannels, str]
) -> list[Assumption]:
    """List the properties that weights do not determine, with the value of each.

    `zero_channels` is the position of option A's zero channels, and the reason for it.
    """
    config, key_format = network.config, network.key_format
    convention = f"as in {key_format.name}" if key_format.pattern else "the usual convention"
    paper = "as in the paper"
    found = []
    if config.shortcut in ("none", "pad"):
        value = "residual (option A)" if config.shortcut == "pad" else "plain"
        other = "none" if config.shortcut == "pad" else "pad"
        reason = overrides.reason("shortcut", "the usual network; a plain one has the same tensors")
        found.append(Assumption("plain or residual", value, reason, f"--shortcut {other}"))
    if config.shortcut == "pad" and config.stem_width < config.stage_channels[-1] * config.expansion:
        position, reason = zero_channels
        value = "behind the others" if position == "append" else "half in front of the others, half behind"
        other = "split" if position == "append" else "append"
        found.append(Assumption("option A's zero channels", value, reason, f"--zero-channels {other}"))
        found.append(Assumption("option A's subsampling", "every second position, no average", paper))
    found += _projection_assumptions(network, overrides)
    if config.block == "bottleneck":
        first = config.bottleneck_stride == "1x1"
        value = "in the first 1x1 (v1)" if first else "in the 3x3 (v1.5)"
        reason = overrides.reason("bottleneck_stride", convention)
        option = f"--bottleneck-stride {'3x3' if first else '1x1'}"
        found.append(Assumption("stride of bottlenecks", value, reason, option))
    stems = {
        "imagenet": ("stride 2, then 3x3/2 max pool", paper),
        "cifar": ("stride 1, no pool", paper),
        "deep": ("stride 2 in the first convolution, then 3x3/2 max pool", "as in timm"),
    }
    found.append(Assumption("stem", *stems[config.stem]))
    found.append(Assumption("map", "halved by each later stage, averaged at the end", paper))
    found.append(Assumption("ReLU", "after each BN but the last of a block, and after the addition", paper))
    if config.norm == "batch" and config.block == "basic" and len(set(config.stage_channels)) == 1:
        found.append(Assumption("BN", "after each convolution", f"{paper}; BN before each (pre-activation) fits too"))
    if config.norm == "batch":
        epsilon = BN_EPSILON if overrides.bn_epsilon is None else overrides.bn_epsilon
        reason = overrides.reason("bn_epsilon", "PyTorch's default")
        value = f"{epsilon:.0e}".replace("e-0", "e-")
        found.append(Assumption("epsilon of BN", value, reason, "--bn-epsilon 1e-3" if epsilon == BN_EPSILON else ""))
    if config.in_channels == 3:
        order = overrides.channel_order or "rgb"
        reason = overrides.reason("channel_order", "the usual convention")
        other = "rgb" if order == "bgr" else "bgr"
        found.append(Assumption("channels", order.upper(), reason, f"--channel-order {other}"))
    return found


def _projection_assumptions(network: InferredArchitecture, overrides: AssumptionOverrides) -> list[Assumption]:
    """List the assumptions about the strides of projections."""
    config, paper, found = network.config, "as in the paper", []
    if config.shortcut in ("project", "project_all") and len(config.stage_blocks) > 1:
        projections = ("in the 1x1 convolution, no average", paper)
        if config.average_shortcut:
            projections = ("an average of 2x2 positions in front of the 1x1 convolution", "as in timm's ResNet-D")
        value, reason = projections
        reason = overrides.reason("average_shortcut", reason)
        found.append(Assumption("stride of projections", value, reason))
    num_projecting = sum(key.endswith("downsample.0.weight") for key in network.keys)
    everywhere = num_projecting == sum(config.stage_blocks) > len(config.stage_blocks)
    first = network.keys.get("layer1.0.downsample.0.weight")
    if first is not None and config.expansion == 1 and not everywhere:  # the first stage may have a stride
        name = first.removesuffix(".weight")
        found.append(Assumption(f"stride of {name}", "1", f"{paper}, although channels do not change there"))
    return found
