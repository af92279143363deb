"""The mutable state of a run: counters, progress reports and the best weights."""

import copy
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from resnetlab.models.resnet import ResNet
from resnetlab.serialization import check
from resnetlab.training.metrics import MetricWindow


@dataclass
class BestWeights:
    """The epoch with the lowest validation error, the first of equals, and a copy of its weights if wanted."""

    with_weights: bool
    epoch: int = 0
    error_pct: float = float("inf")
    weights: dict[str, Any] = field(default_factory=dict)

    def update(self, epoch: int, error_pct: float, model: ResNet) -> None:
        """Compare an epoch's validation error, in %, with the lowest."""
        if error_pct < self.error_pct:
            self.epoch, self.error_pct = epoch, error_pct
            self.weights = copy.deepcopy(model.state_dict()) if self.with_weights else {}


@dataclass
class TrainState:
    """Everything that changes during a run besides weights and optimizer; JSON values."""

    step: int = 0
    """Steps taken, skipped ones included."""
    epochs_done: int = 0
    """Epochs that are trained, validated and recorded."""
    at_initial_lr: bool = False
    """Whether the learning rate is still the recipe's `initial_lr`."""
    num_skipped: int = 0
    """Steps skipped because their loss was not finite."""
    num_skipped_in_row: int = 0
    """The most recent of those, if the last step was skipped."""
    val_errors: list[float] = field(default_factory=list)
    """Validation error after each epoch, in %; with several labels an image, 100 minus mean average precision."""
    curve: list[dict[str, Any]] = field(default_factory=list)
    """The progress reports of the current epoch."""
    window: MetricWindow = field(default_factory=MetricWindow)
    skipped_images: list[str] = field(default_factory=list)
    """Images that could not be decoded when a batch needed them, each as `NAME: REASON`."""
    train_time_s: float = 0.0
    """Seconds in training steps, over all sessions."""
    data_wait_s: float = 0.0
    """Seconds of `train_time_s` spent waiting for data."""
    epoch_start_s: float = 0.0
    """`train_time_s` at the start of the current epoch."""
    epoch_start_wait_s: float = 0.0
    """`data_wait_s` at the start of the current epoch."""
    time_s: float = 0.0
    """Seconds of the whole run, over all sessions, at the last checkpoint."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "TrainState":
        """Return the state that `dataclasses.asdict` wrote."""
        return cls(**{**values, "window": MetricWindow(**values["window"])})

    def start_epoch(self) -> None:
        """Clear the reports of the epoch that ended."""
        self.curve = []
        self.epoch_start_s, self.epoch_start_wait_s = self.train_time_s, self.data_wait_s

    def restart_epoch(self, steps_per_epoch: int) -> "TrainState":
        """Return the state at the start of the current epoch, if epochs have `steps_per_epoch` steps."""
        return TrainState(
            step=self.epochs_done * steps_per_epoch,
            epochs_done=self.epochs_done,
            at_initial_lr=self.at_initial_lr,
            num_skipped=self.num_skipped,
            val_errors=self.val_errors,
            skipped_images=self.skipped_images,
            train_time_s=self.train_time_s,
            data_wait_s=self.data_wait_s,
            epoch_start_s=self.train_time_s,
            epoch_start_wait_s=self.data_wait_s,
            time_s=self.time_s,
        )


def optimizer_tensors(model: ResNet, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as `STATE_KEY.PARAMETER` → tensor; empty before the first step.

    For SGD these are momentum buffers: `momentum_buffer.conv1.weight`.
    """
    return {
        f"{key}.{name}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def optimizer_numbers(model: ResNet, optimizer: Optimizer) -> dict[str, float | None]:
    """Return the values of the optimizer's state that are no tensors, as `STATE_KEY.PARAMETER` → number.

    The optimizers of this package have none; a registered one may count its steps so.

    Raises:
        ConfigError: for a value that is no number either.
    """
    numbers: dict[str, float | None] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                continue
            check(
                value is None or isinstance(value, bool | int | float),
                f"optimizer {type(optimizer).__name__} has a state {key!r} of type {type(value).__name__}, which a "
                "checkpoint cannot store; let it be a tensor or a number",
            )
            numbers[f"{key}.{name}"] = value
    return numbers


def load_optimizer_state(
    model: ResNet, optimizer: Optimizer, tensors: dict[str, Tensor], numbers: dict[str, float | None]
) -> None:
    """Put what `optimizer_tensors` and `optimizer_numbers` returned back into an optimizer without a step."""
    by_name = dict(model.named_parameters())
    for full_name, number in numbers.items():
        key, _, name = full_name.partition(".")
        optimizer.state[by_name[name]][key] = number
    for full_name, tensor in tensors.items():
        key, _, name = full_name.partition(".")
        parameter = by_name[name]
        if tensor.shape == parameter.shape:
            # Strides like the parameter's, as the optimizer creates it: the fused step goes over memory in order.
            value = tensor.new_empty_strided(parameter.shape, parameter.stride(), device=parameter.device)
            optimizer.state[parameter][key] = value.copy_(tensor)
        else:  # a counter
            optimizer.state[parameter][key] = tensor
