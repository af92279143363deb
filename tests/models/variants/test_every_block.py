"""Every built-in block through the whole path: train, resume, save, load, deepen, diagnose, export, evaluate."""

import dataclasses
import json

import pytest
import torch
from torch import nn

from helpers.one_graph import keep_graph
from helpers.small_network import model_file
from resnetlab.cli.main import main
from resnetlab.config import ConfigError, DataConfig, RunConfig
from resnetlab.evaluation.evaluate import evaluate
from resnetlab.export.export import export
from resnetlab.models.block_registry import BLOCKS
from resnetlab.models.deepen import deepen, max_difference
from resnetlab.models.fuse_bn import fuse_bn
from resnetlab.models.model_file import load_model
from resnetlab.models.zoo import model_config
from resnetlab.study.arms import arm_network, arm_of
from resnetlab.training.callbacks import Callback
from resnetlab.training.fit import fit
from resnetlab.training.layer_stats import measure_layer_stats
from resnetlab.training.recipes import recipe
from resnetlab.training.run_files.compare_runs import run_differences
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.signal_handling import InterruptedRunError
from resnetlab.training.trainer import Trainer

DEPTHS = {name: 11 if "bottleneck" in name else 8 for name in BLOCKS}


def config(name, **changes):
    model = model_config(f"resnet{DEPTHS[name]}", block=name, stage_channels=(4, 8, 8), **changes)
    data = DataConfig("digits", train_images=64)
    return RunConfig(model, data, recipe("digits", steps=4, batch_size=8), seed=2, layer_stats_steps=2)


class StopAfter(Callback):
    """Asks the run to stop after a step."""

    def __init__(self, step):
        self.step = step

    def on_step(self, trainer, metrics):
        if metrics.step == self.step:
            trainer.stop_signal.signum = 15


@pytest.mark.parametrize("name", ["preact", "stochastic-depth", "dropout-shortcut"])
def test_it_resumes_to_the_last_bit(tmp_path, name):
    run = config(name)
    fit(run, tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        fit(run, tmp_path / "stopped", callbacks=[StopAfter(3)])
    fit(run, tmp_path / "stopped", options=RuntimeOptions(resume=True))
    assert run_differences(tmp_path / "whole", tmp_path / "stopped") == []


@pytest.mark.parametrize("name", BLOCKS)
def test_the_file_of_a_run_is_loaded_measured_folded_and_deepened(tmp_path, name):
    fit(config(name), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "record.jsonl").read_text().splitlines()]
    signal = next(line for line in lines if line["kind"] == "signal")
    assert all(value is not None for value in signal["response_std"])
    assert len(signal["residual_ratio"]) == 3

    model, card = load_model(tmp_path / "model.safetensors")
    assert card.model.block == name
    images = torch.randn(2, card.model.in_channels, 8, 8, generator=torch.Generator().manual_seed(1))
    measured = measure_layer_stats(model, images, torch.tensor([0, 1]))
    assert measured["layers"] == signal["layers"]
    with torch.no_grad():
        torch.testing.assert_close(fuse_bn(model)(images), model.eval()(images), rtol=1e-4, atol=1e-5)
    if BLOCKS[name].identity_obstacle(card.model) is None:
        assert max_difference(model, deepen(model, (2, 2, 2), images=images), images) < 1e-5
    else:
        with pytest.raises(ConfigError, match="cannot be the identity"):
            deepen(model, (2, 2, 2))


@pytest.mark.parametrize("name", BLOCKS)
def test_it_is_an_arm_of_a_study(name):
    network = arm_network(name if name != "basic" else "residual", DEPTHS[name] + (9 if DEPTHS[name] == 11 else 6))
    assert network.block == name
    assert arm_of(RunConfig(network)) == (name if name != "basic" else "residual")


def test_the_models_command_lists_its_layers(capsys):
    for name in ("rezero", "fixup", "se", "shortcut-gating"):
        assert main(["models", f"resnet8-{name}", "--pixels", "8", "--json"]) == 0
        printed = json.loads(capsys.readouterr().out)
        assert printed["params"] == sum(layer["params"] for layer in printed["layers"])


@pytest.mark.parametrize("name", ["stochastic-depth", "dropout-shortcut"])
@pytest.mark.parametrize("grad_accum_steps", [2, 4])
def test_micro_batches_draw_the_numbers_of_the_whole_batch(name, grad_accum_steps):
    """Without BN, which sees a micro-batch only, the losses are the same; another seed gives others."""

    class Losses(Callback):
        def __init__(self):
            self.seen = []

        def on_step(self, trainer, metrics):
            self.seen.append(metrics.loss)

    def losses(**changes):
        seen = Losses()
        run = dataclasses.replace(config(name, norm="none"), layer_stats_steps=0, **changes)
        Trainer(run, [seen]).fit()
        return seen.seen

    whole = losses()
    assert losses(grad_accum_steps=grad_accum_steps) == pytest.approx(whole, rel=1e-5)


def test_losses_that_are_read_late_do_not_change_a_random_block(tmp_path):
    run = dataclasses.replace(config("stochastic-depth"), layer_stats_steps=0)
    fit(run, tmp_path / "at-once")
    fit(run, tmp_path / "late", options=RuntimeOptions(loss_steps=4))
    assert run_differences(tmp_path / "at-once", tmp_path / "late") == []


def test_the_average_of_weights_and_checkpointing_of_activations_work_with_random_blocks(tmp_path):
    run = config("dropout-shortcut")
    run = dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, ema_decay=0.9))
    fit(run, tmp_path / "a")
    fit(dataclasses.replace(run, activation_checkpointing=True), tmp_path / "b")
    one, other = (load_model(tmp_path / part / "model.safetensors")[0].state_dict() for part in "ab")
    assert all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.slow  # seconds for each graph; the other blocks have no other operations
@pytest.mark.parametrize("name", ["preact", "bn-after-addition", "exclusive-gating", "fixup", "stochastic-depth", "se"])
def test_exports_are_verified(tmp_path, monkeypatch, name):
    """The export compares the logits of the written file, in its own runtime, with those of the network."""
    keep_graph(monkeypatch, {}, name)
    file = model_file(tmp_path / "net.safetensors", name=f"resnet{DEPTHS[name]}", block=name)
    export(file, tmp_path / "net.onnx", "onnx")
    export(file, tmp_path / "net.xml", "openvino")


def test_an_exported_program_is_verified(tmp_path):
    file = model_file(tmp_path / "net.safetensors", name="resnet8", block="stochastic-depth")
    export(file, tmp_path / "net.pt2", "torch-export")


@pytest.mark.parametrize("name", ["preact", "skipinit", "stochastic-depth"])
def test_evaluation_gives_the_error_of_the_run(tmp_path, name):
    result = fit(config(name), tmp_path / "run").result
    found = evaluate(tmp_path / "run", "digits", split="test")
    assert found.top1.pct == pytest.approx(result["test_error_pct"])


def test_blocks_without_bn_have_none():
    for name in ("fixup", "skipinit"):
        model = Trainer(config(name)).model
        assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
