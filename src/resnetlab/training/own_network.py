"""A network of the user's own in the training loop: any module that maps images to logits.

The loop needs little of a network: logits, parameters and buffers. What belongs to the blocks of a ResNet alone does
not exist here: stages, features, frozen heads, learning rates that fall with the distance to the head, model files.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from resnetlab.config import ConfigError, ModelConfig, RunConfig
from resnetlab.data.rng import make_generator
from resnetlab.models.architectures.build import build_architecture
from resnetlab.models.blocks import Block
from resnetlab.models.evaluation_mode import evaluation_mode
from resnetlab.models.model_card import OWN_WEIGHTS, ModelCard, read_card
from resnetlab.models.resnet import ResNet
from resnetlab.serialization import check
from resnetlab.training.layer_stats import NUM_IMAGES, signal_line
from resnetlab.training.runtime_options import RuntimeOptions

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
"""Layers whose multiply-adds are counted, and whose statistics are recorded."""


class OwnNetwork(ResNet):
    """The user's module behind the interface of a network without blocks.

    It inherits no layer of `ResNet`, only the type that the training loop is written for.
    """

    def __init__(self, module: nn.Module, config: ModelConfig, image_size: int) -> None:
        """Take a module and check its output on two black images.

        Raises:
            ConfigError: if it does not map float images (batch, channels, size, size) to logits (batch, classes).
        """
        nn.Module.__init__(self)
        self.config = config
        self.activation_checkpointing = False
        self.module = module
        device = next((parameter.device for parameter in module.parameters()), None)
        images = torch.zeros(2, config.in_channels, image_size, image_size, device=device)
        expected = (2, config.num_classes)
        wanted = f"it must map float images {tuple(images.shape)} to logits {expected}"
        self.macs = 0
        try:
            with torch.no_grad(), self._counting_macs(module), evaluation_mode(module):
                output = module(images)
        except Exception as error:
            raise ConfigError(f"model {module_name(module)} fails: {error}; {wanted}") from error
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        check(shape == expected, f"model {module_name(module)} returns {shape}; {wanted}")
        check(any(p.requires_grad for p in module.parameters()), f"model {module_name(module)} has nothing to learn")
        _check_shared(module)

    def forward(self, images: Tensor) -> Tensor:
        """Map float images (batch, channels, height, width) to logits (batch, classes)."""
        return self.module(images)

    @property
    def blocks(self) -> list[Block]:
        """No block."""
        return []

    @property
    def stages(self) -> dict[str, nn.Sequential]:
        """No stage."""
        return {}

    @property
    def fc(self) -> Any:
        """A stand-in for the head, which tells the device of the weights."""
        return SimpleNamespace(weight=next(self.parameters()))

    @contextmanager
    def _counting_macs(self, module: nn.Module) -> Iterator[None]:
        """Add the multiply-adds of convolutions and linear layers for one image to `macs`."""

        def count(layer: nn.Module, _inputs: object, output: Tensor) -> None:
            weight = layer.weight
            assert isinstance(weight, Tensor)
            self.macs += weight.numel() * output[0].numel() // weight.shape[0]

        handles = [layer.register_forward_hook(count) for layer in module.modules() if isinstance(layer, LAYERS)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _check_shared(module: nn.Module) -> None:
    """Raise if two entries of the state dict share memory, which checkpoints cannot store."""
    seen: dict[int, str] = {}
    for name, tensor in module.state_dict().items():
        other = seen.setdefault(tensor.untyped_storage().data_ptr(), name) if tensor.numel() else name
        check(other == name, f"model {module_name(module)} shares the memory of {other} and {name}; copy one of them")


def module_name(module: nn.Module) -> str:
    """Return the class of a module as a record names it: `my_package.nets.Mlp`."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def own_module(config: RunConfig, model: nn.Module | None) -> nn.Module | None:
    """Return the module that is trained: `model`, or the one of the configuration's `architecture`; else `None`.

    Raises:
        ConfigError: if both are given.
    """
    if config.architecture is None:
        return model
    check(model is None, "model and the configuration's architecture exclude each other; give one of them")
    return build_architecture(config.architecture, make_generator(config.seed, "weights"))


def own_config(config: RunConfig, model: nn.Module | None) -> RunConfig:
    """Return the configuration of a run with a note of its module, if it has one.

    Raises:
        ConfigError: if the module cannot be trained so, or is missing.
    """
    if model is None:
        name = config.own_model
        check(name is None, f"this configuration is that of a run of {name}; give the module with fit(config, model=…)")
        return config
    check_own_config(model, config)
    return replace(config, own_model=module_name(model))


def resolve_own(config: RunConfig, model: nn.Module | None) -> tuple[RunConfig, nn.Module | None]:
    """Return a configuration with a note of its module, and the module; `fit` gives both resolved already.

    Raises:
        ConfigError: as `own_module` and `own_config`.
    """
    is_resolved = model is not None and config.own_model == module_name(model)
    model = model if is_resolved else own_module(config, model)
    return own_config(config, model), model


def load_own_weights(folder: Path, model: nn.Module) -> ModelCard:
    """Load the weights of a finished run into its module, and return the card of the run.

    Raises:
        ConfigError: if they are those of another module.
    """
    card = read_card(folder / OWN_WEIGHTS)
    try:
        model.load_state_dict(load_file(folder / OWN_WEIGHTS))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{folder / OWN_WEIGHTS} has not the weights of {module_name(model)} ({reason})") from error
    model.eval()
    return card


def check_own_config(model: object, config: RunConfig) -> None:
    """Raise unless a module can be trained by a configuration.

    Raises:
        ConfigError: if it is no module, or for a setting that needs the blocks of a ResNet.
    """
    check(isinstance(model, nn.Module), f"model must be a torch.nn.Module that returns logits, not {model!r}")
    check(config.weights is None, "weights is for networks of resnetlab; load them into the module before fit")
    check(not config.activation_checkpointing, "activation_checkpointing needs the blocks of a ResNet")
    check(config.recipe.layer_decay == 1, "layer_decay needs the stages of a ResNet")


def check_own_options(model: nn.Module | None, options: RuntimeOptions) -> None:
    """Raise unless a run of a module, if there is one, can have the options.

    Raises:
        ConfigError: for `keep_states_epochs`.
    """
    kept = options.keep_states_epochs is not None
    check(
        model is None or not kept,
        "keep_states_epochs writes model files, which a module of one's own has none of; leave it out",
    )


class OwnLayerStats:
    """The statistics of one step: gradients, and the deviation of each layer's output.

    What follows a layer is unknown here, so nothing is said about ReLUs, and there is no block and no shortcut.
    """

    def __init__(self, model: nn.Module) -> None:
        named = model.named_modules()
        self.layers = {name.removeprefix("module."): module for name, module in named if isinstance(module, LAYERS)}
        self._values: dict[tuple[str, str], Tensor] = {}

    def hooks(self) -> Iterator[tuple[nn.Module, Callable[..., None]]]:
        """Yield each layer and its forward hook."""
        for name, layer in self.layers.items():
            yield layer, partial(self._response, name)

    def _response(self, name: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self._values[name, "response_std"] = output.detach()[:NUM_IMAGES].float().std()

    def to_record(self, *, step: int, lr: float, loss: float) -> dict[str, Any]:
        """Return the record's `signal` line; gradients are `None` if the loss was not finite."""
        if math.isfinite(loss):
            for name, layer in self.layers.items():
                if (gradient := layer.weight.grad) is not None:
                    norm = torch.linalg.vector_norm(gradient)
                    self._values[name, "grad_norm"] = norm
                    self._values[name, "grad_to_weight"] = norm / torch.linalg.vector_norm(layer.weight.detach())
        numbers = {key: value.item() for key, value in self._values.items()}

        return signal_line(self.layers, numbers, {}, step=step, lr=lr, loss=loss)
