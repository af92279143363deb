"""`resnetlab plan`: predict what a training will need before it starts."""

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

from resnetlab.cli.data_options import SplitOptions, Splits
from resnetlab.cli.plan_output import print_plan, print_published
from resnetlab.cli.terminal import print_json
from resnetlab.cli.unused_options import refuse_without_effect
from resnetlab.config import ConfigError

if TYPE_CHECKING:
    from resnetlab.config import ModelConfig, Recipe
    from resnetlab.planning.devices import Device
    from resnetlab.planning.image_survey import ImageSurvey
    from resnetlab.planning.plan import Cluster, Workload
    from resnetlab.planning.workload import ImageStats

DECODE_MS = 1.7
"""Time of one core to decode an ImageNet photograph, cropped and resized to 224 pixels:
docs/results/decode-speed.txt."""
MIN_IMAGE_SIZE, MAX_IMAGE_SIZE = 8, 2048
"""Pixels; a network on larger images has too many activations to count here."""
MINIMUM = {
    "devices": 1,
    "batch_size": 1,
    "epochs": 1,
    "steps": 1,
    "image_size": MIN_IMAGE_SIZE,
    "cores": 1,
    "price_per_hour": 0,
    "decode_ms": 0,
}
"""Smallest value of each numeric option; `storage_mb_per_s` must be above 0."""


@dataclass(frozen=True)
class Options:
    """Predict time, memory, traffic, bottleneck and money of a training.

    The prediction is for the training that train starts with the same options: give --batch-size and --precision as
    you will give them to train. For your own images it is that of train --from none, at the usual length: what train
    measures, and which published weights are where it runs, is unknown here.

    Predictions are within 22 % of the published speeds on which the constants were set, and within 35 % of others on
    data-centre cards: --published lists all, and docs/scale.md explains them. Nothing is read or trained; --device
    here measures.
    """

    model: str | None = None
    """Name of a network. By default resnet20 for the small named data sets and for your own images up to 64 pixels, and
    resnet18 for others."""
    data: str = "imagenet"
    """imagenet, cifar10, cifar100, mnist, fashion-mnist or digits; or a data set as for train, whose images are
    counted: a folder of images or of parquet files, shards, or the address of shards."""
    reading: Splits = SplitOptions()
    recipe: str | None = None
    """Name of a recipe, or a file such as my.toml. By default that of train: the paper's for named data sets; for your
    own images that of train --from none."""
    set: tuple[str, ...] = ()
    """Any fields of the recipe, such as batch_size=512."""
    device: str = "h100"
    """v100, a100-40gb, a100, h100 or h200; or here, for cores of this machine, measured for some seconds."""
    devices: int = 8
    """Number of devices, at least 1."""
    batch_size: int | None = None
    """Images of a step over all devices, instead of the recipe's, as in train."""
    epochs: int | None = None
    """Passes over the training images, instead of the recipe's length."""
    steps: int | None = None
    """Length in steps, instead of the recipe's."""
    image_size: int | None = None
    """Side of the network's input in pixels, 8 to 2048. By default that of train: 32 for CIFAR, 224 for ImageNet and
    for shards."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto"
    """As for train: auto selects the faster of fp32 and bf16 for a long run and fp32 for a short one."""
    price_per_hour: float | None = None
    """Price of one device, in any currency."""
    storage_mb_per_s: float | None = None
    """Bandwidth of the storage for all devices together, in 10^6 bytes per second. By default unlimited."""
    cores: int | None = None
    """Processor cores of the host for each device; not with --device here. By default those of the maker's machine."""
    decode_ms: float = DECODE_MS
    """Milliseconds in which one core decodes, crops and resizes an image; not used for images that train stores in
    memory decoded."""
    published: bool = False
    """Only print published speeds and the predictions for them."""
    json: bool = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Predict a training and print the plan.

    Raises:
        ConfigError: If a name is unknown or a value is invalid.
    """
    if options.published:
        refuse_without_effect(options, ("published", "json"), "--published")
        return print_published(as_json=options.json)
    options, work, cluster = resolve_plan(options)
    from resnetlab.planning.plan import plan

    prediction = plan(work, cluster)
    if options.json:
        print_json(
            {
                "model": options.model,
                "data": options.data,
                "recipe": options.recipe,
                "device": cluster.device.name,
                "devices": cluster.num_devices,
                "batch_size": work.batch_size,
                "precision": work.precision,
                **asdict(prediction),
            }
        )
    else:
        print_plan(prediction, work, cluster, options=options)
    return 0


def resolve_plan(options: Options) -> "tuple[Options, Workload, Cluster]":
    """Return the options with the names of model and recipe filled in, the workload, and the cluster."""
    check_options(options)
    from resnetlab.system.allocator import use_huge_pages

    use_huge_pages()  # as in train, before PyTorch is imported: a core of this machine may be measured
    from resnetlab.planning.devices import HERE, find_device
    from resnetlab.planning.plan import Cluster, predict_image_s
    from resnetlab.planning.workload import build_workload, image_stats, measure_local_core

    device, stats = find_device(options.device), image_stats(options.data, asdict(options.reading))
    model, recipe, image_size = resolve_training(options, stats)
    if device.name == HERE and options.devices > device.devices_per_node:
        raise ConfigError(
            f"{options.devices} devices on this machine of {device.devices_per_node} cores; use fewer --devices"
        )
    if options.cores is not None:
        if device.name == HERE:
            raise ConfigError("--cores is for the hosts of other devices; with --device here give --devices, the cores")
        device = replace(device, cores=options.cores)
    work = build_workload(model, stats, recipe, image_size=image_size, half=False)
    cluster = Cluster(
        num_devices=options.devices,
        device=device,
        decode_s=options.decode_ms / 1000 if work.image_bytes else 0.0,
        storage_bytes_per_s=None if options.storage_mb_per_s is None else options.storage_mb_per_s * 1e6,
        price_per_hour=options.price_per_hour,
    )
    candidates: list[tuple[Workload, Cluster]] = []
    for half in half_precisions(options.precision, work, device):
        candidate = replace(work, half=half, tf32=options.precision == "tf32")
        measured_cluster = cluster
        if device.name == HERE:
            image_s = measure_local_core(model, candidate, options.devices) + cluster.decode_s
            measured_cluster = replace(cluster, image_s=image_s, decode_s=0.0)
        candidates.append((candidate, measured_cluster))
    work, cluster = min(candidates, key=lambda pair: predict_image_s(*pair))
    return replace(options, model=options.model or model.name, recipe=recipe.name), work, cluster


def resolve_training(options: Options, stats: "ImageStats") -> "tuple[ModelConfig, Recipe, int | None]":
    """Return network, recipe and image size that `train` uses with the same options on images of these statistics.

    The size is `None` if it is that of the images. For one's own images the training is that of random weights, at the
    usual length: what `train` measures is unknown here.
    """
    from resnetlab.models.zoo import model_config
    from resnetlab.planning.workload import KNOWN_STATS
    from resnetlab.training.default_plan import network_for, recipe_for, small_size
    from resnetlab.training.recipe_settings import named_recipe, recipe_changes
    from resnetlab.training.recipes import change_recipe, default_recipe

    changes = recipe_changes({name: getattr(options, name) for name in ("batch_size", "epochs", "steps")}, options.set)
    if options.data in KNOWN_STATS:
        model = model_config(options.model or ("resnet18" if options.data == "imagenet" else "resnet20"))
        named = named_recipe(options.recipe or default_recipe(options.data, model), model)
        return model, change_recipe(named, changes), options.image_size
    survey = _survey(stats)
    network = network_for(survey)[0]
    model = model_config(options.model or network.model)
    image_size = options.image_size
    if image_size is None and (options.model is None or options.recipe is None):  # with both, train plans nothing
        image_size = small_size(survey) if model.stem == "cifar" else network.image_size
    if options.recipe is not None:
        return model, change_recipe(named_recipe(options.recipe, model), changes), image_size
    name, fields = recipe_for(survey.num_train, is_pretrained=False, steps_given="steps" in changes)
    return model, change_recipe(change_recipe(named_recipe(name, model), fields), changes), image_size


def _survey(stats: "ImageStats") -> "ImageSurvey":
    """Return the statistics of one's own images as `train` has them, as far as they are known undecoded."""
    from resnetlab.planning.image_survey import ImageSurvey

    return ImageSurvey(
        num_train=stats.num_train,
        num_val=0,
        num_images=stats.num_images,
        num_evaluated=stats.num_images,
        num_classes=0,
        sizes=stats.sizes,
    )


def half_precisions(requested: str, work: "Workload", device: "Device") -> tuple[bool, ...]:
    """Return whether `train` would compute in 16 bits; both values if it would measure which precision is faster.

    Raises:
        ConfigError: If bf16 is requested for a device without it.
    """
    from resnetlab.training.execution.select_execution import LONG_RUN_S, StepLoad

    if requested == "bf16" and not device.bf16:
        raise ConfigError(f"{device.name} does not compute in bf16; use --precision fp32 or another --device")
    if requested == "tf32" and device.tf32_ops_per_s is None:
        raise ConfigError(f"{device.name} has no TF32; use --precision fp32 or another --device")
    if requested != "auto":
        return (requested == "bf16",)
    macs = max(cost.macs for cost, _, _ in work.costs)
    short = StepLoad(macs, work.steps, work.batch_size).slow_s < LONG_RUN_S
    return (False,) if short or not device.bf16 else (False, True)


def check_options(options: Options) -> None:
    """Raise `ConfigError` for a numeric option that is out of range."""
    for name in (*MINIMUM, "storage_mb_per_s"):
        option, value = name.replace("_", "-"), getattr(options, name)
        if value is None:
            continue
        if not math.isfinite(value):
            raise ConfigError(f"{option} must be a number, not {value}")
        if value < MINIMUM.get(name, 0):
            raise ConfigError(f"{option} must be at least {MINIMUM[name]}, not {value:g}")
        if name not in MINIMUM and value <= 0:
            raise ConfigError(f"{option} must be above 0, not {value:g}")
    if options.image_size is not None and options.image_size > MAX_IMAGE_SIZE:
        raise ConfigError(f"image-size must be at most {MAX_IMAGE_SIZE}, not {options.image_size}")
