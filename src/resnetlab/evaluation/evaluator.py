"""Networks in files, and images → a judgement: data opened as each network sees it, classes matched by name."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from resnetlab.config import ConfigError, DataConfig, RunConfig
from resnetlab.data.dataset import Split
from resnetlab.data.eval_dataset import EvalDataset, open_eval_dataset, original_images
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.registry import dataset_path, dataset_title
from resnetlab.data.shards.remote import CACHE_GIB
from resnetlab.evaluation.bn_recalibration import recalibrate_bn
from resnetlab.evaluation.class_matching import check_channels, match_classes
from resnetlab.evaluation.crops import multi_scale_sides, shorter_side
from resnetlab.evaluation.predictions import Predictions
from resnetlab.evaluation.protocols import Scores, collect_predictions, ensemble, multi_scale, one_crop, ten_crop
from resnetlab.inference.engines.base import Backend, Engine
from resnetlab.inference.formats.exported_file import is_exported_file
from resnetlab.inference.open_engine import open_engine
from resnetlab.models.model_file import ModelCard, load_model
from resnetlab.models.resnet import ResNet
from resnetlab.serialization import from_json
from resnetlab.system.process_group import ProcessGroup

Protocol = Literal["one-crop", "ten-crop", "multi-scale", "ensemble"]


@dataclass(frozen=True)
class EvaluationOptions:
    """How networks are to be judged."""

    protocol: Protocol = "one-crop"
    """`ensemble` is one crop, averaged over several networks; several may also share any other protocol."""
    split: str | None = None
    """One of `data.judged.SPLITS`; chosen as `open_eval_dataset` says if not given."""
    sides: tuple[int, ...] = ()
    """Shorter sides in pixels: one for `ten-crop`, some for `multi-scale`; the paper's, in proportion, if empty."""
    recalibrate_bn: bool = False
    """Estimate the statistics of batch normalisation anew on training images."""
    allow_missing_classes: bool = False
    """Judge on data that lack some of the network's classes."""
    on_bad_image: Literal["fail", "skip"] = "fail"
    device: str = "cpu"
    """Where PyTorch computes."""
    workers: int = 0
    """Threads that decode."""
    backend: Backend | Literal["auto"] | None = None
    """What computes; if not given, PyTorch for a model file, and what reads it for an exported file."""
    cache_gib: float = CACHE_GIB
    """GiB of the cache for shards behind an address, at most."""

    def __post_init__(self) -> None:
        if self.sides and self.protocol not in ("ten-crop", "multi-scale"):
            raise ConfigError(f"shorter sides are for ten-crop and multi-scale; {self.protocol} has one of its own")
        if len(self.sides) > 1 and self.protocol == "ten-crop":
            raise ConfigError(f"ten-crop takes one shorter side, not {len(self.sides)}; several are for multi-scale")
        if not 0 < self.cache_gib < math.inf:
            raise ConfigError(f"cache-gib must be above 0, and a number, not {self.cache_gib:g}")
        if self.backend in ("onnxruntime", "openvino") and self.device != "cpu":
            raise ConfigError(f"{self.backend} computes on the CPU, and not on {self.device}; leave out --device")


@dataclass(frozen=True)
class EnsembleMember:
    """One network, and the images as it sees them."""

    file: Path
    model: ResNet | Engine
    card: ModelCard
    judged: EvalDataset
    labels: Tensor
    """Of each sample: the number that the first network gives its class."""
    columns: Tensor
    """Of each class of the first network: the number this one gives it."""
    recalibrated_on: int = 0
    """Training images that its statistics were estimated on."""

    @property
    def computed_by(self) -> str:
        """The runtime and what it computes in, in words."""
        return "torch fp32" if isinstance(self.model, ResNet) else f"{self.model.backend} {self.model.precision}"

    def sides(self, terms: EvaluationOptions) -> tuple[int, ...]:
        """Return the shorter sides, in pixels, at which it looks at an image."""
        if terms.protocol == "ten-crop":
            return terms.sides or (shorter_side(self.card.preprocessing),)
        return terms.sides or multi_scale_sides(self.card.preprocessing)

    def scores(self, terms: EvaluationOptions, samples: Tensor) -> Scores:
        """Judge some samples; positions count within `samples`, classes are numbered as the first network does."""
        preprocessing, labels, split = self.card.preprocessing, self.labels[samples], self.judged.split
        if terms.protocol in ("one-crop", "ensemble"):
            part = Split(_some(split.images, samples), labels).to(torch.device(terms.device))
            found = one_crop(self.model, part, preprocessing, workers=terms.workers)
        else:
            whole = Split(original_images(self.judged), self.labels).shown_in(self.card.model.in_channels)
            images = _some(whole.images, samples)
            sides = self.sides(terms)
            if terms.protocol == "ten-crop":
                found = ten_crop(self.model, images, labels, preprocessing, sides[0], workers=terms.workers)
            else:
                assert isinstance(self.model, ResNet)  # `open_members` takes no other
                found = multi_scale(self.model, images, labels, preprocessing, sides, workers=terms.workers)
        for positions, its, logs in found:
            yield positions, its, logs[:, self.columns]


def open_members(
    files: Sequence[Path],
    data: DataConfig | None,
    terms: EvaluationOptions,
    on_progress: Callable[[str, int, int], None] | None,
    tell: Callable[[str], None] | None = None,
    world: ProcessGroup = ProcessGroup(),  # noqa: B008  # frozen
) -> list[EnsembleMember]:
    """Load networks, and open the same images for each; without `data` those that the network was trained on.

    `tell` hears which runtime was found to be the fastest, where that is asked for; of several processes of `world` the
    first one finds it for all.

    Raises:
        ConfigError: for a file that is no network of this project or cannot be judged so, data that cannot be opened,
            classes or channels that differ, or networks that held out different images.
    """
    members: list[EnsembleMember] = []
    for file in files:
        model, card = _load(file, terms, tell, world)
        config = data_config(card, data, file)
        judged = _open(card, replace(config, on_bad_image=terms.on_bad_image), terms, on_progress)
        judged = replace(judged, split=judged.split.shown_in(card.model.in_channels))
        check_channels(card, judged.split.channels, judged.title)
        numbers = match_classes(
            card.classes, judged.classes, file.name, judged.title, allow_missing=terms.allow_missing_classes
        )
        columns = torch.arange(len(card.classes))
        if members:
            first = members[0]
            judged = replace(judged, split=_in_order(judged, first.judged, file, first.file))
            columns = match_classes(card.classes, first.card.classes, file.name, first.file.name)
            labels = first.labels
        else:
            labels = numbers[judged.split.labels]
        num_images = 0
        if terms.recalibrate_bn and isinstance(model, ResNet):
            train = _open(card, judged.config, replace(terms, split="train"), on_progress).split
            train = train.shown_in(card.model.in_channels).to(torch.device(terms.device))
            num_images = recalibrate_bn(model, train, card.preprocessing, workers=terms.workers)
        members.append(EnsembleMember(file, model, card, judged, labels, columns, num_images))
    return members


def evaluate_members(
    members: Sequence[EnsembleMember],
    terms: EvaluationOptions,
    *,
    rank: int = 0,
    of: int = 1,
    tell: Callable[[int], None] | None = None,
) -> Predictions:
    """Judge every `of`-th sample from number `rank` on; together the ranks judge each sample exactly once.

    `tell` hears how many samples of this part were judged, by each network alone.
    """
    samples = torch.arange(len(members[0].labels))[rank::of]

    def watched(member: EnsembleMember) -> Scores:
        for positions, labels, logs in member.scores(terms, samples):
            yield positions, labels, logs
            if tell:
                tell(len(positions))

    part = collect_predictions(
        ensemble([lambda member=member: watched(member) for member in members], len(samples)), len(samples)
    )
    return replace(part, positions=samples.numpy()[part.positions])


def data_config(card: ModelCard, data: DataConfig | None, file: Path) -> DataConfig:
    """Return what to open: the data named, with the split seed that training had, or what the network was trained on.

    Raises:
        ConfigError: where neither is known.
    """
    trained = card.provenance.get("config")
    own = from_json(RunConfig, trained).data if trained else None
    if data is None:
        if own is None:
            raise ConfigError(f"{file} does not say what it was trained on; name images with --data")
        return own
    if own is None:
        return data
    if (data.name, dataset_title(data)) == (own.name, dataset_title(own)) or dataset_path(data.name) == dataset_path(
        own.name
    ):
        return replace(own, root=data.root or own.root)
    return replace(data, split_seed=own.split_seed)


def eval_images(judged: EvalDataset, positions: Sequence[int]) -> list[np.ndarray]:
    """Return some images of a split as the network sees them: uint8 (height, width, channels)."""
    samples = torch.tensor(positions, dtype=torch.int64)
    images = _some(judged.split.images, samples)
    pixels = images if isinstance(images, Tensor) else images.views(torch.arange(len(images)))[0]
    return list(pixels.permute(0, 2, 3, 1).cpu().numpy())


def _load(
    file: Path, terms: EvaluationOptions, tell: Callable[[str], None] | None, world: ProcessGroup
) -> tuple[ResNet | Engine, ModelCard]:
    """Return a network: of a model file the very module that training judged, unless another runtime is asked for."""
    if terms.backend in (None, "torch") and not is_exported_file(file):
        model, card = load_model(file)
        return model.to(torch.device(terms.device)), card
    what = "an exported file" if is_exported_file(file) else f"--backend {terms.backend}"
    if terms.protocol == "multi-scale":
        raise ConfigError(f"multi-scale needs a model file and PyTorch: {what} has the size of its images fixed")
    if terms.recalibrate_bn:
        raise ConfigError(f"--recalibrate-bn needs a model file and PyTorch: in {what} no batch normalisation is left")
    device = "cpu" if is_exported_file(file) and file.suffix.lower() != ".pt2" else terms.device
    cores = torch.get_num_threads()  # fewer than there are where the processes of torchrun share them
    return open_engine(file, backend=terms.backend, cores=cores, device=device, tell=tell, world=world)


def _open(
    card: ModelCard, config: DataConfig, terms: EvaluationOptions, on_progress: Callable[[str, int, int], None] | None
) -> EvalDataset:
    provenance = card.provenance
    crop = provenance.get("config", {}).get("recipe", {}).get("crop", "pad")
    return open_eval_dataset(
        config,
        card.preprocessing,
        terms.split,
        trained_on=provenance.get("data", {}).get("fingerprint"),
        keep_encoded=crop != "pad",
        on_progress=on_progress,
        cache_gib=terms.cache_gib,
    )


def _in_order(judged: EvalDataset, first: EvalDataset, file: Path, first_file: Path) -> Split:
    """Return a split with its samples in the order they have for the first network.

    Raises:
        ConfigError: where they are not the same samples.
    """
    names, wanted = judged.split.names, first.split.names
    if judged.name != first.name or sorted(names) != sorted(wanted) or len(judged.split) != len(first.split):
        raise ConfigError(
            f"{file} and {first_file} would be judged on different images of {judged.title}; name a split that the "
            "data come with, such as --split test"
        )
    if names == wanted:
        return judged.split
    at = {name: position for position, name in enumerate(names)}
    order = torch.tensor([at[name] for name in wanted])
    return Split(_some(judged.split.images, order), judged.split.labels[order], wanted)


def _some(images: Tensor | EncodedImages, samples: Tensor) -> Tensor | EncodedImages:
    return images[samples] if isinstance(images, Tensor) else images.subset(samples)
