"""One split of a data set to judge a network on, seen as that network sees images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from resnetlab.config import ConfigError, DataConfig, Preprocessing
from resnetlab.data.dataset import Dataset, Split
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.images.packed_sequences import concatenate as join_columns
from resnetlab.data.images.scan import Progress
from resnetlab.data.open_dataset import list_dataset, open_data, open_listing
from resnetlab.data.readers.cifar_mnist import read_archive
from resnetlab.data.registry import LISTED, DatasetListing, dataset_title, detect_kind
from resnetlab.data.shards.remote import CACHE_GIB

SPLITS = ("test", "val", "train", "all")
"""What can be judged on. A split that the data set does not come with is the part that training held out."""


@dataclass(frozen=True)
class EvalDataset:
    """Some images with labels, and where they come from."""

    config: DataConfig
    classes: tuple[str, ...]
    name: str
    """Of the split: one of `SPLITS`."""
    split: Split
    seen_in_training: bool
    """Whether the network was trained on some of these very images."""
    skipped: tuple[str, ...] = ()
    """Images left out because they cannot be read, each as `NAME: REASON`."""
    warnings: tuple[str, ...] = ()
    contents: DatasetListing | None = None
    """The listing of a folder or of parquet files."""

    @property
    def title(self) -> str:
        """What people call the data set."""
        return dataset_title(self.config)


def open_eval_dataset(
    config: DataConfig,
    seen_as: Preprocessing,
    which: str | None = None,
    *,
    trained_on: str | None = None,
    keep_encoded: bool = False,
    on_progress: Progress | None = None,
    cache_gib: float = CACHE_GIB,
) -> EvalDataset:
    """Open a split to judge a network on; of data with a split of that name no other is looked at.

    Args:
        config: What to open; its `split_seed` and `train_images` as in training, so that the parts are the same.
        seen_as: The network's preprocessing.
        which: One of `SPLITS`. If not given: the test split, or else the validation split, that the data come with;
            what training held out for its test where these are the data it was trained on; else all images.
        trained_on: Fingerprint of the data that the network was trained on.
        keep_encoded: As in training, see `open_data`: the fingerprint depends on it.
        on_progress: As for `open_data`.
        cache_gib: As for `open_data`.

    Raises:
        ConfigError: where the split is not there, and as `open_data` does.
    """
    kind = detect_kind(config)
    contents = list_dataset(config, cache_gib) if kind in LISTED else None
    own = tuple(contents.splits) if contents else SPLITS[:3] if kind == "digits" else ("train", "test")
    wanted = which or next((name for name in ("test", "val") if name in own), None)
    whole = wanted in (None, "all") and trained_on is None
    if contents and (whole or (wanted in ("test", "val") and wanted in own)):
        name = wanted or "all"
        listed = replace(contents, splits={name: contents.splits[name]}) if name in own else contents
        split, bad = open_listing(listed, config, seen_as, keep_encoded=keep_encoded, on_progress=on_progress)
        return EvalDataset(config, contents.classes, name, split, False, bad, contents.warnings, contents)
    data = open_data(config, keep_encoded=keep_encoded, seen_as=seen_as, on_progress=on_progress, cache_gib=cache_gib)
    same = data.fingerprint == trained_on
    wanted = wanted or ("test" if same and len(data.test) else "all")
    split = concat_splits(list(data.splits.values())) if wanted == "all" else data.splits[wanted]
    if len(split) == 0:
        there = ", ".join(name for name, some in data.splits.items() if len(some))
        raise ConfigError(f"{data.name} has no {wanted} split; choose one of {there}, all with --split")
    seen = same and wanted in ("train", "all")
    return EvalDataset(config, data.classes, wanted, split, seen, data.skipped, _kept(data), contents)


def concat_splits(splits: Sequence[Split]) -> Split:
    """Put splits of one data set together, in their order."""
    splits = [split for split in splits if len(split)]
    labels, names = torch.cat([split.labels for split in splits]), join_columns([split.names for split in splits])
    encoded = [split.images for split in splits if isinstance(split.images, EncodedImages)]
    if not encoded:
        return Split(torch.cat([split.images for split in splits if isinstance(split.images, Tensor)]), labels, names)
    places, sizes = join_columns([some.places for some in encoded]), torch.cat([some.sizes for some in encoded])
    return Split(replace(encoded[0], places=places, names=names, sizes=sizes), labels, names)


def original_images(judged: EvalDataset) -> Tensor | EncodedImages:
    """Return the images of a split as they came, not yet resized to what a network sees, in the same order.

    uint8 (num_samples, channels, height, width), or encoded.
    """
    config, images, names = judged.config, judged.split.images, judged.split.names
    if isinstance(images, EncodedImages):
        return images
    if judged.contents is not None:
        listings = judged.contents.splits.values()
        places = dict(pair for one in listings for pair in zip(one.names, one.places, strict=True))
        unknown = torch.zeros(len(names), 2, dtype=torch.int64)
        skip, max_pixels = config.on_bad_image == "skip", config.max_megapixels * 1_000_000
        return EncodedImages([places[name] for name in names], names, unknown, 1, 1.0, skip, max_pixels)
    if detect_kind(config) == "digits":  # rows are drawn by their number: the same, whatever size they are seen at
        data = open_data(replace(config, image_size=None))
        split = concat_splits(list(data.splits.values())) if judged.name == "all" else data.splits[judged.name]
        assert isinstance(split.images, Tensor)
        return split.images
    archive = read_archive(config)
    rows = {name: row for row, name in enumerate(archive.train.names + archive.test.names)}
    return torch.cat([archive.train.images, archive.test.images])[[rows[name] for name in names]]


def _kept(data: Dataset) -> tuple[str, ...]:
    """Return the warnings that concern whoever judges: nobody needs a test split to judge another."""
    return tuple(warning for warning in data.warnings if "no test split" not in warning)
