"""Images with several labels from the table to the prediction: loss, run, model card, evaluation, refusals."""

import csv
import dataclasses
import io
import json
import os
import signal
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console

from resnetlab.cli.evaluate_multi_label import print_multi_label
from resnetlab.cli.main import main
from resnetlab.cli.predict_output import print_line
from resnetlab.config import ConfigError, DataConfig, Recipe, RunConfig
from resnetlab.evaluation.evaluate import evaluate
from resnetlab.evaluation.evaluate_multi_label import evaluate_multi_label, predict_member
from resnetlab.evaluation.evaluator import open_members
from resnetlab.evaluation.options import EvaluationOptions
from resnetlab.inference.predictor import load
from resnetlab.models.model_card import read_card
from resnetlab.models.zoo import model_config
from resnetlab.serving.ipc import read_message
from resnetlab.serving.routes import prediction_json
from resnetlab.serving.schemas import PredictionResponse
from resnetlab.serving.worker import Worker
from resnetlab.serving.worker_load import WorkerReply
from resnetlab.serving.worker_model import model_info
from resnetlab.training.callbacks import Callback
from resnetlab.training.fit import fit
from resnetlab.training.kept_states import state_files
from resnetlab.training.loss import make_loss, num_wrong
from resnetlab.training.run_files.compare_runs import run_differences
from resnetlab.training.run_files.record import read_record
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.signal_handling import InterruptedRunError, StopSignal
from resnetlab.training.trainer import Trainer

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
RECIPE = Recipe(name="t", epochs=6, batch_size=16, lr=0.1, schedule="cosine", crop_padding=0, keep="best")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images of 8 pixels that are the sum of up to three colours, and their table."""
    root, rng = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    with (root / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("file", "labels"))
        for index in range(240):
            names = [name for name in COLOURS if rng.random() < 0.5]
            pixels = np.sum([COLOURS[name] for name in names], axis=0) * np.ones((8, 8, 3)) * 0.5
            noisy = np.clip(pixels + rng.normal(60, 20, (8, 8, 3)), 0, 255)
            Image.fromarray(noisy.astype(np.uint8)).save(root / f"{index:03}.png")
            table.writerow((f"{index:03}.png", ";".join(names)))
    return root


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A finished run on these images; tests must not change it."""
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(RunConfig(model_config("resnet8"), DataConfig(str(data)), RECIPE), out)
    return out


@pytest.mark.parametrize("loss", ["cross_entropy", "bce", "bce_sum"])
def test_the_loss_is_the_binary_cross_entropy_of_each_label(loss):
    rng = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, 4, generator=rng), torch.rand(6, 4, generator=rng) < 0.4
    targets = torch.where(labels, 0.95, 0.05)
    each = -(targets * F.logsigmoid(logits) + (1 - targets) * F.logsigmoid(-logits))
    expected = (each.sum(1) if loss == "bce_sum" else each.mean(1)).mean()
    assert float(make_loss(Recipe(loss=loss, label_smoothing=0.1))(logits, labels)) == pytest.approx(float(expected))
    wrong = [bool(((row > 0) != truth).any()) for row, truth in zip(logits, labels, strict=True)]
    assert int(num_wrong(logits, labels)) == sum(wrong)


def test_a_run_learns_the_labels_and_fits_thresholds(run):
    *_, result = read_record(run / "record.jsonl")
    precision = result["mean_average_precision_pct"]
    assert precision["test"] > 90
    assert result["test_error_pct"] < result["chance"]["test"]["error_pct"]
    assert result["best_val_error_pct"] is None
    epochs = [
        line["val_mean_average_precision_pct"] for line in read_record(run / "record.jsonl") if line["kind"] == "epoch"
    ]
    assert result["best_epoch"] == 1 + int(np.argmax(epochs))
    assert result["best_val_mean_average_precision_pct"] == pytest.approx(max(epochs))
    card = read_card(run)
    assert card.classes == ("blue", "green", "red")
    assert card.multi_label is not None
    assert (card.multi_label.split, card.multi_label.num_images) == ("val", 24)


def test_evaluation_agrees_with_predictions(run, data):
    evaluation = evaluate_multi_label(run, split="all")
    predictor = load(run)
    rows = list(csv.DictReader((data / "labels.csv").read_text().splitlines()))
    answers = predictor([data / row["file"] for row in rows])
    truths = [set(filter(None, row["labels"].split(";"))) for row in rows]
    wrong = [set(answer.labels or ()) != truth for answer, truth in zip(answers, truths, strict=True)]
    assert evaluation.exact_match_error.num_wrong == sum(wrong)
    for answer in answers[:20]:
        assert answer.labels is not None
        assert set(answer.labels) == {name for name, p in answer.top if p >= _threshold(predictor.card, name)}
        assert str(answer).startswith(f"{', '.join(answer.labels) or 'no label'}: ")
    total = predictor.probabilities([data / row["file"] for row in rows]).sum(1)
    assert total.max() > 1.5  # sigmoids, not a softmax


def _threshold(card, name):
    return card.multi_label.thresholds[card.classes.index(name)]


def test_a_stopped_run_continues_bit_for_bit(data, tmp_path):
    config = RunConfig(model_config("resnet8"), DataConfig(str(data)), dataclasses.replace(RECIPE, epochs=2))
    fit(config, tmp_path / "whole")
    with pytest.raises(InterruptedRunError), StopSignal() as stop_signal:
        fit(config, tmp_path / "stopped", callbacks=[StopInTheSecondEpoch()], stop_signal=stop_signal)
    fit(config, tmp_path / "stopped", options=RuntimeOptions(resume=True))
    assert run_differences(tmp_path / "whole", tmp_path / "stopped") == []
    assert read_card(tmp_path / "whole").multi_label == read_card(tmp_path / "stopped").multi_label


class StopInTheSecondEpoch(Callback):
    def on_step(self, trainer, metrics):
        if metrics.epoch == 2 and metrics.step % trainer.steps_per_epoch == 3:
            os.kill(os.getpid(), signal.SIGTERM)


def test_printed_metrics(run, capsys):
    options = EvaluationOptions(split="val")
    (member,) = open_members([run], None, options)
    predictions = predict_member(member, options)
    console = Console(width=80, force_terminal=False)
    print_multi_label(member, predictions, console)
    text = capsys.readouterr().out
    assert "mean average precision" in text
    assert "note: the thresholds were fitted on this split" in text.replace("\n", " ")
    assert max(map(len, text.splitlines())) <= 80
    print_multi_label(member, predictions, console, json=True)
    output = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in output["per_label"]] == ["blue", "green", "red"]
    diverged = dataclasses.replace(predictions, probabilities=np.full_like(predictions.probabilities, np.nan))
    print_multi_label(member, diverged, console, json=True)
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["loss"] is None
    print_line("a.png", load(run)(np.full((8, 8, 3), 250, np.uint8)), member.card.classes, console=console)
    assert "a.png" in capsys.readouterr().out


def test_a_run_starts_from_a_shallower_network(run, data):
    config = RunConfig(
        model_config("resnet14"), DataConfig(str(data)), RECIPE, weights=str(run / "model.safetensors"), device="cpu"
    )
    start = Trainer(config).start
    assert (start["head"], start["depth"]) == ("kept", 8)
    assert start["train_error_pct"] == pytest.approx(read_record(run / "record.jsonl")[-1]["train_error_pct"], abs=1)


def test_served_answers_have_the_labels():
    reply = WorkerReply([("sea", 0.9), ("sun", 0.2)], {"total": 1.0}, b"", labels=["sea"])
    times = {"queue": 0, "decode": 0, "inference": 0, "explain": 0, "total": 1.0}
    content = prediction_json(dataclasses.replace(reply, times_ms=times))
    assert PredictionResponse.model_validate(content).labels == ["sea"]
    one_class = prediction_json(dataclasses.replace(reply, labels=None, times_ms=times))
    assert "labels" not in one_class


def test_the_worker_sends_labels_and_thresholds(run):
    predictor = load(run)
    worker: Any = SimpleNamespace(_predictor=predictor)
    request: Any = SimpleNamespace(header={"id": 7}, times_ms={})
    prediction = predictor(np.zeros((8, 8, 3), np.uint8))
    message = read_message(io.BytesIO(Worker._encode_reply(worker, request, prediction, 1)))
    assert message is not None
    assert message[0]["labels"] == list(prediction.labels or ())
    fitted = predictor.card.multi_label
    assert fitted is not None
    assert model_info(predictor)["thresholds"] == list(fitted.thresholds)


def test_a_kept_state_is_of_the_same_kind(data, tmp_path):
    """Else its probabilities would be a softmax."""
    config = RunConfig(model_config("resnet8"), DataConfig(str(data)), dataclasses.replace(RECIPE, epochs=1))
    fit(config, tmp_path / "run", options=RuntimeOptions(keep_states_epochs=1))
    for state in state_files(tmp_path / "run"):
        multi_label = read_card(state).multi_label
        assert multi_label is not None
        assert multi_label.thresholds == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": {"balanced_order": True}}, "--balanced-order on needs one class an image"),
        ({"recipe": {"class_weights": "balanced"}}, "--class-weights balanced needs one class an image"),
        ({"recipe": {"mixup": 0.2}}, "mixup or cutmix needs one class an image.* use --set mixup=0 cutmix=0"),
        ({"fit_temperature": True}, "--fit-temperature needs one class an image.*a threshold is fitted for each label"),
    ],
)
def test_options_for_one_class_are_refused(data, changes, message):
    recipe = dataclasses.replace(RECIPE, **changes.pop("recipe", {}))
    with pytest.raises(ConfigError, match=message):
        fit(RunConfig(model_config("resnet8"), DataConfig(str(data)), recipe, **changes))


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "RUN", "--reject-below", "0.8"),
        ("evaluate", "RUN", "--protocol", "ten-crop"),
        ("evaluate", "RUN", "--page", "OUT.html"),
        ("evaluate", "RUN", "--data", "digits"),
        ("evaluate", "RUN", "--fit-temperature"),
        ("evaluate", "RUN", "RUN"),
        ("predict", "RUN", "DATA/000.png", "--reject-below", "0.5"),
        ("lesion", "RUN"),
        ("export", "RUN", "--int8", "--calibrate", "DATA"),
        ("data", "pack", "DATA", "--out", "OUT"),
    ],
)
def test_commands_for_one_class_are_refused(run, data, tmp_path, capsys, command):
    places = {"RUN": str(run), "DATA": str(data), "OUT": str(tmp_path / "out")}
    words = [str(data / word[5:]) if word.startswith("DATA/") else places.get(word) or word for word in command]
    assert main(words) == 2
    message = capsys.readouterr().err
    assert any(words in message for words in ("one class", "threshold for each label", "several labels"))
    assert message.strip().splitlines()[-1].startswith("resnetlab: ")


def test_evaluate_refuses_several_labels(run):
    with pytest.raises(ConfigError, match="evaluate needs one class an image"):
        evaluate(run)
