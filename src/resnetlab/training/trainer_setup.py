"""From a configuration, and a checkpoint where there is one, to all that the loop works with."""

import dataclasses
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from resnetlab.config import ConfigError, ModelConfig, Preprocessing, Recipe, RunConfig
from resnetlab.data.dataset import Dataset, Split
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.loader import steps_per_epoch, train_batches
from resnetlab.data.normalisation import pixel_normalisation
from resnetlab.data.open_dataset import open_data
from resnetlab.data.rng import make_generator
from resnetlab.data.sampler import epoch_order
from resnetlab.data.shards.remote import CACHE_GIB
from resnetlab.evaluation.protocols import SplitScore, score_split
from resnetlab.models.cost import cost
from resnetlab.models.resnet import ResNet
from resnetlab.models.sync_batchnorm import convert_sync_batchnorm
from resnetlab.models.zoo import build_model, size_warning
from resnetlab.serialization import to_json
from resnetlab.system.process_group import ProcessGroup
from resnetlab.training.checkpoint import Checkpoint
from resnetlab.training.distributed import pick_device, wrap_ddp
from resnetlab.training.execution import Execution, Forward, make_forward, select_execution
from resnetlab.training.grad_sync import GradSync
from resnetlab.training.init_weights import init_from_file, match_channels, source_preprocessing
from resnetlab.training.layer_stats import LayerStatsHook, sampling_interval
from resnetlab.training.optimizer import make_optimizer
from resnetlab.training.train_state import BestWeights, TrainState, unpack


@dataclass
class Training:
    """A run in memory."""

    config: RunConfig
    """With the network's channels and classes as the data has them."""
    data: Dataset
    preprocessing: Preprocessing
    device: torch.device
    splits: dict[str, Split]
    """On the device, where they are resident; grey images with the channels that the network sees."""
    model: ResNet
    macs: int
    """Multiply-adds for one image."""
    start: dict[str, Any]
    """What the record says of the weights it started from; empty where they were drawn."""
    optimizer: torch.optim.Optimizer
    execution: Execution
    forward: Forward
    sampler: LayerStatsHook
    best: BestWeights
    state: TrainState
    epoch_steps: int
    workers: int
    together: GradSync
    """The other processes, if there are any."""
    warnings: tuple[str, ...]
    """What is known before the first step and goes into the record."""
    learning: list[bool] = field(default_factory=list)
    """Of each parameter, whether it learnt when gradients were last arranged to be averaged."""

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.sampler.total_steps

    @property
    def num_epochs(self) -> int:
        """Epochs begun: the last may be cut short by the recipe's `steps`."""
        return -(-self.total_steps // self.epoch_steps)

    @property
    def resuming(self) -> dict[str, Any]:
        """What a checkpoint says of its run, so that it is continued as it was."""
        return {
            "epoch_steps": self.epoch_steps,
            "fingerprint": self.data.fingerprint,
            "execution": dataclasses.asdict(self.execution),
            "processes": self.together.size,
            "parts": self.together.parts,
            **({} if self.config.weights is None else {"preprocessing": to_json(self.preprocessing)}),
        }

    def batches(self, epoch: int, first_step: int) -> Generator[tuple[Tensor, Tensor]]:
        """Yield an epoch's training batches from its step `first_step` on, both counted from 0."""
        yield from train_batches(
            self.splits["train"],
            self.preprocessing,
            self.config.recipe,
            self.config.seed,
            epoch,
            first_step=first_step,
            workers=self.workers,
            memory_format=self.execution.memory_format,
            world=self.together.world,
            parts=self.together.parts,
            size=self.side(epoch),
        )

    def side(self, epoch: int) -> int:
        """Return the side in pixels at which training images are shown in an epoch, counted from 0."""
        done = epoch / self.num_epochs
        sides = [side for start, side in self.config.recipe.train_sizes if start <= done]
        return sides[-1] if sides else self.preprocessing.image_size

    def share(self) -> None:
        """Have gradients averaged over the processes; again, where other parameters learn than before."""
        learning = [parameter.requires_grad for parameter in self.model.parameters()]
        if self.together.size == 1 or learning == self.learning:
            return
        network = wrap_ddp(self.model, self.together.world)
        smoothing = self.config.recipe.label_smoothing
        self.together.network, self.learning = network, learning
        self.forward = make_forward(network, self.execution, smoothing)
        eager = make_forward(network, dataclasses.replace(self.execution, compile=False), smoothing)
        self.sampler = dataclasses.replace(self.sampler, forward=eager)

    def order(self, epoch: int) -> Tensor:
        """Return which training sample stands at each position of an epoch."""
        return epoch_order(self.data.train, self.config.seed, epoch)

    def tell_of_bad_images(self, warn: Callable[[str], None]) -> None:
        """Have `warn` told of each image that is left out while the run goes on, once in all its sessions."""

        def report(bad: str) -> None:
            self.leave_out([bad], warn)

        for name, split in self.splits.items():
            if isinstance(split.images, EncodedImages):
                self.splits[name] = dataclasses.replace(split, images=split.images.telling(report))

    def leave_out(self, images: Iterable[str], warn: Callable[[str], None]) -> None:
        """Have `warn` told of those images, each with its reason, that nobody has been told of."""
        for bad in images:
            if bad not in self.state.left_out:
                self.state.left_out.append(bad)
                warn(f"left out: {bad}")

    def hear_of_bad_images(self, warn: Callable[[str], None]) -> None:
        """Have `warn` told of the images that the other processes left out since this was last asked."""
        for theirs in self.together.world.gather(self.state.left_out):
            self.leave_out(theirs, warn)

    def shared(self) -> dict[str, Any]:
        """Return what the record says of a run whose batches several processes share, or that takes them in parts."""
        world, parts = self.together.world, self.together.parts
        if world.size * parts == 1:
            return {}
        return {
            "processes": world.size,
            "parts": parts,
            "images_normalised_together": self.normalised_together(world.size, parts),
        }

    def normalised_together(self, processes: int, parts: int) -> int:
        """Return how many images, at least, batch normalisation sees at a time, in so many processes and parts."""
        return self.config.recipe.batch_size // (parts if self.config.sync_bn else processes * parts)

    def worker_images_per_s(self) -> float | None:
        """Return the images that a thread decoded in a second since this was asked last, or `None`."""
        images = self.splits["train"].images
        return images.tally.take() if isinstance(images, EncodedImages) else None

    def score(self, model: ResNet, split: str) -> SplitScore:
        """Judge a network on one of the splits, which the processes share."""
        return score_split(
            model, self.splits[split], self.preprocessing, workers=self.workers, world=self.together.world
        )

    def kept(self) -> ResNet:
        """Return the network with the weights that the recipe keeps: the last, or the best on validation."""
        if self.config.recipe.keep == "best":
            self.model.load_state_dict(self.best.weights)
        return self.model.requires_grad_()


def prepare(
    config: RunConfig,
    checkpoint: Checkpoint | None,
    *,
    workers: int = 0,
    world: ProcessGroup = ProcessGroup(),  # noqa: B008
    cache_gib: float = CACHE_GIB,
) -> Training:
    """Open the data, build the network, choose how to compute, and put a checkpoint's content back.

    Every process of `world` does so; what is measured, the first one measures for all. Longer than a screen: the order
    of its lines is what there is to know (a start before the checkpoint, the device before the optimizer).

    Raises:
        ConfigError: for a configuration that the data, the machine or the checkpoint does not allow.
    """
    device, recipe = pick_device(config.device), config.recipe
    _check_parts(config, world)
    seen = source_preprocessing(config, checkpoint)
    data = _open(config, checkpoint, seen, cache_gib)
    preprocessing = data.preprocessing
    if recipe.normalise == "pixel" and seen is None:
        preprocessing = pixel_normalisation(data.train, preprocessing)
    in_model = dataclasses.replace(config.model, in_channels=data.channels, num_classes=len(data.classes))
    config = dataclasses.replace(config, model=in_model)
    resident = match_channels(data, data.channels, config.weights)
    splits = {name: split.to(device) for name, split in resident.items()}
    epoch_steps = steps_per_epoch(len(data.train), recipe.batch_size)
    total_steps = recipe.steps or recipe.epochs * epoch_steps
    recipe = _warmed_up(recipe, epoch_steps)
    config = dataclasses.replace(config, recipe=recipe)

    model = build_model(config.model, generator=make_generator(config.seed, "weights"))
    macs = cost(model, preprocessing.image_size).macs
    start: dict[str, Any] = {}
    if config.weights is not None and checkpoint is None:
        start = init_from_file(config, model, data.classes, resident["train"], preprocessing, workers)
    model.activation_checkpointing = config.activation_checkpointing
    model.to(device)

    def batch() -> tuple[Tensor, Tensor]:
        return next(train_batches(splits["train"], preprocessing, recipe, config.seed, 0))

    if checkpoint:
        execution = Execution(**checkpoint.state["execution"])
        forward = make_forward(model, execution, recipe.label_smoothing)
    else:
        execution, forward = _chosen(config, model, batch, macs, total_steps, world)
    if config.sync_bn and world.size > 1:  # not before: what is measured, one process measures alone
        convert_sync_batchnorm(model)
    model.to(memory_format=execution.memory_format)  # pyright: ignore[reportCallIssue]  # a stub lacks it
    optimizer = make_optimizer(model, config)
    best, state = BestWeights(with_weights=recipe.keep == "best"), TrainState(cautious=recipe.initial_lr is not None)
    if checkpoint:
        state = unpack(checkpoint, best, model, optimizer)
        if checkpoint.state["epoch_steps"] != epoch_steps:  # another batch size: the epoch under way starts again
            state = dataclasses.replace(TrainState(), **_between_epochs(state, epoch_steps))
    eager = forward
    if execution.compile:
        eager = make_forward(model, dataclasses.replace(execution, compile=False), recipe.label_smoothing)
    together = GradSync(world, config.grad_accum_steps)
    sampler = LayerStatsHook(model, eager, sampling_interval(config.layer_stats_steps, total_steps), total_steps)
    return Training(
        config,
        data,
        preprocessing,
        device,
        splits,
        model,
        macs,
        start,
        optimizer,
        execution,
        forward,
        sampler,
        best,
        state,
        epoch_steps,
        workers,
        together,
        _warnings(config.model, data, preprocessing),
    )


def _warmed_up(recipe: Recipe, epoch_steps: int) -> Recipe:
    """Return the recipe with its warm-up in steps."""
    if not recipe.warmup_epochs or recipe.warmup_steps:
        return recipe
    return dataclasses.replace(recipe, warmup_steps=round(recipe.warmup_epochs * epoch_steps))


def _warnings(model: ModelConfig, data: Dataset, preprocessing: Preprocessing) -> tuple[str, ...]:
    """Return what is known before the first step: of network and images, of the data, of images left out."""
    warning = size_warning(model, preprocessing.image_size)
    skipped = (f"left out: {bad}" for bad in data.skipped)
    return (*((warning,) if warning else ()), *data.warnings, *skipped)


def _check_parts(config: RunConfig, world: ProcessGroup) -> None:
    shares = world.size * config.grad_accum_steps
    if config.recipe.batch_size // shares < 2:
        processes = "1 process" if world.size == 1 else f"{world.size} processes"
        raise ConfigError(
            f"a batch of {config.recipe.batch_size} for {processes} with --grad-accum-steps {config.grad_accum_steps} leaves some "
            f"with fewer than 2 images at a time; give --batch-size {2 * shares} or more, or fewer processes or parts"
        )


def _chosen(
    config: RunConfig,
    model: ResNet,
    batch: Callable[[], tuple[Tensor, Tensor]],
    macs: int,
    total_steps: int,
    world: ProcessGroup,
) -> tuple[Execution, Forward]:
    if world.size == 1:
        return select_execution(config, model, batch, macs, total_steps)
    execution = world.from_first(lambda: select_execution(config, model, batch, macs, total_steps)[0])
    return execution, make_forward(model, execution, config.recipe.label_smoothing)


def _open(config: RunConfig, checkpoint: Checkpoint | None, seen: Preprocessing | None, cache_gib: float) -> Dataset:
    keep_encoded = config.recipe.crop != "pad"
    data = open_data(config.data, keep_encoded=keep_encoded, seen_as=seen, cache_gib=cache_gib)
    if len(data.val) == 0:
        raise ConfigError(f"{data.name} has too few images: none is left to validate on; add some, or a val folder")
    if checkpoint and checkpoint.state["fingerprint"] != data.fingerprint:
        raise ConfigError(
            f"the images of {data.name} are not those that the run was started with; start over (--fresh)"
        )
    return data


def _between_epochs(state: TrainState, epoch_steps: int) -> dict[str, Any]:
    """Return the fields of a state that stay when the epoch under way is started again."""
    kept = ("epochs_done", "cautious", "num_skipped", "val_errors", "left_out", "train_time_s", "wait_s", "time_s")
    fields = {name: getattr(state, name) for name in kept}
    return {
        **fields,
        "step": state.epochs_done * epoch_steps,
        "epoch_start_s": state.train_time_s,
        "epoch_start_wait_s": state.wait_s,
    }
