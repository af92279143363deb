"""Batch normalisation over two processes, in float64, equals that of one process with all images."""

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

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
