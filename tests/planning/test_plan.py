"""The plan compared with published speeds, with measurements on this machine, and with invariants."""

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
from resnetlab.planning import benchmark
from resnetlab.planning.benchmark import time_training_image
from resnetlab.planning.devices import GIB, find_device
from resnetlab.planning.plan import (
    LAUNCH_S,
    Cluster,
    CostAtSize,
    Workload,
    count_operations,
    device_memory_gib,
    gradient_exchange,
    image_memory_gib,
    plan,
)
from resnetlab.planning.published_speeds import IMAGENET_TRAIN, PUBLISHED_SPEEDS
from resnetlab.planning.workload import predict_published_speed

PAGE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text()


@cache
def network_cost(name: str, size: int):
    return cost(build_model(name), size)


def work(name="resnet50", sizes=((224, 1.0),), batch_size=256, steps=1000, **options) -> Workload:
    return Workload(
        costs=[CostAtSize(network_cost(name, size), size, share) for size, share in sizes],
        residual=True,
        num_images=IMAGENET_TRAIN,
        image_bytes=110_000,
        steps=steps,
        batch_size=batch_size,
        **options,
    )


def cluster(num_devices=1, device="a100", decode_s=0.0, **options) -> Cluster:
    return Cluster(num_devices, find_device(device), decode_s, **options)


@pytest.mark.parametrize(
    "published", PUBLISHED_SPEEDS, ids=lambda speed: f"{speed.model}-{speed.devices}x{speed.device}-{speed.half}"
)
def test_published_speeds(published):
    """Bounds and numbers equal those in docs/scale.md."""
    predicted = predict_published_speed(published)
    error = predicted / published.images_per_s - 1
    bound = 0.22 if not published.held_out else 0.40 if published.device == "rtx3090" else 0.35
    assert abs(error) < bound
    row = f"| {published.images_per_s:,.0f} | {predicted:,.0f} | {100 * error:+.0f} % |".replace("-", "−")
    assert row in PAGE


def test_the_page_states_the_bounds():
    assert {"22 %", "35 %", "40 %"} <= set(re.findall(r"\d+ %", " ".join(PAGE.split())))


@pytest.mark.parametrize(
    ("name", "size", "batch_size"), [("resnet50", 128, 2), ("resnet18", 160, 4), ("resnet20", 32, 32)]
)
@pytest.mark.parametrize("half", [False, True])
def test_memory_equals_what_autograd_saves(name, size, batch_size, half):
    """Each storage counts once. Weights are not saved for the backward pass, but their 16-bit copies are."""
    network = build_model(name).train()
    images = torch.randn(batch_size, 3, size, size)
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    saved = {images.untyped_storage().data_ptr(): images}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        saved.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        loss = F.cross_entropy(network(images).float(), torch.zeros(batch_size, dtype=torch.long))
    saved_gib = sum(saved[at].untyped_storage().nbytes() for at in saved.keys() - weights) / GIB
    workload = work(name, ((size, 1.0),), batch_size, half=half)
    copies_gib = 2 * network_cost(name, size).params / GIB if half else 0
    assert batch_size * image_memory_gib(workload) + copies_gib == pytest.approx(saved_gib, rel=0.01)
    del loss


def test_memory_counts_the_largest_images_and_the_optimizer_state():
    workload, device = work("resnet18", ((160, 0.75), (192, 0.25))), find_device("a100")
    assert device_memory_gib(workload, device, 64) == pytest.approx(
        device_memory_gib(work("resnet18", ((192, 1.0),)), device, 64)
    )
    params = network_cost("resnet18", 224).params
    assert device_memory_gib(workload, device, 0) == pytest.approx(device.framework_gib + 14 * params / GIB)


def test_a_note_says_what_would_fit():
    notes = plan(work("resnet50", batch_size=2048), cluster(1, "v100")).notes
    match = re.search(
        r"does not fit: a device holds (\d+) images and has 2,048; train with --grad-accum-steps (\d+)", notes[0]
    )
    assert match
    fit, micro_batches = map(int, match.groups())
    assert (
        device_memory_gib(work(), find_device("v100"), fit)
        < 32
        < device_memory_gib(work(), find_device("v100"), 2 * fit)
    )
    assert -(-2048 // micro_batches) <= fit
    assert not [note for note in plan(work(), cluster()).notes if "fit" in note]


def test_the_lowest_limit_is_the_bottleneck():
    assert plan(work(), cluster()).bottleneck == "devices"
    assert plan(work(), cluster(decode_s=0.1)).bottleneck == "decoding"
    slow = plan(work(), cluster(decode_s=0.001, storage_bytes_per_s=1e7))
    assert (slow.bottleneck, slow.images_per_s) == ("storage", pytest.approx(1e7 / 110_000))
    assert slow.storage_bytes_per_s == pytest.approx(1e7)
    few = plan(work("resnet18", batch_size=16), cluster())
    assert few.bottleneck == "launches"
    assert few.step_s == pytest.approx(2 * LAUNCH_S * count_operations(work("resnet18")))
    slow_network = replace(find_device("a100"), network_bytes_per_s=1e7)
    assert plan(work(batch_size=4096), Cluster(16, slow_network, 0.0)).bottleneck == "communication"


def test_epochs_have_whole_steps_and_price_scales_with_devices():
    prediction = plan(work(steps=5004 * 90), cluster(price_per_hour=2.0))
    assert work(steps=5004 * 90).epochs == 90
    assert prediction.hours == pytest.approx(5004 * 90 * prediction.step_s / 3600)
    assert prediction.money == pytest.approx(2 * prediction.hours)
    eight = plan(work(steps=625 * 90, batch_size=2048), cluster(8, price_per_hour=2.0))
    assert eight.money == pytest.approx(16 * eight.hours)


def test_a_ring_sends_almost_twice_the_gradients():
    params = 1_000_000
    assert gradient_exchange(params, cluster(1)) == (0.0, 0.0)
    assert gradient_exchange(params, cluster(8))[0] == pytest.approx(2 * 7 / 8 * 4e6)
    within, across = gradient_exchange(params, cluster(8))[1], gradient_exchange(params, cluster(3584))[1]
    assert within == pytest.approx(2 * 7 / 8 * 4e6 / 230e9)
    assert within < across < 1e-3


def test_all_devices_wait_for_the_fullest_one():
    uneven, even = (plan(work(batch_size=size), cluster(16)).step_s for size in (16 * 256 + 1, 16 * 257))
    assert uneven == pytest.approx(even)


def test_notes_about_the_batch_size():
    assert "--batch-size 8192" in plan(work(batch_size=16_384), cluster(64)).notes[0]
    assert "--sync-bn" in plan(work(batch_size=8192), cluster(512)).notes[0]
    waiting = plan(work(batch_size=256), cluster(8, "h100"))
    idle_pct = 100 - 100 * waiting.limits["launches"] / waiting.limits["devices"]
    assert f"for {idle_pct:.0f} % of the time; a larger --batch-size or fewer --devices" in waiting.notes[0]
    assert not plan(work(batch_size=2048), cluster(8, "h100")).notes
    with pytest.raises(ConfigError, match=r"8,192 images a step leave some of 5,000 devices with fewer than 2"):
        plan(work(batch_size=8192), cluster(5000))


def test_the_time_of_a_local_core_is_measured(monkeypatch):
    now = 0.0
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: now)

    class SlowNetwork(nn.Module):
        """A network with a known time: 20 ms for a step of 4 images."""

        config = build_model("resnet8").config

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(10))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            nonlocal now
            now += 0.02
            assert torch.get_num_threads() == 1
            return self.weight.expand(len(images), 10)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = time_training_image(SlowNetwork(), 32, 4, half=False, time_s=0.1)  # type: ignore[arg-type]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert found == pytest.approx(0.005)
    prediction = plan(work("resnet20", ((32, 1.0),), 128), cluster(2, "here", image_s=0.001))
    assert prediction.limits == {"devices": pytest.approx(2000 * 0.93)}
