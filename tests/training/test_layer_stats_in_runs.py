"""Layer statistics do not change a run, and its record holds them."""

import dataclasses
import json
import math
import os
import signal

import pytest
import torch
from torch import nn

from resnetlab.config import ModelConfig, RunConfig
from resnetlab.data.loader import train_batches
from resnetlab.data.open_dataset import open_data
from resnetlab.data.rng import make_generator
from resnetlab.models.zoo import build_model, model_config
from resnetlab.training.callbacks import Callback
from resnetlab.training.fit import fit
from resnetlab.training.layer_stats import QUANTITIES, LayerStats, measure_layer_stats
from resnetlab.training.recipes import recipe
from resnetlab.training.run_files.checkpoint import load_checkpoint
from resnetlab.training.run_files.compare_runs import run_differences
from resnetlab.training.run_files.record import read_record
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.signal_handling import InterruptedRunError, StopSignal
from resnetlab.training.train_step import DivergedError
from resnetlab.training.trainer import Trainer

MODEL = ModelConfig("tiny", (4, 3), (4, 8), stem="cifar", shortcut="project", num_classes=10)
CONFIG = RunConfig(MODEL, recipe=recipe("digits", steps=14, batch_size=100), seed=3, layer_stats_steps=3)
HEARD = [1, 4, 7, 10, 13, 14]
LRS = [0.01] * 3 + [0.001, 0.0001, 0.0001]
"""Learning rates of these steps: divided by 10 after 7 steps and after 10.5."""


def changed(**fields):
    """The configuration with fields of its network, and of itself, changed."""
    own = {
        name: fields.pop(name)
        for name in ("activation_checkpointing", "precision", "layer_stats_steps", "compile")
        if name in fields
    }
    return dataclasses.replace(CONFIG, model=dataclasses.replace(MODEL, **fields), **own)


def signals(out):
    return [line for line in read_record(out / "record.jsonl") if line["kind"] == "signal"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "with_stats"
    return out, fit(CONFIG, out).model


def test_the_record_holds_them_at_the_right_steps(run):
    out, model = run
    lines = signals(out)
    assert [line["step"] for line in lines] == HEARD
    assert [line["lr"] for line in lines] == pytest.approx(LRS)
    num_convs = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    for line in lines:
        for quantity in QUANTITIES:
            projects = ["downsample" in name and quantity == "dead_relu_pct" for name in line["layers"]]
            assert [value is None for value in line[quantity]] == projects
            assert len(line[quantity]) == len(line["kernels"]) == num_convs
            assert all(math.isfinite(value) and value >= 0 for value in line[quantity] if value is not None)
        assert len(line["blocks"]) == 7
        assert all(value > 0 for value in line["residual_ratio"])
    assert not any(module._forward_hooks for module in model.modules())


def test_about_fifty_samples_are_the_default(tmp_path):
    config = dataclasses.replace(changed(layer_stats_steps=None), recipe=recipe("digits", steps=20, batch_size=100))
    fit(config, tmp_path / "r")
    assert [line["step"] for line in signals(tmp_path / "r")] == [1, 17, 20]
    set_by_hand = dataclasses.replace(config, layout="contiguous", precision="fp32", compile="off")
    long = Trainer(dataclasses.replace(set_by_hand, recipe=recipe("digits", steps=5000)))
    assert (long.layer_stats.every, long.total_steps) == (100, 5000)


def test_they_are_of_the_batch_before_its_update(tmp_path):
    """The first two steps by hand: weight decay is in the update, and in no gradient that is lines."""
    strong = dataclasses.replace(CONFIG.recipe, steps=2, lr=0.5, weight_decay=0.1, milestones=())
    fit(dataclasses.replace(CONFIG, recipe=strong, layer_stats_steps=1), tmp_path / "r")
    data = open_data(CONFIG.data)
    model = build_model(MODEL, in_channels=1, generator=make_generator(3, "weights"))
    batches = train_batches(data.train, data.preprocessing, strong, seed=3, epoch=0)
    for line in signals(tmp_path / "r"):
        images, labels = next(batches)
        expected = measure_layer_stats(model, images, labels)
        loss = nn.functional.cross_entropy(model.train()(images), labels)
        for quantity in (*QUANTITIES, "residual_ratio"):
            assert line[quantity] == [value and pytest.approx(value, rel=5e-3) for value in expected[quantity]]
        assert line["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= 0.5 * (gradient + 0.1 * parameter)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"shortcut": "none"},
        {"norm": "none"},
        {"block": "bottleneck"},
        {"activation_checkpointing": True},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_a_run_ends_as_it_would_unheard(tmp_path, fields):
    """Weights, statistics and momentum, to the last bit."""
    for steps in (0, 3):
        fit(changed(**fields, layer_stats_steps=steps), tmp_path / str(steps))
    without, with_stats = (load_checkpoint(tmp_path / name / "checkpoint") for name in ("0", "3"))
    assert without is not None
    assert with_stats is not None
    assert (
        without.tensors.keys()
        == with_stats.tensors.keys()
        >= {"model.conv1.weight", "optimizer.momentum_buffer.conv1.weight"}
    )
    assert all(torch.equal(without.tensors[name], value) for name, value in with_stats.tensors.items())
    assert signals(tmp_path / "0") == []
    assert len(signals(tmp_path / "3")) == 6


def test_recomputed_activations_are_heard_alike(run, tmp_path, monkeypatch):
    from resnetlab.models import activation_checkpointing

    again = []
    real = activation_checkpointing._FrozenStatistics.__enter__
    monkeypatch.setattr(
        activation_checkpointing._FrozenStatistics, "__enter__", lambda self: again.append(1) or real(self)
    )
    fit(changed(activation_checkpointing=True), tmp_path / "r")
    assert again
    assert signals(tmp_path / "r") == signals(run[0])


class Dies(Callback):
    """Ends the session at a step as a kill would: after its signal is written, before anything is saved."""

    def __init__(self, step):
        self.step = step

    def on_step(self, trainer, metrics):
        if metrics.step == self.step:
            raise KeyboardInterrupt


class Asks(Callback):
    """Sends this process a signal at a step: the step is finished, and saved."""

    def __init__(self, step):
        self.step = step

    def on_step(self, trainer, metrics):
        if metrics.step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_resumed_run_has_the_same_lines(run, tmp_path):
    out = tmp_path / "r"
    options = RuntimeOptions(resume=True, checkpoint_steps=3)
    for step, saved in ((2, []), (7, [1, 4]), (10, [1, 4, 7]), (13, [1, 4, 7, 10])):
        with pytest.raises(KeyboardInterrupt):
            fit(CONFIG, out, options=options, callbacks=[Dies(step)])
        assert [line["step"] for line in signals(out)][: len(saved)] == saved
    for step in (13, 14):
        with pytest.raises(InterruptedRunError), StopSignal() as stop_signal:
            fit(CONFIG, out, options=options, callbacks=[Asks(step)], stop_signal=stop_signal)
    fit(CONFIG, out, options=options)
    assert run_differences(run[0], out) == []
    assert signals(out) == signals(run[0])
    assert [line["step"] for line in signals(out)] == HEARD


def test_a_diverged_run_has_a_signal(tmp_path):
    """The first loss is finite, but its gradients are not; after that step neither is the loss."""
    wild = changed(stage_blocks=(3, 3, 3), stage_channels=(16, 32, 64), shortcut="none", norm="none", init_scale=30.0)
    with pytest.raises(DivergedError):
        fit(dataclasses.replace(wild, recipe=recipe("digits", epochs=1)), tmp_path / "r")
    assert wild.model.depth == model_config("plain20").depth
    first, *later = signals(tmp_path / "r")
    assert (first["step"], [line["step"] for line in later]) == (1, [4, 7, 10])
    assert first["loss"] > 1e20
    assert None not in first["response_std"]
    for line in (first, *later):
        assert line["grad_norm"] == line["grad_to_weight"] == [None] * 19
    for line in later:
        assert line["loss"] is None
        assert line["response_std"][0] > 0  # a convolution of finite images, with weights that are still finite
        assert line["response_std"][1:] == [None] * 18
    result = read_record(tmp_path / "r" / "record.jsonl")[-1]
    assert (result["kind"], result["status"]) == ("result", "diverged")
    assert "NaN" not in (tmp_path / "r" / "record.jsonl").read_text()


def test_a_line_that_is_written_is_the_line_that_was_heard(run, monkeypatch):
    """JSON loses nothing of it."""
    lines = []
    real = LayerStats.to_record
    monkeypatch.setattr(LayerStats, "to_record", lambda self, **given: lines.append(real(self, **given)) or lines[-1])
    fit(CONFIG)
    assert [json.loads(json.dumps({"kind": "signal", **line})) for line in lines] == signals(run[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # PyTorch's own, as inductor loads
def test_a_compiled_run_is_heard_uncompiled(tmp_path):
    """And compiled once: hooks that come and go have nothing compiled anew. The compiler takes seconds a block."""
    from torch._dynamo.utils import counters

    one_block = {"stage_blocks": (1,), "stage_channels": (4,)}
    fit(changed(**one_block), tmp_path / "eager")
    torch._dynamo.reset()  # another test may have compiled the same
    counters.clear()
    fitted = fit(changed(**one_block, compile="on"), tmp_path / "r")
    assert counters["stats"]["unique_graphs"] == 1
    ours, eager = signals(tmp_path / "r"), signals(tmp_path / "eager")
    assert [line["step"] for line in ours] == HEARD
    assert ours[0] == eager[0]  # the weights are those that were drawn
    assert ours[1] != eager[1]  # other roundings since, in the steps between
    for line, same in zip(ours[1:], eager[1:], strict=True):
        assert line["response_std"] == pytest.approx(same["response_std"], rel=0.3)
    assert not any(module._forward_hooks for module in fitted.model.modules())
