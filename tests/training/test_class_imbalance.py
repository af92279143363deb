"""Unequal classes: weights in the loss, the balanced order in a run, and what a run says about them."""

import dataclasses
import os
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from resnetlab.config import ConfigError, DataConfig, Recipe, RunConfig
from resnetlab.data.open_dataset import open_data
from resnetlab.models.zoo import model_config
from resnetlab.training.callbacks import Callback
from resnetlab.training.fit import fit
from resnetlab.training.loss import balanced_class_weights, make_loss
from resnetlab.training.run_files.compare_runs import run_differences
from resnetlab.training.run_files.record import read_record
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.signal_handling import InterruptedRunError, StopSignal
from resnetlab.training.trainer import Trainer

COUNTS = {"common": 60, "rare": 12, "odd\x1bone": 8}


def test_balanced_weights_have_a_mean_of_one():
    weights = balanced_class_weights([60, 12, 0, 8])
    assert weights.tolist() == pytest.approx([80 / (3 * 60), 80 / (3 * 12), 0, 80 / (3 * 8)])
    assert float((weights * torch.tensor([60, 12, 0, 8])).sum()) / 80 == pytest.approx(1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_each_image_is_weighted(smoothing):
    rng = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(12, 4, generator=rng), torch.randint(0, 4, (12,), generator=rng)
    weights = torch.tensor([0.5, 2.0, 1.0, 3.0])
    loss = make_loss(Recipe(label_smoothing=smoothing), weights)
    each = [
        float(weights[label]) * float(F.cross_entropy(row[None], label[None], label_smoothing=smoothing))
        for row, label in zip(logits, labels, strict=True)
    ]
    assert float(loss(logits, labels)) == pytest.approx(np.mean(each), rel=1e-5)
    if not smoothing:  # PyTorch divides by the sum of the weights
        ours = F.cross_entropy(logits, labels, weight=weights) * weights[labels].mean()
        assert float(loss(logits, labels)) == pytest.approx(float(ours), rel=1e-5)
    halves = [float(loss(logits[part], labels[part])) for part in (slice(6), slice(6, 12))]
    assert np.mean(halves) == pytest.approx(np.mean(each), rel=1e-5)  # micro-batches add up
    shares = F.one_hot(labels, 4).float()
    if not smoothing:
        assert float(loss(logits, shares)) == pytest.approx(np.mean(each), rel=1e-5)


def test_without_weights_the_loss_is_the_same_number():
    rng = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(12, 4, generator=rng), torch.randint(0, 4, (12,), generator=rng)
    assert torch.equal(make_loss(Recipe())(logits, labels), F.cross_entropy(logits, labels))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Images of one colour for each class, with noise."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for label, (name, count) in enumerate(COUNTS.items()):
        (folder / name).mkdir()
        for number in range(count):
            pixels = np.clip(60 + 60 * label + rng.normal(0, 40, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def config(photos, **fields):
    recipe = Recipe(epochs=2, batch_size=16, lr=0.05, **fields)
    return RunConfig(model_config("resnet8"), DataConfig(str(photos), image_size=8), recipe, layer_stats_steps=0)


class StopAfter(Callback):
    """Sends a signal after a number of steps."""

    def __init__(self, step):
        self.step = step

    def on_step(self, trainer, metrics):
        if metrics.step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_balanced_run_resumes_in_the_middle_of_an_epoch(photos, tmp_path):
    balanced = config(photos, balanced_order=True)
    fit(balanced, tmp_path / "whole")
    with pytest.raises(InterruptedRunError), StopSignal() as stop_signal:
        fit(balanced, tmp_path / "cut", callbacks=[StopAfter(5)], stop_signal=stop_signal)
    fit(balanced, tmp_path / "cut", options=RuntimeOptions(resume=True))
    assert run_differences(tmp_path / "whole", tmp_path / "cut") == []


def test_the_training_uses_the_weights(photos):
    plain, weighted = Trainer(config(photos)), Trainer(config(photos, class_weights="balanced"))
    weights = weighted.data.class_weights
    assert weights is not None
    assert plain.data.class_weights is None
    steps = [trainer.train_step(trainer.data.batches(0)) for trainer in (plain, weighted)]
    images, labels = next(plain.data.batches(0))
    fresh = Trainer(config(photos)).model.train()
    with torch.no_grad():
        expected = (F.cross_entropy(fresh(images), labels, reduction="none") * weights[labels]).mean()
    assert steps[1].loss == pytest.approx(float(expected), rel=1e-4)
    assert steps[1].loss != pytest.approx(steps[0].loss, rel=1e-3)


def test_a_run_says_that_classes_are_unequal(photos, tmp_path):
    lines = Trainer(config(photos)).describe()
    (start,) = [index for index, line in enumerate(lines) if line.startswith("classes")]
    assert lines[start].startswith("classes  images for training: common 48, rare ")
    assert lines[start + 1] == "         8 to 1; --class-weights balanced or --balanced-order on corrects it"
    (chance,) = [line for line in lines if line.startswith("chance")]
    assert "'common', the most frequent class" in chance
    corrected = {"class_weights": "balanced"}, {"balanced_order": True}
    words = "loss weighted by", "each class drawn equally often"
    for fields, word in zip(corrected, words, strict=True):
        assert any(word in line for line in Trainer(config(photos, **fields)).describe())
    fit(config(photos), tmp_path / "run")
    result = read_record(tmp_path / "run" / "record.jsonl")[-1]
    assert result["unequal_classes"] is True
    assert result["macro_error_pct"].keys() == {"train", "val", "test"}
    assert result["chance"]["val"]["class"] == "common"


def test_equal_classes_are_not_mentioned():
    lines = Trainer(RunConfig(model_config("resnet8"), recipe=Recipe(epochs=1, batch_size=400))).describe()
    assert not any(line.startswith("classes") for line in lines)
    assert any(line.startswith("chance") for line in lines)


def test_shards_are_read_in_their_order(photos, monkeypatch):
    dataset = open_data(DataConfig(str(photos), image_size=8))
    train = dataclasses.replace(dataset.train, shards=torch.zeros(len(dataset.train), dtype=torch.int64))
    monkeypatch.setattr(
        "resnetlab.training.run_data.open_data", lambda *_, **__: dataclasses.replace(dataset, train=train)
    )
    with pytest.raises(ConfigError, match="read one after the other; use --class-weights balanced instead"):
        Trainer(config(photos, balanced_order=True))


@pytest.mark.slow
def test_both_corrections_lower_the_macro_averaged_error(monkeypatch):
    """Digits whose upper five classes have eight training images each."""
    dataset = open_data(DataConfig("digits"))
    labels = dataset.train.labels
    number_in_class = torch.stack([(labels[: row + 1] == label).sum() for row, label in enumerate(labels)])
    unequal = dataclasses.replace(
        dataset, train=dataset.train.subset(torch.nonzero((labels < 5) | (number_in_class <= 8))[:, 0])
    )
    monkeypatch.setattr("resnetlab.training.run_data.open_data", lambda *_, **__: unequal)

    def macro_error_pct(**fields):
        recipe = Recipe(epochs=20, batch_size=32, lr=0.05, schedule="cosine", crop_padding=1, **fields)
        result = fit(RunConfig(model_config("resnet8"), recipe=recipe, layer_stats_steps=0)).result
        return result["macro_error_pct"]["test"]

    plain = macro_error_pct()
    assert macro_error_pct(class_weights="balanced") < plain - 3
    assert macro_error_pct(balanced_order=True) < plain - 3
