"""Curvature against the exact Hessian of a small network."""

import pytest
import torch
import torch.nn.functional as F

from resnetlab.config import ConfigError, ModelConfig
from resnetlab.evaluation.landscapes.directions import flatten, moving_weights, random_direction, unflatten
from resnetlab.evaluation.landscapes.hessian import hessian_product, measure_curvature
from resnetlab.models.zoo import build_model

CONFIG = ModelConfig("tiny", (1,), (3,), stem="cifar", shortcut="pad", num_classes=3, in_channels=1)


@pytest.fixture(scope="module")
def case():
    """A network of about 200 weights, images, labels and the exact Hessian."""
    rng = torch.Generator().manual_seed(0)
    model = build_model(CONFIG, generator=rng)
    images, labels = torch.randn(100, 1, 5, 5, generator=rng), torch.arange(100) % 3
    model.train()(images)
    model.eval()
    weights = moving_weights(model)

    def loss(vector):
        values = {**unflatten(vector, weights)}
        return F.cross_entropy(torch.func.functional_call(model, values, (images,)), labels)

    hessian = torch.autograd.functional.hessian(loss, flatten(weights).detach())
    assert isinstance(hessian, torch.Tensor)
    return model, images, labels, hessian


def test_product_is_exact(case):
    model, images, labels, hessian = case
    direction = random_direction(model, seed=0, number=0)
    product = flatten(hessian_product(model, images, labels, vector=direction))
    torch.testing.assert_close(product, hessian @ flatten(direction), rtol=1e-3, atol=1e-5)


def test_eigenvalues_are_those_of_the_exact_hessian(case):
    model, images, labels, hessian = case
    directions = (random_direction(model, seed=0, number=0), random_direction(model, seed=0, number=1))
    curvature = measure_curvature(model, images, labels, directions=directions, count=3)
    exact = torch.linalg.eigvalsh(hessian.double()).flip(0)
    assert curvature.eigenvalues == pytest.approx(exact[:3].tolist(), rel=0.02)
    for direction, value in zip(directions, curvature.along, strict=True):
        vector = flatten(direction)
        assert value == pytest.approx(float(vector @ hessian @ vector / vector.square().sum()), rel=1e-3)
        assert value < curvature.eigenvalues[0]


def test_number_of_eigenvalues_is_checked(case):
    with pytest.raises(ConfigError, match="number of eigenvalues must be at least 1, not 0"):
        measure_curvature(*case[:3], count=0)
