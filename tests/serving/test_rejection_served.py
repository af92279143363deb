"""`resnetlab serve --reject-below`: unknown images in the JSON of one and of several images, and the model's card."""

import base64
from dataclasses import replace

import pytest

from helpers.odd_images import encode, noisy_image
from helpers.small_network import model_file

pytest.importorskip("fastapi")

from helpers.http_client import run_server
from resnetlab.cli.main import main
from resnetlab.inference.predictor import load
from resnetlab.models.model_card import TemperatureScaling
from resnetlab.models.model_file import load_model, save_model
from resnetlab.serving.schemas import BatchResponse, ModelInfo, PredictionResponse

SCALING = TemperatureScaling(
    temperature=4.0,
    split="val",
    num_images=9,
    loss_before=2.0,
    loss_after=1.0,
    ece_before_pct=9.0,
    ece_after_pct=1.0,
)


def test_images_below_the_threshold_are_unknown(tmp_path):
    file = model_file(tmp_path / "net.safetensors")
    model, card = load_model(file)
    save_model(file, model, replace(card, temperature_scaling=SCALING))
    images = [encode(noisy_image(width=40 + 30 * index, height=64), "PNG") for index in range(4)]
    answers = load(file)(images)
    probabilities = sorted(answer.probability for answer in answers)
    threshold = (probabilities[1] + probabilities[2]) / 2
    with run_server(file, "--reject-below", threshold) as server:
        info = ModelInfo.model_validate(server.http.get("/v1/model").json())
        assert (info.temperature, info.reject_below) == (4.0, pytest.approx(threshold))
        batch = server.http.post(
            "/v1/predict/batch", json={"images": [base64.b64encode(image).decode() for image in images]}
        )
        results = BatchResponse.model_validate_json(batch.content).predictions
        for image, expected, result in zip(images, answers, results, strict=True):
            single = PredictionResponse.model_validate_json(server.post(image, explain=True).content)
            for found in (single, result):
                assert isinstance(found, PredictionResponse)
                assert found.unknown == (expected.probability < threshold)
                assert found.label == ("unknown" if found.unknown else expected.label)
                assert found.probability == pytest.approx(expected.probability, abs=1e-4)
                assert [item.name for item in found.top] == [name for name, _ in expected.top]
            assert single.overlay is not None  # of the most probable class
        assert sum(found.unknown is True for found in results if isinstance(found, PredictionResponse)) == 2


def test_a_threshold_that_rejects_nothing_ends_the_server(tmp_path, capsys):
    file = model_file(tmp_path / "net.safetensors")
    assert main(["serve", str(file), "--port", "0", "--reject-below", "2"]) == 2
    assert capsys.readouterr().err == "resnetlab: reject-below must be above 0 and below 1, not 2; for example 0.8\n"
