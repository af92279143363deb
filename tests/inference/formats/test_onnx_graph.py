"""The graph that is shipped: its ends, its size, its silence."""

import logging

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from resnetlab.config import Preprocessing
from resnetlab.data.transforms import normalise
from resnetlab.inference.formats.onnx_graph import ExportableNetwork, export_program, onnx_model
from resnetlab.inference.probe_images import probe_noise
from resnetlab.models.zoo import build_model

COLOUR = Preprocessing(16, (0.48, 0.46, 0.41), (0.23, 0.22, 0.22), crop_ratio=0.875)
PIXEL_MEAN = Preprocessing(16, (0.5,) * 3, (1.0,) * 3, tuple(float(x) for x in np.linspace(0, 1, 3 * 256)))
GREY = Preprocessing(12, (0.3,), (0.4,))
RECTANGLE = Preprocessing(16, (0.4,) * 5, (0.2,) * 5, image_width=24)


def network(preprocessing=COLOUR, **changes):
    generator = torch.Generator().manual_seed(0)
    model = build_model("resnet8", 5, generator=generator, in_channels=len(preprocessing.mean), **changes)
    for _ in range(2):
        model.train()(torch.rand(8, len(preprocessing.mean), 16, 16, generator=generator))
    return model.eval()


@pytest.mark.parametrize(
    ("preprocessing", "changes"),
    [
        (COLOUR, {}),
        pytest.param(GREY, {"shortcut": "none"}, marks=pytest.mark.slow),
        pytest.param(RECTANGLE, {}, marks=pytest.mark.slow),
        pytest.param(PIXEL_MEAN, {"norm": "none", "shortcut": "project"}, marks=pytest.mark.slow),
    ],
)
def test_pixels_in_logits_out(preprocessing, changes):
    model = network(preprocessing, **changes)
    graph = onnx_model(model, preprocessing)
    onnx.checker.check_model(graph, full_check=True)
    views = probe_noise(preprocessing, 5)
    found = onnxruntime.InferenceSession(graph.SerializeToString()).run(["logits"], {"images": views})[0]
    assert isinstance(found, np.ndarray)
    images = torch.from_numpy(views).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = model(normalise(images, preprocessing)).numpy()
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_what_the_graph_looks_like(caplog, capfd, recwarn):
    with caplog.at_level(logging.WARNING):
        graph = onnx_model(network(), COLOUR)
    assert not caplog.records
    assert "".join(capfd.readouterr()) == ""
    assert not recwarn.list
    (images,), (logits,) = graph.graph.input, graph.graph.output
    assert [side.dim_param or side.dim_value for side in images.type.tensor_type.shape.dim] == ["batch", 16, 16, 3]
    assert [side.dim_param or side.dim_value for side in logits.type.tensor_type.shape.dim] == ["batch", 5]
    kinds = [node.op_type for node in graph.graph.node]
    assert kinds[-2:] == ["ReduceMean", "Gemm"]
    assert "BatchNormalization" not in kinds
    assert kinds.count("Conv") == 7
    assert {"Gather", "Shape", "Range"}.isdisjoint(kinds)
    assert {one.domain for one in graph.opset_import} == {""}
    content = graph.SerializeToString()
    assert b"graph.py" not in content  # where each node came from, line by line
    assert b"resnetlab" not in content
    assert len(content) < 4 * sum(parameter.numel() for parameter in network().parameters()) + 20_000


def test_nothing_of_this_machine_goes_along_in_a_program():
    made = export_program(network(), COLOUR)
    assert made.example_inputs is None
    assert all("stack_trace" not in node.meta for node in made.graph.nodes)


def test_the_network_itself_stays_as_it_was():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ExportableNetwork(model, COLOUR).requires_grad_(False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
