"""CIFAR and MNIST: unpacked, as archives, downloaded, and damaged."""

import gzip
import hashlib
import io
import struct
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from helpers.web_server import serve_folder
from resnetlab.config import ConfigError, DataConfig
from resnetlab.data.readers.cifar_mnist import cache_folder, read_archive
from resnetlab.data.registry import CIFAR10, IDX, KNOWN_DATASETS
from resnetlab.system import download as download_module

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 3072), dtype=np.uint8)


def records(*labels):
    return b"".join(bytes(np.atleast_1d(label).tolist()) + row.tobytes() for label, row in zip(labels, PIXELS))  # noqa: B905


def cifar10_files():
    return {f"data_batch_{n}.bin": records(n, 0) for n in range(1, 6)} | {"test_batch.bin": records(9, 8, 7)}


def idx_files(images=5, side=28):
    pixels = RNG.integers(0, 256, (images, side, side), dtype=np.uint8)
    header = struct.pack(">4i", 0x803, images, side, side)
    labels = struct.pack(">2i", 0x801, images) + bytes(range(images))
    return dict(zip(IDX, (header + pixels.tobytes(), labels) * 2, strict=True))


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def make_tar(files, folder="cifar-10-batches-bin/"):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(folder + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo(folder + "batches.meta.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return packed.getvalue()


@pytest.fixture
def web_server(tmp_path, monkeypatch):
    """Serve a folder on localhost, and let the known data sets point to it."""
    served = tmp_path / "served"
    served.mkdir()
    monkeypatch.setattr(download_module, "RETRY_DELAYS_S", (0.01,) * 3)
    with serve_folder(served) as server:
        for name, known in list(KNOWN_DATASETS.items()):
            monkeypatch.setitem(KNOWN_DATASETS, name, replace(known, url=f"{server.url}/"))
        yield server


@pytest.fixture
def server(web_server):
    return web_server.folder


@pytest.fixture
def published(monkeypatch):
    """Return a function that registers a small archive as the published one."""

    def publish(name, archive, content):
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        monkeypatch.setitem(
            KNOWN_DATASETS,
            name,
            replace(KNOWN_DATASETS[name], archives={**KNOWN_DATASETS[name].archives, archive: md5}),
        )

    return publish


def test_unpacked_cifar10(tmp_path):
    folder = write(tmp_path / "cifar-10-batches-bin", cifar10_files())
    from_folder, from_parent = (read_archive(DataConfig("cifar10", str(root))) for root in (folder, tmp_path))
    assert from_folder.classes == from_parent.classes == CIFAR10
    assert from_folder.train.labels.tolist() == from_parent.train.labels.tolist() == [1, 0, 2, 0, 3, 0, 4, 0, 5, 0]
    assert from_folder.test.labels.tolist() == [9, 8, 7]
    assert np.array_equal(from_folder.test.images.numpy(), PIXELS[:3].reshape(3, 3, 32, 32))
    assert from_folder.train.names[3] == "data_batch_2.bin image 1"
    assert from_folder.warnings == (
        "cifar10: 10 train images found, but 50,000 are published",
        "cifar10: 3 test images found, but 10,000 are published",
    )


def test_class_names_come_from_the_file(tmp_path):
    names = "\n".join(f"thing{n}" for n in range(10)) + "\n\n"
    write(tmp_path, cifar10_files() | {"batches.meta.txt": names.encode()})
    assert read_archive(DataConfig("cifar10", str(tmp_path))).classes[9] == "thing9"
    (tmp_path / "batches.meta.txt").write_text("one two")
    with pytest.raises(ConfigError, match=r"batches.meta.txt: has 2 class names, not 10"):
        read_archive(DataConfig("cifar10", str(tmp_path)))


def test_cifar100_has_fine_labels(tmp_path):
    write(tmp_path, {"train.bin": records((3, 99), (4, 0)), "test.bin": records((19, 50))})
    found = read_archive(DataConfig("cifar100", str(tmp_path)))
    assert found.train.labels.tolist() == [99, 0]
    assert found.test.labels.tolist() == [50]
    assert np.array_equal(found.train.images[1].numpy().ravel(), PIXELS[1])
    assert len(set(found.classes)) == 100
    assert list(found.classes) == sorted(found.classes)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("folder", [".", "fashion-mnist", "FashionMNIST/raw"])
def test_idx(tmp_path, folder, packed):
    files = idx_files()
    written = {f"{name}.gz": gzip.compress(content) for name, content in files.items()} if packed else files
    write(tmp_path / folder, written)
    found = read_archive(DataConfig("fashion-mnist", str(tmp_path)))
    assert found.train.images.shape == (5, 1, 28, 28)
    assert found.train.images.numpy().tobytes() == files[IDX[0]][16:]
    assert found.train.labels.tolist() == [0, 1, 2, 3, 4]
    assert found.classes[9] == "Ankle boot"
    assert any("differs from the published file" in warning for warning in found.warnings) == packed


def test_archives_are_read_in_memory(tmp_path, published):
    content = make_tar(cifar10_files(), "../../outside/")
    published("cifar10", "cifar-10-binary.tar.gz", content)
    write(tmp_path, {"cifar-10-binary.tar.gz": content})
    found = read_archive(DataConfig("cifar10", str(tmp_path)))
    assert found.test.labels.tolist() == [9, 8, 7]
    assert found.classes == CIFAR10  # the link to another file is not followed
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-binary.tar.gz"]


def test_another_file_with_the_name_of_the_archive(tmp_path):
    write(tmp_path, {"cifar-10-binary.tar.gz": b"half of it"})
    with pytest.raises(ConfigError, match=r"cifar-10-binary.tar.gz: damaged, or another file \(MD5 .*; delete it"):
        read_archive(DataConfig("cifar10", str(tmp_path)))


def test_fashion_mnist_is_not_mnist(tmp_path, published):
    content = gzip.compress(idx_files()[IDX[0]])
    published("fashion-mnist", f"{IDX[0]}.gz", content)
    write(tmp_path, {f"{IDX[0]}.gz": content})
    with pytest.raises(ConfigError, match="is a file of fashion-mnist, not of mnist; give each data set a folder"):
        read_archive(DataConfig("mnist", str(tmp_path)))


def test_download(tmp_path, server, published, capsys):
    content = make_tar(cifar10_files())
    published("cifar10", "cifar-10-binary.tar.gz", content)
    write(server, {"cifar-10-binary.tar.gz": content})
    root = tmp_path / "new" / "root"
    first = read_archive(DataConfig("cifar10", str(root)))
    (server / "cifar-10-binary.tar.gz").unlink()
    again = read_archive(DataConfig("cifar10", str(root)))
    assert first.train.labels.tolist() == again.train.labels.tolist()
    assert visible_files(root) == ["cifar-10-binary.tar.gz"]
    assert capsys.readouterr().out == ""


def test_download_of_four_files_to_the_cache(tmp_path, server, published, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, content in idx_files().items():
        packed = gzip.compress(content)
        published("mnist", f"{name}.gz", packed)
        write(server, {f"{name}.gz": packed})
    assert len(read_archive(DataConfig("mnist")).train.labels) == 5
    assert visible_files(cache_folder() / "mnist") == sorted(f"{name}.gz" for name in IDX)


def visible_files(folder):
    """Return the names of all files but locks, whose names begin with a dot."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"not what was published", "22 bytes received with MD5 .* instead of 03b5dce0"),
        (None, r"cannot be downloaded \(HTTP 404"),
    ],
)
def test_a_broken_download_leaves_nothing(tmp_path, server, content, reason):
    if content:
        write(server, {"cifar-100-binary.tar.gz": content})
    message = rf"/cifar-100-binary.tar.gz: {reason}.*; cifar100 is not in .*root: put "
    with pytest.raises(ConfigError, match=message) as error:
        read_archive(DataConfig("cifar100", str(tmp_path / "root")))
    assert visible_files(tmp_path / "root") == []
    assert "\n" not in str(error.value)


def test_a_dropped_download_continues(tmp_path, web_server, published):
    """The archive arrives in two parts, and is checked by its MD5."""
    content, archive = make_tar(cifar10_files()), "cifar-10-binary.tar.gz"
    published("cifar10", archive, content)
    write(web_server.folder, {archive: content})
    web_server.faulty_name, web_server.faults = archive, ["drop"]
    assert len(read_archive(DataConfig("cifar10", str(tmp_path / "root"))).test.labels) == 3
    assert web_server.requests[archive] == 2


def test_a_root_that_cannot_be_created(tmp_path, server):
    (tmp_path / "file").write_text("")
    message = r"cifar-10-binary.tar.gz: cannot be written \(Not a directory\); cifar10 is not in .*file.root: put"
    with pytest.raises(ConfigError, match=message):
        read_archive(DataConfig("cifar10", str(tmp_path / "file" / "root")))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"data_batch_3.bin": records(1)[:-1]},
            r"data_batch_3.bin: 3,072 bytes are not a multiple of a record's 3,073",
        ),
        ({"data_batch_3.bin": b""}, r"data_batch_3.bin: 0 bytes are not"),
        (
            {"test_batch.bin": records(1, 10)},
            r"test_batch.bin: label 10 of image 1 is out of range; there are 10 classes",
        ),
        ({"data_batch_5.bin": None}, r"data_batch_5.bin is missing beside the other files"),
    ],
)
def test_damaged_cifar(tmp_path, files, message):
    write(tmp_path, {name: content for name, content in (cifar10_files() | files).items() if content is not None})
    with pytest.raises(ConfigError, match=message):
        read_archive(DataConfig("cifar10", str(tmp_path)))


IMAGES, LABELS = (idx_files()[name] for name in IDX[:2])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({IDX[0]: b""}, "train-images-idx3-ubyte: is empty, but this kind of idx file starts with 00000803"),
        ({IDX[0]: IMAGES[:9]}, r"train-images-idx3-ubyte: has 9 bytes instead of 16"),
        ({IDX[0]: IMAGES[:-5]}, r"has 3,931 bytes instead of 3,936; download it again"),
        ({IDX[0]: LABELS}, "starts with 00000801, but this kind of idx file starts with 00000803"),
        ({IDX[0]: idx_files(side=20)[IDX[0]]}, "images of 20x20 pixels, not 28x28"),
        ({IDX[0]: idx_files(images=4)[IDX[0]]}, "train-labels-idx1-ubyte: 5 labels for 4 images"),
        ({IDX[1]: LABELS[:-1] + b"\x0a"}, "train-labels-idx1-ubyte: label 10 of image 4 is out of range"),
        ({IDX[3]: LABELS + b"x"}, "t10k-labels-idx1-ubyte: has 14 bytes instead of 13"),
        ({IDX[2]: None}, "t10k-images-idx3-ubyte is missing beside the other files"),
        ({IDX[2]: None, f"{IDX[2]}.gz": gzip.compress(IMAGES)[:-20]}, "t10k-images-idx3-ubyte: cannot be read"),
        ({IDX[2]: None, f"{IDX[2]}.gz": b"not gzip"}, "t10k-images-idx3-ubyte: cannot be read"),
    ],
)
def test_damaged_idx(tmp_path, files, message):
    write(tmp_path, {name: content for name, content in (idx_files() | files).items() if content is not None})
    with pytest.raises(ConfigError, match=message) as error:
        read_archive(DataConfig("mnist", str(tmp_path)))
    assert str(tmp_path) in str(error.value) or "missing" in str(error.value)
