"""Where a run writes, whom it tells and what may stop it; and what it tells before its first step."""

import dataclasses
from pathlib import Path

from resnetlab.training.callbacks import Callback
from resnetlab.training.init_weights import describe_init
from resnetlab.training.provenance import describe, run_line
from resnetlab.training.record import Record
from resnetlab.training.run_dir import ResumePoint
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.signal_handling import StopSignal
from resnetlab.training.trainer_setup import Training


@dataclasses.dataclass(frozen=True)
class Around:
    """Where a run writes, whom it tells, and what may stop it."""

    out: Path | None
    record: Record
    session: RuntimeOptions
    listener: Callback
    interruption: StopSignal

    def warn(self, message: str) -> None:
        """Tell people and the record."""
        self.record.write("warning", message=message)
        self.listener.warn(message)


def open_record(training: Training, beginning: ResumePoint, around: Around) -> None:
    """Write what is known before the first step, or what has changed since the last one; tell people either way."""
    shared, parts = training.shared(), training.together.parts
    if beginning.checkpoint is None:
        run = run_line(
            training.config, training.data, training.preprocessing, training.model, training.macs, training.device
        )
        start = {"start": training.start} if training.start else {}
        around.record.write("run", **run, execution=dataclasses.asdict(training.execution), **start, **shared)
        for message in training.warnings:
            around.warn(message)
    if otherwise := normalised_otherwise(training, beginning):
        around.warn(otherwise)
    if beginning.changed:
        around.warn(f"continued with another configuration: {'; '.join(beginning.changed)}")
    lines = describe(
        training.config,
        training.data,
        training.preprocessing,
        training.execution.describe(),
        training.total_steps,
        training.epoch_steps,
    )
    if training.start:
        lines.append(f"start    {describe_init(training.start)}")
    if shared:
        taken = f", {parts} parts a step" if parts > 1 else ""
        lines.append(
            f"shared   {shared['processes']} processes{taken}; BN over {shared['images_normalised_together']} images"
        )
    step = training.state.step
    around.listener.start([*lines, f"resumed  after step {step:,}"] if step else lines)
    training.tell_of_bad_images(around.warn)


def normalised_otherwise(training: Training, beginning: ResumePoint) -> str | None:
    """Say from when on batch normalisation sees another number of images than before the run was continued."""
    before = beginning.checkpoint.state if beginning.checkpoint else {}
    if "processes" not in before or training.config.model.norm == "none" or training.config.recipe.freeze_bn:
        return None  # nothing to go on with, or a checkpoint of long ago
    processes, parts = training.together.size, training.together.parts
    images = training.normalised_together(processes, parts)
    if images == training.normalised_together(before["processes"], before["parts"]):
        return None
    who = "1 process" if processes == 1 else f"{processes} processes"
    return f"continued with {who}; BN over {images:,} images from step {training.state.step + 1:,}"
