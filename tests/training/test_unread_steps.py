"""Losses that are read several steps late: the run is, bit for bit, that in which each loss is read at once."""

import dataclasses
import signal

import pytest
import torch

from helpers.killed_runs import killed_at_step
from resnetlab.config import RunConfig
from resnetlab.models.zoo import model_config
from resnetlab.training import trainer as trainer_module
from resnetlab.training.callbacks import Callback
from resnetlab.training.fit import fit
from resnetlab.training.recipes import recipe
from resnetlab.training.run_files.compare_runs import run_differences
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.train_step import DivergedError
from resnetlab.training.trainer import Trainer
from resnetlab.training.unread_steps import num_unread_steps

LONG_EPOCH = recipe("digits", steps=100, initial_lr=0.003)
"""78 steps an epoch, a report every 6; the learning rate depends on the errors of the reports."""
CONFIG = RunConfig(model_config("resnet8"), recipe=LONG_EPOCH, seed=4)


@pytest.fixture(scope="module")
def read_at_once(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "at-once"
    fit(CONFIG, out)
    return out


class Steps(Callback):
    """Stores the numbers of the steps, and the trainer's count at that moment."""

    def __init__(self):
        self.seen = []

    def on_step(self, trainer, metrics):
        self.seen.append((metrics.step, trainer.state.step))


@pytest.mark.parametrize("loss_steps", [4, 50])
def test_a_run_is_the_same(tmp_path, read_at_once, loss_steps):
    steps = Steps()
    fit(CONFIG, tmp_path, options=RuntimeOptions(loss_steps=loss_steps), callbacks=[steps])
    assert run_differences(read_at_once, tmp_path) == []
    assert steps.seen == [(step, step) for step in range(1, 101)]


def test_a_killed_run_continues_to_the_same_end(tmp_path, read_at_once):
    options = RuntimeOptions(resume=True, loss_steps=5, checkpoint_steps=7)
    for reads in (6, 9):
        assert killed_at_step(CONFIG, tmp_path, reads, options) == signal.SIGKILL
    fit(CONFIG, tmp_path, options=options)
    assert run_differences(read_at_once, tmp_path) == []


def train_on(bad, *, loss_steps, **changes):
    """Train an epoch on random images, those of the batches in `bad` with an infinite pixel; return the trainer."""
    changed = dataclasses.replace(LONG_EPOCH, steps=78, **changes)
    model = model_config("resnet8", stage_blocks=(1, 1), stage_channels=(4, 8))
    config = dataclasses.replace(CONFIG, model=model, recipe=changed, layer_stats_steps=0)
    trainer = Trainer(config, options=RuntimeOptions(loss_steps=loss_steps))
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(78, 16, 1, 8, 8, generator=generator)
    images[list(bad), 0] = float("inf")

    def batches(_epoch, first, **_):
        return ((batch, torch.arange(16) % 10) for batch in images[first:])

    trainer.data.batches = batches  # pyright: ignore[reportAttributeAccessIssue]
    trainer.train_epoch()
    return trainer


def everything(trainer):
    """Return tensors and counters, without times."""
    state = trainer.state_dict()
    counters = {key: value for key, value in state["state"]["run"].items() if not key.endswith("_s")}
    return state["tensors"], counters


@pytest.mark.parametrize("bad", [[0], [76], [2, 5, 40], range(9), range(30, 39)], ids=str)
@pytest.mark.parametrize("changes", [{}, {"momentum": 0.0}, {"ema_decay": 0.9}], ids=str)
def test_a_step_that_is_not_finite_leaves_the_network_unchanged(bad, changes):
    (tensors, counters), (expected, expected_counters) = (
        everything(train_on(bad, loss_steps=loss_steps, **changes)) for loss_steps in (6, 1)
    )
    assert counters == expected_counters
    assert counters["num_skipped"] == len(bad)
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensors[name], tensor), name


def test_ten_in_a_row_stop_the_run():
    with pytest.raises(DivergedError, match="at steps 34 to 43 of 78"):
        train_on(range(33, 43), loss_steps=6)


def test_steps_that_were_not_finite_are_taken_again(monkeypatch):
    """And only these: 78 steps in 13 windows, one of which is taken again one by one."""
    taken = []
    take = trainer_module.take_unread_steps
    monkeypatch.setattr(
        trainer_module, "take_unread_steps", lambda *words: taken.append(words[0].state.step) or take(*words)
    )
    train_on([14], loss_steps=6)
    assert taken == list(range(0, 78, 6))


def test_reads_that_cannot_wait():
    config = dataclasses.replace(CONFIG, layer_stats_steps=20)
    options = RuntimeOptions(loss_steps=50, checkpoint_steps=33)
    trainer = Trainer(config, options=options)
    trainer.begin_epoch()
    counts = {}
    for step in (0, 1, 6, 18, 20, 30, 77):
        trainer.state.step = step
        counts[step] = num_unread_steps(trainer)
    # step 0 and 20 are sampled, a report is due every 6 steps, a checkpoint at 33, and 78 end the epoch
    assert counts == {0: 1, 1: 5, 6: 6, 18: 2, 20: 1, 30: 3, 77: 1}
    trainer.state.step, trainer.state.num_skipped_in_row = 6, 1
    assert num_unread_steps(trainer) == 1


def test_on_a_processor_each_loss_is_read_at_once():
    trainer = Trainer(dataclasses.replace(CONFIG, device="cpu"))
    trainer.begin_epoch()
    assert num_unread_steps(trainer) == 1


def test_micro_batches_are_read_at_once():
    trainer = Trainer(dataclasses.replace(CONFIG, grad_accum_steps=2), options=RuntimeOptions(loss_steps=6))
    trainer.begin_epoch()
    assert num_unread_steps(trainer) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["off", "cuda-graph"])
def test_on_a_gpu_a_step_that_is_not_finite_is_skipped(way):
    config = dataclasses.replace(
        CONFIG, device="cuda", compile=way, layer_stats_steps=0, recipe=dataclasses.replace(LONG_EPOCH, steps=78)
    )
    trainer = Trainer(config)
    batches = trainer.data.batches

    def spoiled(epoch, first, **options):
        for number, (images, labels) in enumerate(batches(epoch, first, **options), start=first):
            yield (images * float("nan") if number in (2, 40) else images), labels

    trainer.data.batches = spoiled  # pyright: ignore[reportAttributeAccessIssue]
    trainer.train_epoch()
    assert (trainer.state.step, trainer.state.num_skipped) == (78, 2)
    assert all(torch.isfinite(value).all() for value in trainer.model.state_dict().values())
