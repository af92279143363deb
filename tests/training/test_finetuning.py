"""A run that starts from a file sees images as that file's network did, and survives kills in both of its phases."""

import dataclasses
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.killed_runs import killed_at_step
from resnetlab.config import ConfigError, DataConfig, ModelConfig, Preprocessing, Recipe, RunConfig
from resnetlab.models.model_file import ModelCard, load_model, save_model
from resnetlab.models.zoo import build_model
from resnetlab.training.callbacks import Callback
from resnetlab.training.fit import fit
from resnetlab.training.run_files.checkpoint import Checkpoint
from resnetlab.training.run_files.compare_runs import run_differences
from resnetlab.training.run_files.record import read_record
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.signal_handling import InterruptedRunError, StopSignal
from resnetlab.training.trainer import Trainer

COLOUR = ModelConfig("tiny", (1, 1), (4, 8), stem="cifar", shortcut="pad", num_classes=3)
GREY = dataclasses.replace(COLOUR, in_channels=1)
SHORT = Recipe(steps=4, batch_size=32)
AS_SEEN = Preprocessing(16, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
EVERY_STEP = RuntimeOptions(resume=True, checkpoint_steps=1)


def write(path, model, preprocessing, classes="xyz"):
    save_model(path, build_model(model), ModelCard(model, tuple(classes), preprocessing))
    return str(path)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    torch.manual_seed(0)
    return write(tmp_path_factory.mktemp("file") / "m.safetensors", COLOUR, AS_SEEN)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Three classes of 40 colour images of 16 pixels: one shade each, which no rounding or resizing changes."""
    root = tmp_path_factory.mktemp("photographs")
    for number in range(120):
        (root / "abc"[number % 3]).mkdir(exist_ok=True)
        Image.new("RGB", (16, 16), (number, 2 * number, 250 - number)).save(root / "abc"[number % 3] / f"{number}.png")
    return root


def starting(weights, data, **changes):
    return RunConfig(COLOUR, data, SHORT, weights=str(weights), **changes)


def test_images_are_normalised_as_the_file_says(file, photographs, tmp_path):
    config = starting(file, DataConfig(str(photographs)))
    training = Trainer(dataclasses.replace(config, recipe=dataclasses.replace(SHORT, normalise="pixel")))
    assert training.data.preprocessing == AS_SEEN
    images, _ = next(training.data.batches(0))
    order, pixels = training.data.order(0)[:32], training.data.dataset.train.images
    assert isinstance(pixels, torch.Tensor)
    for image, sample in zip(images, order, strict=True):
        for channel in range(3):
            shade = pixels[sample, channel, 0, 0].item() / 255
            expected = (shade - AS_SEEN.mean[channel]) / AS_SEEN.std[channel]
            torch.testing.assert_close(image[channel], torch.full((16, 16), expected))
    fit(config, tmp_path / "r")
    assert load_model(tmp_path / "r")[1].preprocessing == AS_SEEN
    run = read_record(tmp_path / "r" / "record.jsonl")[0]
    assert (run["data"]["preprocessing"]["mean"], run["start"]["head"]) == ([0.1, 0.2, 0.3], "new")


@pytest.mark.parametrize(("asked", "size"), [(None, 16), (16, 16), (24, 24)])
def test_a_mean_for_each_pixel_becomes_one_for_each_channel_at_another_size(photographs, tmp_path, asked, size):
    pixel_mean = np.random.default_rng(0).random((3, 16, 16))
    seen = Preprocessing(16, (0.9, 0.9, 0.9), (1.0, 1.0, 1.0), tuple(pixel_mean.ravel().tolist()))
    weights = write(tmp_path / "m.safetensors", COLOUR, seen)
    found = Trainer(starting(weights, DataConfig(str(photographs), image_size=asked))).data.preprocessing
    assert found.image_size == size
    if size == 16:
        assert found == seen
    else:
        assert found.pixel_mean == ()
        assert found.mean == pytest.approx(pixel_mean.mean((1, 2)).tolist(), abs=1e-12)


def test_a_network_is_shown_other_images_at_its_own_size(file):
    training = Trainer(starting(file, DataConfig("digits")))  # 8 pixels
    assert next(training.data.batches(0))[0].shape[2:] == (16, 16)


def test_grey_images_are_three_equal_channels_to_a_colour_network(file):
    training = Trainer(starting(file, DataConfig("digits", image_size=8)))
    assert training.model.config.in_channels == 3
    images, _ = next(training.data.batches(0))
    pixels = training.data.dataset.train.images
    assert isinstance(pixels, torch.Tensor)
    grey = pixels[training.data.order(0)[:32], 0] / 255
    for channel in range(3):
        expected = (grey - AS_SEEN.mean[channel]) / AS_SEEN.std[channel]
        torch.testing.assert_close(images[:, channel], expected)
    fitted = fit(starting(file, DataConfig("digits", image_size=8)))
    assert fitted.card.model.in_channels == 3
    assert fitted.card.provenance["data"]["fingerprint"] == Trainer(RunConfig(GREY)).data.dataset.fingerprint


def test_colour_images_are_refused_by_a_grey_network(photographs, tmp_path):
    weights = write(tmp_path / "grey.safetensors", GREY, Preprocessing(16, (0.5,), (0.5,)))
    with pytest.raises(ConfigError, match=r"grey\.safetensors sees images of 1 channel, and those of photo.* have 3"):
        fit(starting(weights, DataConfig(str(photographs))), tmp_path / "r")
    assert not (tmp_path / "r").exists()


class StopAt(Callback):
    def __init__(self, stop_signal, step):
        self.stop_signal, self.step = stop_signal, step

    def on_step(self, trainer, metrics):
        if metrics.step == self.step:
            self.stop_signal.signum = 15


@pytest.fixture(scope="module")
def two_phases(file):
    """6 steps an epoch: the head alone for 12, then everything for 8."""
    recipe = Recipe(
        steps=20,
        batch_size=200,
        lr=0.05,
        schedule="cosine",
        warmup_steps=5,
        initial_lr=0.02,
        keep="best",
        crop_padding=1,
        flip=True,
        frozen_epochs=2,
        layer_decay=0.7,
        freeze_bn=True,
    )
    return RunConfig(COLOUR, DataConfig("digits", image_size=8), recipe, seed=2, weights=file, layer_stats_steps=2)


@pytest.fixture(scope="module")
def unbroken(two_phases, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    fit(two_phases, out)
    return out


@pytest.mark.parametrize("steps", [(3, 5), (6, 6), (12, 1), (13, 3), (11, 5)], ids=str)
def test_a_kill_in_either_phase(two_phases, unbroken, tmp_path, steps):
    """`steps` are those that each session takes before it is killed; the last is lost with it."""
    for number in steps:
        assert killed_at_step(two_phases, tmp_path / "r", number, EVERY_STEP) == signal.SIGKILL
    fit(two_phases, tmp_path / "r", options=RuntimeOptions(resume=True))
    assert run_differences(unbroken, tmp_path / "r") == []


@pytest.mark.parametrize("step", [7, 12, 15])
def test_a_signal_in_either_phase(two_phases, unbroken, tmp_path, step):
    with pytest.raises(InterruptedRunError), StopSignal() as stop_signal:
        fit(two_phases, tmp_path / "r", callbacks=[StopAt(stop_signal, step)], stop_signal=stop_signal)
    fit(two_phases, tmp_path / "r", options=RuntimeOptions(resume=True))
    assert run_differences(unbroken, tmp_path / "r") == []


def test_a_resumed_run_goes_on_seeing_as_the_file_did_without_it(two_phases, unbroken, tmp_path):
    save_model(tmp_path / "m.safetensors", *load_model(two_phases.weights))
    config = dataclasses.replace(two_phases, weights=str(tmp_path / "m.safetensors"))
    assert killed_at_step(config, tmp_path / "r", 9, EVERY_STEP) == signal.SIGKILL
    (tmp_path / "m.safetensors").unlink()
    fitted = fit(config, tmp_path / "r", options=RuntimeOptions(resume=True))
    theirs = load_model(unbroken)[0].state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in fitted.model.state_dict().items())
    assert fitted.card.preprocessing == dataclasses.replace(AS_SEEN, image_size=8)


@pytest.mark.parametrize(("first", "then", "size"), [(None, 8, 8), (8, 24, 24), (8, None, 8), (8, 8, 8)])
def test_a_resumed_run_has_the_image_size_that_is_asked_for(file, photographs, first, then, size):
    """Of images that are decoded for each batch; those in memory are others at another size."""
    config = starting(file, DataConfig(str(photographs), image_size=first, resident_mib=0))
    checkpoint = Checkpoint(**Trainer(config).state_dict())
    changed = dataclasses.replace(config, data=dataclasses.replace(config.data, image_size=then))
    resumed = Trainer(changed, checkpoint=checkpoint)
    assert resumed.data.preprocessing == dataclasses.replace(AS_SEEN, image_size=size)


def test_a_resumed_run_cannot_read_resident_images_at_another_size(file, photographs):
    config = starting(file, DataConfig(str(photographs), image_size=8))
    checkpoint = Checkpoint(**Trainer(config).state_dict())
    changed = dataclasses.replace(config, data=dataclasses.replace(config.data, image_size=24))
    with pytest.raises(ConfigError, match="or are read at another size; start over"):
        Trainer(changed, checkpoint=checkpoint)


def test_weights_that_were_never_read_cannot_continue_a_run(two_phases, tmp_path):
    """Its configuration and its model file would name a file that it did not start from."""
    assert killed_at_step(two_phases, tmp_path / "r", 3, EVERY_STEP) == signal.SIGKILL
    before = (tmp_path / "r" / "config.json").read_bytes()
    plain = dataclasses.replace(two_phases.recipe, frozen_epochs=0, freeze_bn=False, layer_decay=1.0)
    drawn = dataclasses.replace(two_phases, weights=None, recipe=plain)
    for other, name in (
        (dataclasses.replace(two_phases, weights="n.safetensors"), "n.safetensors"),
        (drawn, "random weights"),
    ):
        for allowed in (False, True):
            with pytest.raises(ConfigError, match=rf"started from {two_phases.weights}, and {name} cannot") as caught:
                fit(other, tmp_path / "r", options=RuntimeOptions(resume=True, allow_config_change=allowed))
            assert "--allow-config-change" not in str(caught.value)
    assert (tmp_path / "r" / "config.json").read_bytes() == before


def test_before_the_first_save_a_run_may_start_from_another_file(two_phases, tmp_path):
    save_model(tmp_path / "m.safetensors", *load_model(two_phases.weights))
    other = dataclasses.replace(two_phases, weights=str(tmp_path / "m.safetensors"))
    assert killed_at_step(two_phases, tmp_path / "r", 2, RuntimeOptions(resume=True)) == signal.SIGKILL
    assert (tmp_path / "r" / "record.jsonl").exists()
    fitted = fit(other, tmp_path / "r", options=RuntimeOptions(resume=True, allow_config_change=True))
    assert fitted.card.provenance["config"]["weights"] == other.weights
    assert read_record(tmp_path / "r" / "record.jsonl")[0]["start"]["file"] == other.weights


def test_the_same_file_by_another_path_is_the_same(two_phases, tmp_path):
    assert killed_at_step(two_phases, tmp_path / "r", 3, EVERY_STEP) == signal.SIGKILL
    (tmp_path / "link").symlink_to(two_phases.weights)
    linked = dataclasses.replace(two_phases, weights=str(tmp_path / "link"))
    with pytest.raises(ConfigError, match=r"another configuration \(weights: .*add --allow-config-change"):
        fit(linked, tmp_path / "r", options=RuntimeOptions(resume=True))
    fit(linked, tmp_path / "r", options=RuntimeOptions(resume=True, allow_config_change=True))


@pytest.mark.parametrize(
    ("before", "after"), [({"frozen_epochs": 2}, {"frozen_epochs": 0}), ({"freeze_bn": True}, {"freeze_bn": False})]
)
def test_what_is_frozen_may_change_on_the_way(two_phases, tmp_path, before, after):
    """Some parameters have momentum then, and some have none yet."""
    plain = dataclasses.replace(two_phases.recipe, keep="last", frozen_epochs=0, freeze_bn=False, layer_decay=1.0)
    first, second = (
        dataclasses.replace(two_phases, recipe=dataclasses.replace(plain, **fields)) for fields in (before, after)
    )
    assert killed_at_step(first, tmp_path / "r", 9, EVERY_STEP) == signal.SIGKILL
    fitted = fit(second, tmp_path / "r", options=RuntimeOptions(resume=True, allow_config_change=True))
    start = load_model(two_phases.weights)[0].state_dict()
    assert all(not torch.equal(value, start[key]) for key, value in fitted.model.state_dict().items())
