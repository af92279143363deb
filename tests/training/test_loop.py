"""The loop, on a real tiny network through the whole path."""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F

from resnetlab.config import ConfigError, ModelConfig, RunConfig, read_config
from resnetlab.data.loader import generator, train_batches
from resnetlab.data.sources import open_data
from resnetlab.evaluation.protocols import single_view
from resnetlab.models.modelfile import load_model
from resnetlab.models.zoo import build_model, model_config
from resnetlab.training.epoch import DivergedError, stop_unless_finite
from resnetlab.training.loop import Best, fit
from resnetlab.training.recipes import recipe
from resnetlab.training.record import read_record
from resnetlab.training.schedule import lr_at

CONFIG = RunConfig(model_config("resnet8"), recipe=recipe("digits", epochs=2, batch_size=64), seed=4)
WHEN = ("time_s", "images_per_s", "started")


def timeless(lines):
    return [{key: value for key, value in line.items() if key not in WHEN} for line in lines]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "first"
    told = []
    fitted = fit(CONFIG, out, on_progress=told.append)
    return out, fitted, told


def test_the_run_directory_holds_what_the_design_says(run):
    out, fitted, _ = run
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors", "record.jsonl"]
    assert read_config(out / "config.json") == CONFIG
    lines = read_record(out / "record.jsonl")
    assert [line["kind"] for line in lines] == ["run", "epoch", "epoch", "result"]
    start, first, _, result = lines
    assert start["config"]["model"]["in_channels"] == 1
    assert (start["params"], start["arm"], start["depth"]) == (75_002, "residual", 8)
    assert {"torch", "python", "resnetlab"} <= set(start["versions"])
    assert start["data"]["fingerprint"] == open_data(CONFIG.data).fingerprint
    assert {"loss": first["train_loss"], "lr": first["lr"]} == {"loss": pytest.approx(1.5, abs=1), "lr": 0.01}
    assert {"train_error_pct", "val_error_pct", "time_s", "images_per_s"} <= set(first)
    assert {key: result[key] for key in fitted.result} == fitted.result
    assert {"train_error_pct", "val_error_pct", "test_error_pct", "time_s", "images_per_s"} <= set(result)


def test_the_model_file_gives_the_recorded_errors(run):
    out, fitted, _ = run
    model, card = load_model(out / "model.safetensors")
    data = open_data(CONFIG.data)
    for name, split in data.splits.items():
        assert single_view(model, split, card.preprocessing).error_pct == fitted.result[f"{name}_error_pct"]
        assert card.error[f"{name}_error_pct"] == fitted.result[f"{name}_error_pct"]
    assert card.classes == data.classes
    assert card.provenance["config"]["seed"] == 4


def test_the_loop_is_sgd_written_out(run):
    """The same training in the plainest form: v = m v + g + wd w; w = w - lr v, one step after another."""
    data = open_data(CONFIG.data)
    model = build_model(CONFIG.model, 10, in_channels=1, generator=generator(4, "weights"))
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    step = 0
    for epoch in range(2):
        for images, labels in train_batches(data.train, data.preprocessing, CONFIG.recipe, 4, epoch):
            gradients = torch.autograd.grad(F.cross_entropy(model.train()(images), labels), list(model.parameters()))
            lr = lr_at(step, 38, CONFIG.recipe)
            with torch.no_grad():
                for p, v, g in zip(model.parameters(), velocity, gradients, strict=True):
                    v.mul_(0.9).add_(g + 1e-4 * p)
                    p.sub_(lr * v)
            step += 1
    assert step == run[1].result["steps"] == 38
    ours = dict(run[1].model.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter, rtol=2e-3, atol=2e-4)


def test_equal_configurations_give_equal_runs(run, tmp_path):
    torch.manual_seed(99)  # nothing outside the configuration matters
    again = fit(CONFIG, tmp_path / "again")
    first = run[1].model.state_dict()
    assert all(torch.equal(first[key], value) for key, value in again.model.state_dict().items())
    lines = [timeless(read_record(path / "record.jsonl")) for path in (run[0], tmp_path / "again")]
    assert lines[0] == lines[1]


def test_another_seed_gives_another_run(run):
    other = fit(dataclasses.replace(CONFIG, seed=5, recipe=recipe("digits", epochs=1)))
    assert not torch.equal(other.model.conv1.weight, run[1].model.conv1.weight)


def test_progress_is_told(run):
    _, _, told = run
    assert [p.step for p in told][-1] == told[0].total_steps == 38
    assert len(told) == 38  # 19 steps an epoch, looked at after each
    assert sum(p.num_steps for p in told) == 38
    assert all(0 <= p.train_error_pct <= 100 for p in told)


def test_the_curve_has_the_epochs_mean(run):
    epoch = read_record(run[0] / "record.jsonl")[1]
    assert epoch["curve"]["step"] == list(range(1, 20))
    assert sum(epoch["curve"]["train_error_pct"]) / 19 == pytest.approx(epoch["train_error_pct"])


def test_a_second_run_in_one_folder_is_refused(run):
    before = (run[0] / "record.jsonl").read_bytes()
    with pytest.raises(FileExistsError, match="holds a run already"):
        fit(CONFIG, run[0])
    assert (run[0] / "record.jsonl").read_bytes() == before


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    wild = dataclasses.replace(
        CONFIG, model=model_config("plain20", norm="none", init_scale=30.0), recipe=recipe("digits", epochs=1)
    )
    with pytest.raises(
        DivergedError, match=r"the loss is (nan|inf) at step \d+ of 78, learning rate 0.01; try a lower"
    ):
        fit(wild, tmp_path / "wild")
    result = read_record(tmp_path / "wild" / "record.jsonl")[-1]
    assert (result["kind"], result["status"]) == ("result", "diverged")
    assert "learning rate 0.01" in result["error"]
    assert not (tmp_path / "wild" / "model.safetensors").exists()


def test_the_first_bad_step_is_named():
    nan = float("nan")
    with pytest.raises(DivergedError, match=r"the loss is nan at step 13 of 100, learning rate 0\.01"):
        stop_unless_finite([1.0, 2.0, nan, nan], 10, CONFIG.recipe, 100)
    stop_unless_finite([1.0, 2.0], 10, CONFIG.recipe, 100)


def test_a_run_that_fails_says_so_in_its_record(tmp_path):
    huge = dataclasses.replace(CONFIG, recipe=recipe("digits", batch_size=5000))
    with pytest.raises(ConfigError, match="batch size 5000"):
        fit(huge, tmp_path / "huge")
    result = read_record(tmp_path / "huge" / "record.jsonl")[-1]
    assert (result["status"], "batch size 5000" in result["error"]) == ("failed", True)


def test_validation_chooses_when_asked():
    best = fit(dataclasses.replace(CONFIG, recipe=recipe("digits", epochs=3, batch_size=64, lr=0.3, keep="best")))
    assert best.result["val_error_pct"] == best.result["best_val_error_pct"]
    seen = Best(with_weights=True)
    model = build_model("resnet8")
    for epoch, error in enumerate([9.0, 4.0, 4.0, 5.0], start=1):
        seen.see(epoch, error, model)
    assert (seen.epoch, seen.error_pct) == (2, 4.0)


def test_a_confused_name_is_warned_about(tmp_path):
    small = ModelConfig(name="resnet18", stage_blocks=(1, 1), stage_channels=(4, 8))
    fit(dataclasses.replace(CONFIG, model=small), tmp_path / "r")
    warning = next(line for line in read_record(tmp_path / "r" / "record.jsonl") if line["kind"] == "warning")
    assert "is an ImageNet network" in warning["message"]


def test_a_device_that_is_not_there():
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ConfigError, match="device cuda: PyTorch finds none"):
        fit(dataclasses.replace(CONFIG, device="cuda"))


@pytest.mark.gpu
def test_on_a_gpu_the_result_is_as_good(run):
    fitted = fit(dataclasses.replace(CONFIG, device="cuda", recipe=recipe("digits")))
    assert fitted.result["val_error_pct"] < 10


def test_config_json_is_readable(run):
    assert json.loads((run[0] / "config.json").read_text())["recipe"]["name"] == "digits"
