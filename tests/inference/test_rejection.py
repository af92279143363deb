"""Temperature and rejection in the predictor: probabilities change, the order of classes does not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.small_network import CLASSES, COLOUR, model_file, network
from resnetlab.config import ConfigError
from resnetlab.export.export import export
from resnetlab.inference.formats.exported_file import SUFFIXES
from resnetlab.inference.formats.metadata import Agreement, ExportMetadata, encode_metadata, parse_metadata
from resnetlab.inference.predictor import Prediction, Predictor, load
from resnetlab.inference.rejection import check_reject_below
from resnetlab.models.model_card import ModelCard, ModelFileError, MultiLabel, TemperatureScaling, read_card
from resnetlab.models.model_file import load_model, save_model
from resnetlab.models.zoo import build_model
from resnetlab.serialization import to_json

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
SCALING = TemperatureScaling(
    temperature=2.5,
    split="val",
    num_images=100,
    loss_before=1.5,
    loss_after=1.0,
    ece_before_pct=20.0,
    ece_after_pct=3.0,
)


@pytest.fixture(scope="module")
def predictor():
    model = network()
    return Predictor(model, ModelCard(model.config, CLASSES, COLOUR))


def scaled(predictor, temperature=2.5, **options):
    card = replace(predictor.card, temperature_scaling=replace(SCALING, temperature=temperature))
    return Predictor(predictor.model, card, **options)


@pytest.mark.parametrize("temperature", [0.5, 2.5])
def test_the_temperature_divides_the_logits(predictor, temperature):
    logits = np.log(predictor.probabilities(PIXELS))
    powers = np.exp(logits / temperature)
    probabilities = scaled(predictor, temperature).probabilities(PIXELS)
    np.testing.assert_allclose(probabilities, powers / powers.sum(1, keepdims=True), rtol=1e-6)
    assert [prediction.label for prediction in scaled(predictor, temperature)(PIXELS)] == [
        prediction.label for prediction in predictor(PIXELS)
    ]
    confidence = predictor.probabilities(PIXELS).max(1)
    assert np.all((probabilities.max(1) > confidence) == (temperature < 1))


def test_the_card_keeps_the_temperature_and_old_cards_have_none(tmp_path):
    file = model_file(tmp_path / "a.safetensors")
    assert "temperature_scaling" not in to_json(read_card(file))  # files without one are as before
    assert read_card(file).temperature == 1
    model, card = load_model(file)
    save_model(file, model, replace(card, temperature_scaling=SCALING))
    assert load_model(file)[1].temperature_scaling == SCALING
    np.testing.assert_allclose(
        load(file).probabilities(PIXELS), scaled(Predictor(model, card)).probabilities(PIXELS), rtol=1e-6
    )
    with pytest.raises(ConfigError, match="temperature must be above 0, not -1"):
        replace(SCALING, temperature=-1.0)
    content = file.read_bytes()
    file.write_bytes(content.replace(rb"\"temperature\": 2.5", rb"\"temperature\": 3.5"))
    assert file.read_bytes() != content
    with pytest.raises(ModelFileError, match="its card is not as written"):
        load(file)


def test_images_below_the_threshold_are_unknown(predictor):
    confidence = predictor.probabilities(PIXELS).max(1)
    threshold = float(np.sort(confidence)[4])  # an image of exactly this probability is accepted
    rejecting = Predictor(predictor.model, predictor.card, reject_below=threshold)
    answers = rejecting(PIXELS)
    assert [answer.is_unknown for answer in answers] == (confidence < threshold).tolist()
    assert sum(answer.is_unknown for answer in answers) == 4
    for answer, before in zip(answers, predictor(PIXELS), strict=True):
        assert (answer.probability, answer.top) == (before.probability, before.top)
        assert answer.label == ("unknown" if answer.is_unknown else before.label)


def test_the_threshold_applies_to_probabilities_at_the_temperature(predictor):
    threshold = float(predictor.probabilities(PIXELS).max(1).min())
    assert not any(
        answer.is_unknown for answer in Predictor(predictor.model, predictor.card, reject_below=threshold)(PIXELS)
    )
    assert any(answer.is_unknown for answer in scaled(predictor, 2.5, reject_below=threshold)(PIXELS))


def test_text_of_an_unknown_image():
    prediction = Prediction("unknown", 0.4, (("cat", 0.4), ("dog", 0.3)), is_unknown=True)
    assert str(prediction) == "unknown: cat 40.0 %, dog 30.0 %"
    assert repr(prediction) == (
        "Prediction('unknown', 0.4000, top=(('cat', 0.4000), ('dog', 0.3000)), is_unknown=True)"
    )


@pytest.mark.parametrize("threshold", [0, 1, -0.5, 80, float("nan")])
def test_thresholds_that_are_no_probability_are_refused(threshold):
    with pytest.raises(ConfigError, match="reject-below must be above 0 and below 1, not"):
        check_reject_below(threshold)


def test_a_threshold_that_rejects_nothing_is_refused(predictor, tmp_path):
    message = "reject-below 0.15 rejects no image: the most probable of 6 classes has at least 0.167"
    with pytest.raises(ConfigError, match=message):
        Predictor(predictor.model, predictor.card, reject_below=0.15)
    with pytest.raises(ConfigError, match=message) as caught:
        load(model_file(tmp_path / "a.safetensors"), reject_below=0.15)
    assert not isinstance(caught.value, ModelFileError)  # the file is intact


@pytest.mark.parametrize("threshold", [0.5, 0.999])
def test_a_network_of_one_class_rejects_nothing(predictor, threshold):
    model = build_model("resnet8", 1)
    card = ModelCard(model.config, ("cat",), COLOUR)
    with pytest.raises(ConfigError, match="only class is always 1; leave out reject-below"):
        Predictor(model, card, reject_below=threshold)
    assert Predictor(model, card)(PIXELS[0]).probability == 1


@pytest.mark.parametrize("threshold", [0.15, 0.5, 80])
@pytest.mark.parametrize("names", [("cat",), CLASSES])
def test_several_labels_have_their_own_thresholds(tmp_path, threshold, names):
    """A sigmoid has no least value: the best of six may be below a sixth."""
    model = build_model("resnet8", len(names))
    multi_label = MultiLabel(thresholds=(0.5,) * len(names), split="val", num_images=9)
    save_model(tmp_path / "a.safetensors", model, ModelCard(model.config, names, COLOUR, multi_label=multi_label))
    with pytest.raises(ConfigError, match="has a threshold for each label; leave out reject-below"):
        load(tmp_path / "a.safetensors", reject_below=threshold)


@pytest.mark.parametrize("kind", ["onnx", "openvino", "torch-export"])
def test_the_metadata_of_an_export_keep_the_temperature(predictor, kind):
    agreement = Agreement(max_difference=0.0, tolerance=1e-4, by_batch={}, top1_agreement_pct=100.0, num_images=1)
    metadata = ExportMetadata(format=kind, precision="fp32", agreement=agreement, source_sha256="")
    card, _ = parse_metadata(encode_metadata(scaled(predictor).card, metadata), Path("net"), kind)
    assert card == scaled(predictor).card


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "backend"), [(".onnx", "onnxruntime"), (".onnx", "openvino"), (".pt2", "torch")])
def test_exports_answer_as_their_model_file(tmp_path, predictor, suffix, backend):
    """The runtime is named: the fastest one may compute in bf16 on a processor that has it."""
    file = tmp_path / "net.safetensors"
    save_model(file, predictor.model, scaled(predictor).card)
    export(file, tmp_path / f"net{suffix}", SUFFIXES[suffix])
    exported = load(tmp_path / f"net{suffix}", backend=backend, reject_below=0.5)
    expected = load(file, reject_below=0.5)
    np.testing.assert_allclose(exported.probabilities(PIXELS), expected.probabilities(PIXELS), atol=1e-5)
    assert [answer.label for answer in exported(PIXELS)] == [answer.label for answer in expected(PIXELS)]
