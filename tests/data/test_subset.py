"""A part of the training images: how many, which, always the same; and everything else as it was."""

import dataclasses
import itertools

import pytest
import torch

from helpers.images import encode, parquet, pictures, resident, tree
from resnetlab.config import ConfigError, DataConfig
from resnetlab.data.dataset import Split
from resnetlab.data.loader import sample_images
from resnetlab.data.open_dataset import open_data
from resnetlab.data.splits import stratified_subset
from resnetlab.data.transforms import normalise

COUNTS = (60, 30, 9, 1)
LABELS = torch.tensor([label for label, count in enumerate(COUNTS) for _ in range(count)])
LABELS = LABELS[torch.randperm(100, generator=torch.Generator().manual_seed(0))]


def counted(count, seed=0):
    return LABELS[stratified_subset(LABELS, count, seed)].bincount(minlength=4).tolist()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 10, 33, 50, 99, 100])
def test_so_many_each_once_and_rising(count):
    chosen = stratified_subset(LABELS, count, 0)
    assert chosen.dtype == torch.int64
    assert len(set(chosen.tolist())) == len(chosen) == count
    assert chosen.tolist() == sorted(chosen.tolist())
    assert set(chosen.tolist()) <= set(range(100))


def test_each_class_has_its_proportion():
    """Rounded up, at the expense of the largest; and none is missing from four images on."""
    for count in range(4, 101):
        shares = [of * count / 100 for of in COUNTS]
        assert all(1 <= got < share + 1 for got, share in zip(counted(count), shares, strict=True))
        assert counted(count)[0] > shares[0] - 3
    assert counted(100) == list(COUNTS)
    assert counted(4) == [1, 1, 1, 1]
    even = torch.arange(1000) % 10
    assert even[stratified_subset(even, 50, 0)].bincount().tolist() == [5] * 10


def test_a_smaller_one_is_within_a_larger():
    chosen = [set(stratified_subset(LABELS, count, 3).tolist()) for count in range(101)]
    assert all(small < large for small, large in itertools.pairwise(chosen))


def test_it_follows_labels_count_and_seed_alone():
    torch.manual_seed(99)
    first = stratified_subset(LABELS, 40, 0)
    torch.manual_seed(5)
    assert torch.equal(stratified_subset(LABELS.clone(), 40, 0), first)
    assert not torch.equal(stratified_subset(LABELS, 40, 1), first)
    assert counted(40, seed=1) == counted(40)
    positions = torch.nonzero(LABELS == 0).flatten()
    assert set(positions[: counted(40)[0]].tolist()) != set(first[LABELS[first] == 0].tolist())  # not just the first


def test_more_than_there_are_is_refused():
    with pytest.raises(ConfigError, match="train_images 101 is more than the 100 images there are to train on"):
        stratified_subset(LABELS, 101, 0)
    with pytest.raises(ConfigError, match="train_images 1258 is more than the 1257 images"):
        open_data(DataConfig("digits", train_images=1258))
    with pytest.raises(ConfigError, match="train_images must be at least 2, not 1"):
        DataConfig("digits", train_images=1)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Digits; the same small colour images as a folder and as parquet; photographs that stay encoded; own splits."""
    root = tmp_path_factory.mktemp("sources")
    tree(root / "folder", {"ant": 60, "bee": 40, "cow": 20})
    files = sorted((root / "folder").glob("*/*.png"))
    labels = [("ant", "bee", "cow").index(file.parent.name) for file in files]
    parquet(root / "pq" / "all.parquet", [file.read_bytes() for file in files], labels, ("ant", "bee", "cow"))
    tree(root / "split", {"train/a": 30, "train/b": 30, "val/a": 5, "val/b": 5, "test/a": 4, "test/b": 4})
    tree(root / "photographs", {"x": 40, "y": 30}, side=20)
    (root / "photographs" / "x" / "wide.png").write_bytes(encode(pictures(1, 24)[0]))
    own = {name: DataConfig(str(root / name)) for name in ("folder", "pq", "split")}
    return {
        "digits": DataConfig(),
        **own,
        "photographs": DataConfig(str(root / "photographs"), image_size=16, resident_mib=0),
    }


def parts(config, **changes):
    return open_data(dataclasses.replace(config, **changes))


def content(image):
    return image.contiguous().numpy().tobytes()


def pixels(split):
    """The images of a split, resident or not, uint8."""
    if isinstance(split.images, torch.Tensor):
        return split.images
    return split.images.begin_views(torch.arange(len(split)), None)()[0]


@pytest.mark.parametrize("name", ["digits", "folder", "pq", "split", "photographs"])
def test_only_the_training_split_is_smaller(sources, name):
    whole, few, fewer = (parts(sources[name], train_images=count) for count in (None, 40, 20))
    assert (len(few.train), len(fewer.train)) == (40, 20)
    assert len(few.train.names) == (0 if name == "digits" else 40)
    for split in ("val", "test"):
        ours, theirs = few.splits[split], whole.splits[split]
        assert ours.names == theirs.names
        assert torch.equal(ours.labels, theirs.labels)
        if len(ours):
            assert torch.equal(pixels(ours), pixels(theirs))
    images = [set(map(content, pixels(data.train))) for data in (fewer, few, whole)]
    assert images[0] < images[1] < images[2]
    assert len({data.fingerprint for data in (whole, few, fewer)}) == 3
    assert few.train.labels.unique().tolist() == whole.train.labels.unique().tolist()
    assert few.train.labels.bincount() / 40 == pytest.approx(whole.train.labels.bincount() / len(whole.train), abs=0.05)
    assert parts(sources[name], train_images=40).fingerprint == few.fingerprint
    assert parts(sources[name], train_images=len(whole.train)).fingerprint == whole.fingerprint


@pytest.mark.parametrize("name", ["digits", "folder", "split", "photographs"])
@pytest.mark.parametrize("seed", [0, 1])
def test_they_are_those_that_subset_chooses(sources, name, seed):
    whole, few = (parts(sources[name], train_images=count, split_seed=seed) for count in (None, 20))
    chosen = stratified_subset(whole.train.labels, 20, seed)
    assert torch.equal(few.train.labels, whole.train.labels[chosen])
    assert torch.equal(pixels(few.train), pixels(whole.train)[chosen])


@pytest.mark.parametrize("name", ["digits", "folder", "photographs"])
def test_what_normalises_is_of_the_subset(sources, name):
    whole, few = (parts(sources[name], train_images=count) for count in (None, 20))
    seen = pixels(few.train).double() / 255
    assert few.preprocessing.mean == pytest.approx(seen.mean((0, 2, 3)).tolist(), abs=1e-5)
    assert few.preprocessing.std == pytest.approx(seen.std((0, 2, 3), correction=0).tolist(), abs=1e-3)
    assert few.preprocessing.mean != pytest.approx(whole.preprocessing.mean, abs=1e-4)


def test_the_container_does_not_matter(sources):
    folder, pq = (parts(sources[name], train_images=30) for name in ("folder", "pq"))
    assert folder.fingerprint == pq.fingerprint
    assert len(folder.train.names) == 30


@pytest.mark.parametrize("name", ["digits", "folder", "photographs"])
def test_some_images_have_their_labels_and_come_from_everywhere(sources, name):
    data = open_data(sources[name])
    seen = normalise(pixels(data.train), data.preprocessing)
    pairs = set(zip(map(content, seen), data.train.labels.tolist(), strict=True))
    images, labels = sample_images(data.train, data.preprocessing, 50)
    assert len(labels) == len(set(map(content, images))) == 50
    assert set(zip(map(content, images), labels.tolist(), strict=True)) <= pairs
    enough = labels if name == "digits" else labels[:20]  # of a folder, samples stand class by class
    assert enough.unique().tolist() == list(range(len(data.classes)))
    torch.manual_seed(4)
    again, same = sample_images(data.train, data.preprocessing, 50)
    assert torch.equal(again, images)
    assert torch.equal(same, labels)
    assert torch.equal(sample_images(data.train, data.preprocessing, 20, workers=2)[0], images[:20])


def test_all_of_them_where_there_are_fewer():
    data = open_data(DataConfig(train_images=12))
    images, labels = sample_images(data.train, data.preprocessing, 500)
    assert len(images) == 12
    assert labels.bincount().tolist() == data.train.labels.bincount().tolist()
    one = Split(resident(data.train)[:1], data.train.labels[:1])
    assert torch.equal(sample_images(one, data.preprocessing, 9)[0], normalise(resident(one), data.preprocessing))
