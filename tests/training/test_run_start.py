"""Warnings of a run over several processes; the processes are faked."""

import dataclasses
import json

import pytest

from resnetlab.config import RunConfig
from resnetlab.models.zoo import model_config
from resnetlab.system.process_group import ProcessGroup
from resnetlab.training.callbacks import Callback
from resnetlab.training.fit import fit
from resnetlab.training.recipes import recipe
from resnetlab.training.reports import bn_batch_warning
from resnetlab.training.run_files.record import read_record
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.signal_handling import InterruptedRunError, StopSignal
from resnetlab.training.trainer import Trainer

CONFIG = RunConfig(model_config("resnet8"), recipe=recipe("digits", steps=3, batch_size=64))


class TwoProcesses(ProcessGroup):
    """A process group of two, whose other process skipped the given images, call by call."""

    def __init__(self, *found: list[str]) -> None:
        super().__init__()
        object.__setattr__(self, "found", list(found))

    def all_gather(self, value):
        return [value, self.found.pop(0)] if isinstance(value, list) else [value]  # pyright: ignore[reportAttributeAccessIssue]


def warnings_in(out):
    return [line["message"] for line in read_record(out / "record.jsonl") if line["kind"] == "warning"]


def test_what_others_leave_out_while_the_result_is_measured_is_warnings_in(tmp_path):
    fit(
        CONFIG,
        tmp_path / "run",
        options=RuntimeOptions(process_group=TwoProcesses(["a.png: cut short"], ["b.png: empty"])),
    )
    assert warnings_in(tmp_path / "run") == ["left out: a.png: cut short", "left out: b.png: empty"]


def test_skipped_images_are_saved_when_a_run_stops(tmp_path):
    """Each is warned about once in the whole run."""
    stop_signal = StopSignal()

    class Stopping(Callback):
        def on_step(self, trainer, metrics):
            stop_signal.signum = 15

    out = tmp_path / "run"
    with pytest.raises(InterruptedRunError):
        fit(
            CONFIG,
            out,
            options=RuntimeOptions(process_group=TwoProcesses(["a.png: empty"])),
            callbacks=[Stopping()],
            stop_signal=stop_signal,
        )
    (saved,) = (out / "checkpoint").glob("save-*")
    assert json.loads((saved / "state.json").read_text())["run"]["skipped_images"] == ["a.png: empty"]
    fit(
        CONFIG, out, options=RuntimeOptions(resume=True, process_group=TwoProcesses(["a.png: empty"], ["a.png: empty"]))
    )
    assert warnings_in(out) == ["left out: a.png: empty"]


@pytest.mark.parametrize(
    ("before", "changes", "warning"),
    [
        ({"processes": 2, "micro_batches": 1}, {}, "continued with 1 process; BN over 64 images from step 1"),
        (
            {"processes": 1, "micro_batches": 1},
            {"grad_accum_steps": 2},
            "continued with 1 process; BN over 32 images from step 1",
        ),
        ({"processes": 2, "micro_batches": 1}, {"sync_bn": True}, None),
        ({"processes": 1, "micro_batches": 1}, {}, None),
        ({}, {}, None),  # a checkpoint of a version that did not say
    ],
)
def test_another_bn_batch_size_is_a_warning(before, changes, warning):
    trainer = Trainer(dataclasses.replace(CONFIG, **changes))
    assert bn_batch_warning(trainer, before) == warning
