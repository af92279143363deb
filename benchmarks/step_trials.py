"""Time a training step of ResNet-20 and ResNet-56 in several ways against the usual eager step, in bf16.

All ways take the same random images at batch 128 and run in turn, in one process; the median of the ratios counts. The
ways:

- `compiled`: the whole forward and backward pass through `torch.compile`, as `--compile on`;
- `fused normalisation`: eager, but batch normalisation, the addition and ReLU are one compiled function of each block,
  with a backward pass of its own;
- `two threads`: two Python threads with one core each take half of the images, with batch statistics of their own, and
  add their gradients, as two GPUs of the paper did (section 4.2);
- `256 images, statistics of 128`: two forward and backward passes for one update (ghost batch normalisation; Hoffer et
  al., 2017);
- `256 images`: one pass of 256 images.

    python benchmarks/step_trials.py
"""

import argparse
import copy
import functools
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from resnetlab.system.allocator import use_huge_pages

use_huge_pages()  # as `resnetlab train` does, before PyTorch is loaded

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from resnetlab.models.blocks import BasicBlock  # noqa: E402
from resnetlab.models.zoo import build_model  # noqa: E402

BATCH = 128
GAIN = 1.05
"""Ratio from which a way is worth keeping, on both networks."""
MAX_DIFFERENCE = 0.02
"""Largest difference of a gradient of the fused functions, as a share of its norm."""
Step = Callable[[], int]
"""Take one step and return its number of images."""


def main() -> int:
    """Time every way on both networks and print a table for each."""
    parser = argparse.ArgumentParser(description="time a training step in several ways")
    parser.add_argument("--networks", nargs="+", default=["resnet20", "resnet56"], help="CIFAR networks to time")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of every way, in turn")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each way in a round")
    options = parser.parse_args()
    print(
        f"two cores, PyTorch {torch.__version__}, bf16, channels last, {options.rounds} rounds of {options.seconds:g} s"
    )
    check_fused_norm()
    for name in options.networks:
        steps = all_steps(name)
        speeds: dict[str, list[float]] = {way: [] for way in steps}
        for step in steps.values():
            step()  # compiles
            step()
        for index in range(options.rounds):
            order = list(steps) if index % 2 == 0 else list(steps)[::-1]  # no way is always the last
            for way in order:
                speeds[way].append(images_per_s(steps[way], options.seconds))
        print(f"\n{name}: images/s, ratio to eager (median, range)")
        for way, own in speeds.items():
            ratios = [ours / usual for ours, usual in zip(own, speeds["eager"], strict=True)]
            spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
            print(f"{way:<32}{statistics.median(own):>7,.0f}  {spread}", flush=True)
    print(f"\nworth keeping: {GAIN} or more on every network")
    return 0


def images_per_s(step: Step, seconds: float) -> float:
    """Return the images of a step over its time, from steps of at least `seconds`."""
    start, images = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds:
        images += step()
    return images / passed


def all_steps(name: str) -> dict[str, Step]:
    """Return each way to take a step, the eager one first; each has a copy of the network."""
    torch.manual_seed(0)
    model = build_model(name).train()
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    images, labels = torch.randn(2 * BATCH, 3, 32, 32), torch.randint(10, (2 * BATCH,))
    images = images.to(memory_format=torch.channels_last)
    one, two = (images[:BATCH], labels[:BATCH]), (images, labels)
    halves = [(images[:BATCH], labels[:BATCH]), (images[BATCH:], labels[BATCH:])]
    return {
        "eager": usual_step(copy.deepcopy(model), [one]),
        "compiled": usual_step(copy.deepcopy(model), [one], compiled=True),
        "fused normalisation": usual_step(with_fused_norm(copy.deepcopy(model)), [one]),
        "two threads": threaded_step(copy.deepcopy(model), *one),
        "256 images, statistics of 128": usual_step(copy.deepcopy(model), halves),
        "256 images": usual_step(copy.deepcopy(model), [two]),
    }


def loss_of(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of a batch in bf16."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images)
    return F.cross_entropy(logits.float(), labels)


def sgd(model: nn.Module) -> torch.optim.SGD:
    """Return the optimizer of section 4.2."""
    return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4, fused=True)


def usual_step(model: nn.Module, micro_batches: list[tuple[Tensor, Tensor]], *, compiled: bool = False) -> Step:
    """Return a step of one pass for each micro-batch and one update."""
    optimizer = sgd(model)
    loss: Any = torch.compile(loss_of) if compiled else loss_of

    def step() -> int:
        for images, labels in micro_batches:
            loss(model, images, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        return sum(len(labels) for _, labels in micro_batches)

    return step


def threaded_step(model: nn.Module, images: Tensor, labels: Tensor) -> Step:
    """Return a step of two threads with half of the images each; the first network has the weights."""
    models = [model, copy.deepcopy(model)]
    pool = ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,))
    parts = list(zip(models, images.chunk(2), labels.chunk(2), strict=True))
    optimizer = sgd(model)

    def half(part: tuple[nn.Module, Tensor, Tensor]) -> None:
        loss_of(*part).backward()

    @torch.no_grad()
    def step() -> int:
        with torch.enable_grad():
            list(pool.map(half, parts))
        own, other = (list(network.parameters()) for network in models)
        gradients = [parameter.grad for parameter in own if parameter.grad is not None]
        torch._foreach_add_(gradients, [p.grad for p in other if p.grad is not None])  # pyright: ignore
        torch._foreach_mul_(gradients, 0.5)  # pyright: ignore
        optimizer.step()
        for network in models:
            network.zero_grad()
        torch._foreach_copy_(other, own)  # pyright: ignore
        return len(labels)

    return step


def check_fused_norm() -> None:
    """Compare outputs, gradients and running statistics of a fused block with the usual ones, in fp32."""
    torch.manual_seed(0)
    usual = build_model("resnet8").train()
    fused = with_fused_norm(copy.deepcopy(usual))
    images, labels = torch.randn(8, 3, 32, 32), torch.randint(10, (8,))
    for model in (usual, fused):
        F.cross_entropy(model(images), labels).backward()
    for (key, ours), theirs in zip(fused.named_parameters(), usual.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        # Rounding turns some ReLUs the other way, which all earlier layers see.
        assert (ours.grad - theirs.grad).norm() < MAX_DIFFERENCE * theirs.grad.norm(), key
    for ours, theirs in zip(fused.buffers(), usual.buffers(), strict=True):
        if ours.is_floating_point():
            torch.testing.assert_close(ours, theirs)


def with_fused_norm(model: nn.Module) -> nn.Module:
    """Return the network with blocks that compute BN, addition and ReLU in one function."""
    for block in model.modules():
        if isinstance(block, BasicBlock):
            block.forward = functools.partial(fused_block, block)
    return model


def fused_block(block: Any, x: Tensor) -> Tensor:
    """Compute a basic block; as its `forward`, in training mode."""
    skip = None if block.downsample is None else block.downsample(x)
    return fused_norm(block.bn2, block.conv2(fused_norm(block.bn1, block.conv1(x))), skip)


def fused_norm(norm: nn.BatchNorm2d, x: Tensor, skip: Tensor | None = None) -> Tensor:
    """Return ReLU(BN(x) + skip), and update the running statistics."""
    y, mean, var = NormReLU.apply(x, norm.weight, norm.bias, skip, norm.eps)  # pyright: ignore
    momentum, count = norm.momentum or 0.0, x.numel() / x.shape[1]
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.lerp_(mean, momentum)
    norm.running_var.lerp_(var * (count / (count - 1)), momentum)
    return y


class NormReLU(torch.autograd.Function):
    """ReLU(BN(x) + skip) with both passes compiled."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, skip: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output, and the mean and variance of each channel."""
        y, mean, var, inverse_std = norm_forward(x, weight, bias, skip, eps)
        ctx.save_for_backward(x, y, weight, mean, inverse_std)
        ctx.has_skip = skip is not None
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the first four arguments."""
        dx, dweight, dbias, dskip = norm_backward(grads[0], *ctx.saved_tensors, has_skip=ctx.has_skip)
        return dx, dweight, dbias, dskip, None


@torch.compile(dynamic=False)
def norm_forward(x: Tensor, weight: Tensor, bias: Tensor, skip: Tensor | None, eps: float) -> tuple[Tensor, ...]:
    """Return the output, and mean, variance and inverse deviation of each channel."""
    values = x.float()
    var, mean = torch.var_mean(values, (0, 2, 3), correction=0)
    inverse_std = (var + eps).rsqrt()
    scale = weight * inverse_std
    y = values * scale[:, None, None] + (bias - mean * scale)[:, None, None]
    if skip is not None:
        y = y + skip.float()
    return y.relu().to(x.dtype), mean, var, inverse_std


@torch.compile(dynamic=False)
def norm_backward(
    grad: Tensor, x: Tensor, y: Tensor, weight: Tensor, mean: Tensor, inverse_std: Tensor, *, has_skip: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return the gradients of input, scale, shift and skip."""
    passed = grad.float() * (y > 0)
    normalised = (x.float() - mean[:, None, None]) * inverse_std[:, None, None]
    dbias, dweight = passed.sum((0, 2, 3)), (passed * normalised).sum((0, 2, 3))
    count = x.numel() / x.shape[1]
    centred = passed - (dbias / count)[:, None, None] - normalised * (dweight / count)[:, None, None]
    dx = centred * (weight * inverse_std)[:, None, None]
    return dx.to(x.dtype), dweight, dbias, passed.to(x.dtype) if has_skip else None


if __name__ == "__main__":
    sys.exit(main())
