"""The forward pass that is replayed from a CUDA graph: loss, gradients and statistics are those of the eager one.

A stand-in for the capture runs the step again and writes its results into the same memory, as a replay does. The tests
marked `gpu` capture.
"""

import copy

import pytest
import torch

from resnetlab.config import ConfigError, RunConfig
from resnetlab.models.zoo import build_model, model_config
from resnetlab.training.execution import cuda_graph
from resnetlab.training.execution.cuda_graph import GraphedForward
from resnetlab.training.execution.execution import Execution, check_execution, make_forward
from resnetlab.training.execution.select_execution import StepLoad, select_execution
from resnetlab.training.fit import fit
from resnetlab.training.recipes import recipe
from resnetlab.training.runtime_options import RuntimeOptions


def capture(step):
    """Warm up, then return a function that repeats the step."""
    step()
    outputs = step()

    def replay():
        for output, new in zip(outputs, step(), strict=True):
            output.copy_(new)

    return outputs, replay


def batch(seed, size=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 3, 8, 8, generator=generator), torch.randint(10, (size,), generator=generator)


def pair():
    """Return a network and its graphed forward pass, and a copy with the eager one."""
    model = build_model("resnet8", generator=torch.Generator().manual_seed(0)).train()
    other = copy.deepcopy(model)
    return (
        (model, GraphedForward(model, make_forward(model, Execution()), capture)),
        (other, make_forward(other, Execution())),
    )


def train(model, forward, batches):
    optimizer, losses = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, fused=True), []
    for images, labels in batches:
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
    if torch.cuda.is_available():
        with pytest.raises(ConfigError, match="for one process without --grad-accum-steps"):
            check_execution(Execution(cuda_graph=True), torch.device("cuda"), is_shared=True)


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


@pytest.mark.gpu
def test_a_graph_gives_the_gradients_of_the_eager_pass():
    model = build_model("resnet8", generator=torch.Generator().manual_seed(0)).train().cuda()
    images, labels = (tensor.cuda() for tensor in batch(0))
    forward = make_forward(model, Execution(cuda_graph=True))
    buffers = [buffer.clone() for buffer in model.buffers()]
    for parameter in model.parameters():
        parameter.grad = None
    loss, _ = forward(images, labels)
    loss.backward()
    graphed = [grad.clone() for parameter in model.parameters() if (grad := parameter.grad) is not None]
    after = [buffer.clone() for buffer in model.buffers()]
    for buffer, before in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(before)
    model.zero_grad()
    expected, _ = make_forward(model, Execution())(images, labels)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-4)
    for gradient, parameter in zip(graphed, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-2, atol=1e-3)
    for found, buffer in zip(after, model.buffers(), strict=True):
        torch.testing.assert_close(found, buffer, rtol=1e-3, atol=1e-4)
