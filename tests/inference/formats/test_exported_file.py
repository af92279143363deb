"""Exported files are accepted only if they are complete, exported by resnetlab, and safe."""

import json
import os
import random
import subprocess
import sys
from dataclasses import replace

import onnx
import pytest
import torch

from helpers.exported_files import (
    CARD,
    FORMATS,
    METADATA,
    PREPROCESSING,
    metadata_text,
    read_error,
    write_export,
    write_exports,
)
from resnetlab.config import ConfigError
from resnetlab.inference import optional_packages
from resnetlab.inference.formats import metadata, onnx_file
from resnetlab.inference.formats.exported_file import is_exported_file, read_exported_file


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    return write_exports(tmp_path_factory.mktemp("exports"))


@pytest.fixture
def copies(exports, tmp_path):
    """Copies to damage."""
    for file in exports.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize("name", FORMATS)
def test_metadata_round_trip(exports, name):
    exported = read_exported_file(exports / name)
    assert exported.card == CARD
    assert exported.metadata == replace(METADATA, format=FORMATS[name])
    assert is_exported_file(exports / name)
    assert all(file.exists() for file in exported.files)
    assert len(exported.files) == (2 if name == "net.xml" else 1)


@pytest.mark.parametrize(("name", "imported"), [("net.onnx", "onnx"), ("net.xml", ""), ("net.pt2", "")])
def test_reading_does_not_import_the_runtimes(exports, name, imported):
    code = (
        "import sys; from resnetlab.inference.formats.exported_file import read_exported_file; "
        f"read_exported_file({str(exports / name)!r});"
        "print(*{'torch', 'onnx', 'openvino', 'onnxruntime'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == imported


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # PyTorch 2.11, a warning of its own code
def test_other_programs_can_read_the_metadata(exports):
    found = {item.key: item.value for item in onnx.load(exports / "net.onnx").metadata_props}
    assert json.loads(found["resnetlab"])["card"]["classes"] == list(CARD.classes)
    assert optional_packages.openvino_core().read_model(exports / "net.xml").get_rt_info(["resnetlab"]).astype(
        str
    ) == metadata_text("net.xml")
    extra = {"resnetlab": ""}
    torch.export.load(exports / "net.pt2", extra_files=extra)
    assert extra["resnetlab"] == metadata_text("net.pt2")


@pytest.mark.parametrize("name", ["net.onnx", "net.xml", "net.bin", "net.pt2"])
def test_truncated_files(copies, name):
    file = copies / name
    content = file.read_bytes()
    for tenth in range(10):
        file.write_bytes(content[: len(content) * tenth // 10])
        read_error(copies / "net.xml" if name == "net.bin" else file)
    file.write_bytes(content + b"\0")
    read_error(copies / "net.xml" if name == "net.bin" else file)


@pytest.mark.parametrize("name", ["net.onnx", "net.xml", "net.bin", "net.pt2"])
def test_one_flipped_bit(copies, name):
    file = copies / name
    content = file.read_bytes()
    rng = random.Random(0)
    positions = [*rng.sample(range(len(content)), 30), *range(0, 40, 3), *range(len(content) - 100, len(content), 5)]
    for position in positions:
        changed = bytearray(content)
        changed[position] ^= 1 << rng.randrange(8)
        file.write_bytes(changed)
        read_error(copies / "net.xml" if name == "net.bin" else file)


def test_missing_files_and_special_files(tmp_path):
    assert "no such file" in read_error(tmp_path / "net.onnx")
    for name in FORMATS:
        (tmp_path / name).write_bytes(b"")
        (tmp_path / "net.bin").write_bytes(b"")
        assert "empty" in read_error(tmp_path / name)
    (tmp_path / "folder.onnx").mkdir()
    assert not is_exported_file(tmp_path / "folder.onnx")
    assert "not a regular file" in read_error(tmp_path / "folder.onnx")
    os.mkfifo(tmp_path / "pipe.onnx")
    assert "not a regular file" in read_error(tmp_path / "pipe.onnx")


def test_suffixes(copies):
    assert not is_exported_file(copies / "net.safetensors")
    assert "not an exported file" in read_error(copies / "net.safetensors")
    assert is_exported_file(copies / "net.bin")
    assert "name net.xml" in read_error(copies / "net.bin")
    (copies / "net.xml").unlink()
    assert not is_exported_file(copies / "net.bin")  # a .bin without .xml may be anything


@pytest.mark.parametrize("name", FORMATS)
def test_larger_than_the_limit(exports, name, monkeypatch):
    monkeypatch.setattr(metadata, "MAX_BYTES", 10_000)
    assert "the limit is 10,000" in read_error(exports / name)


def test_garbage(tmp_path):
    for name in FORMATS:
        for content in (b"hello", b"PK\x03\x04" + b"\0" * 100, b"\x08\x0a", os.urandom(5000), b"<html></html>"):
            (tmp_path / name).write_bytes(content)
            (tmp_path / "net.bin").write_bytes(b"\0" * 10)
            assert "damaged" in (message := read_error(tmp_path / name)) or "not exported by resnetlab" in message


def test_a_format_under_another_suffix_is_rejected(copies):
    (copies / "net.pt2").write_bytes((copies / "net.onnx").read_bytes())
    read_error(copies / "net.pt2")
    (copies / "net.onnx").write_bytes(onnx_file.encode(onnx.load(copies / "net.onnx"), metadata_text("net.pt2")))
    read_error(copies / "net.onnx")


@pytest.mark.parametrize("name", FORMATS)
def test_a_card_of_another_network_is_rejected(tmp_path, name):
    wider = replace(CARD, model=replace(CARD.model, num_classes=4), classes=("a", "b", "c", "d"))
    larger = replace(CARD, preprocessing=replace(PREPROCESSING, image_size=20))
    grey = replace(
        CARD, model=replace(CARD.model, in_channels=1), preprocessing=replace(PREPROCESSING, mean=(0.5,), std=(0.2,))
    )
    for card in (wider, larger, grey):
        path = write_export(tmp_path / name, metadata_text(name, card))
        assert "export it again" in read_error(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: {**content, "format": 2}, "newer resnetlab"),
        (lambda content: {**content, "format": "x"}, "layout 'x' is unknown"),
        (lambda content: {"format": 1, "card": content["card"]}, "'passport' is missing"),
        (lambda content: {**content, "card": {**content["card"], "classes": ["one"]}}, "3 outputs and 1 class names"),
        (lambda content: {**content, "card": []}, "must be an object"),
        (lambda content: {**content, "passport": {**content["passport"], "format": "coreml"}}, "'coreml' is unknown"),
        (lambda content: {**content, "passport": {**content["passport"], "precision": "fp8"}}, "'fp8' is unknown"),
        (lambda content: [content], "cannot be read"),
        (lambda content: 7, "cannot be read"),
    ],
)
def test_invalid_metadata(tmp_path, change, reason):
    changed = json.dumps(change(json.loads(metadata_text("net.onnx"))))
    assert reason in read_error(write_export(tmp_path / "net.onnx", changed))


def test_metadata_that_breaks_parsers(tmp_path):
    for malformed in ("", "{", "[" * 100_000, '{"format": 1e400}', '{"format": ' + "9" * 10_000 + "}"):
        assert "cannot be read" in read_error(write_export(tmp_path / "net.onnx", malformed))


def test_metadata_over_the_size_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(metadata, "MAX_TEXT", 100)
    assert "too many" in read_error(write_export(tmp_path / "net.onnx", metadata_text("net.onnx")))


def test_a_missing_package(exports, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"pip install 'resnetlab\[export\]'"):
        read_exported_file(exports / "net.onnx")
    assert read_exported_file(exports / "net.xml").card == CARD
