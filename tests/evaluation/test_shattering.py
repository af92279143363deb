"""Shattered gradients: the estimator against known series, gradients against autograd, plain against residual."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from resnetlab.config import ConfigError
from resnetlab.data.rng import make_generator
from resnetlab.evaluation.shattering import (
    MAX_LAG,
    Autocorrelation,
    autocorrelation,
    counterpart,
    measure_shattering,
    noises,
    path_gradients,
)
from resnetlab.models.zoo import build_model, model_config


@pytest.fixture(scope="module")
def images():
    return torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def network(name, seed=0):
    return build_model(name, in_channels=1, generator=torch.Generator().manual_seed(seed)).eval()


def test_estimator_is_that_of_numpy():
    series = np.random.default_rng(0).standard_normal((100, 3)).cumsum(0)
    centred = series - series.mean(0)
    lags = [sum(np.correlate(c, c, "full")[99 + lag] for c in centred.T) for lag in range(6)]
    found = autocorrelation(torch.from_numpy(series), max_lag=5)
    assert found.tolist() == pytest.approx([lag / lags[0] for lag in lags])
    assert autocorrelation(torch.ones(50, 3)).isnan().all()


def test_noises_are_white_and_brown():
    white, brown = noises(256)
    assert white.values[0] == pytest.approx(1)
    assert max(map(abs, white.values[1:])) < 0.01
    # a random walk, centred over n steps, has variance n / 6, and neighbours differ by 1: c_1 ≈ 1 − 3 / n
    assert brown.values[1] == pytest.approx(1 - 3 / 256, abs=0.01)
    assert all(before > after for before, after in zip(brown.values, brown.values[1:], strict=False))
    assert (white.half_lag, Autocorrelation("", (1.0, 0.9)).half_lag) == (1, None)


def test_gradients_of_a_path(images):
    model = network("resnet8")
    series = path_gradients(model.train(), images, num_paths=2, num_points=5, seed=3)
    assert model.training
    assert series.shape == (2, 5, 64)
    point = (0.75 * images[2] + 0.25 * images[3])[None].requires_grad_()
    projection = torch.randn(10, generator=make_generator(3, "shattering", "projection"))
    output = (model.eval()(point) @ projection / projection.norm()).sum()
    (expected,) = torch.autograd.grad(output, point)
    torch.testing.assert_close(series[1, 1], expected.flatten(), rtol=1e-4, atol=1e-6)


def test_plain_gradients_are_shattered_and_residual_ones_are_not(images):
    """At initial weights, as in the paper; the counterparts of both networks are each other."""
    plain = measure_shattering(network("plain56"), images, num_paths=2)
    by_label = {curve.label: curve.values for curve in plain}
    assert list(by_label) == [
        "trained weights", "initial weights", "initial, with shortcuts", "white noise", "brown noise"
    ]  # fmt: skip
    assert by_label["initial weights"][1] < 0.3
    assert 0.6 < by_label["initial, with shortcuts"][1] < by_label["brown noise"][1]
    assert all(len(values) == MAX_LAG + 1 and values[0] == pytest.approx(1) for values in by_label.values())


def test_counterparts():
    ((label, config),) = counterpart(model_config("resnet20", shortcut="project", zero_init_residual=True))
    assert (label, config.shortcut, config.zero_init_residual) == ("initial, plain", "none", False)
    ((label, config),) = counterpart(model_config("plain20"))
    assert (label, config.shortcut) == ("initial, with shortcuts", "pad")


def test_constant_gradients_have_no_correlation(images):
    model = network("plain8")
    torch.nn.init.zeros_(model.fc.weight)
    trained = measure_shattering(model, images, num_paths=1, num_points=40)[0]
    assert all(map(math.isnan, trained.values))
    assert trained.half_lag is None
    assert dataclasses.asdict(trained)["label"] == "trained weights"


def test_one_image_is_refused(images):
    with pytest.raises(ConfigError, match="a path needs 2 images, not 1"):
        measure_shattering(network("resnet8"), images[:1])
