"""The lines that `resnetlab train` prints before the first step: what it trains, how, and how long that takes."""

import datetime
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from resnetlab.cli.progress import MAX_WIDTH
from resnetlab.cli.terminal import escape_name
from resnetlab.models.pretrained.convert import weights_title
from resnetlab.study.display import time_text
from resnetlab.system.count_text import count_text
from resnetlab.training.callbacks import Callback
from resnetlab.training.default_plan import MARGIN
from resnetlab.training.run_time import LONG_S, days_text, expected_time_s

if TYPE_CHECKING:
    from resnetlab.training.trainer_setup import TrainerComponents


class RunSummary(Callback):
    """Prints two lines about a planned run, and the expected time of any run whose speed was measured."""

    def __init__(self, console: Console, *, is_planned: bool, now: Callable[[], float] = time.time) -> None:
        """Print on `console`; `now` returns seconds since 1970."""
        self._console, self._is_planned, self._now = console, is_planned, now

    def on_start(self, trainer: "TrainerComponents") -> None:
        """Print the lines."""
        lines = [f"train    {_subject(trainer)}", f"how      {_method(trainer)}"] if self._is_planned else []
        expected_s = expected_time_s(trainer)
        if expected_s is not None:
            lines.append(f"time     {_time(expected_s, self._now())}")
        elif self._is_planned:
            lines.append("time     less than a minute")
        width = min(MAX_WIDTH, self._console.width)
        for line in lines:
            self._console.print(Text(escape_name(line)), highlight=False, width=width)
        for advice in (_long_run(trainer, expected_s), _short_run(trainer)):
            if advice:
                self._console.print(Text(f"warning: {advice}", style="yellow"), highlight=False, width=width)


def _long_run(trainer: "TrainerComponents", expected_s: float | None) -> str:
    if expected_s is None or expected_s <= LONG_S or trainer.config.minutes is not None:
        return ""
    return "more than an hour; --minutes 30 would fit image size and length to half an hour"


def _short_run(trainer: "TrainerComponents") -> str:
    """Return advice for a run whose time is too short for one epoch, or nothing."""
    minutes, total, epoch = trainer.config.minutes, trainer.total_steps, trainer.data.steps_per_epoch
    if minutes is None or total >= epoch:
        return ""
    advice = f"{minutes:g} min are enough for {total:,} of the {epoch:,} steps of an epoch"
    speed = trainer.execution.images_per_s.get(trainer.execution.name)
    if speed is None:
        return f"{advice}; give more --minutes"
    missing_s = (epoch - total) * trainer.config.recipe.batch_size / speed
    return f"{advice}; one epoch would need --minutes {math.ceil(minutes + missing_s / (60 * MARGIN))}"


def _subject(trainer: "TrainerComponents") -> str:
    """Return network, start and images in words."""
    config, dataset = trainer.config, trainer.data.dataset
    name, weights = config.model.name, config.weights and weights_title(config.weights)
    start = f"{name} from {weights or 'random weights'}"
    if weights is not None and weights.startswith(f"{name}."):
        start = weights
    return f"{start} on {dataset.name}: {len(dataset.train):,} images, {count_text(len(dataset.classes), 'class')}"


def _method(trainer: "TrainerComponents") -> str:
    """Return recipe, image size, length, batch, precision and threads in words."""
    import torch

    config, data = trainer.config, trainer.data
    on_cpu = data.device.type == "cpu"
    words = [
        f"recipe {config.recipe.name}",
        f"{data.preprocessing.size_text} pixels",
        count_text(data.num_epochs, "epoch")
        if config.recipe.steps is None
        else count_text(trainer.total_steps, "step"),
        f"batches of {config.recipe.batch_size:,}",
        trainer.execution.precision,
        count_text(torch.get_num_threads(), "thread") if on_cpu else "GPU",
    ]
    return ", ".join(words)


def _time(expected_s: float, now_s: float) -> str:
    """Return a duration and its end, such as `about 4 min 10 s, until 09:31`."""
    if expected_s > 2 * 86_400:
        return f"about {days_text(expected_s)}"
    end = datetime.datetime.fromtimestamp(now_s + expected_s).astimezone()
    same_day = end.date() == datetime.datetime.fromtimestamp(now_s).astimezone().date()
    return f"about {time_text(expected_s)}, until {end:%H:%M}{'' if same_day else f' on {end:%A}'}"
