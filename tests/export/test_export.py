"""`resnetlab export`: a file is written only if its logits agree with the source network."""

import hashlib
import json
import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.small_network import CLASSES, model_file
from resnetlab.cli import export as command
from resnetlab.cli import inspect
from resnetlab.cli.main import main, parse
from resnetlab.config import ConfigError
from resnetlab.export import export as export_module
from resnetlab.export.export import export
from resnetlab.export.verify import ExportMismatchError
from resnetlab.inference.formats import onnx_file, onnx_graph
from resnetlab.inference.formats.exported_file import Format, read_exported_file
from resnetlab.models.fuse_bn import fuse_bn
from resnetlab.models.model_card import read_card
from resnetlab.models.model_file import load_model, save_model

from conftest import resnetlab

KINDS: dict[str, Format] = {"net.onnx": "onnx", "net.xml": "openvino", "net.pt2": "torch-export"}


@pytest.fixture
def net(tmp_path):
    return model_file(tmp_path / "net.safetensors")


def run(*arguments):
    return command.run(parse(command.Options, "export", [*map(str, arguments)]))


def error_of(*arguments):
    with pytest.raises(ConfigError) as caught:
        run(*arguments)
    return str(caught.value)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", KINDS)
def test_the_metadata_describe_source_and_agreement(net, name):
    path = net.with_name(name)
    exported = export(net, path, KINDS[name])
    assert exported == read_exported_file(path)
    assert exported.card == read_card(net)
    assert exported.metadata.source_sha256 == hashlib.sha256(net.read_bytes()).hexdigest()
    assert torch.__version__.startswith(exported.metadata.versions["torch"])
    agreement = exported.metadata.agreement
    assert agreement.tolerance is not None
    assert 0 < agreement.max_difference < agreement.tolerance / 10
    assert agreement.max_difference == max(agreement.by_batch.values())
    assert agreement.top1_agreement_pct == 100
    assert names(net.parent) == sorted({"net.safetensors", name} | ({"net.bin"} if name == "net.xml" else set()))
    assert all(file.stat().st_mode & 0o777 == 0o666 & ~umask() for file in exported.files)


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.slow
def test_the_command_prints_nothing_on_stderr(net, monkeypatch, capfd):
    """The first in a process of its own, with the imports of packages."""
    first, *others = KINDS.values()
    done = resnetlab("export", "net.safetensors", "--format", first, cwd=net.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 6
    monkeypatch.chdir(net.parent)
    for kind in others:
        assert main(["export", "net.safetensors", "--format", kind]) == 0
        out, err = capfd.readouterr()
        assert (len(out.splitlines()), err) == (6, "")


def test_text_output(net, monkeypatch, capsys):
    monkeypatch.chdir(net.parent)
    assert run("net.safetensors", "--format", "torch-export") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "export     net.pt2"
    assert lines[1].startswith("network    resnet8, 6 classes; torch-export, fp32, 0.35 MB")
    assert lines[2].startswith("logits     differ by up to ")
    assert lines[3].endswith("14 images, real and random")
    assert lines[4] == "same class 100.0 % of the images"
    assert max(map(len, lines)) <= 80


def test_json_output_and_inspect(net, capsys):
    assert run(net, "--json") == 0
    output = json.loads(capsys.readouterr().out)
    path = net.with_suffix(".onnx")
    assert (output["out"], output["files"], output["num_bytes"]) == (str(path), [str(path)], path.stat().st_size)
    assert output["agreement"]["max_difference"] <= output["agreement"]["tolerance"]
    assert inspect.run(parse(inspect.Options, "inspect", [str(path)])) == 0
    assert "an export of resnetlab: onnx, fp32" in (text := capsys.readouterr().out)
    assert "agrees   logits within" in text
    with pytest.raises(ConfigError, match="is an export of resnetlab already"):
        inspect.run(parse(inspect.Options, "inspect", [str(path), "--save", "x"]))


def test_a_wrong_conversion_is_not_written(net, monkeypatch, capsys):
    """Fold batch normalisation incorrectly."""

    def wrong_fold(model):
        result = fuse_bn(model)
        result.get_parameter("layer3.0.conv1.bias").data[5] += 0.1
        return result

    monkeypatch.setattr(onnx_graph, "fuse_bn", wrong_fold)
    assert main(["export", str(net), "--format", "torch-export"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("resnetlab: net.pt2 is not written: its logits differ from the network's by up to")
    assert error.count("\n") == 1
    assert names(net.parent) == ["net.safetensors"]


def test_the_written_file_is_compared(net, monkeypatch):
    """Change a weight while the file is written, with a valid checksum: the graph in memory stays correct."""
    encode = onnx_file.encode

    def altered(model, text):
        other = type(model)()
        other.CopyFrom(model)
        head = next(tensor for tensor in other.graph.initializer if tensor.name == "network.fc.weight")
        head.raw_data = (1.01 * np.frombuffer(head.raw_data, np.float32)).astype(np.float32).tobytes()
        return encode(other, text)

    (net.with_suffix(".onnx")).write_bytes(b"old content")
    monkeypatch.setattr(onnx_file, "encode", altered)
    with pytest.raises(ExportMismatchError, match="is not written"):
        export(net, net.with_suffix(".onnx"), "onnx")
    assert net.with_suffix(".onnx").read_bytes() == b"old content"
    assert names(net.parent) == ["net.onnx", "net.safetensors"]


def test_the_final_file_is_compared_again(net, monkeypatch):
    calls = []
    compare_logits = export_module.compare_logits
    monkeypatch.setattr(export_module, "compare_logits", lambda *args: calls.append(args) or compare_logits(*args))
    export(net, net.with_suffix(".pt2"), "torch-export")
    assert len(calls) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["net.onnx", "net.xml"])
def test_int8_metadata_are_stored(net, name):
    """Use a quantiser that only rounds weights; `quantize` has its own tests."""
    path = net.with_name(name)

    def rounded(model, card, source):
        assert card == read_card(net)
        assert source.config == card.model
        for tensor in model.graph.initializer:
            if tensor.name == "network.fc.weight":
                tensor.raw_data = np.round(np.frombuffer(tensor.raw_data, np.float32), 1).tobytes()
        return model, {"error_before_pct": 8.0, "error_after_pct": 8.25}

    metadata = export(net, path, KINDS[name], quantizer=rounded).metadata
    assert metadata == read_exported_file(path).metadata
    assert metadata.precision == "int8"
    assert metadata.int8["error_after_pct"] == 8.25
    assert metadata.agreement.tolerance is None
    assert metadata.agreement.max_difference > 1e-3


def test_a_network_with_nan_weights_is_refused(tmp_path, capsys):
    net = model_file(tmp_path / "net.safetensors")
    model, card = load_model(net)
    model.fc.weight.data[:] = torch.nan
    save_model(tmp_path / "nan.safetensors", model, card)
    assert main(["export", str(tmp_path / "nan.safetensors")]) == 1
    assert "logits that are not finite" in capsys.readouterr().err
    assert names(tmp_path) == ["nan.safetensors", "net.safetensors"]


def test_default_format_and_file(net):
    options = {
        (): ("onnx", "net.onnx"),
        ("--format", "openvino"): ("openvino", "net.xml"),
        ("--out", "sub/a.pt2"): ("torch-export", "sub/a.pt2"),
        ("--out", "b.ONNX", "--format", "onnx"): ("onnx", "b.ONNX"),
        ("--int8", "--calibrate", "digits"): ("onnx", "net-int8.onnx"),
    }
    for arguments, (kind, name) in options.items():
        parsed = parse(command.Options, "export", [str(net), *arguments])
        found_kind, out, _ = command._check_arguments(parsed)
        assert (found_kind, out.name) == (kind, name.rpartition("/")[2])


@pytest.mark.slow
def test_a_run_directory(net):
    (net.parent / "run").mkdir()
    net.rename(net.parent / "run" / "model.safetensors")
    assert run(net.parent / "run", "--out", net.parent / "new" / "a.pt2") == 0
    assert read_exported_file(net.parent / "new" / "a.pt2").card.classes == CLASSES


def test_wrong_arguments_raise(net):
    assert error_of(net, "--out", "a.xml", "--format", "onnx") == (
        "--out a.xml is for openvino, but --format is onnx, whose files end in .onnx; leave one of them out"
    )
    assert error_of(net, "--out", "a.tflite") == (
        "--out a.tflite: the suffix must be one of .onnx (onnx), .xml (openvino), .pt2 (torch-export)"
    )
    assert "--int8 requires images" in error_of(net, "--int8")
    assert "torch-export has fp32" in error_of(net, "--int8", "--calibrate", "digits", "--format", "torch-export")
    assert "--calibrate requires --int8" in error_of(net, "--calibrate", "digits")
    unused = "--label-column", "x", "--on-bad-image", "skip"
    assert "--label-column, --on-bad-image require --int8; add it, or leave them out" in error_of(net, *unused)
    assert "at least 0, not -1" in error_of(net, "--int8", "--calibrate", "digits", "--allow-loss", "-1")
    assert "no such model file" in error_of(net.with_name("x.safetensors"))
    net.with_suffix(".onnx").mkdir()
    assert "is a folder" in error_of(net)
    assert "is already an exported file" in error_of(net.with_name("net.pt2"))
    assert names(net.parent) == ["net.onnx", "net.safetensors"]


def test_unrelated_weights_are_not_overwritten(net):
    net.with_suffix(".bin").write_bytes(b"a checkpoint")
    assert "would overwrite it" in error_of(net, "--format", "openvino")
    assert net.with_suffix(".bin").read_bytes() == b"a checkpoint"


@pytest.mark.slow
def test_an_export_replaces_an_older_one(net, small_exports):
    older = [net.with_name(f"net{suffix}") for suffix in (".xml", ".bin")]
    for path in older:
        path.write_bytes((small_exports / f"model{path.suffix}").read_bytes())
    before = [path.stat().st_ino for path in older]
    assert run(net, "--out", net.with_name("net.xml")) == 0
    assert not {path.stat().st_ino for path in older} & set(before)
    assert names(net.parent) == ["net.bin", "net.safetensors", "net.xml"]


def test_user_images(net, capsys):
    Image.new("RGB", (50, 40), "red").save(net.with_name("a.png"))
    net.with_name("b.png").write_text("no image")
    assert run(net, "--images", net.with_name("a.png"), "--out", net.with_suffix(".pt2"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["agreement"]["num_images"] == 8
    assert "b.png: a text file, not an image" in error_of(net, "--images", net.with_name("b.png"))
    assert "c.png" in error_of(net, "--images", net.with_name("c.png"))
    assert "names no images" in error_of(net, "--images")


@pytest.mark.parametrize(
    ("name", "package"), [("net.onnx", "onnx"), ("net.onnx", "onnxscript"), ("net.xml", "openvino")]
)
def test_a_missing_package_raises(net, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert "pip install 'resnetlab[export]'" in error_of(net, "--out", net.with_name(name))
    assert names(net.parent) == ["net.safetensors"]


def test_a_folder_below_a_file_is_refused(net, capsys):
    (net.parent / "file").write_text("")
    assert main(["export", str(net), "--out", str(net.parent / "file" / "a.pt2")]) == 2
    assert f"{net.parent / 'file'} is a file, not a folder" in capsys.readouterr().err


def test_an_unwritable_folder_fails(net, capsys):
    assert main(["export", str(net), "--out", "/proc/a.pt2"]) == 1
    assert "/proc/" in capsys.readouterr().err
