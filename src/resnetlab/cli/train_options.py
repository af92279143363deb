"""The options of `resnetlab train`, in the groups of its `--help`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from resnetlab.cli.data_options import Reading, ReadingOptions
from resnetlab.system.cache_folder import CACHE_GIB


@dataclass(frozen=True)
class RecipeOptions:
    """Recipe of the training: --set changes any of its fields, the options below the common ones."""

    name: Annotated[str | None, tyro.conf.arg(name="recipe")] = None
    """digits, cifar-paper (section 4.2), scratch (your own images), fast (CIFAR in 30 epochs), imagenet-paper (section
    3.4), imagenet-90 (the usual 90 epochs), imagenet-fast (16 epochs, growing images), timm-a3 and torchvision-v2
    (ImageNet, 2021), finetune, or a file such as my.toml. If not given: digits for digits, for other
    named data sets cifar-paper or imagenet-paper by the network; for your own images finetune or scratch (imagenet-90
    above 500,000 from random weights), with a length by their number, within an hour if possible."""
    set: tuple[str, ...] = ()
    """Any fields of the recipe, such as weight_decay=5e-4 schedule=cosine nesterov=true."""
    epochs: int | None = None
    """Passes over the training images; the recipe's if not given."""
    steps: int | None = None
    """Length in steps; the recipe's if not given."""
    batch_size: int | None = None
    """Images per step; the recipe's if not given."""
    lr: float | None = None
    """Learning rate; the recipe's if not given."""
    max_update: float | None = None
    """Longest step of a layer, as a share of the norm of its weights, such as 0.05; no limit if not given."""
    initial_lr: float | None = None
    """Learning rate until the training error falls below 80 %; the recipe's if not given."""
    keep: Literal["last", "best"] | None = None
    """Weights to test and save: of the last epoch, or of the lowest validation error. If not given: best for your own
    images without --recipe, for finetune and for scratch; else last, as the protocol of the paper says."""
    early_stop_epochs: int | None = None
    """Epochs without a lower validation error after which the run ends; never if not given. The learning rate follows
    the schedule of the whole length."""
    class_weights: Literal["none", "balanced"] | None = None
    """balanced: multiply each image's loss by n / (k n_c), for n images, k classes and n_c images of its class."""
    balanced_order: Literal["on", "off"] | None = None
    """on: draw every class equally often; images of small classes come several times an epoch."""
    frozen_epochs: int | None = None
    """Epochs at the start that update only the head; the recipe's if not given."""
    layer_decay: float | None = None
    """Factor on the learning rate per stage below the head, above 0 and at most 1; the recipe's if not given."""
    freeze_bn: Literal["on", "off"] | None = None
    """Freeze statistics, scale and shift of batch normalisation; the recipe's if not given."""

    def changes(self) -> dict[str, Any]:
        """Return the fields of the recipe that the options give.

        Raises:
            ConfigError: for an unknown field in `set`, or a field that two options give.
        """
        from resnetlab.training.recipe_settings import recipe_changes

        values = {name: getattr(self, name) for name in RECIPE_FIELDS}
        switches = {"freeze_bn": self.freeze_bn, "balanced_order": self.balanced_order}
        on = {name: None if value is None else value == "on" for name, value in switches.items()}
        return recipe_changes({**values, **on}, self.set)


RECIPE_FIELDS = (
    "epochs",
    "steps",
    "batch_size",
    "lr",
    "max_update",
    "initial_lr",
    "keep",
    "early_stop_epochs",
    "class_weights",
    "frozen_epochs",
    "layer_decay",
)
"""Options with the names of fields of `Recipe`."""


@dataclass(frozen=True)
class ExecutionOptions:
    """Precision, devices, processes and memory."""

    precision: Literal["auto", "fp32", "tf32", "bf16"] | None = None
    """Precision of convolutions and matrix products; auto (the default) measures in a long run, else fp32. tf32 is for
    NVIDIA GPUs from Ampere on; fp32 never computes in TF32."""
    layout: Literal["auto", "channels_last", "contiguous"] | None = None
    """Memory layout of images and feature maps; auto (the default) measures in a long run, else channels_last."""
    compile: Literal["auto", "on", "off", "cuda-graph"] | None = None
    """on: compile the training step with torch.compile; cuda-graph: replay it from a CUDA graph, on NVIDIA GPUs. auto
    (the default) measures in a long run, else off."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """Device to train on; auto uses a GPU if one is available."""
    threads: int | None = None
    """Threads of PyTorch in each process, on a CPU; measured in a run of a minute or more if not given."""
    processes: int = 1
    """Processes on this machine that share each batch, as with torchrun; each has its share of the cores. On a CPU, two
    lose less speed than one when another program keeps a core busy."""
    sync_bn: bool = False
    """With several processes: compute batch statistics over all of them."""
    grad_accum_steps: int | None = None
    """Micro-batches per step and process; more need less memory; 1 if not given."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: a third more time, far less memory."""
    workers: int | None = None
    """Threads that decode images if the data set does not fit in memory; one per core if not given."""
    cache_gib: float = CACHE_GIB
    """Size of the cache for remote shards in GiB; its folder is --data-root, or the user's cache folder."""
    timeout_s: Annotated[float, tyro.conf.arg(name="timeout")] = 600.0
    """Seconds that processes wait for one that does not respond before all exit."""


EXECUTION_FIELDS = (
    "precision",
    "layout",
    "compile",
    "threads",
    "sync_bn",
    "grad_accum_steps",
    "activation_checkpointing",
    "device",
)
"""Options with the names of fields of `RunConfig`."""


@dataclass(frozen=True)
class RunDirectoryOptions:
    """The run directory: continued or new, its checkpoints and event files."""

    out: Path | None = None
    """Run directory. If not given: runs/DATA-MODEL-seedN, runs/DATA-MODEL-finetuned-seedN for fine-tuning, or
    runs/DATA-seedN if the network was chosen for you."""
    resume: bool = False
    """Continue the run in the run directory, with its own configuration for options that are not given."""
    allow_config_change: bool = False
    """Continue a run although its configuration differs."""
    fresh: bool = False
    """Start again; the run in the run directory is deleted when the training starts."""
    checkpoint_s: Annotated[float, tyro.conf.arg(name="checkpoint-seconds")] = 300.0
    """Seconds between checkpoints, at least; checkpoints take at most 1 % of the time."""
    checkpoint_steps: int | None = None
    """Steps between checkpoints; replaces --checkpoint-seconds."""
    keep_states: int | None = None
    """Epochs between states of the weights that stay in states/ of the run directory, as for resnetlab landscape; none
    are kept if not given."""
    track: str | None = None
    """tensorboard: also write event files for TensorBoard into the run directory."""


@dataclass(frozen=True)
class Options:
    """Train a network by a recipe, test it, and write a run directory with a model file.

    The same command continues an interrupted run. On the CPU the result is the same to the last bit as without the
    interruption; on a GPU it is up to rounding, as kernels there may add in another order each time. Ctrl-C, SIGTERM
    and a closed terminal (SIGHUP) finish the step and save.
    """

    data: str | None = None
    """cifar10, cifar100, mnist, fashion-mnist, digits; or a folder of images, a table of labels (.csv, .tsv), parquet
    files or shards (resnetlab data pack); or the URL of a folder of shards, such as https://example.org/shards or
    s3://bucket/shards."""
    reading: Reading = ReadingOptions()
    model: str | None = None
    """The network, such as resnet20, resnet56, plain34 or resnet18. If not given: the network of --from, else resnet20
    for named data sets; for your own images resnet20 up to 64 pixels, above resnet18, or on a fast machine resnet50
    with published weights."""
    weights: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Initial weights: published ones such as resnet50.tv2_in1k (resnetlab weights lists them) or hf://owner/name, a
    model file, a run directory, or a file of weights (.pth). Without --model the file's network is fine-tuned, with a
    head for the classes of --data. The preprocessing is the file's. none means random weights. If not given: for your
    own images without --model, and without --recipe or with finetune, published weights that are on this machine or
    that you agree to download, else random weights."""
    image_size: int | None = None
    """Side of the network's input in pixels. If not given: that of --from, else derived from the images."""
    minutes: float | None = None
    """Fit image size and length of a new run to so many minutes, by the measured speed of this machine."""
    yes: bool = False
    """Download published weights without asking, and start a run that takes more than a day."""
    seed: int | None = None
    """Seed of the weights, the sample order and the augmentation; 0 if not given."""
    split_seed: int | None = None
    """Seed of the validation split; 0 if not given."""
    train_images: int | None = None
    """Size of a stratified subset of the training images; all if not given."""
    fit_temperature: bool = False
    """Fit the temperature of the softmax on the validation images at the end, so that probabilities agree better with
    how often the network is right; classes and errors stay the same."""
    recipe: Annotated[RecipeOptions, tyro.conf.OmitArgPrefixes] = RecipeOptions()
    execution: Annotated[ExecutionOptions, tyro.conf.OmitArgPrefixes] = ExecutionOptions()
    run: Annotated[RunDirectoryOptions, tyro.conf.OmitArgPrefixes] = RunDirectoryOptions()
    json: bool = False
    """Print the result as one JSON object; print everything else to stderr."""

    def run_fields(self) -> dict[str, Any]:
        """Return the fields of `RunConfig` that the options give, besides network, data, recipe and weights."""
        values = {name: getattr(self.execution, name) for name in EXECUTION_FIELDS}
        values |= {"seed": self.seed, "fit_temperature": self.fit_temperature}
        return {name: value for name, value in values.items() if value is not None and value is not False}
