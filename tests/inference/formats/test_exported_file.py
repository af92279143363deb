"""Exported files are believed only where they are whole, ours, and ask for nothing else."""

import json
import os
import random
import subprocess
import sys
from dataclasses import replace

import onnx
import pytest
import torch

from helpers.exported_files import CARD, KINDS, SAYS, SEEN, exports_in, refusal, text, write
from resnetlab.config import ConfigError
from resnetlab.inference import optional_packages
from resnetlab.inference.formats import metadata, onnx_file
from resnetlab.inference.formats.exported_file import is_exported_file, read_exported_file


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    return exports_in(tmp_path_factory.mktemp("exports"))


@pytest.fixture
def copies(exports, tmp_path):
    """Copies to damage."""
    for file in exports.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize("name", KINDS)
def test_what_was_written_is_read(exports, name):
    artefact = read_exported_file(exports / name)
    assert artefact.card == CARD
    assert artefact.metadata == replace(SAYS, format=KINDS[name])
    assert is_exported_file(exports / name)
    assert all(file.exists() for file in artefact.files)
    assert len(artefact.files) == (2 if name == "net.xml" else 1)


@pytest.mark.parametrize(("name", "kept"), [("net.onnx", "onnx"), ("net.xml", ""), ("net.pt2", "")])
def test_nothing_is_loaded_that_reading_does_not_need(exports, name, kept):
    code = (
        "import sys; from resnetlab.inference.formats.exported_file import read_artefact; "
        f"read_artefact({str(exports / name)!r});"
        "print(*{'torch', 'onnx', 'openvino', 'onnxruntime'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == kept


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # PyTorch 2.11, of its own
def test_other_programs_find_the_text_under_the_key(exports):
    found = {item.key: item.value for item in onnx.load(exports / "net.onnx").metadata_props}
    assert json.loads(found["resnetlab"])["card"]["classes"] == list(CARD.classes)
    assert optional_packages.openvino_core().read_model(exports / "net.xml").get_rt_info(["resnetlab"]).astype(
        str
    ) == text("net.xml")
    extra = {"resnetlab": ""}
    torch.export.load(exports / "net.pt2", extra_files=extra)
    assert extra["resnetlab"] == text("net.pt2")


@pytest.mark.parametrize("name", ["net.onnx", "net.xml", "net.bin", "net.pt2"])
def test_cut_off(copies, name):
    file = copies / name
    whole = file.read_bytes()
    for tenth in range(10):
        file.write_bytes(whole[: len(whole) * tenth // 10])
        refusal(copies / "net.xml" if name == "net.bin" else file)
    file.write_bytes(whole + b"\0")
    refusal(copies / "net.xml" if name == "net.bin" else file)


@pytest.mark.parametrize("name", ["net.onnx", "net.xml", "net.bin", "net.pt2"])
def test_one_bit_that_changed(copies, name):
    file = copies / name
    whole = file.read_bytes()
    draws = random.Random(0)
    places = [*draws.sample(range(len(whole)), 30), *range(0, 40, 3), *range(len(whole) - 100, len(whole), 5)]
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << draws.randrange(8)
        file.write_bytes(changed)
        refusal(copies / "net.xml" if name == "net.bin" else file)


def test_nothing_there(tmp_path):
    assert "no such file" in refusal(tmp_path / "net.onnx")
    for name in KINDS:
        (tmp_path / name).write_bytes(b"")
        (tmp_path / "net.bin").write_bytes(b"")
        assert "empty" in refusal(tmp_path / name)
    (tmp_path / "folder.onnx").mkdir()
    assert not is_exported_file(tmp_path / "folder.onnx")
    assert "not a plain file" in refusal(tmp_path / "folder.onnx")
    os.mkfifo(tmp_path / "pipe.onnx")
    assert "not a plain file" in refusal(tmp_path / "pipe.onnx")


def test_names(copies):
    assert not is_exported_file(copies / "net.safetensors")
    assert "no export" in refusal(copies / "net.safetensors")
    assert is_exported_file(copies / "net.bin")
    assert "name net.xml" in refusal(copies / "net.bin")
    (copies / "net.xml").unlink()
    assert not is_exported_file(copies / "net.bin")  # weights of anybody


@pytest.mark.parametrize("name", KINDS)
def test_larger_than_the_limit(exports, name, monkeypatch):
    monkeypatch.setattr(metadata, "MAX_BYTES", 10_000)
    assert "no more than 10,000 are opened" in refusal(exports / name)


def test_garbage(tmp_path):
    for name in KINDS:
        for content in (b"hello", b"PK\x03\x04" + b"\0" * 100, b"\x08\x0a", os.urandom(5000), b"<html></html>"):
            (tmp_path / name).write_bytes(content)
            (tmp_path / "net.bin").write_bytes(b"\0" * 10)
            assert "damaged" in (said := refusal(tmp_path / name)) or "not one that resnetlab exported" in said


def test_formats_do_not_pass_for_each_other(copies):
    (copies / "net.pt2").write_bytes((copies / "net.onnx").read_bytes())
    refusal(copies / "net.pt2")
    (copies / "net.onnx").write_bytes(onnx_file.encode(onnx.load(copies / "net.onnx"), text("net.pt2")))
    refusal(copies / "net.onnx")


@pytest.mark.parametrize("name", KINDS)
def test_another_network_than_the_card_says(tmp_path, name):
    wider = replace(CARD, model=replace(CARD.model, num_classes=4), classes=("a", "b", "c", "d"))
    larger = replace(CARD, preprocessing=replace(SEEN, image_size=20))
    grey = replace(CARD, model=replace(CARD.model, in_channels=1), preprocessing=replace(SEEN, mean=(0.5,), std=(0.2,)))
    for card in (wider, larger, grey):
        path = write(tmp_path / name, text(name, card))
        assert "export it again" in refusal(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda said: {**said, "format": 2}, "newer resnetlab"),
        (lambda said: {**said, "format": "x"}, "layout 'x' is unknown"),
        (lambda said: {"format": 1, "card": said["card"]}, "'passport' is missing"),
        (lambda said: {**said, "card": {**said["card"], "classes": ["one"]}}, "3 outputs, and 1 classes"),
        (lambda said: {**said, "card": []}, "must be an object"),
        (lambda said: {**said, "passport": {**said["passport"], "format": "coreml"}}, "'coreml' is unknown"),
        (lambda said: {**said, "passport": {**said["passport"], "precision": "fp8"}}, "'fp8' is unknown"),
        (lambda said: [said], "cannot be read"),
        (lambda said: 7, "cannot be read"),
    ],
)
def test_texts_that_mean_nothing(tmp_path, change, reason):
    said = json.dumps(change(json.loads(text("net.onnx"))))
    assert reason in refusal(write(tmp_path / "net.onnx", said))


def test_texts_that_break_parsers(tmp_path):
    for said in ("", "{", "[" * 100_000, '{"format": 1e400}', '{"format": ' + "9" * 10_000 + "}"):
        assert "cannot be read" in refusal(write(tmp_path / "net.onnx", said))


def test_text_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(metadata, "MAX_TEXT", 100)
    assert "too many" in refusal(write(tmp_path / "net.onnx", text("net.onnx")))


def test_a_package_that_is_missing(exports, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"pip install 'resnetlab\[export\]'"):
        read_exported_file(exports / "net.onnx")
    assert read_exported_file(exports / "net.xml").card == CARD
