"""Training subsets: size, class proportions and determinism; other splits stay the same."""

import dataclasses
import itertools

import pytest
import torch

from helpers.images import encode, random_images, resident_images, write_parquet, write_tree
from resnetlab.config import ConfigError, DataConfig
from resnetlab.data.dataset import Split
from resnetlab.data.loader import sample_images
from resnetlab.data.open_dataset import open_data
from resnetlab.data.splits import stratified_subset
from resnetlab.data.transforms import normalise

COUNTS = (60, 30, 9, 1)
LABELS = torch.tensor([label for label, count in enumerate(COUNTS) for _ in range(count)])
LABELS = LABELS[torch.randperm(100, generator=torch.Generator().manual_seed(0))]


def class_counts(count, seed=0):
    return LABELS[stratified_subset(LABELS, count, seed)].bincount(minlength=4).tolist()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 10, 33, 50, 99, 100])
def test_a_subset_has_unique_ascending_positions(count):
    subset = stratified_subset(LABELS, count, 0)
    assert subset.dtype == torch.int64
    assert len(set(subset.tolist())) == len(subset) == count
    assert subset.tolist() == sorted(subset.tolist())
    assert set(subset.tolist()) <= set(range(100))


def test_each_class_has_its_proportion():
    """Counts are rounded up at the expense of the largest class; no class is missing from four images on."""
    for count in range(4, 101):
        shares = [size * count / 100 for size in COUNTS]
        assert all(1 <= number < share + 1 for number, share in zip(class_counts(count), shares, strict=True))
        assert class_counts(count)[0] > shares[0] - 3
    assert class_counts(100) == list(COUNTS)
    assert class_counts(4) == [1, 1, 1, 1]
    even = torch.arange(1000) % 10
    assert even[stratified_subset(even, 50, 0)].bincount().tolist() == [5] * 10


def test_a_smaller_subset_is_contained_in_a_larger_one():
    subsets = [set(stratified_subset(LABELS, count, 3).tolist()) for count in range(101)]
    assert all(small < large for small, large in itertools.pairwise(subsets))


def test_a_subset_depends_on_labels_count_and_seed_alone():
    torch.manual_seed(99)
    first = stratified_subset(LABELS, 40, 0)
    torch.manual_seed(5)
    assert torch.equal(stratified_subset(LABELS.clone(), 40, 0), first)
    assert not torch.equal(stratified_subset(LABELS, 40, 1), first)
    assert class_counts(40, seed=1) == class_counts(40)
    positions = torch.nonzero(LABELS == 0).flatten()
    assert set(positions[: class_counts(40)[0]].tolist()) != set(
        first[LABELS[first] == 0].tolist()
    )  # not just the first positions


def test_a_subset_larger_than_the_training_set_is_refused():
    with pytest.raises(
        ConfigError, match="train_images 101 is more than the 100 training images; use at most that many"
    ):
        stratified_subset(LABELS, 101, 0)
    with pytest.raises(ConfigError, match="train_images 1258 is more than the 1257 training images"):
        open_data(DataConfig("digits", train_images=1258))
    with pytest.raises(ConfigError, match="train_images must be at least 2, not 1"):
        DataConfig("digits", train_images=1)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Return configs of digits, equal images as folder and parquet, encoded images, and a folder with own splits."""
    root = tmp_path_factory.mktemp("sources")
    write_tree(root / "folder", {"ant": 60, "bee": 40, "cow": 20})
    files = sorted((root / "folder").glob("*/*.png"))
    labels = [("ant", "bee", "cow").index(file.parent.name) for file in files]
    write_parquet(root / "pq" / "all.parquet", [file.read_bytes() for file in files], labels, ("ant", "bee", "cow"))
    write_tree(root / "split", {"train/a": 30, "train/b": 30, "val/a": 5, "val/b": 5, "test/a": 4, "test/b": 4})
    write_tree(root / "photographs", {"x": 40, "y": 30}, side=20)
    (root / "photographs" / "x" / "wide.png").write_bytes(encode(random_images(1, 24)[0]))
    own = {name: DataConfig(str(root / name)) for name in ("folder", "pq", "split")}
    return {
        "digits": DataConfig(),
        **own,
        "photographs": DataConfig(str(root / "photographs"), image_size=16, resident_mib=0),
    }


def open_with(config, **changes):
    return open_data(dataclasses.replace(config, **changes))


def image_bytes(image):
    return image.contiguous().numpy().tobytes()


def pixels(split):
    """Return the evaluation views of a split, resident or encoded, uint8."""
    if isinstance(split.images, torch.Tensor):
        return split.images
    return split.images.decode_eval_views(torch.arange(len(split)))[0]


@pytest.mark.parametrize("name", ["digits", "folder", "pq", "split", "photographs"])
def test_only_the_training_split_is_smaller(sources, name):
    whole, few, fewer = (open_with(sources[name], train_images=count) for count in (None, 40, 20))
    assert (len(few.train), len(fewer.train)) == (40, 20)
    assert len(few.train.names) == (0 if name == "digits" else 40)
    for split in ("val", "test"):
        ours, theirs = few.splits[split], whole.splits[split]
        assert ours.names == theirs.names
        assert torch.equal(ours.labels, theirs.labels)
        if len(ours):
            assert torch.equal(pixels(ours), pixels(theirs))
    images = [set(map(image_bytes, pixels(data.train))) for data in (fewer, few, whole)]
    assert images[0] < images[1] < images[2]
    assert len({data.fingerprint for data in (whole, few, fewer)}) == 3
    assert few.train.labels.unique().tolist() == whole.train.labels.unique().tolist()
    assert few.train.labels.bincount() / 40 == pytest.approx(whole.train.labels.bincount() / len(whole.train), abs=0.05)
    assert open_with(sources[name], train_images=40).fingerprint == few.fingerprint
    assert open_with(sources[name], train_images=len(whole.train)).fingerprint == whole.fingerprint


@pytest.mark.parametrize("name", ["digits", "folder", "split", "photographs"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_training_images_are_those_of_stratified_subset(sources, name, seed):
    whole, few = (open_with(sources[name], train_images=count, split_seed=seed) for count in (None, 20))
    subset = stratified_subset(whole.train.labels, 20, seed)
    assert torch.equal(few.train.labels, whole.train.labels[subset])
    assert torch.equal(pixels(few.train), pixels(whole.train)[subset])


@pytest.mark.parametrize("name", ["digits", "folder", "photographs"])
def test_normalisation_is_computed_from_the_subset(sources, name):
    whole, few = (open_with(sources[name], train_images=count) for count in (None, 20))
    seen = pixels(few.train).double() / 255
    assert few.preprocessing.mean == pytest.approx(seen.mean((0, 2, 3)).tolist(), abs=1e-5)
    assert few.preprocessing.std == pytest.approx(seen.std((0, 2, 3), correction=0).tolist(), abs=1e-3)
    assert few.preprocessing.mean != pytest.approx(whole.preprocessing.mean, abs=1e-4)


def test_the_container_format_does_not_change_the_subset(sources):
    folder, pq = (open_with(sources[name], train_images=30) for name in ("folder", "pq"))
    assert folder.fingerprint == pq.fingerprint
    assert len(folder.train.names) == 30


@pytest.mark.parametrize("name", ["digits", "folder", "photographs"])
def test_sampled_images_have_their_labels_and_come_from_the_whole_split(sources, name):
    data = open_data(sources[name])
    seen = normalise(pixels(data.train), data.preprocessing)
    pairs = set(zip(map(image_bytes, seen), data.train.labels.tolist(), strict=True))
    images, labels = sample_images(data.train, data.preprocessing, 50)
    assert len(labels) == len(set(map(image_bytes, images))) == 50
    assert set(zip(map(image_bytes, images), labels.tolist(), strict=True)) <= pairs
    enough = labels if name == "digits" else labels[:20]  # the samples of a folder are sorted by class
    assert enough.unique().tolist() == list(range(len(data.classes)))
    torch.manual_seed(4)
    again, same = sample_images(data.train, data.preprocessing, 50)
    assert torch.equal(again, images)
    assert torch.equal(same, labels)
    assert torch.equal(sample_images(data.train, data.preprocessing, 20, workers=2)[0], images[:20])


def test_sample_images_returns_all_if_there_are_fewer():
    data = open_data(DataConfig(train_images=12))
    images, labels = sample_images(data.train, data.preprocessing, 500)
    assert len(images) == 12
    assert labels.bincount().tolist() == data.train.labels.bincount().tolist()
    one = Split(resident_images(data.train)[:1], data.train.labels[:1])
    assert torch.equal(
        sample_images(one, data.preprocessing, 9)[0], normalise(resident_images(one), data.preprocessing)
    )
