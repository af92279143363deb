"""The forward pass that is replayed from a CUDA graph: loss, gradients and statistics are those of the eager one.

A stand-in for the capture runs the step again and writes its results into the same memory, as a replay does. The tests
marked `gpu` capture.
"""

import contextlib
import copy
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from resnetlab.config import ConfigError, RunConfig
from resnetlab.models.zoo import build_model, model_config
from resnetlab.system.tf32 import float32_products
from resnetlab.training.block_noise import noise_of
from resnetlab.training.execution import cuda_graph
from resnetlab.training.execution.cuda_graph import GraphedForward, capture_on_gpu
from resnetlab.training.execution.execution import Execution, check_execution, make_forward
from resnetlab.training.execution.select_execution import StepLoad, select_execution
from resnetlab.training.execution.step_timer import StepTimer
from resnetlab.training.fit import fit
from resnetlab.training.recipes import recipe
from resnetlab.training.runtime_options import RuntimeOptions


def capture(step):
    """Warm up, then return a function that repeats the step; raise if it takes random numbers from a generator."""
    step()
    before = torch.get_rng_state()
    outputs = step()
    if not torch.equal(before, torch.get_rng_state()):
        raise RuntimeError("the step takes random numbers of the host")

    def replay():
        for output, new in zip(outputs, step(), strict=True):
            output.copy_(new)

    return outputs, replay


def batch(seed, size=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 3, 8, 8, generator=generator), torch.randint(10, (size,), generator=generator)


def pair(name="resnet8", device="cpu"):
    """Return a network and its graphed forward pass, and a copy with the eager one."""
    model = build_model(name, generator=torch.Generator().manual_seed(0)).train().to(device)
    other = copy.deepcopy(model)
    eager = make_forward(model, Execution())
    graphed = GraphedForward(model, eager, capture if device == "cpu" else None)
    return (model, graphed), (other, make_forward(other, Execution()))


def train(model, forward, batches):
    optimizer, losses = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, fused=True), []
    for step, (images, labels) in enumerate(batches):
        for noise in noise_of(model):
            noise.set(step, 0, images.device)
        optimizer.zero_grad()
        loss, num_wrong = forward(images, labels)
        losses.append((loss.item(), int(num_wrong)))
        loss.backward()
        optimizer.step()
    return losses


def test_it_trains_as_the_eager_pass_does():
    graphed, eager = pair()
    batches = [batch(seed) for seed in range(4)]
    assert train(*graphed, batches) == train(*eager, batches)
    for key, value in eager[0].state_dict().items():  # with the statistics of BN, which the warm-up must not change
        assert torch.equal(graphed[0].state_dict()[key], value), key


def test_classes_and_shares_of_classes_have_graphs_of_their_own():
    graphed, eager = pair()
    images, labels = batch(1)
    batches = [(images, labels), (images, torch.nn.functional.one_hot(labels, 10).float()), batch(2)]
    assert train(*graphed, batches) == train(*eager, batches)


def test_another_shape_or_other_learning_parameters_get_a_graph_of_their_own(monkeypatch):
    (model, forward), (other, eager) = pair()
    kinds = [batch(0), batch(1, size=6), batch(2)]
    assert train(model, forward, kinds) == train(other, eager, kinds)
    assert len(forward._graphs) == 2
    for network in (model, other):
        network.conv1.requires_grad_(False)
    assert train(model, forward, kinds) == train(other, eager, kinds)
    assert len(forward._graphs) == 4
    monkeypatch.setattr(cuda_graph, "MAX_GRAPHS", 4)
    last = [batch(3, size=4)]
    assert train(model, forward, last) == train(other, eager, last)
    assert len(forward._graphs) == 4


def test_without_a_backward_pass_there_are_no_gradients():
    (model, forward), _ = pair()
    loss, _ = forward(*batch(0))
    assert all(parameter.grad is None for parameter in model.parameters())
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_results_outlive_the_next_replay():
    (_, forward), _ = pair()
    loss, num_wrong = forward(*batch(0))
    before = loss.item(), num_wrong.item()
    forward(*batch(1))
    assert (loss.item(), num_wrong.item()) == before


@pytest.mark.parametrize(
    ("execution", "message"),
    [
        (Execution(cuda_graph=True), "compile cuda-graph needs an NVIDIA GPU; use on, off or auto"),
        (Execution("tf32"), "precision tf32 is of NVIDIA GPUs from Ampere on, not of a processor; use fp32 or bf16"),
    ],
)
def test_a_processor_has_neither_graphs_nor_tf32(execution, message):
    with pytest.raises(ConfigError, match=message):
        check_execution(execution, torch.device("cpu"))
    config = RunConfig(
        model_config("resnet8"),
        recipe=recipe("digits", steps=2),
        device="cpu",
        precision=execution.precision,  # pyright: ignore[reportArgumentType]
        compile="cuda-graph" if execution.cuda_graph else "off",
    )
    with pytest.raises(ConfigError, match=message):
        fit(config)


def test_a_graph_does_not_sum_over_micro_batches():
    config = RunConfig(model_config("resnet8"), recipe=recipe("digits"), compile="cuda-graph")
    with pytest.raises(ConfigError, match="compile cuda-graph needs an NVIDIA GPU"):
        select_execution(config, build_model("resnet8"), batch, load=StepLoad(1, 1, 16, shares=2))
    with pytest.raises(ConfigError, match="for one process without --grad-accum-steps"):
        check_execution(Execution(cuda_graph=True), torch.device("cuda"), is_shared=True)


def test_a_capture_that_fails_leaves_statistics_and_gradients_as_they_were():
    (model, forward), _ = pair()
    before = copy.deepcopy(model.state_dict())

    def broken(step):
        step()
        loss, _ = make_forward(model, Execution())(*batch(0))
        loss.backward()
        raise RuntimeError("operation not permitted when stream is capturing")

    forward._capture = broken
    with pytest.raises(RuntimeError, match="not permitted"):
        forward(*batch(0))
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_capture_that_fails_leaves_the_stream_of_the_process_current(monkeypatch):
    """PyTorch's `graph` does not reset the stream where the end of the capture raises."""
    cuda = SimpleNamespace(CUDAGraph=object, Stream=lambda: Mock(name="own"), stream=lambda _: contextlib.nullcontext())
    cuda.current = usual = Mock(name="usual")
    cuda.current_stream, cuda.set_stream = lambda: cuda.current, lambda stream: setattr(cuda, "current", stream)

    @contextlib.contextmanager
    def graph(_graph, stream):
        cuda.set_stream(stream)
        yield
        raise RuntimeError("invalid capture")

    cuda.graph = graph
    monkeypatch.setattr(cuda_graph.torch, "cuda", cuda)
    with pytest.raises(RuntimeError, match="invalid capture"):
        capture_on_gpu(list)
    assert cuda.current is usual


@pytest.mark.parametrize("name", ["resnet8-stochastic-depth", "resnet8-dropout-shortcut"])
def test_random_numbers_of_a_new_run_do_not_come_from_the_host_when_a_step_is_captured(name):
    """The steps that are timed before training are captured too, and training has set no key then."""
    (model, forward), _ = pair(name)
    timer = StepTimer(model, *batch(0), loss=torch.nn.functional.cross_entropy)
    assert timer.images_per_s(Execution(cuda_graph=True), forward, rounds=1) > 0


def test_the_record_names_it_only_where_it_is_used():
    assert "cuda_graph" not in Execution().as_json()
    assert Execution(**Execution("bf16", cuda_graph=True).as_json()) == Execution("bf16", cuda_graph=True)
    assert Execution("bf16", compile=True, cuda_graph=True).name == "bf16 + compile + CUDA graph"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_on_a_gpu_it_learns_the_same(precision):
    digits = recipe("digits", steps=150, batch_size=64)
    results = {}
    for way in ("off", "cuda-graph"):
        config = RunConfig(model_config("resnet8"), recipe=digits, device="cuda", precision=precision, compile=way)
        results[way] = fit(config, options=RuntimeOptions(loss_steps=8)).result["train_error_pct"]
    assert results["cuda-graph"] == pytest.approx(results["off"], abs=5)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("sizes", [(8, 8, 8), (8, 6, 8, 6)])
@pytest.mark.parametrize("name", ["resnet8", "resnet8-stochastic-depth", "resnet8-dropout-shortcut"])
def test_a_replay_gives_the_gradients_of_the_eager_pass(name, sizes, device):
    """Replays read the images of their batch, the weights after an update, and the key of their step."""
    graphed, eager = pair(name, device)
    batches = [tuple(tensor.to(device) for tensor in batch(seed, size)) for seed, size in enumerate(sizes)]
    with float32_products(tf32=False):
        losses, expected = train(*graphed, batches), train(*eager, batches)
    assert [loss for loss, _ in losses] == pytest.approx([loss for loss, _ in expected], rel=1e-3)
    for (key, parameter), other in zip(graphed[0].named_parameters(), eager[0].parameters(), strict=True):
        assert parameter.grad is not None
        assert other.grad is not None
        assert (parameter.grad - other.grad).norm() <= 1e-2 * other.grad.norm(), key
    for buffer, other in zip(graphed[0].buffers(), eager[0].buffers(), strict=True):
        torch.testing.assert_close(buffer, other, rtol=1e-3, atol=1e-4)
