"""`resnetlab export`: what is written has proved itself, and what has not is not written."""

import hashlib
import json
import os
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from helpers.small_network import CLASSES, GREY, model_file
from resnetlab.cli import export as command
from resnetlab.cli import inspect
from resnetlab.cli.main import main, parse
from resnetlab.config import ConfigError, Preprocessing
from resnetlab.export import export as exporting
from resnetlab.export.export import export
from resnetlab.export.verify import ExportMismatchError
from resnetlab.inference.engines.pytorch import TorchEngine
from resnetlab.inference.formats import onnx_file as onnxfile
from resnetlab.inference.formats import onnx_graph as graph
from resnetlab.inference.formats.exported_file import Format, read_exported_file
from resnetlab.inference.probe_images import probe_photographs
from resnetlab.models.fuse_bn import fuse_bn
from resnetlab.models.model_card import read_card
from resnetlab.models.model_file import load_model, save_model

from conftest import resnetlab

KINDS: dict[str, Format] = {"net.onnx": "onnx", "net.xml": "openvino", "net.pt2": "torch-export"}


@pytest.fixture
def net(tmp_path):
    return model_file(tmp_path / "net.safetensors")


def run(*words):
    return command.run(parse(command.Options, "export", [*map(str, words)]))


def mistake(*words):
    with pytest.raises(ConfigError) as caught:
        run(*words)
    return str(caught.value)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", KINDS)
def test_the_file_says_what_it_is_and_how_closely_it_agrees(net, name):
    path = net.with_name(name)
    made = export(net, path, KINDS[name])
    assert made == read_exported_file(path)
    assert made.card == read_card(net)
    assert made.metadata.source_sha256 == hashlib.sha256(net.read_bytes()).hexdigest()
    assert torch.__version__.startswith(made.metadata.versions["torch"])
    agreement = made.metadata.agreement
    assert agreement.tolerance is not None
    assert 0 < agreement.max_difference < agreement.tolerance / 10
    assert agreement.max_difference == max(agreement.by_batch.values())
    assert agreement.top1_agreement_pct == 100
    assert names(net.parent) == sorted({"net.safetensors", name} | ({"net.bin"} if name == "net.xml" else set()))
    assert all(file.stat().st_mode & 0o777 == 0o666 & ~umask() for file in made.files)


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.slow
@pytest.mark.parametrize(
    "preprocessing", [GREY, Preprocessing(32, (0.5,) * 3, (1.0,) * 3, tuple(np.linspace(0, 1, 3072).tolist()))]
)
def test_grey_and_a_mean_for_each_pixel(tmp_path, preprocessing):
    net = model_file(tmp_path / "net.safetensors", preprocessing)
    export(net, tmp_path / "net.onnx", "onnx")
    views = probe_photographs(preprocessing, 3)
    found = onnxruntime.InferenceSession(tmp_path / "net.onnx").run(["logits"], {"images": views})[0]
    expected = TorchEngine(load_model(net)[0], preprocessing).logits(views)
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS.values()])
def test_the_command_is_quiet(net, kind):
    done = resnetlab("export", "net.safetensors", "--format", kind, cwd=net.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 6


def test_what_a_person_reads(net, monkeypatch, capsys):
    monkeypatch.chdir(net.parent)
    assert run("net.safetensors", "--format", "torch-export") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "export     net.pt2"
    assert lines[1].startswith("network    resnet8, 6 classes; torch-export, fp32, 0.35 MB")
    assert lines[2].startswith("logits     differ by up to ")
    assert lines[3].endswith("14 images, real and random")
    assert lines[4] == "same class 100.0 % of them"
    assert max(map(len, lines)) <= 80


def test_what_a_program_reads_and_what_inspect_says(net, capsys):
    assert run(net, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    path = net.with_suffix(".onnx")
    assert (said["out"], said["files"], said["num_bytes"]) == (str(path), [str(path)], path.stat().st_size)
    assert said["agreement"]["max_difference"] <= said["agreement"]["tolerance"]
    assert inspect.run(parse(inspect.Options, "inspect", [str(path)])) == 0
    assert "an export of resnetlab: onnx, fp32" in (told := capsys.readouterr().out)
    assert "agrees   logits within" in told
    with pytest.raises(ConfigError, match="is an export of resnetlab already"):
        inspect.run(parse(inspect.Options, "inspect", [str(path), "--save", "x"]))


def test_a_network_that_changed_on_the_way_is_not_written(net, monkeypatch, capsys):
    """A folding that is wrong, as the source would never be."""

    def badly(model):
        result = fuse_bn(model)
        result.get_parameter("layer3.0.conv1.bias").data[5] += 0.1
        return result

    monkeypatch.setattr(graph, "fuse_bn", badly)
    assert main(["export", str(net), "--format", "torch-export"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("resnetlab: net.pt2 is not written: its logits are not the network's: they differ by up to")
    assert said.count("\n") == 1
    assert names(net.parent) == ["net.safetensors"]


def test_the_file_that_was_written_is_what_is_compared(net, monkeypatch):
    """Not the graph in memory: here the disk, so to say, changes a weight, and the seal with it."""
    whole = onnxfile.encode

    def altered(model, text):
        other = type(model)()
        other.CopyFrom(model)
        head = next(one for one in other.graph.initializer if one.name == "network.fc.weight")
        head.raw_data = (1.01 * np.frombuffer(head.raw_data, np.float32)).astype(np.float32).tobytes()
        return whole(other, text)

    (net.with_suffix(".onnx")).write_bytes(b"as it was")
    monkeypatch.setattr(onnxfile, "encode", altered)
    with pytest.raises(ExportMismatchError, match="is not written"):
        export(net, net.with_suffix(".onnx"), "onnx")
    assert net.with_suffix(".onnx").read_bytes() == b"as it was"
    assert names(net.parent) == ["net.onnx", "net.safetensors"]


def test_it_is_compared_again_once_it_says_how_well_it_agrees(net, monkeypatch):
    asked = []
    whole = exporting.compare_logits
    monkeypatch.setattr(exporting, "compare_logits", lambda *words: asked.append(words) or whole(*words))
    export(net, net.with_suffix(".pt2"), "torch-export")
    assert len(asked) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["net.onnx", "net.xml"])
def test_int8_is_stored_with_what_it_costs(net, name):
    """The quantiser has tests of its own; this one rounds weights, and is given back what it said."""
    path = net.with_name(name)

    def rounded(model, card, source):
        assert card == read_card(net)
        assert source.config == card.model
        for one in model.graph.initializer:
            if one.name == "network.fc.weight":
                one.raw_data = np.round(np.frombuffer(one.raw_data, np.float32), 1).tobytes()
        return model, {"error_before_pct": 8.0, "error_after_pct": 8.25}

    passport = export(net, path, KINDS[name], quantise=rounded).metadata
    assert passport == read_exported_file(path).metadata
    assert passport.precision == "int8"
    assert passport.int8["error_after_pct"] == 8.25
    assert passport.agreement.tolerance is None
    assert passport.agreement.max_difference > 1e-3


def test_a_network_that_gives_nan(tmp_path, capsys):
    net = model_file(tmp_path / "net.safetensors")
    model, card = load_model(net)
    model.fc.weight.data[:] = torch.nan
    save_model(tmp_path / "nan.safetensors", model, card)
    assert main(["export", str(tmp_path / "nan.safetensors")]) == 1
    assert "logits that are not finite" in capsys.readouterr().err
    assert names(tmp_path) == ["nan.safetensors", "net.safetensors"]


def test_where_it_goes(net):
    options = {
        (): ("onnx", "net.onnx"),
        ("--format", "openvino"): ("openvino", "net.xml"),
        ("--out", "sub/a.pt2"): ("torch-export", "sub/a.pt2"),
        ("--out", "b.ONNX", "--format", "onnx"): ("onnx", "b.ONNX"),
        ("--int8", "--calibrate", "digits"): ("onnx", "net-int8.onnx"),
    }
    for words, (kind, name) in options.items():
        found = command._look_before_loading(parse(command.Options, "export", [str(net), *words]))
        assert (found[0], found[1].name) == (kind, name.rpartition("/")[2])


@pytest.mark.slow
def test_a_run_directory(net):
    (net.parent / "run").mkdir()
    net.rename(net.parent / "run" / "model.safetensors")
    assert run(net.parent / "run", "--out", net.parent / "new" / "a.pt2") == 0
    assert read_exported_file(net.parent / "new" / "a.pt2").card.classes == CLASSES


def test_mistakes_in_the_call(net):
    assert mistake(net, "--out", "a.xml", "--format", "onnx") == (
        "--out a.xml means openvino, and --format says onnx, whose files end in .onnx; leave one of them out"
    )
    assert mistake(net, "--out", "a.tflite") == (
        "--out a.tflite: an export ends in one of: .onnx (onnx), .xml (openvino), .pt2 (torch-export)"
    )
    assert "int8 needs images" in mistake(net, "--int8")
    assert "torch-export has fp32 alone" in mistake(net, "--int8", "--calibrate", "digits", "--format", "torch-export")
    assert "--calibrate is for --int8" in mistake(net, "--calibrate", "digits")
    assert "at least 0, not -1" in mistake(net, "--int8", "--calibrate", "digits", "--allow-loss", "-1")
    assert "no such model file" in mistake(net.with_name("x.safetensors"))
    net.with_suffix(".onnx").mkdir()
    assert "is a folder" in mistake(net)
    assert "is an export itself" in mistake(net.with_name("net.pt2"))
    assert names(net.parent) == ["net.onnx", "net.safetensors"]


def test_weights_of_others_are_not_overwritten(net):
    net.with_suffix(".bin").write_bytes(b"a checkpoint")
    assert "would take its place" in mistake(net, "--format", "openvino")
    assert net.with_suffix(".bin").read_bytes() == b"a checkpoint"


@pytest.mark.slow
def test_an_export_takes_the_place_of_an_older_one(net):
    for _ in range(2):
        assert run(net, "--out", net.with_name("net.xml")) == 0
    assert names(net.parent) == ["net.bin", "net.safetensors", "net.xml"]


def test_the_users_own_pictures(net, capsys):
    Image.new("RGB", (50, 40), "red").save(net.with_name("a.png"))
    net.with_name("b.png").write_text("no picture")
    assert run(net, "--images", net.with_name("a.png"), "--out", net.with_suffix(".pt2"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["agreement"]["num_images"] == 8
    assert "b.png: not an image" in mistake(net, "--images", net.with_name("b.png"))
    assert "c.png" in mistake(net, "--images", net.with_name("c.png"))
    assert "no pictures" in mistake(net, "--images")


@pytest.mark.parametrize(
    ("name", "package"), [("net.onnx", "onnx"), ("net.onnx", "onnxscript"), ("net.xml", "openvino")]
)
def test_a_package_that_is_missing(net, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert "pip install 'resnetlab[export]'" in mistake(net, "--out", net.with_name(name))
    assert names(net.parent) == ["net.safetensors"]


def test_a_folder_that_cannot_be_written(net, monkeypatch, capsys):
    (net.parent / "file").write_text("")
    assert main(["export", str(net), "--out", str(net.parent / "file" / "a.pt2")]) == 1
    assert "file" in capsys.readouterr().err
