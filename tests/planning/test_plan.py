"""The plan against what others measured, and against what must hold of any plan."""

from functools import cache

import pytest

from resnetlab.models.cost import cost
from resnetlab.models.zoo import build_model
from resnetlab.planning.devices import device_named
from resnetlab.planning.plan import Hosts, Work, plan
from resnetlab.planning.published import FIGURES, IMAGENET_TRAIN

ERROR = 0.25
"""What docs/scaling.md states."""


@cache
def counted(name: str, size: int):
    return cost(build_model(name), size)


def work(name="resnet50", sizes=((224, 1.0),), batch_size=256, **changes) -> Work:
    parts = [(counted(name, size), size, share) for size, share in sizes]
    return Work(parts, True, IMAGENET_TRAIN, 110_000, 90, batch_size, **changes)


def hosts(devices=1, device="a100", **changes) -> Hosts:
    return Hosts(devices, device_named(device), changes.pop("decode_s", 0.0), **changes)


@pytest.mark.parametrize("figure", FIGURES, ids=lambda one: f"{one.model}-{one.devices}x{one.device}-{one.half}")
def test_published_speeds(figure):
    todo = work(figure.model, figure.sizes, figure.batch_size * figure.devices, half=figure.half)
    predicted = plan(todo, hosts(figure.devices, figure.device)).images_per_s
    assert abs(predicted / figure.images_per_s - 1) < ERROR
