"""Exports of one network in several formats from one graph, which takes most of an export's time."""

import copy
from typing import Any

import pytest

from resnetlab.export import export as export_module


def keep_graph(monkeypatch: pytest.MonkeyPatch, graphs: dict[str, Any], label: str) -> None:
    """Have the ONNX and the OpenVINO file of a network written from one graph: `graphs` keeps that of one label."""
    onnx_model = export_module.onnx_model

    def kept(*arguments: Any) -> Any:
        if label not in graphs:
            graphs.clear()
            graphs[label] = onnx_model(*arguments)
        return copy.deepcopy(graphs[label])

    monkeypatch.setattr(export_module, "onnx_model", kept)
