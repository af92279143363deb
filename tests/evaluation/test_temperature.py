"""The temperature against a search over many values, and from training and `evaluate` into a model file."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import resnetlab
from helpers.small_network import CLASSES, model_file
from resnetlab.cli.main import main
from resnetlab.config import DataConfig, Preprocessing, Recipe, RunConfig
from resnetlab.evaluation import temperature as module
from resnetlab.evaluation.temperature import (
    LogProbs,
    TemperatureError,
    collect_log_probs,
    fit_temperature,
    merge_log_probs,
)
from resnetlab.models.model_card import read_card
from resnetlab.models.model_file import ModelCard, load_model, save_model
from resnetlab.serialization import to_json


def samples(true_temperature=3.0, num_images=2000, num_classes=5, seed=0):
    """Return logits that are `true_temperature` times too large, and labels drawn from the right probabilities."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (num_images, num_classes))
    labels = np.array([rng.choice(num_classes, p=np.exp(row) / np.exp(row).sum()) for row in logits])
    return torch.tensor(true_temperature * logits).log_softmax(1).numpy().astype(np.float32), labels


def log_probs_of(values, labels):
    return LogProbs(positions=np.arange(len(labels)), values=values, labels=labels)


def loss_at(values, labels, temperature):
    scaled = torch.tensor(values).double().div(temperature).log_softmax(1)
    return float(torch.nn.functional.nll_loss(scaled, torch.tensor(labels)))


@pytest.mark.parametrize("true_temperature", [0.4, 3.0])
def test_the_temperature_has_the_lowest_loss(true_temperature, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_VALUES", 999)  # several blocks, and a shorter last one
    values, labels = samples(true_temperature)
    fitted = fit_temperature(log_probs_of(values, labels), split="val")
    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 2001))
    losses = [loss_at(values, labels, temperature) for temperature in grid]
    best = grid[int(np.argmin(losses))]
    assert fitted.temperature == pytest.approx(best, rel=0.005)
    assert fitted.temperature == pytest.approx(true_temperature, rel=0.1)
    assert fitted.loss_after == pytest.approx(loss_at(values, labels, fitted.temperature), abs=1e-9)
    assert fitted.loss_after <= min(losses)
    assert fitted.loss_before == pytest.approx(loss_at(values, labels, 1.0), abs=1e-9)
    assert fitted.ece_after_pct < 4 < fitted.ece_before_pct
    assert (fitted.split, fitted.num_images) == ("val", 2000)


def test_images_that_show_no_temperature_are_refused():
    values, labels = samples(1.0, num_images=200)
    right, wrong = values.argmax(1), values.argmin(1)
    for refused, answers, message in [
        (values, right, r"classifies \(nearly\) all 200 images of the val split correctly"),
        (values, wrong, "no better than chance on the 200 images of the val split"),
        (values[:0], labels[:0], "no image of the val split can be decoded"),
        (np.where(values == values.max(), np.nan, values), labels, "outputs are not finite"),
    ]:
        with pytest.raises(TemperatureError, match=message):
            fit_temperature(log_probs_of(refused, answers), split="val")


def test_rows_are_in_the_order_of_the_split_for_any_number_of_processes():
    """Images that cannot be decoded have no row."""
    values, labels = torch.arange(30).view(10, 3).double(), torch.arange(10) % 3
    decoded = torch.tensor([0, 1, 2, 3, 5, 6, 9])

    def collect(rank, size):
        samples = torch.arange(10)[rank::size]
        at = torch.tensor([position for position, sample in enumerate(samples) if sample in decoded]).flip(0)
        batches = [(part, labels[samples[part]], values[samples[part]]) for part in at.split(2)]
        return collect_log_probs(iter(batches), samples)

    for size in (1, 2, 3):
        merged = merge_log_probs([collect(rank, size) for rank in range(size)])
        assert merged.positions.tolist() == decoded.tolist()
        np.testing.assert_array_equal(merged.values, values[decoded])
        np.testing.assert_array_equal(merged.labels, labels[decoded])
    nothing = collect_log_probs(iter([]), torch.arange(0))
    assert len(merge_log_probs([nothing, collect(0, 1)]).labels) == 7
    assert len(merge_log_probs([nothing, nothing]).labels) == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Train two steps on digits, without and with a temperature; return the folder."""
    root = tmp_path_factory.mktemp("runs")
    network = resnetlab.model_config("resnet8", stage_channels=(4, 4, 4))
    config = RunConfig(network, DataConfig("digits"), Recipe(steps=30, batch_size=32, lr=0.1))
    resnetlab.fit(config, root / "plain")
    resnetlab.fit(replace(config, fit_temperature=True), root / "scaled")
    return root


def test_training_fits_on_validation_images_only(run):
    plain, scaled = (load_model(run / name) for name in ("plain", "scaled"))
    assert all(torch.equal(a, b) for a, b in zip(plain[0].parameters(), scaled[0].parameters(), strict=True))
    assert plain[1].temperature_scaling is None
    assert "fit_temperature" not in to_json(RunConfig())
    assert "fit_temperature" not in (run / "plain" / "config.json").read_text()
    fitted = scaled[1].temperature_scaling
    assert fitted is not None
    before, after = (resnetlab.evaluate(run / name, split="val") for name in ("plain", "scaled"))
    assert (fitted.split, fitted.num_images) == ("val", before.num_samples)
    assert fitted.loss_before == pytest.approx(before.loss, abs=1e-6)
    assert fitted.loss_after == pytest.approx(after.loss, abs=1e-6)
    assert fitted.ece_after_pct == pytest.approx(after.ece_pct, abs=1e-3)
    assert fitted.loss_after < fitted.loss_before
    assert after.top1 == before.top1


@pytest.mark.parametrize("protocol", ["one-crop", "ten-crop", "multi-scale"])
def test_every_protocol_divides_the_logits_before_it_averages(run, protocol):
    """A temperature of 1,000 makes all classes equally probable, a temperature of 1 changes nothing."""
    losses = {}
    model, card = load_model(run / "scaled")
    assert card.temperature_scaling is not None
    for temperature in (1.0, 1000.0):
        scaling = replace(card.temperature_scaling, temperature=temperature)
        save_model(run / "changed.safetensors", model, replace(card, temperature_scaling=scaling))
        losses[temperature] = resnetlab.evaluate(run / "changed.safetensors", protocol=protocol).loss
    assert losses[1.0] == resnetlab.evaluate(run / "plain", protocol=protocol).loss
    assert losses[1000.0] == pytest.approx(np.log(10), abs=0.01)


def test_evaluate_fits_and_stores(run, tmp_path, capsys):
    file = tmp_path / "net.safetensors"
    file.write_bytes((run / "plain" / "model.safetensors").read_bytes())
    page = tmp_path / "page.html"
    words = ["evaluate", str(file), "--fit-temperature", "--reject-below", "0.5", "--page", str(page)]
    assert main(words) == 0
    printed = capsys.readouterr()
    (model, card), (_, expected) = load_model(file), load_model(run / "scaled")
    assert card.temperature == pytest.approx(expected.temperature, rel=1e-4)
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), load_model(run / "plain")[0].parameters(), strict=True)
    )
    assert f"temperature {card.temperature:.3f}, fitted on" in printed.err
    assert f"temperature  {card.temperature:.3f}" in printed.out
    evaluation = resnetlab.evaluate(file, reject_below=0.5)
    assert evaluation.rejection is not None
    assert f"{evaluation.rejection.coverage_pct:.2f} % of the images at 0.5" in printed.out
    assert "All thresholds" in page.read_text()
    assert "--reject-below 0.5" in page.read_text()
    assert "--fit-temperature" not in page.read_text()  # the command that reproduces the page changes no file
    assert main(["inspect", str(file)]) == 0
    assert f"softmax  temperature {card.temperature:.3f}, fitted on" in capsys.readouterr().out


def test_wrong_calls_change_nothing(run, tmp_path, capsys):
    file = tmp_path / "net.safetensors"
    network = resnetlab.build_model("resnet8", 10, in_channels=1, stage_channels=(4, 4, 4))
    save_model(file, network, ModelCard(network.config, tuple("0123456789"), Preprocessing(8, (0.5,), (0.5,))))
    (tmp_path / "net.onnx").write_bytes(b"x")
    trained = tmp_path / "trained.safetensors"
    trained.write_bytes((run / "plain" / "model.safetensors").read_bytes())
    before = file.read_bytes(), trained.read_bytes()
    fit, reject = "--fit-temperature", "--reject-below"
    known = (trained, fit)
    for words, message in [
        ([file, run / "plain", fit, "--data", "digits"], "--fit-temperature is for one network, not 2"),
        ([tmp_path / "net.onnx", fit], "net.onnx is an export; fit it in the model file"),
        ([file, fit, "--recalibrate-bn", "--data", "digits"], "for statistics that are not stored"),
        ([file, fit], "does not name its training data; name images with --data"),
        ([file, reject, "80", "--data", "digits"], "reject-below must be above 0 and below 1, not 80"),
        ([file, reject, "0.1", "--data", "digits"], "reject-below 0.1 rejects no image"),
        ([*known, reject, "0.05"], "reject-below 0.05 rejects no image"),
        ([*known, "--protocol", "ten-crop", "--shorter-sides", "4"], "crops of 8 pixels cannot be cut"),
        ([*known, "--protocol", "multi-scale", "--shorter-sides", "0"], "at least 1 pixel each, not 0"),
        ([*known, "--protocol", "multi-scale", "--backend", "onnxruntime"], "multi-scale needs a model file and PyTo"),
    ]:
        assert main(["evaluate", *map(str, words)]) == 2, words
        printed = capsys.readouterr()
        assert message in printed.err
        assert (printed.err.count("\n"), printed.out) == (1, "")
    assert (file.read_bytes(), trained.read_bytes()) == before


def test_images_that_a_network_may_know_are_refused(run, tmp_path, capsys):
    """A network of unknown training images: a split that is held out now may have been trained on."""
    model, card = load_model(run / "plain")
    file = tmp_path / "net.safetensors"
    save_model(file, model, replace(card, provenance={}))
    before = file.read_bytes()
    assert main(["evaluate", str(file), "--data", "digits", "--fit-temperature"]) == 2
    assert "without a validation split: images that are held out now may be among them" in capsys.readouterr().err
    assert file.read_bytes() == before


def test_a_validation_folder_suffices_for_a_network_of_unknown_origin(tmp_path, capsys):
    file, rng = model_file(tmp_path / "net.safetensors"), np.random.default_rng(0)
    predictor = resnetlab.load(file)
    pixels = rng.integers(0, 256, (60, 36, 36, 3), dtype=np.uint8)
    labels = np.where(rng.random(60) < 0.6, predictor.probabilities(pixels).argmax(1), rng.integers(0, 6, 60))
    for name in ("train", "val"):
        for number, (image, label) in enumerate(zip(pixels[::-1] if name == "train" else pixels, labels, strict=True)):
            folder = tmp_path / "data" / name / CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number}.png")
    log_probs = np.log(predictor.probabilities(pixels)).astype(np.float32)
    expected = fit_temperature(log_probs_of(log_probs, labels), split="val")
    words = ["evaluate", str(file), "--data", str(tmp_path / "data"), "--json"]
    assert main([*words, "--split", "train", "--fit-temperature"]) == 0
    output, stored = json.loads(capsys.readouterr().out), read_card(file).temperature_scaling
    assert stored is not None
    assert (output["split"], output["temperature"]) == ("train", [stored.temperature])
    assert stored.num_images == 60
    assert stored.temperature == pytest.approx(expected.temperature, rel=1e-3)  # of the images of val, and no others
    assert main([*words, "--split", "val"]) == 0
    notes = " ".join(json.loads(capsys.readouterr().out)["notes"])
    assert "it is not known on which images net.safetensors was trained" in notes
    assert "the temperature was fitted on this split" in notes


def test_train_prints_the_temperature_or_why_there_is_none(tmp_path, capsys, monkeypatch):
    words = ["train", "--data", "digits", "--model", "resnet8", "--batch-size", "32", "--fit-temperature"]
    assert main([*words, "--steps", "25", "--lr", "0.05", "--out", str(tmp_path / "long")]) == 0
    scaling = read_card(tmp_path / "long").temperature_scaling
    assert scaling is not None
    assert f"temperature {scaling.temperature:.3f}, fitted on" in capsys.readouterr().out

    def refuse(*_: object, **__: object) -> None:
        raise TemperatureError("no temperature can be fitted: all are right")

    monkeypatch.setattr(module, "fit_temperature", refuse)
    assert main([*words, "--steps", "1", "--out", str(tmp_path / "short")]) == 0
    assert read_card(tmp_path / "short").temperature_scaling is None
    record = (tmp_path / "short" / "record.jsonl").read_text()
    assert "no temperature can be fitted: all are right; the model file has no temperature" in record
