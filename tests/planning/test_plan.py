"""The plan against what others measured, against what is measured here, and against what must hold of any plan."""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resnetlab.config import ConfigError
from resnetlab.models.cost import cost
from resnetlab.models.zoo import build_model
from resnetlab.planning.benchmark import time_training_image
from resnetlab.planning.devices import GIB, device_named
from resnetlab.planning.plan import (
    HOST_S,
    Cluster,
    Workload,
    gradient_exchange,
    image_gib,
    memory_gib,
    operations,
    plan,
)
from resnetlab.planning.published_speeds import FIGURES, IMAGENET_TRAIN
from resnetlab.planning.workload import predict_published

SCALING = (Path(__file__).parents[2] / "docs" / "scale.md").read_text()


@cache
def counted(name: str, size: int):
    return cost(build_model(name), size)


def work(name="resnet50", sizes=((224, 1.0),), batch_size=256, **changes) -> Workload:
    parts = [(counted(name, size), size, share) for size, share in sizes]
    return Workload(parts, True, IMAGENET_TRAIN, 110_000, changes.pop("steps", 1000), batch_size, **changes)


def hosts(devices=1, device="a100", **changes) -> Cluster:
    return Cluster(devices, device_named(device), changes.pop("decode_s", 0.0), **changes)


@pytest.mark.parametrize("figure", FIGURES, ids=lambda one: f"{one.model}-{one.devices}x{one.device}-{one.half}")
def test_published_speeds(figure):
    """The bounds, and the very numbers, are those that docs/scale.md states."""
    said = predict_published(figure)
    error = said / figure.images_per_s - 1
    bound = 0.22 if not figure.held_out else 0.40 if figure.device == "rtx3090" else 0.35
    assert abs(error) < bound
    row = f"| {figure.images_per_s:,.0f} | {said:,.0f} | {100 * error:+.0f} % |".replace("-", "−")
    assert row in SCALING


def test_the_bounds_are_stated():
    assert {"22 %", "35 %", "40 %"} <= set(re.findall(r"\d+ %", SCALING))


@pytest.mark.parametrize(
    ("name", "size", "batch_size"), [("resnet50", 128, 2), ("resnet18", 160, 4), ("resnet20", 32, 32)]
)
@pytest.mark.parametrize("half", [False, True])
def test_memory_is_what_autograd_keeps(name, size, batch_size, half):
    """Everything saved for the backward pass, a storage once: weights are not saved, but their 16-bit copies are."""
    network = build_model(name).train()
    images = torch.randn(batch_size, 3, size, size)
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    saved = {images.untyped_storage().data_ptr(): images}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        loss = F.cross_entropy(network(images).float(), torch.zeros(batch_size, dtype=torch.long))
    kept_gib = sum(saved[at].untyped_storage().nbytes() for at in saved.keys() - own) / GIB
    todo = work(name, ((size, 1.0),), batch_size, half=half)
    copies_gib = 2 * counted(name, size).params / GIB if half else 0
    assert batch_size * image_gib(todo) + copies_gib == pytest.approx(kept_gib, rel=0.01)
    del loss


def test_memory_is_at_the_largest_side_and_with_the_state():
    todo, device = work("resnet18", ((160, 0.75), (192, 0.25))), device_named("a100")
    assert memory_gib(todo, device, 64) == pytest.approx(memory_gib(work("resnet18", ((192, 1.0),)), device, 64))
    params = counted("resnet18", 224).params
    assert memory_gib(todo, device, 0) == pytest.approx(device.framework_gib + 14 * params / GIB)


def test_what_does_not_fit_is_said_and_what_would():
    notes = plan(work("resnet50", batch_size=2048), hosts(1, "v100")).notes
    said = re.search(
        r"does not fit: (\d+) images a device do, and it has 2,048; train with --grad-accum-steps (\d+)", notes[0]
    )
    assert said
    fit, parts = map(int, said.groups())
    assert memory_gib(work(), device_named("v100"), fit) < 32 < memory_gib(work(), device_named("v100"), 2 * fit)
    assert -(-2048 // parts) <= fit
    assert not [note for note in plan(work(), hosts()).notes if "fit" in note]


def test_the_least_limit_is_the_bottleneck():
    assert plan(work(), hosts()).bottleneck == "devices"
    assert plan(work(), hosts(decode_s=0.1)).bottleneck == "decoding"
    slow = plan(work(), hosts(decode_s=0.001, storage=1e7))
    assert (slow.bottleneck, slow.images_per_s) == ("storage", pytest.approx(1e7 / 110_000))
    assert slow.storage_bytes_per_s == pytest.approx(1e7)
    few = plan(work("resnet18", batch_size=16), hosts())
    assert few.bottleneck == "launches"
    assert few.step_s == pytest.approx(2 * HOST_S * operations(work("resnet18")))
    thin = replace(device_named("a100"), between_nodes=1e7)
    assert plan(work(batch_size=4096), Cluster(16, thin, 0.0)).bottleneck == "communication"


def test_an_epoch_has_whole_steps_and_money_goes_with_devices():
    made = plan(work(steps=5004 * 90), hosts(price_per_hour=2.0))
    assert work(steps=5004 * 90).epochs == 90
    assert made.hours == pytest.approx(5004 * 90 * made.step_s / 3600)
    assert made.money == pytest.approx(2 * made.hours)
    eight = plan(work(steps=625 * 90, batch_size=2048), hosts(8, price_per_hour=2.0))
    assert eight.money == pytest.approx(16 * eight.hours)


def test_a_ring_sends_nearly_twice_the_gradients():
    params = 1_000_000
    assert gradient_exchange(params, hosts(1)) == (0.0, 0.0)
    assert gradient_exchange(params, hosts(8))[0] == pytest.approx(2 * 7 / 8 * 4e6)
    within, across = gradient_exchange(params, hosts(8))[1], gradient_exchange(params, hosts(3584))[1]
    assert within == pytest.approx(2 * 7 / 8 * 4e6 / 230e9)
    assert within < across < 1e-3


def test_the_device_that_has_most_is_waited_for():
    uneven, even = (plan(work(batch_size=size), hosts(16)).step_s for size in (16 * 256 + 1, 16 * 257))
    assert uneven == pytest.approx(even)


def test_what_the_batch_does_is_noted():
    assert "--batch-size 8192" in plan(work(batch_size=16_384), hosts(64)).notes[0]
    assert "--sync-bn" in plan(work(batch_size=8192), hosts(512)).notes[0]
    waiting = plan(work(batch_size=256), hosts(8, "h100"))
    idle_pct = 100 - 100 * waiting.limits["launches"] / waiting.limits["devices"]
    assert f"for {idle_pct:.0f} % of the time; a larger --batch-size or fewer --devices" in waiting.notes[0]
    assert not plan(work(batch_size=2048), hosts(8, "h100")).notes
    with pytest.raises(ConfigError, match=r"8,192 images a step leave some of 5,000 devices with fewer than 2"):
        plan(work(batch_size=8192), hosts(5000))


def test_a_core_of_this_machine_is_measured():
    class Slow(nn.Module):
        """Stands in for a network, so that the time is known: 20 ms a step of 4 images."""

        config = build_model("resnet8").config

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(10))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            import time

            time.sleep(0.02)
            assert torch.get_num_threads() == 1
            return self.weight.expand(len(images), 10)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = time_training_image(Slow(), 32, 4, half=False, seconds=0.1)  # type: ignore[arg-type]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert 0.005 <= found < 0.02
    made = plan(work("resnet20", ((32, 1.0),), 128), hosts(2, "here", image_s=0.001))
    assert made.limits == {"devices": pytest.approx(2000 * 0.93)}
