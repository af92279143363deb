"""Kinds of data sets from names, paths and URLs, and the errors for names that cannot be opened."""

import subprocess
import sys

import pytest

from resnetlab.config import ConfigError, DataConfig
from resnetlab.data.registry import CIFAR100, KNOWN_DATASETS, dataset_title, detect_kind


def test_known_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    assert {name: detect_kind(DataConfig(name)) for name in KNOWN_DATASETS} == {
        "digits": "digits",
        "cifar10": "cifar",
        "cifar100": "cifar",
        "mnist": "idx",
        "fashion-mnist": "idx",
    }
    assert detect_kind(DataConfig("./mnist")) == detect_kind(DataConfig("mnist/")) == "folder"
    assert (len(CIFAR100), CIFAR100[0], CIFAR100[99]) == (100, "apple", "worm")


def test_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "photos").mkdir()
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "a.parquet").touch()
    assert detect_kind(DataConfig("photos")) == detect_kind(DataConfig("~/photos")) == "folder"
    assert detect_kind(DataConfig("packed")) == detect_kind(DataConfig("packed/a.parquet")) == "parquet"
    assert dataset_title(DataConfig("~/photos/")) == dataset_title(DataConfig("packed/../photos")) == "photos"
    assert dataset_title(DataConfig("cifar10")) == "cifar10"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "nothere",
            r"data 'nothere' is neither a known data set \(digits, cifar10, cifar100, mnist, fashion-mnist\) "
            r"nor an existing folder, table or parquet file$",
        ),
        ("cifar-10", r"file; did you mean cifar10\?$"),
        ("./phots", r"file; did you mean photos\?$"),
        ("a/b/c", "parquet file$"),
        ("~no-such-user/c", "parquet file$"),
        ("x" * 5000, r"cannot be read \(File name too long\)$"),
        (
            "photos.zip",
            "is a file, but not a .parquet file or a .csv file of labels; give a folder, or unpack the file",
        ),
    ],
)
def test_unknown_names_are_refused_with_a_hint(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos.zip").touch()
    with pytest.raises(ConfigError, match=message):
        detect_kind(DataConfig(name))


@pytest.mark.parametrize(
    "url",
    [
        "http://user:s3cret@host/shards",
        "https://user:s3cret@host:8000/shards?x=1",
        "https://s3cret@host/shards",
        "HTTPS://s3cret@host/shards",
        "http://user:s3#cret@host/shards",
        "http://user:s3/cret@host/shards",
        "http://user:s3cret@[::1]:8000/shards",
        "s3://key:s3cret@bucket/shards",
        "sftp://user:s3cret@host/shards",
        "simplecache::http://user:s3cret@host/shards",
    ],
)
def test_a_password_in_a_url_is_refused_and_not_repeated(url):
    with pytest.raises(ConfigError, match=r"give the URL without it: .*FSSPEC_HTTP") as error:
        detect_kind(DataConfig(url))
    assert "cret" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://host:8000/shards@v1",
        "http://[::1]:8000/shards",
        "https://host/shards?mail=a:b@c",
        "s3://bucket/some@shards",
        "abfs://container@account.dfs.core.windows.net/shards",
        "sftp://user@host:22/shards",
        "file:///data/a:b@c",
    ],
)
def test_other_at_signs_are_not_a_password(url):
    assert detect_kind(DataConfig(url)) == "shards"


def test_import_loads_no_heavy_package():
    code = "import sys, resnetlab.data.registry; print({'torch', 'numpy', 'pyarrow', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
