"""Landscapes: directions, points and the record that makes a killed measurement continue."""

import json
import math
from typing import Literal

import pytest
import torch
import torch.nn.functional as F

from resnetlab.config import ConfigError, ModelConfig
from resnetlab.evaluation.landscapes.directions import (
    flatten,
    moved,
    moving_weights,
    random_direction,
    trajectory_plane,
)
from resnetlab.evaluation.landscapes.hessian import hessian_product
from resnetlab.evaluation.landscapes.landscape import (
    FEWEST,
    MOST,
    Grid,
    Point,
    loss_and_error,
    measure_points,
    points_in_time,
)
from resnetlab.evaluation.landscapes.landscape_record import LandscapeRecord, stored_header
from resnetlab.models.zoo import build_model

CONFIG = ModelConfig("tiny", (1, 1), (4, 6), stem="cifar", shortcut="project", num_classes=3, in_channels=1)
HEADER = {"points": 3, "seed": 0}


@pytest.fixture
def model():
    rng = torch.Generator().manual_seed(0)
    model = build_model(CONFIG, generator=rng)
    model.train()(torch.randn(32, 1, 6, 6, generator=rng))
    return model.eval()


@pytest.fixture
def images():
    return torch.randn(40, 1, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels():
    return torch.arange(40) % 3


def test_directions_are_filter_normalised(model):
    direction = random_direction(model, seed=0, number=0)
    convolutions = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)]
    assert set(direction) == {f"{name}.weight" for name in convolutions} | {"fc.weight"}  # no BN, no bias
    for name, part in direction.items():
        for filter_, own in zip(part, model.get_parameter(name), strict=True):
            assert filter_.norm() == pytest.approx(own.norm().item(), rel=1e-5)
    assert torch.equal(flatten(random_direction(model, seed=0, number=0)), flatten(direction))
    other = flatten(random_direction(model, seed=0, number=1))
    assert abs(F.cosine_similarity(other, flatten(direction), dim=0)) < 0.3


def test_moved_weights_come_back_bit_for_bit(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    directions = [random_direction(model, seed=0, number=number) for number in (0, 1)]
    with moved(model, directions, (0.3, -0.7)):
        for name, weight in moving_weights(model).items():
            expected = before[name] + 0.3 * directions[0][name] - 0.7 * directions[1][name]
            torch.testing.assert_close(weight.detach(), expected)
        assert torch.equal(model.bn1.running_mean, before["bn1.running_mean"])
    with pytest.raises(KeyError), moved(model, directions, (0.3, -0.7)):
        raise KeyError
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_points_of_a_plane(model, images, labels):
    directions = [random_direction(model, seed=0, number=number) for number in (0, 1)]
    grid = Grid(5, (-1.0, 1.0), (-0.5, 0.5))
    assert (grid.xs, grid.ys, grid.total) == ([-1, -0.5, 0, 0.5, 1], [-0.5, -0.25, 0, 0.25, 0.5], 25)
    measure = {"directions": directions, "grid": grid}
    points = list(measure_points(model, images, labels, known={}, **measure))
    assert [(point.column, point.row) for point in points[:6]] == [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (0, 1)]
    with torch.no_grad():
        logits = model(images)
    centre = points[12]
    assert centre.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert centre.error_pct == pytest.approx(100 * (logits.argmax(1) != labels).float().mean().item())
    known = {(point.column, point.row): point for point in points if point.row != 3}
    assert list(measure_points(model, images, labels, known=known, **measure)) == points[15:20]


def test_the_landscape_curves_as_the_hessian_says(model, images, labels):
    """Second differences through the centre against the product with the Hessian; so close that no ReLU switches."""
    model, images, step = model.double(), images.double(), 1e-4
    direction = {name: part.double() for name, part in random_direction(model, seed=0, number=0).items()}
    grid = Grid(3, (-step, step), None)
    measured = list(measure_points(model, images, labels, directions=[direction], grid=grid, known={}))
    low, centre, high = (point.loss for point in measured)
    product = flatten(hessian_product(model, images, labels, vector=direction))
    assert (low - 2 * centre + high) / step**2 == pytest.approx(float(flatten(direction) @ product), rel=0.01)


def test_values_that_are_not_finite(model, images, labels):
    torch.nn.init.constant_(model.fc.weight, math.inf)
    loss, error = loss_and_error(model, images, labels)
    assert not math.isfinite(loss)
    assert error == 100


def test_a_grid_is_checked():
    for points in (2, 4, 1):
        with pytest.raises(ConfigError, match=f"odd number of at least 3, not {points}"):
            Grid(points)
    with pytest.raises(ConfigError, match="finite and ascending, not 1 to -1"):
        Grid(3, (1.0, -1.0))


def test_number_of_points_follows_from_the_time(model, images, labels):
    def in_time(seconds, dimensions: Literal[1, 2] = 2):
        ticks = iter([0.0, 0.5])
        return points_in_time(model, images, labels, time_s=seconds, dimensions=dimensions, clock=lambda: next(ticks))

    assert in_time(0.5 * 21 * 21) == 21
    assert in_time(0.5 * 22 * 22) == 21
    assert in_time(10, dimensions=1) == 19
    assert (in_time(0.1), in_time(1e6)) == (FEWEST, MOST)


def test_plane_through_a_trajectory(model):
    """States on a known plane: the last is the network, the others lie along two orthogonal directions."""
    weights = moving_weights(model)
    raw = [random_direction(model, seed=0, number=number) for number in (0, 1)]
    first = flatten(raw[0]) / flatten(raw[0]).norm()
    second = flatten(raw[1]) - first * (first @ flatten(raw[1]))
    second = second / second.norm()
    places = [(6.0, 0.0), (3.0, 1.0), (1.0, -1.0), (0.0, 0.0)]
    sizes = [weight.numel() for weight in weights.values()]
    states = []
    for x, y in places:
        parts = (x * first + y * second).split(sizes)
        states.append({n: w.detach() + p.view_as(w) for (n, w), p in zip(weights.items(), parts, strict=True)})
    plane = trajectory_plane(states, model)
    assert sum(plane.explained) == pytest.approx(1, abs=1e-4)
    assert plane.explained[0] > 0.9
    for one in range(4):
        for other in range(4):  # principal axes keep distances
            expected = math.dist(places[one], places[other])
            assert math.dist(plane.coordinates[one], plane.coordinates[other]) == pytest.approx(expected, abs=1e-3)
    for direction in plane.directions:
        assert flatten(direction).norm() == pytest.approx(1, rel=1e-4)
    with pytest.raises(ConfigError, match="at least 3 states of the run, and there are 2"):
        trajectory_plane(states[:2], model)
    with pytest.raises(ConfigError, match="lie on a line"):
        trajectory_plane([states[0], states[3], states[3]], model)
    with pytest.raises(ConfigError, match="other weights"):
        trajectory_plane([{}, {}, {}], model)


def test_a_killed_measurement_continues(tmp_path):
    path = tmp_path / "landscape.jsonl"
    with LandscapeRecord(path, HEADER) as record:
        record.add(Point(0, 0, 1.5, 20.0))
        record.add(Point(1, 0, math.inf, 100.0))
    with path.open("ab") as file:
        file.write(b'{"column": 2, "ro')  # the kill
    with LandscapeRecord(path, HEADER) as record:
        assert record.points[0, 0] == Point(0, 0, 1.5, 20.0)
        assert math.isnan(record.points[1, 0].loss)
        record.add(Point(2, 0, 0.25, 10.0))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line.get("column") for line in lines] == [None, 0, 1, 2]
    assert lines[2]["loss"] is None
    assert stored_header(path) == {"version": 1, **HEADER}


def test_another_landscape_is_refused(tmp_path):
    path = tmp_path / "landscape.jsonl"
    LandscapeRecord(path, HEADER).__exit__(None, None, None)
    with pytest.raises(ConfigError, match="holds another landscape: its points is 3, not 5"):
        LandscapeRecord(path, {**HEADER, "points": 5})
    path.write_text('{"version": 1, "points": 3, "seed": 0}\nnonsense\n')
    with pytest.raises(ConfigError, match="line 2: no point of a landscape"):
        LandscapeRecord(path, HEADER)
    path.write_text("mine\n")
    with pytest.raises(ConfigError, match="line 1: no header of a landscape"):
        LandscapeRecord(path, HEADER)
    assert path.read_text() == "mine\n"
    header = json.dumps({"version": 1, **HEADER})
    for foreign in (
        "mine, without a line end",
        "mine\ntwo",
        "[1, 2]\n{",
        '{"version": 1, "points": 5}\n{"col',
        header + "\nx\ny",
    ):
        path.write_text(foreign)
        with pytest.raises(ConfigError):
            LandscapeRecord(path, HEADER)
        assert path.read_text() == foreign
    for cut_off in ("", header[:9], header):
        path.write_text(cut_off)
        LandscapeRecord(path, HEADER).__exit__(None, None, None)
        assert path.read_text() == header + "\n"
    assert stored_header(tmp_path / "nothing") is None
