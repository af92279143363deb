"""Frozen layers stay frozen: every submodule has its own mode again after evaluation mode."""

from typing import Any

import pytest
import torch
from torch import nn

from resnetlab.data.rng import make_generator
from resnetlab.evaluation.landscapes.directions import random_direction
from resnetlab.evaluation.landscapes.hessian import measure_curvature
from resnetlab.evaluation.landscapes.landscape import Grid, measure_points, points_in_time
from resnetlab.evaluation.lesions.lesion import LesionOptions, measure_lesions
from resnetlab.evaluation.lesions.path_gradients import measure_path_gradients
from resnetlab.evaluation.logits import network_evaluation_mode
from resnetlab.evaluation.self_check.bn_agreement import bn_input_moments
from resnetlab.evaluation.shattering import path_gradients
from resnetlab.models.block_edits import block_shapes
from resnetlab.models.evaluation_mode import evaluation_mode, restored_modes
from resnetlab.models.zoo import build_model
from resnetlab.training.execution.step_timer import unchanged
from resnetlab.training.layer_stats import measure_layer_stats

LABELS = torch.tensor([0, 1, 2, 0])


def frozen_network():
    """Return a network in training mode with two frozen layers, images, and the mode of each submodule."""
    model = build_model("resnet8", 3, generator=make_generator(0)).train()
    for name in ("bn1", "layer2.0.bn1"):
        model.get_submodule(name).eval()
    return model, torch.randn(4, 3, 16, 16, generator=make_generator(1)), modes_of(model)


def modes_of(model):
    return {name: module.training for name, module in model.named_modules()}


class Adapter(nn.Linear):
    """A layer that merges its weights in evaluation mode, as low-rank adapters do."""

    merged = False

    def train(self, mode=True):
        self.merged = not mode
        return super().train(mode)


def test_all_submodules_are_in_evaluation_mode_and_restored():
    model, _, modes = frozen_network()
    second = nn.Sequential(Adapter(2, 2), nn.Dropout()).train()
    second[1].eval()
    with evaluation_mode(model, second):
        assert not any(module.training for network in (model, second) for module in network.modules())
        assert second[0].merged
    assert modes_of(model) == modes
    assert modes_of(second) == {"": True, "0": True, "1": False}
    assert not second[0].merged


def test_modes_are_restored_after_an_exception():
    model, _, modes = frozen_network()
    with pytest.raises(RuntimeError, match="broken"), evaluation_mode(model):
        raise RuntimeError("broken")
    with pytest.raises(AttributeError, match="no attribute"), restored_modes(model):
        model.train().get_submodule("no_such_layer")
    assert modes_of(model) == modes


def test_an_interrupted_iteration_restores_the_modes():
    model, images, modes = frozen_network()
    points: Any = measure_points(
        model, images, LABELS, directions=(random_direction(model, 0, 0),), grid=Grid(3, y_range=None), known={}
    )
    next(points)
    points.close()
    assert modes_of(model) == modes


USERS = {
    "curvature": lambda model, images: measure_curvature(model, images, LABELS, count=1),
    "block shapes": block_shapes,
    "bn moments": lambda model, images: bn_input_moments(model, [images]),
    "layer stats": lambda model, images: measure_layer_stats(model, images, LABELS),
    "lesions": lambda model, images: measure_lesions(
        model, images, LABELS, options=LesionOptions(most_removed=1, most_swaps=1, repeats=1, paths=1)
    ),
    "path gradients": lambda model, images: measure_path_gradients(model, images, LABELS, per_length=1),
    "points in time": lambda model, images: points_in_time(model, images, LABELS, time_s=0, dimensions=1),
    "shattering": lambda model, images: path_gradients(model, images, num_paths=1, num_points=4, seed=0),
}


@pytest.mark.parametrize("use", USERS.values(), ids=USERS)
def test_frozen_layers_stay_frozen(use):
    model, images, modes = frozen_network()
    use(model, images)
    assert modes_of(model) == modes


def test_frozen_layers_stay_frozen_when_steps_are_timed():
    model, _, modes = frozen_network()
    with unchanged(model):
        assert all(modes_of(model).values())
    assert modes_of(model) == modes


def test_an_engine_has_one_mode_only():
    with network_evaluation_mode(object()):  # pyright: ignore[reportArgumentType]
        pass
