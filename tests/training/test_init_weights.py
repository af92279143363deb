"""Runs that start from a model file: of the same network, of a shallower one, with another head; and of no use."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from resnetlab.config import ConfigError, DataConfig, ModelConfig, RunConfig
from resnetlab.data.rng import make_generator
from resnetlab.evaluation.protocols import score_split
from resnetlab.models.deepen import deepen, needs_calibration
from resnetlab.models.model_file import ModelFileError, load_model, save_model
from resnetlab.models.zoo import build_model, model_config
from resnetlab.training.callbacks import Callback
from resnetlab.training.fit import fit
from resnetlab.training.recipes import recipe
from resnetlab.training.run_files.record import read_record
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.signal_handling import InterruptedRunError, StopSignal
from resnetlab.training.trainer import Trainer

RESIDUAL = ModelConfig("tiny", (1, 1), (8, 16), stem="cifar", shortcut="pad", num_classes=10)
KINDS = {
    "residual": RESIDUAL,
    "project_all": dataclasses.replace(RESIDUAL, shortcut="project_all"),
    "plain": dataclasses.replace(RESIDUAL, shortcut="none"),
    "plain without norm": dataclasses.replace(RESIDUAL, shortcut="none", norm="none"),
}
SHORT = recipe("digits", steps=80, batch_size=64, lr=0.1)


@pytest.fixture(scope="module", params=KINDS)
def shallow(request, tmp_path_factory):
    """A trained shallow network of each kind: its run directory and its result."""
    out = tmp_path_factory.mktemp("runs") / "shallow"
    return out, fit(RunConfig(KINDS[request.param], recipe=SHORT, seed=1), out).result, KINDS[request.param]


@pytest.fixture(scope="module")
def residual(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "residual"
    fit(RunConfig(RESIDUAL, recipe=SHORT, seed=1), out)
    return out / "model.safetensors"


def starting(path, model, **changes):
    return RunConfig(model, recipe=recipe("digits", steps=3, batch_size=64), weights=str(path), **changes)


def run_line(out):
    return read_record(out / "record.jsonl")[0]


def test_the_same_network_goes_on_from_its_weights(residual, tmp_path):
    config = starting(residual, dataclasses.replace(RESIDUAL, name="mine", init_scale=2.0, zero_init_residual=True))
    training = Trainer(config)
    ours, theirs = training.model.state_dict(), load_model(residual)[0].state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert training.start == {"file": str(residual), "head": "kept"}
    fit(config, tmp_path / "r")
    assert run_line(tmp_path / "r")["start"] == {"file": str(residual), "head": "kept"}


def test_weights_that_were_drawn_are_not_said_to_come_from_a_file(residual):
    assert "start" not in run_line(residual.parent)


def test_a_shallower_network_is_made_deeper_and_computes_the_same(shallow, tmp_path):
    out, result, model = shallow
    config = starting(out / "model.safetensors", dataclasses.replace(model, stage_blocks=(2, 3)))
    fitted = fit(config, tmp_path / "r")
    assert fitted.model.config.stage_blocks == (2, 3)
    start = run_line(tmp_path / "r")["start"]
    assert start.keys() == {"file", "head", "depth", "max_logit_difference", "train_error_pct"}
    assert (start["file"], start["head"], start["depth"]) == (str(out / "model.safetensors"), "kept", 6)
    assert start["train_error_pct"] == pytest.approx(result["train_error_pct"], abs=0.1)  # one image of 1,257
    assert 0 <= start["max_logit_difference"] < 1e-3
    if not needs_calibration(model):
        assert (start["max_logit_difference"], start["train_error_pct"]) == (0, result["train_error_pct"])
    assert result["train_error_pct"] < 75  # it has learnt something, so that equal errors are no accident
    training = Trainer(config)
    before = score_split(training.model, training.data.splits["train"], training.data.preprocessing).error_pct
    assert before == start["train_error_pct"]


def test_a_deepened_network_starts_where_the_shallow_one_ended_also_in_training_mode(shallow):
    """BN of its blocks is calibrated on training images, so the first losses are those of the shallow network."""
    path, model = shallow[0] / "model.safetensors", shallow[2]
    training = Trainer(starting(path, dataclasses.replace(model, stage_blocks=(2, 3))))
    source = load_model(path)[0]
    bare = deepen(source, (2, 3)).train()
    for (images, labels), _ in zip(training.data.batches(0), range(3), strict=False):
        expected = F.cross_entropy(source.train()(images), labels).item()
        assert training.forward(images, labels)[0].item() == pytest.approx(expected, rel=0.03)
        if needs_calibration(source.config):
            assert F.cross_entropy(bare(images), labels).item() > 1.5 * expected


def test_a_deepened_run_is_of_its_seed(residual):
    """What the added blocks draw for their first convolutions; all else is the file's."""
    deeper = dataclasses.replace(RESIDUAL, stage_blocks=(2, 2))
    first, again, other = (Trainer(starting(residual, deeper, seed=seed)).model for seed in (0, 0, 1))
    ours, same, theirs = (model.state_dict() for model in (first, again, other))
    assert all(torch.equal(same[name], value) for name, value in ours.items())
    differ = {name for name, value in ours.items() if not torch.equal(theirs[name], value)}
    assert differ == {f"layer{stage}.1.conv{part}.weight" for stage in (1, 2) for part in (1, 2)}


def photographs(root, classes):
    """A folder of twelve random images a class."""
    rng = np.random.default_rng(0)
    for number in range(12 * len(classes)):
        path = root / classes[number % len(classes)] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return DataConfig(str(root))


@pytest.mark.parametrize("stage_blocks", [(1, 1), (2, 1)])
@pytest.mark.parametrize("classes", ["abcde", "abd"])
def test_other_classes_even_as_many_get_a_new_head(tmp_path, stage_blocks, classes):
    three, others = (photographs(tmp_path / names, names) for names in ("abc", classes))
    fit(RunConfig(RESIDUAL, three, recipe("digits", steps=2, batch_size=16)), tmp_path / "r")
    file = tmp_path / "r" / "model.safetensors"
    config = starting(file, dataclasses.replace(RESIDUAL, stage_blocks=stage_blocks), data=others, seed=5)
    training = Trainer(dataclasses.replace(config, recipe=recipe("digits", batch_size=16)))
    ours, theirs = training.model.state_dict(), load_model(file)[0].state_dict()
    drawn = build_model(training.config.model, generator=make_generator(5, "weights")).state_dict()
    assert (theirs["fc.weight"].shape, ours["fc.weight"].shape) == ((3, 16), (len(classes), 16))
    assert training.start["head"] == "new"
    assert all(torch.equal(ours[key], drawn[key]) for key in ("fc.weight", "fc.bias"))
    body = {key: value for key, value in theirs.items() if not key.startswith("fc.")}
    assert len(body) > 20
    assert all(torch.equal(ours[key], value) for key, value in body.items())
    assert ("depth" in training.start) == (stage_blocks != (1, 1))


def test_names_are_compared_as_people_read_them(tmp_path):
    """The é of the folders is one character; that of the file an e with an accent that follows it."""
    data = photographs(tmp_path / "data", ["caf\u00e9", "tea"])
    fit(RunConfig(RESIDUAL, data, recipe("digits", steps=2, batch_size=16)), tmp_path / "r")
    model, card = load_model(tmp_path / "r")
    save_model(tmp_path / "m.safetensors", model, dataclasses.replace(card, classes=("cafe\u0301", "tea")))
    config = dataclasses.replace(starting(tmp_path / "m.safetensors", RESIDUAL, data=data), recipe=recipe("digits"))
    assert Trainer(config).start["head"] == "kept"


def test_the_head_follows_the_classes_whatever_their_order(residual, tmp_path):
    model, card = load_model(residual)
    save_model(tmp_path / "m.safetensors", model, dataclasses.replace(card, classes=tuple("4170963825")))
    training = Trainer(starting(tmp_path / "m.safetensors", RESIDUAL))
    assert training.start["head"] == "reordered"
    for at, name in enumerate(training.data.dataset.classes):
        row = "4170963825".index(name)
        assert torch.equal(training.model.fc.weight[at], model.fc.weight[row])
        assert torch.equal(training.model.fc.bias[at], model.fc.bias[row])


def test_what_is_refused(residual, tmp_path):
    deep = tmp_path / "deep"
    fit(starting(residual, dataclasses.replace(RESIDUAL, stage_blocks=(2, 2))), deep)
    changed = dataclasses.replace
    for path, model, words in [
        (deep / "model.safetensors", RESIDUAL, "has 2 blocks; give 2 or more, not 1"),
        (deep / "model.safetensors", changed(RESIDUAL, stage_blocks=(3, 1)), "stage 2 of tiny has 2 blocks"),
        (residual, changed(RESIDUAL, shortcut="none", name="flat"), "holds tiny, which is not the network flat of thi"),
        (residual, changed(RESIDUAL, shortcut="project"), "which is not the network tiny of this run"),
        (residual, changed(RESIDUAL, norm="none"), "which is not the network tiny of this run"),
        (residual, changed(RESIDUAL, stage_channels=(8, 12)), "which is not the network tiny of this run"),
        (residual, changed(RESIDUAL, block="bottleneck"), "which is not the network tiny of this run"),
    ]:
        with pytest.raises(ConfigError) as refused:
            fit(starting(path, model), tmp_path / "r")
        assert words in str(refused.value)
        assert "\n" not in str(refused.value)
        assert not (tmp_path / "r").exists()
    with pytest.raises(ModelFileError, match=r"nowhere\.safetensors: no such model file"):
        fit(starting(tmp_path / "nowhere.safetensors", RESIDUAL), tmp_path / "r")


def test_another_number_of_stages_is_refused_as_another_network(residual, tmp_path):
    with pytest.raises(ConfigError, match=r"model\.safetensors holds tiny, which is not the network resnet8"):
        fit(starting(residual, model_config("resnet8")), tmp_path / "r")


class AskAt(Callback):
    def __init__(self, stop_signal):
        self.stop_signal = stop_signal

    def on_step(self, trainer, metrics):
        if metrics.step == 2:
            self.stop_signal.signum = 15


def test_a_resumed_run_needs_the_file_no_more(residual, tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(residual.read_bytes())
    config = starting(copy, dataclasses.replace(RESIDUAL, stage_blocks=(1, 2)))
    unbroken = fit(config, tmp_path / "unbroken")
    with pytest.raises(InterruptedRunError), StopSignal() as stop_signal:
        fit(config, tmp_path / "r", callbacks=[AskAt(stop_signal)], stop_signal=stop_signal)
    copy.unlink()
    again = fit(config, tmp_path / "r", options=RuntimeOptions(resume=True))
    theirs = unbroken.model.state_dict()
    assert all(torch.equal(theirs[name], value) for name, value in again.model.state_dict().items())
    assert run_line(tmp_path / "r")["start"]["depth"] == 6
