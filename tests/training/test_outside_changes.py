"""What happens outside a run while it goes on: its folder is copied, its data change, its disk is full or slow."""

import dataclasses
import shutil
import subprocess
import sys

import pytest

from helpers.images import encode, random_images
from resnetlab.config import ConfigError, DataConfig, Recipe, RunConfig
from resnetlab.data.images.decode import BadImageError
from resnetlab.models.zoo import model_config
from resnetlab.training.callbacks import Callback
from resnetlab.training.fit import fit
from resnetlab.training.recipes import recipe
from resnetlab.training.run_files.compare_runs import run_differences
from resnetlab.training.run_files.record import RecordError, read_record
from resnetlab.training.runtime_options import RuntimeOptions

DIGITS = RunConfig(model_config("resnet8"), recipe=recipe("digits", steps=8, batch_size=100), seed=3)
RESUME = RuntimeOptions(resume=True, checkpoint_steps=1)


class AtStep(Callback):
    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step(self, trainer, metrics):
        if trainer.state.step == self.step:
            self.action()


def test_a_folder_copied_while_the_run_goes_on_continues_or_is_refused(tmp_path):
    """Checkpoint and record of a copy are of different moments; the copy ends as the run did, or one line says why.

    Takes seconds, since three runs train.
    """
    out, old, new, mixed = (tmp_path / name for name in ("run", "old", "new", "mixed"))
    copies = [AtStep(3, lambda: shutil.copytree(out, old)), AtStep(6, lambda: shutil.copytree(out, new))]
    fit(DIGITS, out, options=dataclasses.replace(RESUME, resume=False), callbacks=copies)
    shutil.copytree(new, mixed)  # the checkpoint was copied first, and the record was longer by then
    shutil.rmtree(mixed / "checkpoint")
    shutil.copytree(old / "checkpoint", mixed / "checkpoint")
    for copy in (old, mixed):
        fit(DIGITS, copy, options=RESUME)
        assert run_differences(out, copy) == []
    lines = (new / "record.jsonl").read_bytes().splitlines(keepends=True)
    (new / "record.jsonl").write_bytes(lines[0])  # the record was copied first
    with pytest.raises(
        RecordError, match=r"has [\d,]+ bytes, and the checkpoint expects \d+; copy .* or start .*--fresh"
    ):
        fit(DIGITS, new, options=RESUME)


def pets(folder):
    for number, image in enumerate(random_images(48, side=24)):
        path = folder / ("cat" if number % 2 else "dog") / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(image))
    return RunConfig(
        model_config("resnet8"),
        DataConfig(str(folder), image_size=16, resident_mib=0),
        Recipe(epochs=3, batch_size=8, lr=0.05, crop="resized"),
    )


def test_an_image_that_is_cut_between_epochs_is_named(tmp_path):
    config = pets(tmp_path / "pets")
    image = tmp_path / "pets" / "cat" / "07.png"
    whole = image.read_bytes()
    with pytest.raises(BadImageError, match=r"cat/07\.png: cannot be decoded \(truncated after 300 bytes\); skip"):
        fit(config, tmp_path / "r", options=RESUME, callbacks=[AtStep(5, lambda: image.write_bytes(whole[:300]))])
    assert read_record(tmp_path / "r" / "record.jsonl")[-1]["status"] == "failed"
    with pytest.raises(ConfigError, match=r"cat/07\.png: cannot be decoded"):
        fit(config, tmp_path / "r", options=RESUME)
    image.write_bytes(whole)
    assert fit(config, tmp_path / "r", options=RESUME).result["status"] == "done"
    fit(config, tmp_path / "unbroken")
    assert run_differences(tmp_path / "unbroken", tmp_path / "r") == []


def test_an_image_that_vanishes_between_epochs_is_named(tmp_path):
    config = pets(tmp_path / "pets")
    image = tmp_path / "pets" / "cat" / "07.png"
    with pytest.raises(BadImageError, match=r"cat/07\.png: cannot be decoded \(No such file or directory\)"):
        fit(config, tmp_path / "r", options=RESUME, callbacks=[AtStep(5, image.unlink)])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("name", ["record.jsonl", "checkpoint"])
def test_no_space_on_write_as_the_kernel_reports_it(tmp_path, name):
    """Every write of a file fails with ENOSPC. Takes seconds: Python and PyTorch start under strace."""
    code = (
        "import sys\n"
        "from resnetlab.cli.main import main\n"
        "sys.exit(main(['train', '--data', 'digits', '--model', 'resnet8', '--steps', '4', '--batch-size', '64', "
        f"'--out', {str(tmp_path / 'run')!r}]))"
    )
    (tmp_path / "run").mkdir()
    target = tmp_path / "run" / name
    inject = ["-e", "trace=write", "-e", "inject=write:error=ENOSPC", "-P", str(target)]
    if name == "checkpoint":
        inject = ["-e", "trace=mkdir", "-e", "inject=mkdir:error=ENOSPC", "-P", str(target / ".save-000001")]
    done = subprocess.run(
        ["strace", "-f", "-qq", "-o", str(tmp_path / "trace"), *inject, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "No space left on device" in done.stderr.splitlines()[-1]
    assert name in done.stderr
    assert "Traceback" not in done.stderr
