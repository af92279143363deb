"""The optimizer, its parameter groups, and which parameters learn in an epoch.

Layers near the images learn general features, layers near the head those of the task (Yosinski et al., 2014, "How
transferable are features in deep neural networks?"). Fine-tuning therefore lowers the learning rate towards the images.
"""

from collections.abc import Callable, Set
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from resnetlab.config import Recipe, RunConfig
from resnetlab.extension import OPTIMIZERS
from resnetlab.models.resnet import ResNet
from resnetlab.serialization import check
from resnetlab.training.init_weights import HEAD
from resnetlab.training.optimizers.lamb import Lamb
from resnetlab.training.optimizers.muon import ConvMuon


def layer_distance(name: str, num_stages: int) -> int:
    """Return the distance of a parameter from the head: head 0, last stage 1, first stage N, stem N + 1."""
    part = name.partition(".")[0]
    if part == "fc":
        return 0
    if part == "final_bn":
        return 1
    return num_stages + 1 - int(part.removeprefix("layer")) if part.startswith("layer") else num_stages + 1


MakeOptimizer = Callable[[list[dict[str, Any]], Recipe], torch.optim.Optimizer]
"""Builds an optimizer over parameter groups as a recipe says."""


def register_optimizer(name: str, make: MakeOptimizer) -> None:
    """Add an optimizer under `name`, for `Recipe(optimizer=name)`.

    Args:
        name: A new name.
        make: Called with the parameter groups (each a dict with `params`, `lr_scale` and, where it differs from the
            recipe's, `weight_decay`) and the recipe. The trainer sets each group's `lr` before every step, and
            stores the tensors and numbers of the optimizer's state in checkpoints, not those in groups.

    Raises:
        ConfigError: if the name is taken.
    """
    check(callable(make), f"optimizer {name!r} must be a function of groups and recipe, not {make!r}")
    OPTIMIZERS.register(name, make)


def _sgd(groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        groups,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov,
        fused=True,
    )


def _adamw(groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=_betas(recipe), weight_decay=recipe.weight_decay)


def _lamb(groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    return Lamb(groups, lr=recipe.lr, betas=_betas(recipe), weight_decay=recipe.weight_decay)


def _muon(groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    decay, nesterov = recipe.weight_decay, recipe.nesterov
    return ConvMuon(groups, lr=recipe.lr, betas=_betas(recipe), weight_decay=decay, nesterov=nesterov)


def _betas(recipe: Recipe) -> tuple[float, float]:
    return recipe.momentum, recipe.beta2


OPTIMIZERS.define("sgd", _sgd)
OPTIMIZERS.define("adamw", _adamw)
OPTIMIZERS.define("lamb", _lamb)
OPTIMIZERS.define("muon", _muon)


def make_optimizer(model: ResNet, config: RunConfig) -> torch.optim.Optimizer:
    """Return the recipe's optimizer over the groups of `parameter_groups`.

    Raises:
        ConfigError: if the recipe's optimizer is not registered.
    """
    return OPTIMIZERS[config.recipe.optimizer](parameter_groups(model, config), config.recipe)


def parameter_groups(model: ResNet, config: RunConfig) -> list[dict[str, Any]]:
    """Return parameter groups, each with an `lr_scale` of `layer_decay` to the power of its `layer_distance`.

    Parameters of one scale share a group. In a run that starts from a file, head and batch normalisation have groups of
    their own: the fused step needs groups whose parameters all have momentum, or none.
    """
    norms = _norm_parameters(model)
    groups: dict[tuple[float, str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        scale = config.recipe.layer_decay ** layer_distance(name, len(model.stages))
        kind = "head" if name.startswith(HEAD) else "norm" if name in norms else "body"
        decays = config.recipe.decay_norms or parameter.dim() > 1
        groups.setdefault((scale, kind if config.weights is not None else "all", decays), []).append(parameter)
    return [
        {"params": parameters, "lr_scale": scale, **({} if decays else {"weight_decay": 0.0})}
        for (scale, _, decays), parameters in groups.items()
    ]


def frozen_parameters(model: nn.Module) -> frozenset[str]:
    """Return the names of the parameters that require no gradient."""
    return frozenset(name for name, parameter in model.named_parameters() if not parameter.requires_grad)


def unfreeze(model: nn.Module, frozen: Set[str]) -> None:
    """Let every parameter require gradients but those named in `frozen`."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)


def set_mode(model: ResNet, recipe: Recipe, epoch: int, *, frozen: Set[str]) -> None:
    """Put a network into the recipe's training mode for an epoch, counted from 0.

    Frozen parameters get no gradient, so weight decay and momentum do not change them; those named in `frozen` never
    learn. Frozen batch normalisation uses its running statistics and does not update them.
    """
    model.train()
    head_only, norms = epoch < recipe.frozen_epochs, _norm_parameters(model)
    for name, parameter in model.named_parameters():
        learns = name.startswith(HEAD) or not (head_only or (recipe.freeze_bn and name in norms))
        parameter.requires_grad_(learns and name not in frozen)
    if head_only or recipe.freeze_bn:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def _norm_parameters(model: ResNet) -> set[str]:
    """Return the names of the scale and shift of every batch normalisation layer."""
    norms = [(name, module) for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    return {f"{name}.{part}" for name, module in norms for part, _ in module.named_parameters()}
