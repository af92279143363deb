"""Import a file of published weights as a `ResNet`, with everything that was assumed or is unusual."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from resnetlab.config import ConfigError
from resnetlab.models.importing.assumptions import Assumption, AssumptionOverrides, apply_overrides, list_assumptions
from resnetlab.models.importing.convert import (
    append_zero_channels,
    convert_state_dict,
    with_bn_epsilon,
    with_reversed_channels,
)
from resnetlab.models.importing.heads import refuse_unit_head
from resnetlab.models.importing.infer_architecture import InferredArchitecture, infer_architecture
from resnetlab.models.importing.key_formats import KeyFormat, ZeroChannels
from resnetlab.models.importing.weight_checks import count_non_finite, weight_warnings
from resnetlab.models.importing.weights_file import WeightsFile, read_weights
from resnetlab.models.importing.zero_channels import CLEAR_SCORE, infer_zero_channels
from resnetlab.models.resnet import ResNet

POSITION_TEXT: dict[ZeroChannels, str] = {"append": "behind the others", "split": "half in front, half behind"}


@dataclass(frozen=True)
class ImportedModel:
    """A network imported from a file, and what is known about the file."""

    model: ResNet
    """On the CPU, in evaluation mode, float32."""
    weights: WeightsFile
    key_format: KeyFormat
    assumptions: tuple[Assumption, ...]
    """The properties that weights do not determine, and the value of each."""
    warnings: tuple[str, ...]
    """Unusual properties of the file, one sentence each."""
    num_non_finite: int
    """Numbers that are NaN or infinite."""


def import_weights(
    path: Path | str, overrides: AssumptionOverrides | None = None, *, tensors: str | None = None
) -> ImportedModel:
    """Read a file of weights, infer its architecture, and build that network.

    If the assumptions hold, the network computes what the original does, up to the rounding of sums in another order.
    `tensors` selects one of several networks in the file, as for `read_weights`.

    Raises:
        ModelFileError: for a file that cannot be read without executing its content; the message names the file.
        UnsupportedError: for another architecture; the message names the file and the architecture.
        ConfigError: if the weights contradict an override, or `ModelConfig` refuses the network; naming the file.
    """
    overrides = overrides or AssumptionOverrides()
    weights = read_weights(path, tensors)
    try:
        network = infer_architecture(
            {key: tuple(x.shape) for key, x in weights.tensors.items()}, in_order=weights.in_order
        )
        network = replace(network, config=apply_overrides(network.config, overrides))
        with torch.random.fork_rng(devices=[]):  # layers draw weights when built
            model = ResNet(network.config)
        state = convert_state_dict(weights.tensors, network, model.state_dict())
        refuse_unit_head(state, network.keys, f"a ResNet of {network.config.depth} layers")
    except ConfigError as error:
        raise type(error)(f"{path}: {error}") from error
    config = network.config
    warnings = list(weight_warnings(weights.tensors, network, state))
    position, reason, doubts = _zero_channels(state, network, overrides)
    if config.shortcut == "pad" and position == "split":
        state = append_zero_channels(state, config)
    if overrides.bn_epsilon is not None:
        state = with_bn_epsilon(state, overrides.bn_epsilon, network.keys)
    if overrides.channel_order == "bgr":
        state = with_reversed_channels(state)
    model.load_state_dict(state)
    return ImportedModel(
        model=model.eval(),
        weights=weights,
        key_format=network.key_format,
        assumptions=tuple(list_assumptions(network, overrides, (position, reason))),
        warnings=(*warnings, *doubts),
        num_non_finite=count_non_finite(state),
    )


def _zero_channels(
    state: Mapping[str, Tensor], network: InferredArchitecture, overrides: AssumptionOverrides
) -> tuple[ZeroChannels, str, list[str]]:
    """Return the position of option A's zero channels, the reason for it, and warnings about a contradiction."""
    config, warnings = network.config, []
    inferred, score = infer_zero_channels(state, config)
    position: ZeroChannels = network.key_format.zero_channels or "append"
    reason = f"as in {network.key_format.name}" if network.key_format.zero_channels else "as in resnetlab"
    if inferred is not None:
        evidence = f"score {score:+.0f}; clear beyond {CLEAR_SCORE:.0f}"
        position, reason = inferred, f"the weights show it ({evidence})"
        if overrides.zero_channels not in (None, inferred) and "zero_channels" not in overrides.from_statistics:
            warnings.append(
                f"the weights show zero channels {POSITION_TEXT[inferred]} ({evidence}), contrary to --zero-channels"
            )
        if config.shortcut == "none":
            warnings.append(
                f"the weights look like those of option A, zero channels {POSITION_TEXT[inferred]} ({evidence})"
            )
    if overrides.zero_channels is not None:
        position, reason = overrides.zero_channels, overrides.reason("zero_channels", reason)
    return position, reason, warnings


def import_file_order(path: Path | str, *, tensors: str | None = None) -> ImportedModel:
    """Import a file as `import_weights` does, with the channels of option A in the order of the file.

    Raises:
        ModelFileError: as `import_weights`.
        UnsupportedError: as `import_weights`.
    """
    imported = import_weights(path, tensors=tensors)
    if imported.model.config.shortcut != "pad":
        return imported
    return import_weights(path, AssumptionOverrides(zero_channels="append"), tensors=tensors)
