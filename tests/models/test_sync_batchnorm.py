"""Batch normalisation over two processes, in float64, equals that of one process with all images."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn

from resnetlab.config import ConfigError
from resnetlab.models.sync_batchnorm import convert_sync_batchnorm
from resnetlab.models.zoo import build_model

SHARDS = (slice(0, 5), slice(5, 12))
"""Each process's images of 12: different numbers."""


def step(shard, num_images=12):
    """Return logits and gradients for some images, with the loss averaged over all, and the statistics afterwards."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(num_images, 3, 16, 16, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 10, (num_images,), generator=generator)
    model = build_model("resnet8", 10, generator=torch.Generator().manual_seed(1)).double()
    if dist.is_initialized():
        convert_sync_batchnorm(model)
    logits = model(images[shard])
    torch.nn.functional.cross_entropy(logits, labels[shard], reduction="sum").div(num_images).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return logits.detach(), gradients, dict(model.named_buffers())


def run_process(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    logits, gradients, statistics = step(SHARDS[rank])
    for gradient in gradients.values():
        dist.all_reduce(gradient)
    torch.save((logits, gradients, statistics), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def two_steps(model, images):
    """Return outputs, gradients and statistics of two steps of one process."""
    values = {}
    for step in range(2):
        output = model(images.roll(step, 0))
        output.square().sum().backward()
        values |= {f"output {step}": output.detach()}
        values |= {f"gradient {step} {name}": p.grad.clone() for name, p in model.named_parameters()}
    return values | {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", ["resnet8", "resnet20-preact"])
def test_activation_checkpointing_computes_the_same_steps(one_process, name):
    model = build_model(name, 10, generator=torch.Generator().manual_seed(1)).double().train()
    convert_sync_batchnorm(model)
    saving = copy.deepcopy(model)
    saving.activation_checkpointing = True
    images = torch.rand(4, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(two_steps(saving, images), two_steps(model, images), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        (nn.BatchNorm2d, {"affine": False}),
        (nn.BatchNorm2d, {"momentum": None}),
        (nn.BatchNorm2d, {"track_running_stats": False}),
        (nn.BatchNorm1d, {"momentum": None, "affine": False}),
        (nn.BatchNorm1d, {"momentum": 0.3, "eps": 1e-3}),
        (nn.BatchNorm3d, {}),
    ],
)
def test_layers_of_a_module_of_ones_own_are_synchronised_as_pytorch_defines_them(one_process, layer, options):
    size = {nn.BatchNorm1d: (), nn.BatchNorm2d: (6, 6), nn.BatchNorm3d: (6, 6, 6)}[layer]
    images = torch.randn(5, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(layer(3, **options), nn.Flatten(), nn.LazyLinear(4)).double()
    model(images)
    synced = copy.deepcopy(model)
    convert_sync_batchnorm(synced)
    assert type(synced[0]) is not layer
    torch.testing.assert_close(two_steps(synced, images), two_steps(model, images), rtol=1e-9, atol=1e-9)


def test_a_layer_that_cannot_be_synchronised_is_refused():
    class Ghost(nn.BatchNorm2d):
        """A batch normalisation with a computation of its own."""

    with pytest.raises(ConfigError, match=r"sync_bn cannot synchronise Ghost \(1\); use nn.BatchNorm1d, 2d or 3d"):
        convert_sync_batchnorm(nn.Sequential(nn.Conv2d(3, 3, 1), Ghost(3)))


@pytest.mark.slow
def test_two_processes_compute_what_one_does(tmp_path):
    context = spawn(run_process, args=(str(tmp_path),), nprocs=2, join=False)
    assert context is not None
    while not context.join(timeout=60):
        pass
    whole = step(slice(None))
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    torch.testing.assert_close(torch.cat([logits for logits, _, _ in found]), whole[0], rtol=1e-10, atol=1e-12)
    for _, gradients, statistics in found:
        torch.testing.assert_close(gradients, whole[1], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(statistics, whole[2], rtol=1e-10, atol=1e-12)
