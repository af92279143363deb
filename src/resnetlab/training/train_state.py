"""Where a run stands: all that resuming needs beside the configuration, and nothing that follows from the step."""

import copy
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from resnetlab.models.resnet import ResNet
from resnetlab.training.checkpoint import Checkpoint


@dataclass
class BestWeights:
    """The epoch with the lowest validation error so far, the first of equals, and its weights if they are wanted."""

    with_weights: bool
    epoch: int = 0
    error_pct: float = float("inf")
    weights: dict[str, Any] = field(default_factory=dict)

    def see(self, epoch: int, error_pct: float, model: ResNet) -> None:
        """Take in an epoch's validation error, in %."""
        if error_pct < self.error_pct:
            self.epoch, self.error_pct = epoch, error_pct
            self.weights = copy.deepcopy(model.state_dict()) if self.with_weights else {}


@dataclass
class MetricWindow:
    """Sums over the steps since progress was last told."""

    num_steps: int = 0
    loss: float = 0.0
    num_wrong: int = 0
    num_images: int = 0


@dataclass
class TrainState:
    """What changes as a run goes on, beside weights and momentum."""

    step: int = 0
    """Steps taken, skipped ones included."""
    epochs_done: int = 0
    """Epochs that are trained, judged and in the record."""
    cautious: bool = False
    """The learning rate is still the recipe's `initial_lr`."""
    num_skipped: int = 0
    """Steps whose loss was not finite."""
    streak: int = 0
    """Of those, how many in a row up to now."""
    val_errors: list[float] = field(default_factory=list)
    """Validation error after each epoch, in %."""
    curve: list[dict[str, Any]] = field(default_factory=list)
    """What was told of the epoch under way, a `Progress` each."""
    window: MetricWindow = field(default_factory=MetricWindow)
    left_out: list[str] = field(default_factory=list)
    """Images that could not be decoded when a batch needed them, each as `NAME: REASON`."""
    train_time_s: float = 0.0
    """Seconds in training steps, over all sessions."""
    wait_s: float = 0.0
    """Of those, seconds spent waiting for data."""
    epoch_start_s: float = 0.0
    """`train_time_s` when the epoch under way began."""
    epoch_start_wait_s: float = 0.0
    time_s: float = 0.0
    """Seconds in all, over all sessions, up to the last save."""


def pack(state: TrainState, best: BestWeights, model: ResNet, optimizer: Optimizer, **more: Any) -> Checkpoint:
    """Gather a checkpoint; `more` goes into its state as it is (JSON values)."""
    tensors: dict[str, Tensor] = {f"model.{key}": value for key, value in model.state_dict().items()}
    tensors |= {f"momentum.{name}": buffer for name, buffer in momentum_buffers(model, optimizer).items()}
    tensors |= {f"best.{key}": value for key, value in best.weights.items()}
    epoch = {"epoch": best.epoch, "error_pct": best.error_pct if best.epoch else None}
    return Checkpoint({**more, "run": asdict(state), "best": epoch}, tensors)


def unpack(checkpoint: Checkpoint, best: BestWeights, model: ResNet, optimizer: Optimizer) -> TrainState:
    """Put a checkpoint's content back into network, optimizer and `best`, and return the state.

    Raises:
        RuntimeError: where the tensors do not fit the network.
    """
    by_kind: dict[str, dict[str, Tensor]] = {"model": {}, "momentum": {}, "best": {}}
    for name, tensor in checkpoint.tensors.items():
        kind, _, key = name.partition(".")
        by_kind[kind][key] = tensor
    model.load_state_dict(by_kind["model"])
    for name, parameter in model.named_parameters():
        if name in by_kind["momentum"]:
            buffer = by_kind["momentum"][name].to(parameter.device)
            # In the strides of its parameter, as the optimizer makes it: the fused step goes over memory in order.
            optimizer.state[parameter]["momentum_buffer"] = buffer.new_empty_strided(
                parameter.shape, parameter.stride()
            ).copy_(buffer)
    saved = checkpoint.state["best"]
    best.epoch = saved["epoch"]
    best.error_pct = float("inf") if saved["error_pct"] is None else saved["error_pct"]
    best.weights = by_kind["best"]
    run = checkpoint.state["run"]
    return TrainState(**{**run, "window": MetricWindow(**run["window"])})


def momentum_buffers(model: ResNet, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's momentum by the name of the parameter; empty before the first step."""
    found = {
        name: optimizer.state.get(parameter, {}).get("momentum_buffer") for name, parameter in model.named_parameters()
    }
    return {name: buffer for name, buffer in found.items() if buffer is not None}
