"""`resnetlab train`: options, the configuration they describe, and the printed result of a run.

Longer than 300 lines because each option carries its help text.
"""

import functools
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from resnetlab.cli.data_options import Reading, ReadingOptions
from resnetlab.cli.terminal import print_json
from resnetlab.cli.train_plan import (
    check_plan_options,
    chooses_network,
    chooses_weights,
    given_weights,
    is_planned,
    make_plan,
    plan_request,
    with_plan,
)
from resnetlab.config import ConfigError, DataConfig, ModelConfig, RunConfig, read_config
from resnetlab.system.cache_folder import CACHE_GIB
from resnetlab.system.process_group import local_world_size, process_group_from_env, restart_count

if TYPE_CHECKING:
    from rich.console import Console

    from resnetlab.training.reports import TrainResult
    from resnetlab.training.runtime_options import RuntimeOptions

MAX_UNASKED_S = 86_400.0
"""Expected time in seconds beyond which a run needs --yes, unless its length or recipe is given."""
MAX_TIMEOUT_S = 1_000_000
"""Upper limit of `--timeout`: eleven days."""


@dataclass(frozen=True)
class Options:
    """Train a network by a recipe, test it, and write a run directory with a model file.

    The same command continues an interrupted run. On the CPU the result is the same to the last bit as without the
    interruption; on a GPU it is up to rounding, as kernels there may add in another order each time. Ctrl-C, SIGTERM
    and a closed terminal (SIGHUP) finish the step and save.
    """

    model: str | None = None
    """The network, such as resnet20, resnet56, plain34 or resnet18. If not given: the network of --from, else resnet20
    for named data sets; for your own images resnet20 up to 64 pixels, above resnet18, or on a fast machine resnet50
    with published weights."""
    data: str | None = None
    """cifar10, cifar100, mnist, fashion-mnist, digits; or a folder of images, a table of labels (.csv, .tsv), parquet
    files or shards (resnetlab data pack); or the URL of a folder of shards, such as https://example.org/shards or
    s3://bucket/shards."""
    reading: Reading = ReadingOptions()
    recipe: str | None = None
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
    minutes: float | None = None
    """Fit image size and length of a new run to so many minutes, by the measured speed of this machine."""
    yes: bool = False
    """Download published weights without asking, and start a run that takes more than a day."""
    batch_size: int | None = None
    """Images per step; the recipe's if not given."""
    lr: float | None = None
    """Learning rate; the recipe's if not given."""
    max_update: float | None = None
    """Longest step of a layer, as a share of the norm of its weights, such as 0.05; no limit if not given."""
    initial_lr: float | None = None
    """Learning rate until the training error falls below 80 %; the recipe's if not given."""
    seed: int | None = None
    """Seed of the weights, the sample order and the augmentation; 0 if not given."""
    image_size: int | None = None
    """Side of the network's input in pixels. If not given: that of --from, else derived from the images."""
    split_seed: int | None = None
    """Seed of the validation split; 0 if not given."""
    train_images: int | None = None
    """Size of a stratified subset of the training images; all if not given."""
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
    fit_temperature: bool = False
    """Fit the temperature of the softmax on the validation images at the end, so that probabilities agree better with
    how often the network is right; classes and errors stay the same."""
    weights: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Initial weights: published ones such as resnet50.tv2_in1k (resnetlab weights lists them) or hf://owner/name, a
    model file, a run directory, or a file of weights (.pth). Without --model the file's network is fine-tuned, with a
    head for the classes of --data. The preprocessing is the file's. none means random weights. If not given: for your
    own images without --model, and without --recipe or with finetune, published weights that are on this machine or
    that you agree to download, else random weights."""
    frozen_epochs: int | None = None
    """Epochs at the start that update only the head; the recipe's if not given."""
    layer_decay: float | None = None
    """Factor on the learning rate per stage below the head, above 0 and at most 1; the recipe's if not given."""
    freeze_bn: Literal["on", "off"] | None = None
    """Freeze statistics, scale and shift of batch normalisation; the recipe's if not given."""
    out: Path | None = None
    """Run directory. If not given: runs/DATA-MODEL-seedN, runs/DATA-MODEL-finetuned-seedN for fine-tuning, or
    runs/DATA-seedN if the network was chosen for you."""
    resume: bool = False
    """Continue the run in the run directory, with its own configuration for options that are not given."""
    allow_config_change: bool = False
    """Continue a run although its configuration differs."""
    fresh: bool = False
    """Delete the run in the run directory and start again."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] | None = None
    """Precision of convolutions and matrix products; auto (the default) measures in a long run, else fp32. tf32 is for
    NVIDIA GPUs from Ampere on; fp32 never computes in TF32."""
    layout: Literal["auto", "channels_last", "contiguous"] | None = None
    """Memory layout of images and feature maps; auto (the default) measures in a long run, else channels_last."""
    compile: Literal["auto", "on", "off", "cuda-graph"] | None = None
    """on: compile the training step with torch.compile; cuda-graph: replay it from a CUDA graph, on NVIDIA GPUs. auto
    (the default) measures in a long run, else off."""
    processes: int = 1
    """Processes on this machine that share each batch, as with torchrun; each has its share of the cores. On a CPU, two
    lose less speed than one when another program keeps a core busy."""
    sync_bn: bool = False
    """With several processes: compute batch statistics over all of them."""
    grad_accum_steps: int | None = None
    """Micro-batches per step and process; more need less memory; 1 if not given."""
    timeout_s: Annotated[float, tyro.conf.arg(name="timeout")] = 600.0
    """Seconds that processes wait for one that does not respond before all exit."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: a third more time, far less memory."""
    threads: int | None = None
    """Threads of PyTorch in each process, on a CPU; measured in a run of a minute or more if not given."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """Device to train on; auto uses a GPU if one is available."""
    workers: int | None = None
    """Threads that decode images if the data set does not fit in memory; one per core if not given."""
    cache_gib: float = CACHE_GIB
    """Size of the cache for remote shards in GiB; its folder is --data-root, or the user's cache folder."""
    checkpoint_s: Annotated[float, tyro.conf.arg(name="checkpoint-seconds")] = 300.0
    """Seconds between checkpoints, at least; checkpoints take at most 1 % of the time."""
    checkpoint_steps: int | None = None
    """Steps between checkpoints; replaces --checkpoint-seconds."""
    keep_states: int | None = None
    """Epochs between states of the weights that stay in states/ of the run directory, as for resnetlab landscape; none
    are kept if not given."""
    track: str | None = None
    """tensorboard: also write event files for TensorBoard into the run directory."""
    json: bool = False
    """Print the result as one JSON object; print everything else to stderr."""


def run(options: Options) -> int:
    """Train; return 0, or 129, 130 or 143 if a signal stopped the run after its state was saved."""
    config, out = resolve_run(options)
    runtime = runtime_options(options, out)
    _check_paths(config, out)
    request = None
    if is_planned(options) and not _continues(options, out):
        request = plan_request(options, config, recipe_overrides(options))

    from resnetlab.cli.console import open_console
    from resnetlab.cli.progress import TrainDisplay
    from resnetlab.cli.train_plan_output import RunSummary
    from resnetlab.system.allocator import use_huge_pages

    use_huge_pages()
    first = process_group_from_env().is_first
    console = open_console(stderr=options.json, quiet=not first)
    console.print("loading PyTorch and the images …", style="dim")
    from resnetlab.training.signal_handling import InterruptedRunError, StopSignal

    try:
        with StopSignal() as stop_signal:
            from resnetlab.training.distributed import join_process_group
            from resnetlab.training.fit import fit

            with join_process_group(options.timeout_s) as process_group:
                if request is not None:
                    limit_s = runtime.max_expected_s
                    plan = make_plan(request, console, process_group, yes=options.yes, max_expected_s=limit_s)
                    config, runtime = plan.config, with_plan(runtime, plan)
                with TrainDisplay(console, announces_evaluation=not options.json) as display:
                    log = functools.partial(console.print, style="dim", highlight=False)
                    trained = fit(
                        config,
                        out,
                        options=replace(runtime, process_group=process_group, log=log),
                        callbacks=[RunSummary(console, is_planned=request is not None), display],
                        stop_signal=stop_signal,
                    )
    except InterruptedRunError as stopped:
        saved = f"saved in {out}, the same command continues" if (out / "checkpoint").exists() else "nothing was saved"
        console.print(f"{stopped}; {saved}", soft_wrap=True, highlight=False)
        return stopped.status
    if first:
        _print_end(trained, config, out, console, json=options.json)
    return 0


def _print_end(trained: "TrainResult", config: RunConfig, out: Path, console: "Console", *, json: bool) -> None:
    """Print the result of a run, and the commands that use the network; or JSON alone, on standard output."""
    from resnetlab.cli.train_output import print_next_commands, print_nothing_trained, print_result

    if trained.was_finished:
        print_nothing_trained(out, config, console)
    scaling = trained.card.temperature_scaling
    if json:
        print_json({"out": str(out), **trained.result, **({"temperature": scaling.temperature} if scaling else {})})
        return
    print_result(trained.result, out, console, batch_size=config.recipe.batch_size)
    if scaling:
        from resnetlab.evaluation.summary import describe_temperature

        console.print(f"temperature {describe_temperature(scaling)}", soft_wrap=True, highlight=False)
    print_next_commands(out, config.data, console)


def resolve_run(options: Options) -> tuple[RunConfig, Path]:
    """Return the configuration and the directory of the run; `--resume` reads the configuration from the directory.

    Raises:
        ConfigError: for an unknown name, a value out of range, or a missing run to resume.
    """
    from resnetlab.data.registry import dataset_title
    from resnetlab.models.similar_paths import suggest_path
    from resnetlab.training.recipe_settings import named_recipe

    if options.resume and options.out is not None:
        if not (options.out / "config.json").exists():
            hint = suggest_path(options.out, "config.json")
            raise ConfigError(f"{options.out}: no run to resume{hint or '; omit --resume to start one'}")
        return override_config(read_config(options.out / "config.json"), options), options.out
    check_plan_options(options)
    config = new_config(options)
    network = "" if chooses_network(options) else f"-{config.model.name}"
    suffix = "-finetuned" if options.model is None and config.weights is not None else ""
    out = options.out or Path("runs") / f"{dataset_title(config.data)}{network}{suffix}-seed{config.seed}"
    if is_planned(options) and _continues(options, out):
        stored = read_config(out / "config.json")
        is_same = options.recipe is not None and named_recipe(options.recipe).name == stored.recipe.name
        fitted = options.minutes is not None and is_same  # the recipe's length gave way to the time
        config = override_config(stored, replace(options, recipe=None) if fitted else options)
    if options.resume and not (out / "config.json").exists():
        hint = suggest_path(out, "config.json")
        raise ConfigError(f"{out}: no run to resume{hint or '; name its directory with --out'}")
    return config, out


def _continues(options: Options, out: Path) -> bool:
    """Return whether a run in the directory is continued: its configuration was planned, and stays."""
    return (out / "config.json").exists() and not (options.fresh and restart_count() == 0)


def new_config(options: Options) -> RunConfig:
    """Return the configuration that the options describe, without a plan.

    Raises:
        ConfigError: for an unknown name, a value out of range, or missing options.
    """
    from resnetlab.data.registry import LISTED_KINDS, detect_kind
    from resnetlab.models.model_card import read_card
    from resnetlab.models.zoo import model_config
    from resnetlab.training.recipe_settings import named_recipe
    from resnetlab.training.recipes import change_recipe, default_recipe

    given = given_weights(options)
    weights = None if given is None else _model_file(given)
    if options.data is None:
        raise ConfigError("--data is missing; give cifar10, or the path of a folder of images or of parquet files")
    data = DataConfig(
        name=options.data,
        **_given_options(options, *DATA_FIELDS),
        **options.reading.changes(),
    )
    is_custom_data = detect_kind(data) in LISTED_KINDS
    if options.model is None and weights is not None:
        model, name = read_card(weights).model, options.recipe or "finetune"
    else:
        model = model_config(options.model or ("resnet18" if is_custom_data else "resnet20"))
        name = options.recipe or default_recipe(data.name, model)
    recipe = change_recipe(named_recipe(name, model), recipe_overrides(options))
    if chooses_weights(options):  # the plan looks for weights
        recipe = replace(recipe, frozen_epochs=0, freeze_bn=False)
    elif name == "finetune" and weights is None:
        raise ConfigError("recipe finetune needs trained weights; name a model file with --from")
    return RunConfig(
        model,
        data,
        recipe,
        **_given_options(options, *RUN_FIELDS),
        weights=weights,
    )


def _model_file(weights: Path) -> str:
    """Return the name or path of initial weights; a file of weights is converted, and what is assumed is printed."""
    from resnetlab.models.pretrained.from_file import model_file_of

    def log(line: str) -> None:
        if process_group_from_env().is_first:
            print(f"resnetlab: {line}", file=sys.stderr)

    return model_file_of(str(weights), log)


DATA_FIELDS = ("split_seed", "train_images", "image_size")
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
RUN_FIELDS = (
    "seed",
    "precision",
    "layout",
    "compile",
    "threads",
    "sync_bn",
    "grad_accum_steps",
    "activation_checkpointing",
    "device",
    "fit_temperature",
)


def override_config(config: RunConfig, options: Options) -> RunConfig:
    """Return a run's configuration, with its values replaced by the options that are given.

    A recipe whose learning rate is proportional to the batch size scales the run's learning rate with `batch_size`.
    """
    from resnetlab.models.zoo import model_config
    from resnetlab.training.recipe_settings import named_recipe
    from resnetlab.training.recipes import FITTED_FIELDS, change_recipe

    model: ModelConfig = model_config(options.model) if options.model else config.model
    base = named_recipe(options.recipe, model) if options.recipe else config.recipe
    own = {} if options.recipe else {name: getattr(base, name) for name in FITTED_FIELDS}  # the run's own stay
    recipe = change_recipe(base, {**own, **recipe_overrides(options)})
    data = replace(config.data, **_given_options(options, *DATA_FIELDS), **options.reading.changes())
    if options.data is not None:
        data = replace(data, name=options.data)
    values = {"model": model, "data": data, "recipe": recipe, **_given_options(options, *RUN_FIELDS)}
    if options.weights is not None:
        given = given_weights(options)
        values["weights"] = None if given is None else _model_file(given)
    if options.minutes not in (None, config.minutes):
        raise ConfigError("--minutes plans a new run; add --fresh to start over, or another folder with --out")
    return replace(config, **values)


def runtime_options(options: Options, out: Path | None = None) -> "RuntimeOptions":
    """Return the options that do not affect the result of the run in `out`.

    Raises:
        ConfigError: for a value out of range.
    """
    from resnetlab.system.cores import usable_cores
    from resnetlab.training.runtime_options import RuntimeOptions

    has_length = any((options.recipe, options.minutes)) or bool({"epochs", "steps"} & recipe_overrides(options).keys())
    is_agreed = options.yes or has_length or (out is not None and _continues(options, out))
    workers = max(1, usable_cores() // local_world_size()) if options.workers is None else options.workers
    if not 1 <= options.timeout_s <= MAX_TIMEOUT_S:
        raise ConfigError(f"timeout must be from 1 to {MAX_TIMEOUT_S:,}, not {options.timeout_s:g}")
    return RuntimeOptions(
        workers=workers,
        cache_gib=options.cache_gib,
        resume=True,
        fresh=options.fresh and restart_count() == 0,  # a run that torchrun restarts continues
        allow_config_change=options.allow_config_change,
        checkpoint_s=options.checkpoint_s,
        checkpoint_steps=options.checkpoint_steps,
        keep_states_epochs=options.keep_states,
        track=options.track,
        max_expected_s=None if is_agreed else MAX_UNASKED_S,
    )


def _check_paths(config: RunConfig, out: Path) -> None:
    """Raise `ConfigError` for an unusable path, before the seconds that PyTorch takes to load."""
    from resnetlab.data.registry import detect_kind

    detect_kind(config.data)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; name a folder with --out")
    start = None if config.weights is None else Path(config.weights).resolve()
    if start in (out.resolve(), (out / "model.safetensors").resolve()):
        raise ConfigError(
            f"the run in {out} would overwrite its initial weights {config.weights}; name another folder with --out"
        )


def recipe_overrides(options: Options) -> dict[str, Any]:
    """Return the fields of the recipe that the options give."""
    from resnetlab.training.recipe_settings import recipe_changes

    switches = {"freeze_bn": options.freeze_bn, "balanced_order": options.balanced_order}
    on = {name: None if value is None else value == "on" for name, value in switches.items()}
    return recipe_changes({**_given_options(options, *RECIPE_FIELDS), **on}, options.set)


def _given_options(options: Options, *names: str) -> dict[str, Any]:
    values = {name: getattr(options, name) for name in names}
    return {name: value for name, value in values.items() if value is not None and value is not False}
