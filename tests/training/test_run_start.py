"""What a run shared by processes tells its record, whoever found it: without the processes themselves."""

import dataclasses
import json

import pytest

from resnetlab.config import RunConfig
from resnetlab.models.zoo import model_config
from resnetlab.system.process_group import ProcessGroup
from resnetlab.training.callbacks import Callback
from resnetlab.training.checkpoint import Checkpoint
from resnetlab.training.recipes import recipe
from resnetlab.training.record import read_record
from resnetlab.training.run_context import normalised_otherwise
from resnetlab.training.run_dir import ResumePoint
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.signal_handling import InterruptedRunError, StopSignal
from resnetlab.training.trainer import fit
from resnetlab.training.trainer_setup import prepare

CONFIG = RunConfig(model_config("resnet8"), recipe=recipe("digits", steps=3, batch_size=64))


class Others(ProcessGroup):
    """What the other processes have left out, each time that they are asked."""

    def __init__(self, *found: list[str]) -> None:
        super().__init__()
        object.__setattr__(self, "found", list(found))

    def gather(self, found):
        return [found, self.found.pop(0)] if isinstance(found, list) else [found]  # pyright: ignore[reportAttributeAccessIssue]


def told(out):
    return [line["message"] for line in read_record(out / "record.jsonl") if line["kind"] == "warning"]


def test_what_others_leave_out_while_the_result_is_measured_is_told(tmp_path):
    fit(CONFIG, tmp_path / "run", session=RuntimeOptions(world=Others(["a.png: cut short"], ["b.png: empty"])))
    assert told(tmp_path / "run") == ["left out: a.png: cut short", "left out: b.png: empty"]


def test_what_others_left_out_before_a_stop_is_saved(tmp_path):
    """And told once in all sessions."""
    interruption = StopSignal()

    class Stopping(Callback):
        def see(self, progress):
            interruption.signum = 15

    out = tmp_path / "run"
    with pytest.raises(InterruptedRunError):
        fit(
            CONFIG,
            out,
            session=RuntimeOptions(world=Others(["a.png: empty"])),
            listener=Stopping(),
            interruption=interruption,
        )
    (saved,) = (out / "checkpoint").glob("save-*")
    assert json.loads((saved / "state.json").read_text())["run"]["left_out"] == ["a.png: empty"]
    fit(CONFIG, out, session=RuntimeOptions(resume=True, world=Others(["a.png: empty"], ["a.png: empty"])))
    assert told(out) == ["left out: a.png: empty"]


@pytest.mark.parametrize(
    ("before", "changes", "said"),
    [
        ({"processes": 2, "parts": 1}, {}, "continued with 1 process; BN over 64 images from step 1"),
        (
            {"processes": 1, "parts": 1},
            {"grad_accum_steps": 2},
            "continued with 1 process; BN over 32 images from step 1",
        ),
        ({"processes": 2, "parts": 1}, {"sync_bn": True}, None),
        ({"processes": 1, "parts": 1}, {}, None),
        ({}, {}, None),  # a checkpoint of a version that did not say
    ],
)
def test_that_another_number_is_normalised_together_is_said(before, changes, said):
    training = prepare(dataclasses.replace(CONFIG, **changes), None)
    assert normalised_otherwise(training, ResumePoint(Checkpoint(before, {}))) == said
