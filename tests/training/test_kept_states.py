"""Kept states of a run: their weights, the same ones after a kill, and a full disk."""

import dataclasses
import errno
import signal
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
import torch

from helpers.killed_runs import killed_at_step
from resnetlab.config import ConfigError, RunConfig
from resnetlab.evaluation.landscapes.landscape_networks import landscape_cases, states_until_kept
from resnetlab.models.model_file import load_model
from resnetlab.models.zoo import model_config
from resnetlab.training.callbacks import Callback
from resnetlab.training.fit import fit
from resnetlab.training.kept_states import state_files
from resnetlab.training.recipes import recipe
from resnetlab.training.runtime_options import RuntimeOptions

if TYPE_CHECKING:
    from resnetlab.evaluation.evaluator import EnsembleMember

CONFIG = RunConfig(model_config("resnet8"), recipe=recipe("digits", epochs=4, batch_size=256), seed=3)
OPTIONS = RuntimeOptions(keep_states_epochs=2, resume=True, checkpoint_steps=1)


class Weights(Callback):
    """Stores the weights at the start and after each epoch."""

    def __init__(self):
        self.of = {}

    def on_start(self, trainer):
        self.of[0] = {key: value.clone() for key, value in trainer.model.state_dict().items()}

    def on_epoch(self, trainer, line):
        self.of[line["epoch"]] = {key: value.clone() for key, value in trainer.model.state_dict().items()}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    out, weights = tmp_path_factory.mktemp("runs") / "kept", Weights()
    fit(CONFIG, out, options=OPTIONS, callbacks=[weights])
    return out, weights.of


def test_states_are_the_weights_of_their_epochs(kept):
    out, weights = kept
    files = state_files(out)
    assert [file.name for file in files] == [f"epoch-000{epoch}.safetensors" for epoch in (0, 2, 4)]
    for file, epoch in zip(files, (0, 2, 4), strict=True):
        model, card = load_model(file)
        assert card.provenance["epoch"] == epoch
        assert all(torch.equal(value, weights[epoch][key]) for key, value in model.state_dict().items())
    assert state_files(out / "states") == files
    assert state_files(files[0]) == [files[0]]
    assert state_files(out / "checkpoint") == []


def test_states_end_as_the_network_that_the_run_saves(tmp_path):
    """With an average of the weights the network itself is another one."""
    training = dataclasses.replace(CONFIG.recipe, epochs=2, ema_decay=0.9)
    weights = Weights()
    fit(dataclasses.replace(CONFIG, recipe=training), tmp_path / "run", options=OPTIONS, callbacks=[weights])
    first, last = (load_model(file)[0].state_dict() for file in state_files(tmp_path / "run"))
    final, card = load_model(tmp_path / "run")
    assert "epoch" not in card.provenance
    assert all(torch.equal(value, last[key]) for key, value in final.state_dict().items())
    assert not torch.equal(weights.of[2]["fc.weight"], last["fc.weight"])
    assert torch.equal(weights.of[0]["fc.weight"], first["fc.weight"])


def test_a_path_ends_at_the_epoch_that_the_run_kept(tmp_path):
    training = dataclasses.replace(CONFIG.recipe, epochs=6, keep="best", lr=0.5)
    options = RuntimeOptions(keep_states_epochs=1)
    fitted = fit(dataclasses.replace(CONFIG, recipe=training), tmp_path / "run", options=options)
    kept, files = fitted.result["best_epoch"], state_files(tmp_path / "run")
    assert fitted.card.provenance["epoch"] == kept
    for epoch in range(7):
        card = dataclasses.replace(fitted.card, provenance={**fitted.card.provenance, "epoch": epoch})
        assert states_until_kept(files, card) == tuple(files[: epoch + 1])
    assert states_until_kept(files, dataclasses.replace(fitted.card, provenance={})) == tuple(files)
    early = dataclasses.replace(fitted.card, provenance={**fitted.card.provenance, "epoch": 0})
    with pytest.raises(ConfigError, match="6 of 7 states are after epoch 0, which the run kept"):
        landscape_cases([cast("EnsembleMember", SimpleNamespace(model=fitted.model, card=early))], 8, files)
    final = load_model(tmp_path / "run")[0].state_dict()
    assert all(torch.equal(value, final[key]) for key, value in load_model(files[kept])[0].state_dict().items())


def test_states_are_in_the_order_of_their_epochs(tmp_path):
    names = ["epoch-0000", "epoch-9999", "epoch-10000", "epoch-100000", "epoch-best"]
    for name in names:
        (tmp_path / f"{name}.safetensors").touch()
    assert [file.stem for file in state_files(tmp_path)] == names


def test_a_killed_run_keeps_the_same_states(kept, tmp_path):
    out, _ = kept
    assert killed_at_step(CONFIG, tmp_path / "broken", 11, OPTIONS) == signal.SIGKILL
    fit(CONFIG, tmp_path / "broken", options=OPTIONS)
    for file, other in zip(state_files(out), state_files(tmp_path / "broken"), strict=True):
        first, second = load_model(file)[0].state_dict(), load_model(other)[0].state_dict()
        assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_fresh_deletes_the_states(tmp_path):
    short = dataclasses.replace(CONFIG, recipe=dataclasses.replace(CONFIG.recipe, epochs=1))
    fit(short, tmp_path / "run", options=RuntimeOptions(keep_states_epochs=1))
    fit(short, tmp_path / "run", options=RuntimeOptions(fresh=True))
    assert state_files(tmp_path / "run") == []


def test_a_state_that_cannot_be_written_is_a_warning(tmp_path, monkeypatch):
    def fail(path, model, card):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    warnings = []

    class Warned(Callback):
        def on_warning(self, trainer, message):
            warnings.append(message)

    monkeypatch.setattr("resnetlab.training.kept_states.save_model", fail)
    short = dataclasses.replace(CONFIG, recipe=dataclasses.replace(CONFIG.recipe, epochs=1))
    fit(short, tmp_path / "run", options=RuntimeOptions(keep_states_epochs=1), callbacks=[Warned()])
    states = [message for message in warnings if "the state cannot be saved (No space left on device)" in message]
    assert len(states) == 2
