"""A small network exported in each format, without verification; and `read_error` for files that are rejected."""

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

PREPROCESSING = Preprocessing(16, (0.48, 0.46, 0.41), (0.23, 0.22, 0.22), crop_ratio=0.875)
MODEL = build_model("resnet8", 3, generator=torch.Generator().manual_seed(0)).eval()
CARD = ModelCard(
    MODEL.config, ("ant", "bée", '蜂 <&">'), PREPROCESSING, provenance={"seed": 1}, error={"test_error_pct": 2.5}
)
METADATA = ExportMetadata(
    format="onnx",
    precision="fp32",
    agreement=Agreement(
        max_difference=1e-6,
        tolerance=1e-4,
        by_batch={"1": 0.0, "7": 1e-6},
        top1_agreement_pct=100.0,
        num_images=14,
    ),
    source_sha256="ab" * 32,
    versions={"torch": "2"},
)
FORMATS = {"net.onnx": "onnx", "net.xml": "openvino", "net.pt2": "torch-export"}


@cache
def onnx_model() -> onnx.ModelProto:
    return onnx_graph.onnx_model(MODEL, PREPROCESSING)


@cache
def program() -> torch.export.ExportedProgram:
    return onnx_graph.export_program(MODEL, PREPROCESSING)


def metadata_text(name, card=CARD, **changes):
    return encode_metadata(card, replace(METADATA, format=FORMATS[name], **changes))


def write_export(path, text):
    """Write the network with a metadata text."""
    if path.suffix == ".onnx":
        path.write_bytes(onnx_file.encode(onnx_model(), text))
    elif path.suffix == ".xml":
        xml, weights = openvino_ir.encode(onnx_model().SerializeToString(), text)
        path.write_bytes(xml)
        path.with_suffix(".bin").write_bytes(weights)
    else:
        path.write_bytes(torch_program.encode(program(), text))
    return path


def write_exports(folder: Path) -> Path:
    """Write net.onnx, net.xml, net.bin and net.pt2 into a folder."""
    for name in FORMATS:
        write_export(folder / name, metadata_text(name))
    return folder


def read_error(path):
    """Read a file that must be rejected, and return the error message, which is one line."""
    with pytest.raises(ExportedFileError) as caught:
        read_exported_file(path)
    message = str(caught.value)
    assert message.startswith(str(path.with_suffix(""))), message
    assert "\n" not in message
    assert len(message) < 500
    return message
