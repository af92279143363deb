"""Whether a run was still improving, measured before its schedule lowers the learning rate."""

import dataclasses

import pytest

from helpers.synthetic_runs import synthetic_run
from resnetlab.study.verdicts.training_progress import loss_fall_before_drop


def with_curve(losses, *, steps=None, **recipe):
    """Return a run of 400 steps with these losses at equal distances, or at `steps`."""
    base = synthetic_run("plain", 20, 0, 50.0)
    steps = steps or [400 * (number + 1) // len(losses) for number in range(len(losses))]
    curve = {"step": steps, "loss": losses, "train_error_pct": [50.0] * len(losses)}
    epoch = {"step": 400, "lr": 0.01, "val_error_pct": 50.0, "curve": curve}
    config = dataclasses.replace(base.config, recipe=dataclasses.replace(base.config.recipe, **recipe))
    return dataclasses.replace(base, config=config, epochs=(epoch,))


def halves(first, second):
    """Return 16 losses: eight in the first 200 steps, eight after them."""
    return [*first, *second]


FALLING = [2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 0.5, 0.5]
FLAT = [1.0] * 8


@pytest.mark.parametrize(
    ("losses", "recipe", "expected"),
    [
        (halves(FALLING, FLAT), {}, 0.5),  # `step` divides at a half
        (halves(FLAT, FALLING), {}, 0.0),
        (halves(FLAT, [1.0] * 4 + [0.5] * 4), {"schedule": "constant"}, 0.5),
        (halves(FALLING, FLAT), {"schedule": "cosine"}, 0.5),  # half of the highest rate, at half of the run
        (halves(FALLING, FLAT), {"schedule": "linear"}, 0.5),
        (halves(FLAT, FLAT), {"schedule": "plateau"}, 0.0),
        (halves([3.0] * 4 + [2.0, 2.0, 1.0, 1.0], FLAT), {"milestones": (0.5,)}, 0.5),
    ],
    ids=str,
)
def test_the_fall_is_that_before_the_rate_is_lowered(losses, recipe, expected):
    assert loss_fall_before_drop(with_curve(losses, **recipe)) == pytest.approx(expected)


def ended_early(losses, *, planned, **recipe):
    """Return a run whose first of `planned` epochs, of 100 steps, have these losses, eight for each."""
    base = synthetic_run("plain", 20, 0, 50.0)
    epochs = tuple(
        {
            "step": 100 * (number + 1),
            "lr": 0.01,
            "val_error_pct": 50.0,
            "curve": {
                "step": [round(100 * number + 12.5 * (index + 1)) for index in range(8)],
                "loss": losses[8 * number : 8 * (number + 1)],
                "train_error_pct": [50.0] * 8,
            },
        }
        for number in range(len(losses) // 8)
    )
    length = {"epochs": planned} if recipe.pop("by_epochs", True) else {"steps": 100 * planned}
    config = dataclasses.replace(base.config, recipe=dataclasses.replace(base.config.recipe, **length, **recipe))
    result = {**base.result, "steps": epochs[-1]["step"]}
    return dataclasses.replace(base, config=config, epochs=epochs, result=result)


@pytest.mark.parametrize("by_epochs", [True, False])
@pytest.mark.parametrize("schedule", ["step", "cosine", "linear"])
def test_the_schedule_has_its_planned_length_in_a_run_that_ended_early(schedule, by_epochs):
    """After 2 of 8 epochs the rate is still high, so the fall at the end of the second counts."""
    options = {"planned": 8, "schedule": schedule, "by_epochs": by_epochs}
    assert loss_fall_before_drop(ended_early([*FLAT, *[1.0] * 4, *[0.5] * 4], **options)) == pytest.approx(0.5)
    assert loss_fall_before_drop(ended_early([2.0] * 4 + [1.0] * 4 + FLAT, **options)) == pytest.approx(0.0)
    whole = {**options, "planned": 2}
    assert loss_fall_before_drop(ended_early([*FLAT, *[1.0] * 4, *[0.5] * 4], **whole)) == pytest.approx(0.0)


def test_the_fall_after_a_drop_does_not_count():
    """A division by 10 lowers the loss at once; that is no sign of too short a run."""
    dropped = halves(FLAT, [0.2] * 8)
    assert loss_fall_before_drop(with_curve(dropped)) == pytest.approx(0.0)


def test_steps_of_the_warm_up_do_not_count():
    warm = [5.0, 5.0, 4.0, 4.0, *[1.0] * 12]
    assert loss_fall_before_drop(with_curve(warm, warmup_steps=100, milestones=(0.9,))) == pytest.approx(0.0)


def test_plateau_uses_the_rates_of_the_record():
    base = with_curve(halves(FALLING, FLAT), schedule="plateau")
    first, second = (
        {"step": step, "lr": lr, "val_error_pct": 50.0, "curve": curve}
        for step, lr, curve in (
            (200, 0.01, {"step": list(range(25, 201, 25)), "loss": FALLING, "train_error_pct": [50.0] * 8}),
            (400, 0.001, {"step": list(range(225, 401, 25)), "loss": FLAT, "train_error_pct": [50.0] * 8}),
        )
    )
    assert loss_fall_before_drop(dataclasses.replace(base, epochs=(first, second))) == pytest.approx(0.5)


def test_a_short_record_tells_nothing():
    assert loss_fall_before_drop(with_curve(FALLING)) is None  # four points before the drop
    assert loss_fall_before_drop(dataclasses.replace(with_curve(FALLING), epochs=())) is None


def test_losses_that_are_not_finite_are_left_out():
    losses = [2.0, None, 2.0, 2.0, 2.0, 1.0, None, 1.0, 0.5, 0.5]
    steps = [20 * (number + 1) for number in range(10)]
    assert loss_fall_before_drop(with_curve(losses, steps=steps)) == pytest.approx(0.5)


def test_a_loss_of_zero_does_not_fall():
    assert loss_fall_before_drop(with_curve(halves([1.0, 0.5, *[0.0] * 6], [0.0] * 8))) == 0.0
