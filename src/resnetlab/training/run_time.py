"""The expected time of a run, from the measured speed of its steps; runs that would take too long are refused."""

from typing import TYPE_CHECKING

from resnetlab.config import ConfigError

if TYPE_CHECKING:
    from resnetlab.training.trainer_setup import TrainerComponents

LONG_S = 3600.0
"""Expected time in seconds from which a run is called long."""
EVAL_SHARE = 0.4
"""Time of evaluating an image over that of training on it: the forward pass is a third, in fp32."""


def expected_time_s(trainer: "TrainerComponents") -> float | None:
    """Return the seconds that the rest of a run takes, evaluations included; `None` if its speed was not measured.

    The decoding of images is included only if the time was estimated with it before (`RuntimeOptions.expected_s`).
    """
    execution, data = trainer.execution, trainer.data
    left = 1 - trainer.state.step / trainer.total_steps
    if trainer.options.expected_s is not None:
        return left * trainer.options.expected_s
    speed = execution.images_per_s.get(execution.name)
    if speed is None:
        return None
    trained = trainer.total_steps * trainer.config.recipe.batch_size
    sizes = {name: len(split) for name, split in data.splits.items()}
    evaluated = data.num_epochs * sizes["val"] + sum(sizes.values())
    return left * (trained + EVAL_SHARE * evaluated) / (speed * trainer.process_group.size)


def refuse_long_run(trainer: "TrainerComponents") -> None:
    """Raise if a run is expected to take longer than its options allow.

    Raises:
        ConfigError: naming the expected time and the options that help.
    """
    limit_s, expected_s = trainer.options.max_expected_s, expected_time_s(trainer)
    if limit_s is not None and expected_s is not None and expected_s > limit_s:
        raise ConfigError(too_long(expected_s))


def too_long(expected_s: float) -> str:
    """Return the refusal of a run of so many seconds."""
    return (
        f"this run would take about {days_text(expected_s)} on this machine; --minutes 60 fits it to an hour, --epochs "
        "sets its length, --yes starts it as it is"
    )


def days_text(seconds: float) -> str:
    """Return a long time in days, or in hours below two days."""
    days = seconds / 86_400
    return f"{days:,.0f} days" if days >= 2 else f"{seconds / 3600:.0f} hours"
