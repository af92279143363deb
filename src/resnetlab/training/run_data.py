"""The images of a run: opened, preprocessed as the network needs them, and delivered as training batches."""

import dataclasses
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from resnetlab.config import ConfigError, Preprocessing, RunConfig
from resnetlab.data.dataset import Dataset, Split
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.loader import steps_per_epoch, train_batches
from resnetlab.data.normalisation import pixel_normalisation
from resnetlab.data.open_dataset import open_data
from resnetlab.data.sampler import train_order
from resnetlab.evaluation.multi_label import score_multi_label_split
from resnetlab.evaluation.protocols import SplitScore, score_split
from resnetlab.models.resnet import ResNet
from resnetlab.training.distributed import pick_device
from resnetlab.training.init_weights import match_channels, source_preprocessing
from resnetlab.training.length_warnings import size_index
from resnetlab.training.loss import balanced_class_weights
from resnetlab.training.multi_label import check_multi_label_options
from resnetlab.training.run_files.checkpoint import Checkpoint
from resnetlab.training.runtime_options import RuntimeOptions
from resnetlab.training.scan_progress import scan_progress


@dataclass
class RunData:
    """The data of one run, and where its training images stand in the order of an epoch."""

    config: RunConfig
    """With the data's channels and classes, and the warm-up in steps."""
    options: RuntimeOptions
    dataset: Dataset
    preprocessing: Preprocessing
    host_splits: dict[str, Split]
    """The splits with the channels that the network reads."""
    splits: dict[str, Split]
    """The same on the device of the run, where the images are resident."""
    device: torch.device
    steps_per_epoch: int
    total_steps: int

    @property
    def num_epochs(self) -> int:
        """Epochs of the run; the recipe's `steps` may cut the last one short."""
        return -(-self.total_steps // self.steps_per_epoch)

    def batches(
        self, epoch: int, first_step: int = 0, *, memory_format: torch.memory_format = torch.channels_last
    ) -> Generator[tuple[Tensor, Tensor]]:
        """Yield this process's training batches of an epoch, from step `first_step` on; both count from 0."""
        yield from train_batches(
            self.splits["train"],
            self.preprocessing,
            self.config.recipe,
            seed=self.config.seed,
            epoch=epoch,
            first_step=first_step,
            workers=self.options.workers,
            memory_format=memory_format,
            process_group=self.options.process_group,
            micro_batches=self.config.grad_accum_steps,
            image_size=self.image_size(epoch),
            num_classes=len(self.dataset.classes),
        )

    def image_size(self, epoch: int) -> int:
        """Return the side of the training images in an epoch, counted from 0, in pixels."""
        sizes = self.config.recipe.train_sizes
        return (
            sizes[size_index(self.config.recipe, epoch, self.num_epochs)][1] if sizes else self.preprocessing.image_size
        )

    def order(self, epoch: int) -> Tensor:
        """Return the training sample at each position of an epoch: int64, a whole number of batches at least."""
        return train_order(self.dataset.train, self.config.recipe, seed=self.config.seed, epoch=epoch)

    @cached_property
    def class_counts(self) -> list[int]:
        """Number of training images of each class, by label."""
        return self.dataset.train.class_counts(len(self.dataset.classes))

    @cached_property
    def class_weights(self) -> Tensor | None:
        """Weight of each class in the training loss: float32 on the device, (num_classes,); `None` for no weights."""
        if self.config.recipe.class_weights == "none":
            return None
        return balanced_class_weights(self.class_counts).to(self.device)

    @property
    def score_split(self) -> Callable[..., SplitScore]:
        """The function that evaluates a network on images with such labels: `score_split`, or for several labels."""
        return score_multi_label_split if self.dataset.train.is_multi_label else score_split

    def score(self, model: ResNet, split: str) -> SplitScore:
        """Evaluate a network on a split, which the processes share."""
        return self.score_split(
            model,
            self.splits[split],
            self.preprocessing,
            workers=self.options.workers,
            process_group=self.options.process_group,
        )

    def decoded_images_per_s(self) -> float | None:
        """Return the images that one worker decoded per second since the last call; `None` for resident images."""
        images = self.splits["train"].images
        return images.decode_stats.take() if isinstance(images, EncodedImages) else None

    def report_bad_images(self, report: Callable[[str], None]) -> None:
        """Call `report` with `NAME: REASON` for each image that is skipped while batches are made."""
        for name, split in self.splits.items():
            if isinstance(split.images, EncodedImages):
                self.splits[name] = dataclasses.replace(split, images=split.images.with_report(report))


def open_run_data(config: RunConfig, options: RuntimeOptions, checkpoint: Checkpoint | None) -> RunData:
    """Open the images of a run; a run that starts from a file, or resumes one, takes the preprocessing stored there.

    Raises:
        ConfigError: if data, device or batch size do not allow the run, or the checkpoint is of other images.
    """
    device = pick_device(config.device)
    _check_batch_size(config, options)
    stored = source_preprocessing(config, checkpoint)
    keep_encoded = config.recipe.crop != "pad"
    dataset = open_data(
        config.data,
        on_progress=scan_progress(options.log),
        keep_encoded=keep_encoded,
        preprocessing=stored,
        cache_gib=options.cache_gib,
    )
    if len(dataset.val) == 0:
        raise ConfigError(f"{dataset.name} has too few images: none is left to validate on; add some, or a val folder")
    if config.recipe.balanced_order and dataset.train.shards is not None:
        raise ConfigError(
            f"balanced_order reads images in any order, and the shards of {dataset.name} are read one after the other; "
            "use --class-weights balanced instead"
        )
    if dataset.train.is_multi_label:
        check_multi_label_options(config, dataset.name)
    if checkpoint and checkpoint.state["fingerprint"] != dataset.fingerprint:
        raise ConfigError(
            f"the images of {dataset.name} are not those that the run was started with, or are read at another size; "
            "start over (--fresh)"
        )
    preprocessing = dataset.preprocessing
    if config.recipe.normalise == "pixel" and stored is None:
        preprocessing = pixel_normalisation(dataset.train, preprocessing)
    epoch_steps = steps_per_epoch(len(dataset.train), config.recipe.batch_size)
    host_splits = match_channels(dataset, dataset.channels, config.weights)
    return RunData(
        config=_resolve(config, dataset, epoch_steps),
        options=options,
        dataset=dataset,
        preprocessing=preprocessing,
        host_splits=host_splits,
        splits={name: split.to(device) for name, split in host_splits.items()},
        device=device,
        steps_per_epoch=epoch_steps,
        total_steps=config.recipe.steps or config.recipe.epochs * epoch_steps,
    )


def _check_batch_size(config: RunConfig, options: RuntimeOptions) -> None:
    """Refuse a batch that leaves a process fewer than two images: batch normalisation needs a variance."""
    shares = options.process_group.size * config.grad_accum_steps
    if config.recipe.batch_size // shares < 2:
        size = options.process_group.size
        processes = "1 process" if size == 1 else f"{size} processes"
        raise ConfigError(
            f"a batch of {config.recipe.batch_size} for {processes} with --grad-accum-steps "
            f"{config.grad_accum_steps} leaves some with fewer than 2 images at a time; give --batch-size "
            f"{2 * shares} or more, or fewer processes or micro-batches"
        )


def _resolve(config: RunConfig, dataset: Dataset, epoch_steps: int) -> RunConfig:
    model = dataclasses.replace(config.model, in_channels=dataset.channels, num_classes=len(dataset.classes))
    return dataclasses.replace(config, model=model, recipe=config.recipe.with_warmup_steps(epoch_steps))
