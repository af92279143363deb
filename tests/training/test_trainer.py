"""The loop, on a real tiny network through the whole path."""

import dataclasses
import json
import math

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from resnetlab.config import ConfigError, DataConfig, ModelConfig, RunConfig, read_config
from resnetlab.data.loader import train_batches
from resnetlab.data.open_dataset import open_data
from resnetlab.data.rng import make_generator
from resnetlab.evaluation.protocols import SplitScore, score_split
from resnetlab.models.model_file import load_model
from resnetlab.models.zoo import build_model, model_config
from resnetlab.training import trainer as trainer_module
from resnetlab.training.callbacks import Callback
from resnetlab.training.describe_run import length_text
from resnetlab.training.fit import fit
from resnetlab.training.metrics import Progress
from resnetlab.training.optimizers.lr_schedule import lr_at
from resnetlab.training.recipes import recipe
from resnetlab.training.run_data import RunData
from resnetlab.training.run_files.compare_runs import without_times
from resnetlab.training.run_files.record import read_record
from resnetlab.training.run_files.train_state import BestWeights
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.train_step import DivergedError
from resnetlab.training.trainer import Trainer

CONFIG = RunConfig(model_config("resnet8"), recipe=recipe("digits", epochs=2, batch_size=64), seed=4)


class Recorder(Callback):
    """Stores what the trainer reports."""

    def __init__(self):
        self.lines: list[str] = []
        self.points: list[Progress] = []
        self.epochs: list[dict] = []
        self.last_evaluations: list[tuple[int, float | None]] = []

    def on_start(self, trainer):
        self.lines = trainer.describe()

    def on_step(self, trainer, metrics):
        if metrics.progress:
            self.points.append(metrics.progress)

    def on_epoch(self, trainer, line):
        self.epochs.append(dict(line))

    def on_last_evaluation(self, trainer, epoch, expected_s):
        self.last_evaluations.append((epoch, expected_s))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "first"
    recorder = Recorder()
    fitted = fit(CONFIG, out, callbacks=[recorder])
    return out, fitted, recorder


def test_the_run_directory_holds_what_the_design_says(run):
    out, fitted, _ = run
    names = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    assert names == ["checkpoint", "config.json", "model.safetensors", "record.jsonl"]
    assert read_config(out / "config.json") == CONFIG
    lines = read_record(out / "record.jsonl")
    kinds = [line["kind"] for line in lines]
    assert kinds == ["run", "signal", "signal", "epoch", "signal", "signal", "epoch", "result"]
    assert [line["step"] for line in lines if line["kind"] == "signal"] == [1, 17, 33, 38]
    start, first, result = lines[0], lines[3], lines[-1]
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
        assert score_split(model, split, card.preprocessing).error_pct == fitted.result[f"{name}_error_pct"]
        assert card.error[f"{name}_error_pct"] == fitted.result[f"{name}_error_pct"]
    assert card.classes == data.classes
    assert card.provenance["config"]["seed"] == 4


def test_the_loop_is_sgd_written_out():
    """The same training in the plainest form: v = m v + g + wd w; w = w - lr v, one step after another.

    Few steps: the two sum in another order, and training doubles such a difference every few steps.
    """
    config = dataclasses.replace(CONFIG, recipe=recipe("digits", steps=4, batch_size=64))
    data = open_data(config.data)
    model = build_model(config.model, 10, in_channels=1, generator=make_generator(4, "weights"))
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    batches = train_batches(data.train, data.preprocessing, config.recipe, seed=4, epoch=0)
    for step in range(4):
        images, labels = next(batches)
        gradients = torch.autograd.grad(F.cross_entropy(model.train()(images), labels), list(model.parameters()))
        lr = lr_at(step, 4, config.recipe)
        with torch.no_grad():
            for p, v, g in zip(model.parameters(), velocity, gradients, strict=True):
                v.mul_(0.9).add_(g + 1e-4 * p)
                p.sub_(lr * v)
    result = fit(config)
    assert result.result["steps"] == 4
    assert lr_at(3, 4, config.recipe) == pytest.approx(lr_at(0, 4, config.recipe) / 100)
    ours = dict(result.model.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter, rtol=1e-4, atol=1e-6)


def test_equal_configurations_give_equal_runs(run, tmp_path):
    torch.manual_seed(99)  # nothing outside the configuration matters
    again = fit(CONFIG, tmp_path / "again")
    first = run[1].model.state_dict()
    assert all(torch.equal(first[key], value) for key, value in again.model.state_dict().items())
    lines = [without_times(read_record(path / "record.jsonl")) for path in (run[0], tmp_path / "again")]
    assert lines[0] == lines[1]


def test_another_seed_gives_another_run(run):
    other = fit(dataclasses.replace(CONFIG, seed=5, recipe=recipe("digits", epochs=1)))
    assert not torch.equal(other.model.get_parameter("conv1.weight"), run[1].model.get_parameter("conv1.weight"))


def test_progress_is_reported(run):
    _, _, recorder = run
    assert [p.step for p in recorder.points][-1] == recorder.points[0].total_steps == 38
    assert len(recorder.points) == 38  # 19 steps an epoch, a report after each
    assert sum(p.num_steps for p in recorder.points) == 38
    assert all(0 <= p.train_error_pct <= 100 and p.images_per_s > 0 for p in recorder.points)
    assert {p.epoch for p in recorder.points} == {1, 2}
    epochs = [line for line in read_record(run[0] / "record.jsonl") if line["kind"] == "epoch"]
    assert [{"kind": "epoch", **line} for line in recorder.epochs] == epochs


def test_the_resolved_configuration_is_described(run):
    text = "\n".join(run[2].lines)
    assert "resnet8: residual, 8 layers, shortcut pad" in text
    assert "digits: 1,257 train, 270 val, 270 test" in text
    assert "10 classes; 8 pixels; mean and deviation per channel" in text
    assert "recipe   digits; seed 4\n         38 steps of 64 images (2 epochs of 19 steps)\n" in text
    assert "lr 0.01, /10 at 19, 29" in text
    assert "computed fp32" in text
    assert max(map(len, run[2].lines)) <= 80


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"warmup_epochs": 1.5}, "1.47 epochs of warm-up"),
        ({"warmup_epochs": 8, "warmup_steps": 19}, ", 1 epoch of warm-up"),
    ],
)
def test_the_warm_up_is_the_one_that_is_used(settings, text):
    """Steps that are given replace epochs; 19 steps are an epoch."""
    changed = dataclasses.replace(CONFIG, recipe=dataclasses.replace(CONFIG.recipe, **settings))
    assert text in "\n".join(Trainer(changed).describe())


def test_the_curve_has_the_epochs_mean(run):
    epoch = next(line for line in read_record(run[0] / "record.jsonl") if line["kind"] == "epoch")
    assert epoch["curve"]["step"] == list(range(1, 20))
    assert sum(epoch["curve"]["train_error_pct"]) / 19 == pytest.approx(epoch["train_error_pct"])


def test_a_second_run_in_one_folder_is_refused(run):
    before = (run[0] / "record.jsonl").read_bytes()
    with pytest.raises(FileExistsError, match="holds a run already"):
        fit(CONFIG, run[0])
    assert (run[0] / "record.jsonl").read_bytes() == before


def test_a_loss_that_is_not_finite_ten_times_stops_the_run(tmp_path):
    wild = dataclasses.replace(
        CONFIG, model=model_config("plain20", norm="none", init_scale=30.0), recipe=recipe("digits", epochs=1)
    )
    message = r"the loss is (nan|inf) at steps \d+ to \d+ of 78, learning rate 0.01; try a lower .* \(lr 0.001\)"
    with pytest.raises(DivergedError, match=message):
        fit(wild, tmp_path / "wild")
    result = read_record(tmp_path / "wild" / "record.jsonl")[-1]
    assert (result["kind"], result["status"], result["epoch"]) == ("result", "diverged", 1)
    assert result["positions"][1] - result["positions"][0] == 15
    assert len(result["samples"]) == 16
    assert not (tmp_path / "wild" / "model.safetensors").exists()


def train_on(bad, num_steps):
    """Train on random images, those of the batches in `bad` with an infinite pixel; return the trainer."""
    trainer = Trainer(dataclasses.replace(CONFIG, recipe=recipe("digits", steps=num_steps), layer_stats_steps=0))
    generator = torch.Generator().manual_seed(1)

    def batches(*_arguments, **_options):
        for number in range(num_steps):
            images = torch.randn(16, 1, 8, 8, generator=generator)
            if number in bad:
                images[0, 0, 0, 0] = float("inf")
            yield images, torch.arange(16) % 10

    trainer.data.batches = batches
    trainer.train_epoch()
    return trainer


def test_a_step_that_is_not_finite_is_skipped_and_counted():
    """The network, including the statistics of BN, equals one trained on the finite batches only."""
    trainer = train_on([2, 5], 7)
    model, state = trainer.model, trainer.state
    assert (state.step, state.num_skipped, state.num_skipped_in_row) == (7, 2, 0)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    assert model.bn1.num_batches_tracked == 5
    assert sum(point["num_steps"] for point in state.curve) == 5


def test_ten_in_a_row_stop_the_run_and_nine_do_not():
    state = train_on(range(3, 12), 14).state
    assert (state.num_skipped, state.num_skipped_in_row) == (9, 0)
    with pytest.raises(DivergedError, match="at steps 4 to 13 of 14"):
        train_on(range(3, 13), 14)


def ending(monkeypatch, bad_steps):
    """Train three epochs of four steps, those in `bad_steps` on an infinite pixel; return the result."""
    seen = iter(range(12))
    take = Trainer.train_step

    def train_step(trainer, batches):
        def broken():
            for batch, labels in batches:
                yield (torch.full_like(batch, math.inf) if next(seen) in bad_steps else batch), labels

        return take(trainer, broken())

    monkeypatch.setattr(Trainer, "train_step", train_step)
    model = model_config("resnet8", stage_blocks=(1, 1), stage_channels=(4, 8))
    settings = recipe("digits", epochs=3, batch_size=300, schedule="cosine")
    return fit(dataclasses.replace(CONFIG, model=model, recipe=settings)).result


@pytest.mark.parametrize("bad_steps", [range(11, 12), range(9, 12), range(3, 12)])
def test_a_run_whose_last_steps_were_skipped_ends_as_others(monkeypatch, bad_steps):
    result = ending(monkeypatch, bad_steps)
    assert (result["status"], result["steps"], result["skipped_steps"]) == ("done", 12, len(bad_steps))


def test_the_end_of_a_run_that_gives_no_finite_loss(monkeypatch):
    """The message has the rate and the loss of the last step that was taken."""
    monkeypatch.setattr(RunData, "score", lambda *_: SplitScore(270, 243, math.nan))
    with pytest.raises(DivergedError, match=r"the loss is nan at steps 11 to 12 of 12, learning rate 0.00017\d*;"):
        ending(monkeypatch, [10, 11])


def test_a_run_without_any_finite_loss_has_diverged(monkeypatch):
    monkeypatch.setattr(trainer_module, "MAX_NON_FINITE_STEPS", 100)
    with pytest.raises(DivergedError, match=r"the loss is nan at steps 1 to 12 of 12, learning rate 0.00017\d*;"):
        ending(monkeypatch, range(12))


def test_the_initial_learning_rate_ends_with_the_error_below_80():
    warm = dataclasses.replace(CONFIG, recipe=dataclasses.replace(CONFIG.recipe, lr=0.02, initial_lr=0.005))
    recorder = Recorder()
    fit(warm, callbacks=[recorder])
    first_below = next(i for i, point in enumerate(recorder.points) if point.train_error_pct < 80)
    assert {point.lr for point in recorder.points[: first_below + 1]} == {0.005}
    assert recorder.points[first_below + 1].lr == 0.02


def test_plateau_follows_the_validation_error():
    flat = dataclasses.replace(CONFIG.recipe, schedule="plateau", patience=1, epochs=6, lr=1e-6)
    recorder = Recorder()
    fit(dataclasses.replace(CONFIG, recipe=flat), callbacks=[recorder])
    errors = [line["val_error_pct"] for line in recorder.epochs]
    expected, lowest, lr = [1e-6], errors[0], 1e-6
    for error in errors[1:-1]:
        lr = lr if error < lowest else lr / 10
        lowest = min(lowest, error)
        expected.append(lr)
    assert len(set(expected)) > 1
    assert [line["lr"] for line in recorder.epochs] == pytest.approx([1e-6, *expected])


def test_recomputed_activations_give_the_same_run(run, monkeypatch):
    from resnetlab.models import resnet

    calls = []
    real = resnet.run_checkpointed
    monkeypatch.setattr(resnet, "run_checkpointed", lambda *given: calls.append(1) or real(*given))
    fitted = fit(dataclasses.replace(CONFIG, activation_checkpointing=True))
    assert len(calls) == 38  # every step, and no evaluation
    first = run[1].model.state_dict()
    assert all(torch.equal(first[key], value) for key, value in fitted.model.state_dict().items())


def test_the_mean_of_each_pixel_where_the_recipe_says_so():
    fitted = fit(dataclasses.replace(CONFIG, recipe=recipe("cifar-paper", steps=2, batch_size=64)))
    train = torch.as_tensor(open_data(CONFIG.data).train.images)
    assert len(fitted.card.preprocessing.pixel_mean) == 64
    assert fitted.card.preprocessing.pixel_mean == pytest.approx(
        (train.double().mean(0) / 255).flatten().tolist(), abs=1e-6
    )
    assert fitted.card.preprocessing.std == (1.0,)


def test_tensorboard_gets_the_run(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(CONFIG, tmp_path / "r", options=RuntimeOptions(track="tensorboard"))
    events = EventAccumulator(str(tmp_path / "r" / "tensorboard"))
    events.Reload()
    errors = [point.value for point in events.Scalars("val/error_pct")]
    lines = read_record(tmp_path / "r" / "record.jsonl")
    assert errors == pytest.approx([line["val_error_pct"] for line in lines if line["kind"] == "epoch"])
    assert events.Scalars("train/loss")[-1].step == 38


def test_nothing_to_validate_on_is_a_mistake(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "pets" / name / "1.png")
    alone = dataclasses.replace(CONFIG, data=DataConfig(str(tmp_path / "pets")), recipe=recipe("digits", batch_size=2))
    with pytest.raises(ConfigError, match="pets has too few images: none is left to validate on"):
        fit(alone, tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_mistake_in_the_configuration_leaves_nothing(tmp_path):
    huge = dataclasses.replace(CONFIG, recipe=recipe("digits", batch_size=5000))
    with pytest.raises(ConfigError, match="batch size 5000"):
        fit(huge, tmp_path / "huge")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_says_so_in_its_record(tmp_path):
    class Fails(Callback):
        def on_step(self, trainer, metrics):
            raise OSError("the terminal is gone")

    with pytest.raises(OSError, match="the terminal is gone"):
        fit(CONFIG, tmp_path / "r", callbacks=[Fails()])
    result = read_record(tmp_path / "r" / "record.jsonl")[-1]
    assert (result["status"], result["error"]) == ("failed", "the terminal is gone")


@pytest.mark.parametrize(
    ("length", "text"),
    [
        ((1, 25, 16), "1 step of 16 images (4 % of an epoch)"),
        ((1, 1, 1), "1 step of 1 image (1 epoch of 1 step)"),
        ((25, 10, 1_024), "25 steps of 1,024 images (2.5 epochs of 10 steps)"),
        ((64_000, 351, 128), "64,000 steps of 128 images (182.34 epochs of 351 steps)"),
        ((1_000, 10, 64), "1,000 steps of 64 images (100 epochs of 10 steps)"),
    ],
)
def test_the_length_of_a_run_in_words(length, text):
    assert length_text(*length) == text


def test_callbacks_hear_of_the_last_evaluation_once_and_how_long_it_takes(run):
    _, fitted, recorder = run
    ((epoch, expected_s),) = recorder.last_evaluations
    assert epoch == 2
    assert 0 < expected_s < fitted.result["time_s"]


def test_validation_chooses_when_asked():
    recorder = Recorder()
    config = dataclasses.replace(CONFIG, recipe=recipe("digits", epochs=3, batch_size=64, lr=0.3, keep="best"))
    best = fit(config, callbacks=[recorder])
    assert recorder.last_evaluations[0][0] == best.result["best_epoch"]
    assert best.result["val_error_pct"] == best.result["best_val_error_pct"]
    seen = BestWeights(with_weights=True)
    model = build_model("resnet8")
    for epoch, error in enumerate([9.0, 4.0, 4.0, 5.0], start=1):
        seen.update(epoch, error, model)
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
