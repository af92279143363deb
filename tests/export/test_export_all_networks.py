"""Export of every kind of network in the zoo, and the agreement stored in the file.

ImageNet networks get 64 pixels here, so that the tests take two minutes; only the feature-map sizes differ. ONNX and
OpenVINO files are written from one graph, which is made once for each network.
"""

import pytest
import torch
from torch import nn

from helpers.one_graph import keep_graph
from resnetlab.config import Preprocessing
from resnetlab.export.export import export
from resnetlab.inference.formats.exported_file import read_exported_file
from resnetlab.models.model_card import ModelCard
from resnetlab.models.model_file import save_model
from resnetlab.models.zoo import build_model

pytestmark = pytest.mark.slow

NARROW = {"stage_channels": (16, 32, 64, 128)}
"""A quarter of the width: the files of resnet152 have 15 MB instead of 240."""
NETWORKS = {
    **{f"resnet{depth}": {} for depth in (18, 50)},
    **{f"resnet{depth} narrow": NARROW for depth in (34, 152)},
    "resnet50-v1 narrow": NARROW,
    "plain34 narrow": NARROW,
    **{name: {} for name in ("resnet20", "resnet56", "plain20", "plain56")},
    "resnet20 B": {"shortcut": "project"},
    "resnet56 B": {"shortcut": "project"},
    "resnet20 C": {"shortcut": "project_all"},
    "resnet56 bottleneck": {"block": "bottleneck"},
    "plain20 without BN": {"norm": "none"},
}
"""Shortcut options A, B, C, both blocks, v1 and v1.5, plain and residual; the deepest has the blocks of resnet101."""


@pytest.fixture(scope="module")
def model_files(tmp_path_factory):
    """Return a function that creates each model file once."""
    folder, files = tmp_path_factory.mktemp("zoo"), {}

    def model_file(label):
        if label not in files:
            files[label] = save(folder / f"{label}.safetensors", label)
        return files[label]

    return model_file


def save(path, label):
    """Write a network after some training-mode batches, so that its statistics are not the initial ones."""
    generator = torch.Generator().manual_seed(0)
    model = build_model(label.split()[0], generator=generator, **NETWORKS[label])
    size = 64 if model.config.stem == "imagenet" else 32
    for _ in range(3):
        model.train()(torch.randn(8, 3, size, size, generator=generator))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.2, generator=generator)
            nn.init.normal_(module.bias, 0, 0.1, generator=generator)
    classes = tuple(f"class {number}" for number in range(model.config.num_classes))
    preprocessing = Preprocessing(size, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), crop_ratio=0.875)
    save_model(path, model.eval(), ModelCard(model.config, classes, preprocessing))
    return path


@pytest.fixture(scope="module")
def graphs():
    """The graph of the network at hand; pytest runs the tests of a network one after the other."""
    return {}


@pytest.fixture
def one_graph(label, graphs, monkeypatch):
    """Have the second format of a network written from the graph of the first."""
    keep_graph(monkeypatch, graphs, label)


@pytest.mark.usefixtures("one_graph")
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
@pytest.mark.parametrize("label", NETWORKS)
def test_export_agrees_with_the_source(model_files, label, kind, tmp_path):
    out = tmp_path / ("net.onnx" if kind == "onnx" else "net.xml")
    export(model_files(label), out, kind)
    stored = read_exported_file(out).metadata.agreement
    assert stored.tolerance is not None
    assert 0 < stored.max_difference <= stored.tolerance
    assert set(stored.by_batch) == {"1", "7"}
    assert stored.top1_agreement_pct == 100
    print(f"{label:22} {kind:8} {stored.max_difference:.1e} of {stored.tolerance:.1e} allowed")


@pytest.mark.parametrize("label", ["resnet50", "plain20", "resnet20"])
def test_torch_program_agrees_with_the_source(model_files, label, tmp_path):
    export(model_files(label), tmp_path / "net.pt2", "torch-export")
    stored = read_exported_file(tmp_path / "net.pt2").metadata.agreement
    assert stored.tolerance is not None
    assert 0 < stored.max_difference <= stored.tolerance
