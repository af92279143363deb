"""`fresh` replaces a run when the new training starts, and not before."""

import dataclasses
import shutil

import pytest

from resnetlab.config import ConfigError, RunConfig, read_config
from resnetlab.models.zoo import model_config
from resnetlab.training.fit import fit
from resnetlab.training.recipes import recipe
from resnetlab.training.run_files.record import read_record
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.signal_handling import InterruptedRunError

CONFIG = RunConfig(model_config("resnet8"), recipe=recipe("digits", steps=2, batch_size=400))
SHORTER = dataclasses.replace(CONFIG, recipe=recipe("digits", steps=1, batch_size=400))
FRESH = RuntimeOptions(fresh=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with kept states and event files; tests copy it."""
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(CONFIG, out, options=RuntimeOptions(keep_states_epochs=1))
    (out / "tensorboard").mkdir()
    (out / "tensorboard" / "events.out.tfevents.1").write_bytes(b"earlier")
    return out


@pytest.fixture
def out(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def files_of(out):
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": recipe("digits", batch_size=100_000)}, "batch size"),
        ({"weights": "missing.safetensors"}, "missing.safetensors"),
        ({"weights": "OUT"}, "--fresh would delete the initial weights"),
        ({"weights": "OUT/model.safetensors"}, "--fresh would delete the initial weights"),
        ({"weights": "OUT/states/epoch-0001.safetensors"}, "--fresh would delete the initial weights .*; name another"),
    ],
)
def test_a_call_that_cannot_start_leaves_the_earlier_run(out, changes, message):
    changes = {key: value.replace("OUT", str(out)) if key == "weights" else value for key, value in changes.items()}
    before = files_of(out)
    with pytest.raises(Exception, match=message):
        fit(dataclasses.replace(CONFIG, **changes), out, options=FRESH)
    assert files_of(out) == before


@pytest.mark.parametrize("record", [b"damaged\n", None])
def test_a_call_that_cannot_start_leaves_what_is_no_whole_run(out, record):
    if record is None:
        (out / "record.jsonl").unlink()
    else:
        (out / "record.jsonl").write_bytes(record)
    before = files_of(out)
    with pytest.raises(ConfigError, match="batch size"):
        fit(dataclasses.replace(CONFIG, recipe=recipe("digits", batch_size=100_000)), out, options=FRESH)
    assert files_of(out) == before


@pytest.mark.parametrize("error", [InterruptedRunError(2), MemoryError("too little")])
def test_an_end_of_the_set_up_leaves_the_earlier_run(out, monkeypatch, error):
    def fail(*_arguments, **_options):
        raise error

    before = files_of(out)
    monkeypatch.setattr("resnetlab.training.trainer_setup.resolve_execution", fail)
    with pytest.raises(type(error)):
        fit(CONFIG, out, options=FRESH)
    assert files_of(out) == before


def test_event_files_of_the_new_run_stay(out):
    pytest.importorskip("tensorboard")
    fit(SHORTER, out, options=RuntimeOptions(fresh=True, track="tensorboard"))
    (events,) = (out / "tensorboard").iterdir()
    assert events.stat().st_size > 100


def test_the_new_run_replaces_every_file(out):
    (out / "notes.txt").write_text("theirs")
    fit(SHORTER, out, options=FRESH)
    names = {str(path.relative_to(out)) for path in out.iterdir()} - {".lock"}
    assert names == {"config.json", "record.jsonl", "model.safetensors", "checkpoint", "notes.txt"}
    assert read_config(out / "config.json") == SHORTER
    lines = read_record(out / "record.jsonl")
    assert [line["kind"] for line in lines if line["kind"] != "signal"] == ["run", "epoch", "result"]
    assert fit(SHORTER, out, options=RuntimeOptions(resume=True)).was_finished


def test_weights_beside_the_run_may_start_the_new_one(out):
    own = shutil.copy(out / "model.safetensors", out / "own.safetensors")
    fit(dataclasses.replace(SHORTER, weights=str(own)), out, options=FRESH)
    assert (out / "own.safetensors").exists()
