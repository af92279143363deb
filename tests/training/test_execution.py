"""How a step is computed: a short run is not measured, a long one takes what is faster, and bf16 learns alike."""

import dataclasses

import pytest
import torch

from resnetlab.config import ModelConfig, RunConfig
from resnetlab.models.zoo import build_model, model_config
from resnetlab.training import execution
from resnetlab.training.execution import Execution, default_execution, make_forward, select_execution
from resnetlab.training.fit import fit
from resnetlab.training.recipes import recipe

CONFIG = RunConfig(model_config("resnet8"), recipe=recipe("cifar-paper", steps=100))
LONG = 10**9


def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(128, 3, 8, 8, generator=generator), torch.randint(10, (128,), generator=generator)


def test_a_short_run_is_not_measured(monkeypatch):
    monkeypatch.setattr(execution, "_images_per_s", lambda *_: pytest.fail("measured"))
    model = build_model(CONFIG.model)
    way, _ = select_execution(CONFIG, model, batch, macs=1000, total_steps=100)
    assert way == Execution("fp32", "channels_last", compile=False)


@pytest.mark.parametrize(("bf16", "taken"), [(500.0, "bf16"), (102.0, "fp32"), (50.0, "fp32")])
def test_a_long_run_takes_the_fastest_by_a_margin(monkeypatch, bf16, taken):
    speeds = {"fp32": 100.0, "fp32 + NCHW": 90.0, "bf16": bf16, "bf16 + NCHW": bf16 / 2}
    monkeypatch.setattr(execution, "_images_per_s", lambda _model, way, *_: speeds[way.name])
    open_ways = dataclasses.replace(CONFIG, compile="off")
    way, _ = select_execution(open_ways, build_model(CONFIG.model), batch, macs=10**6, total_steps=LONG)
    assert (way.precision, way.layout, way.images_per_s) == (taken, "channels_last", speeds)


def test_what_is_set_by_hand_is_kept(monkeypatch):
    measured = []
    monkeypatch.setattr(execution, "_images_per_s", lambda _model, way, *_: measured.append(way.name) or 1.0)
    chosen = dataclasses.replace(CONFIG, precision="fp32", compile="off")
    way, _ = select_execution(chosen, build_model(CONFIG.model), batch, macs=10**6, total_steps=LONG)
    assert measured == ["fp32", "fp32 + NCHW"]
    assert way.precision == "fp32"
    all_set = dataclasses.replace(chosen, layout="contiguous")
    assert select_execution(all_set, build_model(CONFIG.model), batch, macs=10**6, total_steps=LONG)[
        0
    ] == default_execution(all_set)
    assert measured == ["fp32", "fp32 + NCHW"]


def test_measuring_leaves_the_network_as_it_was():
    model = build_model(CONFIG.model).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    images, labels = batch()
    few = lambda: (images[:16], labels[:16])  # noqa: E731  # which is timed makes no difference here
    way, _ = select_execution(dataclasses.replace(CONFIG, compile="off"), model, few, macs=10**7, total_steps=10_000)
    assert set(way.images_per_s) == {"fp32", "fp32 + NCHW", "bf16", "bf16 + NCHW"}
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_people_read_it():
    way = Execution("bf16", "channels_last", compile=True, images_per_s={"fp32": 515.2, "bf16 + compile": 1090.0})
    assert way.describe() == "bf16 + compile: 1,090 images/s; fp32: 515"
    assert Execution().describe() == "fp32"


def test_bf16_computes_in_bf16_and_gives_an_fp32_loss():
    model = build_model(CONFIG.model, generator=torch.Generator().manual_seed(0)).train()
    images, labels = batch()
    exact, _ = make_forward(model, Execution())(images, labels)
    seen = []
    model.get_submodule("layer1").register_forward_hook(lambda _m, _i, output: seen.append(output.dtype))
    loss, wrong = make_forward(model, Execution("bf16"))(images, labels)
    assert seen == [torch.bfloat16]
    assert loss.dtype == torch.float32
    assert loss.item() != exact.item()
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)
    assert 0 <= wrong.item() <= 128


def test_a_run_says_how_it_was_computed(tmp_path):
    from resnetlab.training.record import read_record

    config = RunConfig(model_config("resnet8"), recipe=recipe("digits", steps=2, batch_size=16), precision="bf16")
    fit(config, tmp_path)
    assert read_record(tmp_path / "record.jsonl")[0]["execution"]["precision"] == "bf16"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # PyTorch's own, as inductor loads
def test_compiled_it_learns_the_same():
    """Weights after a few steps agree with the eager ones, for a network of one block: the compiler takes seconds."""
    model = ModelConfig("tiny", (1,), (4,), stem="cifar", num_classes=10)
    config = RunConfig(model, recipe=recipe("digits", steps=20, batch_size=64))
    eager, compiled = (fit(dataclasses.replace(config, compile=way)) for way in ("off", "on"))
    assert compiled.result["train_error_pct"] == pytest.approx(eager.result["train_error_pct"], abs=5)
    torch.testing.assert_close(eager.model.conv1.weight, compiled.model.conv1.weight, rtol=0.05, atol=0.02)
