"""A module of the user's own: trained by the same loop, with statistics of its layers, and resumed."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import resnetlab
from resnetlab.architecture_config import ArchitectureConfig
from resnetlab.config import ConfigError, RunConfig
from resnetlab.models.model_card import read_card
from resnetlab.system.process_group import ProcessGroup
from resnetlab.training import distributed, own_network
from resnetlab.training.execution.execution import Execution
from resnetlab.training.own_network import OwnNetwork
from resnetlab.training.run_files.checkpoint import Checkpoint
from resnetlab.training.run_files.record import read_record


class Mlp(nn.Module):
    """Two linear layers on the pixels of digits, behind one convolution."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.hidden = nn.Linear(4 * 64, 16)
        self.head = nn.Linear(16, num_classes)

    def forward(self, x):
        x = F.relu(self.conv(x)).flatten(1)
        return self.head(F.relu(self.hidden(x)))


def tied():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10))
    model[2].weight = model[1].weight
    return model


def mlp(**options):
    torch.manual_seed(0)
    return Mlp(**options)


def config(**changes):
    return RunConfig(recipe=resnetlab.recipe("digits", steps=40), layer_stats_steps=20, **changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("own") / "run"
    model = mlp()
    return out, model, resnetlab.fit(config(), out, model=model)


def test_a_trainer_knows_its_module_as_fit_does():
    """The network of the configuration would warn of images of 8 pixels, and be printed."""
    run_config = RunConfig(resnetlab.model_config("resnet18"), recipe=resnetlab.recipe("digits", steps=1))
    assert any("8-pixel images" in warning for warning in resnetlab.Trainer(run_config).warnings)
    trainer = resnetlab.Trainer(run_config, model=mlp())
    name = own_network.module_name(mlp())
    assert trainer.config.own_model == name
    assert trainer.describe()[0] == f"network  {name}"
    assert trainer.warnings == []
    result = trainer.fit()
    assert result.card.provenance["config"]["own_model"] == name
    again = resnetlab.Trainer(trainer.config, model=mlp(), checkpoint=Checkpoint(**trainer.state_dict()))
    assert again.config == trainer.config


def test_a_trainer_of_an_architecture_knows_its_module():
    run_config = config(architecture=ArchitectureConfig("mlp", 4))
    trainer = resnetlab.Trainer(run_config)
    assert (trainer.config.own_model or "").startswith("resnetlab.models.architectures.")
    assert trainer.describe()[0] == f"network  {trainer.config.own_model}"
    with pytest.raises(ConfigError, match="exclude each other"):
        resnetlab.Trainer(run_config, model=mlp())
    with pytest.raises(ConfigError, match="give the module with"):
        resnetlab.Trainer(config(own_model="nets.Mlp"))


def test_it_learns_in_place_and_leaves_its_weights(run):
    out, model, result = run
    assert result.model is model
    assert result.result["test_error_pct"] < 80  # guessing: 90
    assert not (out / "model.safetensors").exists()
    assert read_card(out / "weights.safetensors").error["test_error_pct"] == result.result["test_error_pct"]
    assert json.loads((out / "config.json").read_text())["own_model"].endswith("test_own_network.Mlp")
    start = read_record(out / "record.jsonl")[0]
    assert start["own_model"].endswith("test_own_network.Mlp")
    assert start["params"] == sum(p.numel() for p in model.parameters())
    assert start["macs"] == 4 * 9 * 64 + 256 * 16 + 16 * 10  # by hand
    assert not [line for line in read_record(out / "record.jsonl") if line["kind"] == "warning"]


def test_its_layers_have_signals(run):
    lines = [line for line in read_record(run[0] / "record.jsonl") if line["kind"] == "signal"]
    assert [line["step"] for line in lines] == [1, 21, 40]
    assert lines[0]["layers"] == ["conv", "hidden", "head"]
    assert lines[0]["kernels"] == [3, 1, 1]
    assert all(value > 0 for name in ("grad_norm", "grad_to_weight", "response_std") for value in lines[0][name])
    assert lines[0]["dead_relu_pct"] == [None] * 3


def test_signals_are_those_of_autograd(run):
    """The first signal against the gradient of the first batch, computed here."""

    class First(resnetlab.Callback):
        line = None

        def on_step(self, trainer, metrics):
            if metrics.step == 1:
                self.line = metrics.layer_stats

    first = First()
    resnetlab.Trainer(config(), [first], model=mlp()).fit()
    trainer, reference = resnetlab.Trainer(config(), model=mlp()), mlp()
    images, labels = next(iter(trainer.data.batches(0, 0, memory_format=torch.contiguous_format)))
    F.cross_entropy(reference(images), labels).backward()
    weights = [layer.weight for layer in (reference.conv, reference.hidden, reference.head)]
    norms = [weight.grad.norm().item() for weight in weights if weight.grad is not None]
    assert first.line is not None
    assert first.line["grad_norm"] == pytest.approx(norms, rel=1e-4)


def test_it_resumes_bit_for_bit(run, tmp_path):
    class Stop(resnetlab.Callback):
        def on_step(self, trainer, metrics):
            if metrics.step == 17:
                trainer.stop_signal.signum = 15

    with pytest.raises(resnetlab.InterruptedRunError):
        resnetlab.fit(config(), tmp_path / "r", callbacks=[Stop()], model=mlp())
    other = mlp()
    with torch.no_grad():
        other.head.weight.zero_()  # the weights come from the checkpoint
    resume = resnetlab.RuntimeOptions(resume=True)
    again = resnetlab.fit(config(), tmp_path / "r", options=resume, model=other)
    assert all(torch.equal(value, run[1].state_dict()[name]) for name, value in again.model.state_dict().items())
    with pytest.raises(ConfigError, match=r"is test_own_network.Mlp, and a ResNet cannot continue it"):
        resnetlab.fit(config(), tmp_path / "r", options=resume)  # without the module


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.9}, {"optimizer": "adamw", "lr": 0.001}])
def test_frozen_parameters_stay_as_they_are(changes):
    model, before = mlp(), mlp().state_dict()
    model.conv.requires_grad_(False)
    model.hidden.bias.requires_grad_(False)
    recipe = resnetlab.recipe("digits", steps=4, weight_decay=0.1, **changes)
    run_config = RunConfig(recipe=recipe, layer_stats_steps=2)
    trainer = resnetlab.Trainer(run_config, model=model)
    result = trainer.fit()
    frozen = {"conv.weight", "conv.bias", "hidden.bias"}
    for trained in (model, result.model):
        same = {name for name, value in trained.state_dict().items() if torch.equal(value.cpu(), before[name])}
        assert same == frozen
        assert {name for name, p in trained.named_parameters() if not p.requires_grad} == frozen


def test_a_finished_run_gives_its_weights_back(run):
    out, model, result = run
    fresh = Mlp()
    done = resnetlab.fit(config(), out, options=resnetlab.RuntimeOptions(resume=True), model=fresh)
    assert done.result["test_error_pct"] == result.result["test_error_pct"]
    assert torch.equal(fresh.head.weight, model.head.weight)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("mlp", "model must be a torch.nn.Module that returns logits, not 'mlp'"),
        (Mlp(num_classes=5), r"returns \(2, 5\); it must map float images \(2, 1, 8, 8\) to logits \(2, 10\)"),
        (nn.Linear(3, 10), "model torch.nn.modules.linear.Linear fails: "),
        (tied(), "shares the memory of 1.weight and 2.weight"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10).requires_grad_(False)), "has nothing to learn"),
    ],
)
def test_a_module_that_cannot_be_trained(model, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as raised:
        resnetlab.fit(config(), tmp_path / "r", model=model)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "r" / "record.jsonl").exists()


def test_states_of_a_module_are_refused(tmp_path):
    for own, run_config in ((mlp(), config()), (None, config(architecture=ArchitectureConfig("mlp", 20)))):
        with pytest.raises(ConfigError, match="keep_states_epochs writes model files"):
            resnetlab.fit(run_config, tmp_path / "r", options=resnetlab.RuntimeOptions(keep_states_epochs=1), model=own)
    assert not (tmp_path / "r").exists()


def test_the_images_that_try_a_module_are_on_its_device(monkeypatch):
    """The memory of a meta tensor is none, so that shared memory is not looked for here."""
    monkeypatch.setattr(own_network, "_check_shared", lambda module: None)
    network = OwnNetwork(mlp().to("meta"), resnetlab.ModelConfig(num_classes=10, in_channels=1), 8)
    assert network.macs == 4 * 9 * 64 + 256 * 16 + 16 * 10


def test_several_processes_start_with_images_of_the_size_of_the_run(monkeypatch):
    """The module takes images of 8 pixels only."""
    seen = []

    def wrap(model, **_):
        model.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
        return model

    monkeypatch.setattr(distributed, "DistributedDataParallel", wrap)
    options = resnetlab.RuntimeOptions(process_group=ProcessGroup(0, 2), execution=Execution())
    trainer = resnetlab.Trainer(config(), options=options, model=mlp())
    trainer.begin_epoch()
    assert seen == [(2, 1, 8, 8)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "a.safetensors"}, "load them into the module before fit"),
        ({"activation_checkpointing": True}, "needs the blocks of a ResNet"),
        ({"own_model": "theirs.Net"}, "is that of a run of theirs.Net; give the module"),
    ],
)
def test_settings_that_need_a_resnet(changes, message):
    with pytest.raises(ConfigError, match=message):
        resnetlab.fit(config(**changes), model=None if "own_model" in changes else mlp())
