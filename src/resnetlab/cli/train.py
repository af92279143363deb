"""`resnetlab train`: one network, real images, an honest number, and a model file."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from resnetlab.config import ConfigError, DataConfig, ModelConfig, RunConfig, read_config
from resnetlab.system.process_group import local_world_size, process_group_from_env, restart_count

if TYPE_CHECKING:
    from rich.console import Console

    from resnetlab.training.runtime_options import RuntimeOptions


WAITING_PCT = 10.0
"""Share of the training time from which waiting for images is worth a word."""
PATIENT = 1_000_000
"""Seconds beyond which nobody waits for a process: eleven days."""


@dataclass(frozen=True)
class Options:
    """Train a network by a recipe of the paper, judge it, and leave a run directory with a model file.

    The same command, given again, continues a run that was stopped, to the last bit as if it had not been. Ctrl-C and
    SIGTERM finish the step and save.
    """

    model: str | None = None
    """The network, such as resnet20, resnet56, plain34 or resnet18. If not given: that of --from, else resnet20 for
    named data sets and resnet18 for your own images."""
    data: str | None = None
    """cifar10, cifar100, mnist, fashion-mnist, digits, or the path of a folder of images, of parquet files or of shards
    (resnetlab data pack), or the address of one, such as https://example.org/shards or s3://bucket/shards."""
    data_root: Path | None = None
    """Folder where the archives of a named data set lie, or are downloaded to."""
    recipe: str | None = None
    """digits, cifar-paper (section 4.2), imagenet-paper (section 3.4), imagenet-90 (the usual 90 epochs), imagenet-fast
    (16 epochs, images that grow) or finetune. If not given: finetune for the network of --from, else the network's
    own."""
    epochs: int | None = None
    """Passes over the training images, in place of the recipe's length."""
    steps: int | None = None
    """Length in steps, in place of the recipe's."""
    batch_size: int | None = None
    """Images in a step, in place of the recipe's."""
    lr: float | None = None
    """Learning rate, in place of the recipe's."""
    seed: int | None = None
    """Seed of weights, order and augmentation; 0 if not given."""
    image_size: int | None = None
    """Side in pixels of what the network sees; that of the file of --from, or chosen from the images, if not given."""
    split_seed: int | None = None
    """Seed of the validation split; 0 if not given."""
    train_images: int | None = None
    """Train on so many images alone, each class in its proportion."""
    on_bad_image: Literal["fail", "skip"] | None = None
    """Stop at images that cannot be read, or leave them out and list them in the record."""
    keep: Literal["last", "best"] | None = None
    """Weights to keep: those of the last epoch, or of the lowest validation error."""
    weights: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """A model file or run directory to start from, in place of random weights. Without --model it is fine-tuned: the
    same network, with a head for the classes of --data. Images are seen as the file's network saw them."""
    frozen_epochs: int | None = None
    """Epochs at the start in which the head alone learns, in place of the recipe's."""
    layer_decay: float | None = None
    """Factor on the learning rate for each stage back from the head, above 0 and at most 1; the recipe's if not
    given."""
    freeze_bn: Literal["on", "off"] | None = None
    """Leave batch normalisation as it was: statistics, scale and shift; as the recipe says if not given."""
    out: Path | None = None
    """Run directory; runs/DATA-MODEL-seedN if not given, runs/DATA-MODEL-finetuned-seedN where that is done."""
    resume: bool = False
    """Continue the run in the directory; options that are not given are those it had."""
    allow_config_change: bool = False
    """Continue although the configuration is another one."""
    fresh: bool = False
    """Delete the run in the directory and start over."""
    precision: Literal["auto", "fp32", "bf16"] | None = None
    """Precision of convolutions; a long run measures which is faster if not given."""
    layout: Literal["auto", "channels_last", "contiguous"] | None = None
    """Memory layout of images and maps; likewise."""
    compile: Literal["auto", "on", "off"] | None = None
    """Compile the step with torch.compile; likewise."""
    sync_bn: bool = False
    """With several processes (torchrun): normalise over the whole batch, as one process does."""
    grad_accum_steps: int | None = None
    """Parts that each process takes its images of a step in, for less memory; 1 if not given."""
    timeout: float = 600.0
    """How long processes wait for one that is silent before all give up."""
    activation_checkpointing: bool = False
    """Make activations again in the backward pass: a third more time, far less memory."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """Where to compute; a GPU where there is one."""
    workers: int | None = None
    """Threads that decode images which do not fit in memory; one a core if not given."""
    cache_gib: float = 10.0
    """Size of the cache for shards behind an address, in GiB; it lies in --data-root, or in the user's cache folder."""
    checkpoint_seconds: float = 300.0
    """Seconds between checkpoints; they take 1 % of the time at most."""
    checkpoint_steps: int | None = None
    """Steps between checkpoints, in place of seconds."""
    track: str | None = None
    """tensorboard: write its event files into the run directory."""
    json: bool = False
    """Print the result as one JSON object; everything else goes to stderr."""


def run(options: Options) -> int:
    """Train; return 0, or 130 or 143 where a signal stopped the run and its state is saved."""
    config, out = resolve(options)
    runtime = runtime_options(options)
    _look_before_loading(config, out)

    from rich.console import Console

    from resnetlab.cli.progress import TrainDisplay
    from resnetlab.system.allocator import use_huge_pages

    use_huge_pages()
    first = process_group_from_env().is_first
    console = Console(stderr=options.json, markup=False, quiet=not first)
    console.print("loading PyTorch and the images …", style="dim")
    from resnetlab.training.signal_handling import InterruptedRunError, StopSignal

    try:
        with StopSignal() as stop_signal, TrainDisplay(console) as display:
            from resnetlab.training.distributed import join_process_group
            from resnetlab.training.fit import fit

            with join_process_group(options.timeout) as process_group:
                result = fit(
                    config,
                    out,
                    options=replace(runtime, process_group=process_group),
                    callbacks=[display],
                    stop_signal=stop_signal,
                ).result
    except InterruptedRunError as stopped:
        kept = f"saved in {out}, the same command continues" if (out / "checkpoint").exists() else "nothing was begun"
        console.print(f"{stopped}; {kept}", soft_wrap=True, highlight=False)
        return stopped.status
    if options.json and first:
        print(json.dumps({"out": str(out), **result}))
    elif first:
        print_result(result, out, console)
    return 0


def resolve(options: Options) -> tuple[RunConfig, Path]:
    """Return what to run and where: a recipe's name plus overrides, or with `--resume` what the directory says.

    Raises:
        ConfigError: for an unknown name, a value out of range, or nothing to resume.
    """
    from resnetlab.data.registry import dataset_title

    if options.resume and options.out is not None:
        if not (options.out / "config.json").exists():
            raise ConfigError(f"{options.out}: no run there to resume; leave --resume out to start one")
        return override_config(read_config(options.out / "config.json"), options), options.out
    config = new_config(options)
    tuned = "-finetuned" if options.model is None and options.weights is not None else ""
    out = options.out or Path("runs") / f"{dataset_title(config.data)}-{config.model.name}{tuned}-seed{config.seed}"
    if options.resume and not (out / "config.json").exists():
        raise ConfigError(f"{out}: no run there to resume; name its directory with --out")
    return config, out


def new_config(options: Options) -> RunConfig:
    """Return the configuration that the options describe."""
    from resnetlab.data.registry import LISTED_KINDS, detect_kind
    from resnetlab.models.model_card import read_card
    from resnetlab.models.zoo import model_config
    from resnetlab.training.recipes import default_recipe, recipe

    if options.data is None:
        raise ConfigError("name the images: --data cifar10, or the path of a folder of images or of parquet files")
    data = DataConfig(
        name=options.data,
        **_given(options, *DATA_FIELDS),
        root=None if options.data_root is None else str(options.data_root),
    )
    own = detect_kind(data) in LISTED_KINDS
    if options.model is None and options.weights is not None:
        model, name = read_card(options.weights).model, options.recipe or "finetune"
    else:
        model = model_config(options.model or ("resnet18" if own else "resnet20"))
        name = options.recipe or default_recipe(data.name, model)
    if name == "finetune" and options.weights is None:
        raise ConfigError("recipe finetune needs a trained network to start from; name its file with --from")
    return RunConfig(
        model,
        data,
        recipe(name, model, **_recipe_changes(options)),
        **_given(options, *RUN_FIELDS),
        weights=None if options.weights is None else str(options.weights),
    )


DATA_FIELDS = ("split_seed", "train_images", "image_size", "on_bad_image")
RECIPE_FIELDS = ("epochs", "steps", "batch_size", "lr", "keep", "frozen_epochs", "layer_decay")
RUN_FIELDS = (
    "seed",
    "precision",
    "layout",
    "compile",
    "sync_bn",
    "grad_accum_steps",
    "activation_checkpointing",
    "device",
)


def override_config(config: RunConfig, options: Options) -> RunConfig:
    """Return a run's own configuration with the options that were given in place of its values.

    Where the recipe's learning rate goes with the batch, the run's own does too.
    """
    from resnetlab.models.zoo import model_config
    from resnetlab.training.recipes import SCALED, recipe

    model: ModelConfig = model_config(options.model) if options.model else config.model
    changes = _recipe_changes(options)
    if "epochs" in changes:
        changes.setdefault("steps", None)
    base = recipe(options.recipe, model, **changes) if options.recipe else config.recipe
    if not options.recipe and base.name in SCALED and "batch_size" in changes:
        changes.setdefault("lr", base.lr * changes["batch_size"] / base.batch_size)
    data = replace(config.data, **_given(options, *DATA_FIELDS))
    if options.data is not None:
        data = replace(data, name=options.data)
    if options.data_root is not None:
        data = replace(data, root=str(options.data_root))
    values = {"model": model, "data": data, "recipe": replace(base, **changes), **_given(options, *RUN_FIELDS)}
    if options.weights is not None:
        values["weights"] = str(options.weights)
    return replace(config, **values)


def runtime_options(options: Options) -> "RuntimeOptions":
    """Return what concerns this session alone.

    Raises:
        ConfigError: for a value out of range.
    """
    from resnetlab.system.cores import usable_cores
    from resnetlab.training.runtime_options import RuntimeOptions

    workers = max(1, usable_cores() // local_world_size()) if options.workers is None else options.workers
    if workers < 0:
        raise ConfigError(f"workers must be at least 0, not {workers}")
    if options.cache_gib <= 0:
        raise ConfigError(f"cache-gib must be above 0, not {options.cache_gib:g}")
    if options.checkpoint_seconds < 0:
        raise ConfigError(f"checkpoint-seconds must be at least 0, not {options.checkpoint_seconds}")
    if options.checkpoint_steps is not None and options.checkpoint_steps < 1:
        raise ConfigError(f"checkpoint-steps must be at least 1, not {options.checkpoint_steps}")
    if not 1 <= options.timeout <= PATIENT:
        raise ConfigError(f"timeout must be from 1 to {PATIENT:,}, not {options.timeout:g}")
    if options.track not in (None, "tensorboard"):
        raise ConfigError(f"track {options.track!r} is unknown; known: tensorboard")
    return RuntimeOptions(
        workers=workers,
        cache_gib=options.cache_gib,
        resume=True,
        fresh=options.fresh and restart_count() == 0,  # what torchrun starts again goes on
        allow_config_change=options.allow_config_change,
        checkpoint_s=options.checkpoint_seconds,
        checkpoint_steps=options.checkpoint_steps,
        track=options.track,
    )


def _look_before_loading(config: RunConfig, out: Path) -> None:
    """Find what is wrong and needs no PyTorch to be found."""
    from resnetlab.data.registry import detect_kind

    detect_kind(config.data)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; choose a folder with --out")
    start = None if config.weights is None else Path(config.weights).resolve()
    if start in (out.resolve(), (out / "model.safetensors").resolve()):
        raise ConfigError(
            f"the run in {out} would overwrite {config.weights}, which it starts from; choose another folder with --out"
        )


def print_result(result: dict[str, Any], out: Path, console: "Console") -> None:
    """Print a finished run's errors, and where its model file is."""
    from resnetlab.study.display import time_text

    errors = [
        f"{name} error {result[f'{name}_error_pct']:.2f} %"
        for name in ("train", "val", "test")
        if result[f"{name}_error_pct"] is not None
    ]
    print_line = f"{', '.join(errors)}; {time_text(result['time_s'])}, {result['images_per_s']:,.0f} images/s"
    console.print(print_line, soft_wrap=True, highlight=False)
    if result.get("data_wait_pct", 0) >= WAITING_PCT:
        waited = f"{result['data_wait_pct']:.0f} % of the time was spent waiting for images"
        console.print(f"{waited}: resnetlab doctor says why", soft_wrap=True, highlight=False)
    console.print(f"model file: {out / 'model.safetensors'}", soft_wrap=True, highlight=False)


def _recipe_changes(options: Options) -> dict[str, Any]:
    changes = _given(options, *RECIPE_FIELDS)
    return changes if options.freeze_bn is None else {**changes, "freeze_bn": options.freeze_bn == "on"}


def _given(options: Options, *names: str) -> dict[str, Any]:
    values = {name: getattr(options, name) for name in names}
    return {name: value for name, value in values.items() if value is not None and value is not False}
