"""Features against a hook on the head, on every runtime; nearest images against scikit-learn."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from helpers.small_network import CLASSES, COLOUR, network
from resnetlab.inference import nearest
from resnetlab.inference.embedding import embed_views, num_features
from resnetlab.inference.nearest import NearestSearch
from resnetlab.inference.predictor import BrokenNetworkError, Predictor, load
from resnetlab.models.model_card import ModelCard

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (70, 32, 32, 3), dtype=np.uint8)


def predictor_of(model):
    return Predictor(model, ModelCard(model.config, CLASSES, COLOUR))


@pytest.mark.parametrize(("name", "block"), [("resnet8", "basic"), ("resnet11", "bottleneck")])
def test_features_are_the_input_of_the_head(name, block):
    model = network(name=name, block=block)
    predictor, inputs = predictor_of(model), []
    hook = model.fc.register_forward_hook(lambda _, arguments, __: inputs.append(arguments[0].numpy()))
    probabilities = predictor.probabilities(PIXELS)
    hook.remove()
    features = predictor.embed(PIXELS)  # more than one batch
    assert features.dtype == np.float32
    assert features.shape == (70, num_features(predictor.card)) == (70, model.fc.in_features)
    np.testing.assert_allclose(features, np.concatenate(inputs), rtol=1e-5, atol=1e-6)
    views = np.stack([predictor.preprocess(image) for image in PIXELS[:8]])
    np.testing.assert_allclose(embed_views(predictor, views)[1], probabilities[:8], atol=1e-6)
    np.testing.assert_array_equal(predictor.embed(PIXELS[0]), predictor.embed(PIXELS[:1]))
    assert predictor.embed([]).shape == (0, model.fc.in_features)


@pytest.mark.parametrize(("suffix", "backend"), [(".onnx", "onnxruntime"), (".xml", "openvino"), (".pt2", "torch")])
def test_exports_have_the_features_of_their_model_file(small_exports, suffix, backend):
    file = small_exports / "model.safetensors"
    exported, expected = load(file.with_suffix(suffix), backend=backend), load(file)
    np.testing.assert_allclose(exported.embed(PIXELS[:3]), expected.embed(PIXELS[:3]), rtol=1e-3, atol=1e-4)


def test_features_that_are_not_finite_are_refused():
    model = network()
    model.fc.weight.data.fill_(np.nan)
    with pytest.raises(BrokenNetworkError, match="not finite"):
        predictor_of(model).embed(PIXELS[0])


@pytest.mark.parametrize("block", [7, 4096])
@pytest.mark.parametrize("count", [1, 5, 50])
def test_nearest_equals_scikit_learn(monkeypatch, block, count):
    monkeypatch.setattr(nearest, "BLOCK_ROWS", block)
    features = RNG.normal(size=(50, 12)).astype(np.float32)
    queries = RNG.normal(size=(9, 12)).astype(np.float32)
    distances, rows = NearestNeighbors(metric="cosine", algorithm="brute").fit(features).kneighbors(queries, count)
    found, cosines = NearestSearch(features).search(queries, count)
    np.testing.assert_array_equal(found, rows)
    np.testing.assert_allclose(cosines, 1 - distances, atol=1e-6)


def test_excluded_rows_and_zeros(monkeypatch):
    monkeypatch.setattr(nearest, "BLOCK_ROWS", 2)
    features = np.array([[1, 0], [1, 0], [0, 1], [0, 0], [1, 1]], np.float32)
    found, cosines = NearestSearch(features).search(features, 9, exclude=np.stack([np.arange(5)] * 2, 1))
    assert found.shape == (5, 4)
    assert all(row not in found[row] for row in range(5))
    assert found[0, :2].tolist() == [1, 4]
    assert cosines[3].tolist() == [0, 0, 0, 0]
    assert NearestSearch(features[:1]).search(features[:1], 3, exclude=np.zeros((1, 2), int))[0].shape == (1, 0)
