"""Which parameters learn, and how fast: by how far they stand from the head, and whether they are frozen.

Yosinski et al., 2014, "How transferable are features in deep neural networks?": what is near the images is general,
what is near the head is of its task.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from resnetlab.config import Recipe, RunConfig
from resnetlab.models.resnet import ResNet
from resnetlab.training.init_weights import HEAD


def layer_distance(name: str, num_stages: int) -> int:
    """Return how many groups back from the head a parameter stands: head 0, last stage 1, first stage N, stem N + 1."""
    part = name.partition(".")[0]
    if part == "fc":
        return 0
    return num_stages + 1 - int(part.removeprefix("layer")) if part.startswith("layer") else num_stages + 1


def make_optimizer(model: ResNet, config: RunConfig) -> torch.optim.Optimizer:
    """Return SGD with the recipe's momentum and weight decay over the groups of `parameter_groups`."""
    recipe = config.recipe
    return torch.optim.SGD(
        parameter_groups(model, config),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        fused=True,
    )


def parameter_groups(model: ResNet, config: RunConfig) -> list[dict[str, Any]]:
    """Return the optimizer's groups, each with its `lr_scale`: `layer_decay` to the power of its `layer_distance`.

    Parameters of one scale go together. In a run that starts from a file head and batch normalisation are apart from
    the rest, as each of the three has momentum or has none: the fused step cannot do with a mixture.
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


def set_mode(model: ResNet, recipe: Recipe, epoch: int) -> None:
    """Put a network into training mode as the recipe wants it in an epoch, counted from 0.

    What is frozen gets no gradient, so that neither weight decay nor momentum moves it, and its batch normalisation
    uses its running statistics and leaves them as they are.
    """
    model.train()
    alone, norms = epoch < recipe.frozen_epochs, _norm_parameters(model)
    for name, parameter in model.named_parameters():
        is_head = name.startswith(HEAD)
        parameter.requires_grad_(is_head or not (alone or (recipe.freeze_bn and name in norms)))
    if alone or recipe.freeze_bn:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def _norm_parameters(model: ResNet) -> set[str]:
    """Return the names of scale and shift of every batch normalisation."""
    norms = [(name, module) for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    return {f"{name}.{part}" for name, module in norms for part, _ in module.named_parameters()}
