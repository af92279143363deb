"""A small network, exported in every format without the proof; and what is asked of files that must be refused."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import onnx
import pytest
import torch

from resnetlab.config import Preprocessing
from resnetlab.inference.formats import onnx_file, onnx_graph, openvino_ir, torch_program
from resnetlab.inference.formats.exported_file import Agreement, ExportedFileError, ExportMetadata, read_exported_file
from resnetlab.inference.formats.metadata import encode_metadata
from resnetlab.models.model_card import ModelCard
from resnetlab.models.zoo import build_model

SEEN = Preprocessing(16, (0.48, 0.46, 0.41), (0.23, 0.22, 0.22), crop_ratio=0.875)
MODEL = build_model("resnet8", 3, generator=torch.Generator().manual_seed(0)).eval()
CARD = ModelCard(MODEL.config, ("ant", "bée", '蜂 <&">'), SEEN, {"seed": 1}, {"test_error_pct": 2.5})
SAYS = ExportMetadata(
    "onnx", "fp32", Agreement(1e-6, 1e-4, {"1": 0.0, "7": 1e-6}, 100.0, 14), "ab" * 32, {"torch": "2"}
)
KINDS = {"net.onnx": "onnx", "net.xml": "openvino", "net.pt2": "torch-export"}


@cache
def the_graph() -> onnx.ModelProto:
    return onnx_graph.onnx_model(MODEL, SEEN)


@cache
def the_program() -> torch.export.ExportedProgram:
    return onnx_graph.export_program(MODEL, SEEN)


def text(name, card=CARD, **changes):
    return encode_metadata(card, replace(SAYS, format=KINDS[name], **changes))


def write(path, said):
    """Write the network with a text."""
    if path.suffix == ".onnx":
        path.write_bytes(onnx_file.encode(the_graph(), said))
    elif path.suffix == ".xml":
        xml, weights = openvino_ir.encode(the_graph().SerializeToString(), said)
        path.write_bytes(xml)
        path.with_suffix(".bin").write_bytes(weights)
    else:
        path.write_bytes(torch_program.encode(the_program(), said))
    return path


def exports_in(folder: Path) -> Path:
    """Fill a folder with net.onnx, net.xml, net.bin and net.pt2."""
    for name in KINDS:
        write(folder / name, text(name))
    return folder


def refusal(path):
    """Read what must not be read; return the reason, which is one line."""
    with pytest.raises(ExportedFileError) as caught:
        read_exported_file(path)
    said = str(caught.value)
    assert said.startswith(str(path.with_suffix(""))), said
    assert "\n" not in said
    assert len(said) < 500
    return said
