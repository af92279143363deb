"""A survey of a user's images before a training is planned: numbers, sizes of a sample, and the time of decoding."""

import time
from contextlib import suppress
from dataclasses import dataclass

from resnetlab.config import DataConfig
from resnetlab.data.images.decode import decode_eval_view
from resnetlab.data.images.errors import BadImageError
from resnetlab.data.images.eval_view import EvalView
from resnetlab.data.images.scan import scan_headers
from resnetlab.data.images.storage import ImageStorage, read_image_bytes
from resnetlab.data.list_dataset import list_dataset
from resnetlab.data.listing import DatasetListing
from resnetlab.data.registry import KNOWN_DATASETS, LISTED_KINDS, detect_kind, is_url
from resnetlab.data.splits import split_sizes
from resnetlab.planning.workload import KNOWN_STATS, MAX_HEADERS

MAX_DECODED, DECODING_S = 16, 1.0
"""Images that are decoded to measure the time, at most, and seconds after which no other is started."""
DIGITS_HELD_OUT = (270, 270)
"""Images of the digits for validation and test, as `open_data` splits them."""
ASSUMED_DECODE_S = 0.005
"""Time of decoding an image behind an address, in seconds: it is not downloaded for the measurement."""


@dataclass(frozen=True)
class ImageSurvey:
    """Numbers and sizes of the images of a data set."""

    num_train: int
    """Images of the training split, without those held out for validation and test."""
    num_val: int
    num_images: int
    """Images of all splits, those outside a training subset included."""
    num_evaluated: int
    """Images of all splits that are used."""
    num_classes: int
    sizes: tuple[tuple[int, int], ...]
    """Height and width in pixels of a sample of the images."""
    decode_s: float = 0.0
    """Time in seconds that one thread needs to decode an image and resize it to 224 pixels."""

    @property
    def side(self) -> int:
        """The median of the shorter sides, in pixels."""
        sides = sorted(min(size) for size in self.sizes)
        return sides[len(sides) // 2]

    @property
    def native_side(self) -> int | None:
        """The side of the images if all of the sample are squares of one size, in pixels."""
        first = self.sizes[0]
        return first[0] if all(size == (first[0], first[0]) for size in self.sizes) else None


def survey_images(config: DataConfig) -> ImageSurvey:
    """Count the images of a data set, and read the headers of a sample; a few images are decoded to measure the time.

    Raises:
        ConfigError: as for `list_dataset`.
    """
    if detect_kind(config) not in LISTED_KINDS:
        return _known_survey(config)
    listing = list_dataset(config)
    num_images = sum(map(len, listing.splits.values()))
    sizes = split_sizes({name: split.image_counts() for name, split in listing.splits.items()})
    whole_train = sizes["train"]
    num_train = min(whole_train, config.train_images or whole_train)
    sample = _sample(listing)
    headers, _ = scan_headers([""] * len(sample), sample, config.max_megapixels * 1_000_000)
    found = [(header, place) for header, place in zip(headers, sample, strict=True) if header is not None]
    decode_s = ASSUMED_DECODE_S if is_url(config.name) else _decoding_time([place for _, place in found])
    return ImageSurvey(
        num_train,
        sizes["val"],
        num_images=num_images,
        num_evaluated=num_images - whole_train + num_train,
        num_classes=len(listing.classes),
        sizes=tuple((header.height, header.width) for header, _ in found) or ((224, 224),),
        decode_s=decode_s,
    )


def _known_survey(config: DataConfig) -> ImageSurvey:
    """Return the survey of a data set that is known by name and stays decoded in memory."""
    stats = KNOWN_STATS[config.name]
    num_known, num_test = KNOWN_DATASETS[config.name].num_images
    num_val, num_test = DIGITS_HELD_OUT if config.name == "digits" else (num_known - stats.num_train, num_test)
    num_train = min(stats.num_train, config.train_images or stats.num_train)
    num_classes = 100 if config.name == "cifar100" else 10
    side = stats.image_size
    return ImageSurvey(
        num_train,
        num_val,
        num_images=stats.num_train + num_val + num_test,
        num_evaluated=num_train + num_val + num_test,
        num_classes=num_classes,
        sizes=((side, side),),
    )


def _sample(listing: DatasetListing) -> list[ImageStorage]:
    """Return the places of some images of each split, evenly spaced."""
    places: list[ImageStorage] = []
    for split in listing.splits.values():
        places += list(split.storage[:: max(1, -(-len(split) // MAX_HEADERS))])
    return places


def _decoding_time(places: list[ImageStorage]) -> float:
    """Return the mean seconds of decoding an image, over some evenly spaced ones; 0 if none can be decoded."""
    view, times_s = EvalView(224, 224, 0.875), []
    begin_s = time.perf_counter()
    for place in places[:: max(1, len(places) // MAX_DECODED)][:MAX_DECODED]:
        start_s = time.perf_counter()
        if start_s - begin_s > DECODING_S:
            break
        with suppress(BadImageError, OSError):
            decode_eval_view(read_image_bytes(place), view)
            times_s.append(time.perf_counter() - start_s)
    return sum(times_s) / len(times_s) if times_s else 0.0
