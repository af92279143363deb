"""A file of somebody else's weights → a network of ours, and everything that is known of it."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from resnetlab.config import ConfigError
from resnetlab.models.importing.assumptions import Assumption, AssumptionOverrides, apply_overrides, list_assumptions
from resnetlab.models.importing.convert import append_zero_channels, convert_state_dict
from resnetlab.models.importing.infer_architecture import infer_architecture
from resnetlab.models.importing.key_formats import KeyFormat, Placement
from resnetlab.models.importing.weight_checks import count_non_finite, weight_warnings
from resnetlab.models.importing.weights_file import WeightsFile, read_weights
from resnetlab.models.importing.zero_channels import CLEAR, infer_zero_channels
from resnetlab.models.resnet import ResNet

WORDS: dict[Placement, str] = {"append": "behind the others", "split": "half in front, half behind"}


@dataclass(frozen=True)
class ImportedModel:
    """A network that came out of a file, and what is known of the file."""

    model: ResNet
    """On the CPU, in evaluation mode, float32."""
    weights: WeightsFile
    layout: KeyFormat
    unknown: tuple[Assumption, ...]
    """What the weights do not tell, and what was taken for it."""
    odd: tuple[str, ...]
    """A sentence each."""
    not_finite: int
    """Numbers that are NaN or infinite."""


def import_weights(path: Path | str, choices: AssumptionOverrides = AssumptionOverrides()) -> ImportedModel:  # noqa: B008  # frozen
    """Read a file of weights, say which network it is, and make that network.

    The network computes what the original does, up to the rounding of sums in another order, if what was taken for
    the unknown is right.

    Raises:
        ModelFileError: for a file that cannot be read, or only by running what is in it; naming it.
        UnsupportedError: for a network that is not one of ours; naming the file, and saying which it is.
        ConfigError: where the weights contradict a choice, or no network can be so; naming the file.
    """
    weights = read_weights(path)
    try:
        network = infer_architecture(
            {key: tuple(x.shape) for key, x in weights.tensors.items()}, in_order=weights.in_order
        )
        network = replace(network, config=apply_overrides(network.config, choices))
        with torch.random.fork_rng(devices=[]):  # layers draw weights when they are made
            model = ResNet(network.config)
        state = convert_state_dict(weights.tensors, network, model.state_dict())
    except ConfigError as error:
        raise type(error)(f"{path}: {error}") from error
    config = network.config
    odd = list(weight_warnings(weights.tensors, network, state))
    seen, score = infer_zero_channels(state, config)
    placement: Placement = network.layout.zero_channels or "append"
    why = f"as {network.layout.name} has it" if network.layout.zero_channels else "as this project has it"
    if seen is not None:
        evidence = f"score {score:+.0f}; clear is beyond {CLEAR:.0f}"
        placement, why = seen, f"the weights show it ({evidence})"
        if choices.zero_channels not in (None, seen):
            odd.append(f"the weights speak for zero channels {WORDS[seen]} ({evidence}), and you said otherwise")
        if config.shortcut == "none":
            odd.append(f"the weights look as those of option A do, zero channels {WORDS[seen]} ({evidence})")
    if choices.zero_channels is not None:
        placement, why = choices.zero_channels, "you said so"
    if config.shortcut == "pad" and placement == "split":
        state = append_zero_channels(state, config)
    model.load_state_dict(state)
    unknown = list_assumptions(network, choices, (placement, why))
    return ImportedModel(model.eval(), weights, network.layout, tuple(unknown), tuple(odd), count_non_finite(state))
