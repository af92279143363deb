"""The HTTP interface of `resnetlab serve`: requests to one real server."""

import base64
import json
import re
import socket
from io import BytesIO

import pytest
from PIL import Image

from helpers.odd_images import encode, encode_as, noisy_image, odd_images, png_of_size
from helpers.small_network import CLASSES, model_file

pytest.importorskip("fastapi")

from helpers.http_client import (
    PROBLEM_MEDIA_TYPE,
    parse_prediction,
    paused,
    problem_detail,
    read_response,
    run_server,
    same_top,
    wait_until,
)
from resnetlab import __version__
from resnetlab.data.images.decode import BadImageError, TooLargeError
from resnetlab.inference.explain import render_overlay
from resnetlab.inference.predictor import load
from resnetlab.serving.schemas import BatchResponse, ModelInfo, PredictionResponse


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_file(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def predictor(model):
    return load(model)


@pytest.fixture(scope="module")
def server(model):
    with run_server(model, "--max-mib", 1, "--max-batch-images", 4) as running:
        yield running


def test_the_ready_line_has_the_address(server):
    assert server.ready_line == f"serving resnet8, 6 classes, torch fp32 on http://127.0.0.1:{server.port}/"


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "ppm"])
def test_predict_returns_what_the_predictor_returns(server, predictor, suffix):
    data = encode_as(suffix)
    response = server.http.post("/v1/predict", content=data, headers={"content-type": "text/whatever"})
    label, top = parse_prediction(response)
    expected = predictor(data)
    assert label == expected.label
    assert same_top(top, expected.top)
    assert len(top) == 5
    prediction = PredictionResponse.model_validate_json(response.content)
    assert prediction.overlay is None
    assert response.headers["content-type"] == "application/json"
    times = prediction.times_ms
    assert times.total == pytest.approx(times.queue + times.decode + times.inference + times.explain, abs=0.1)
    assert min(times.decode, times.inference) > 0


def test_top_limits_the_number_of_classes(server, predictor):
    data = encode_as("png")
    for top in (1, 3, 6, 10**30):
        _, returned = parse_prediction(server.post(data, top=top))
        assert same_top(returned, predictor(data, top=min(top, 6)).top)
        assert len(returned) == min(top, 6)
    for top in (0, -1, "many", ""):
        assert "top" in problem_detail(server.post(data, top=top), 422)


def test_explain_returns_the_overlay_of_render_overlay(server, predictor):
    data = encode(noisy_image(width=300, height=200), "JPEG")
    response = server.post(data, explain=1)
    kind, _, text = response.json()["overlay"].partition(",")
    assert kind == "data:image/png;base64"
    expected = render_overlay(predictor, predictor(data), encoded=data, view=predictor.preprocess(data))
    overlay = Image.open(BytesIO(base64.b64decode(text)))
    assert overlay.size == expected.size
    differing = sum(a != b for a, b in zip(overlay.tobytes(), expected.tobytes(), strict=True))
    assert differing < 0.01 * len(expected.tobytes())  # rounding that depends on the batch size
    assert response.json()["times_ms"]["explain"] > 0
    assert "overlay" not in server.post(data, explain=0).json()


def test_a_batch_returns_a_prediction_or_error_per_image(server, predictor):
    images = [encode_as("png"), b"words", encode_as("jpg"), encode_as("jpg")[:300]]
    body = {"images": [base64.b64encode(data).decode() for data in images]}
    response = server.http.post("/v1/predict/batch", json=body, params={"top": 2})
    assert response.status_code == 200
    results = response.json()["predictions"]
    for at in (0, 2):
        assert same_top(
            [(row["class"], row["probability"]) for row in results[at]["top"]], predictor(images[at], top=2).top
        )
    assert [results[at]["status"] for at in (1, 3)] == [415, 422]
    assert "truncated" in results[3]["detail"]
    BatchResponse.model_validate_json(response.content)
    assert "more than 4" in problem_detail(server.http.post("/v1/predict/batch", json={"images": ["eA=="] * 5}), 413)
    assert "images" in problem_detail(server.http.post("/v1/predict/batch", json={"files": []}), 422)


def prediction_or_error(predictor, data):
    try:
        return predictor(data)
    except BadImageError as error:
        return error


@pytest.mark.slow
def test_unusual_images_get_the_predictors_result(server, predictor):
    good = 0
    for name, data in odd_images().items():
        response = server.post(data)
        expected = prediction_or_error(predictor, data)
        if isinstance(expected, BadImageError):
            assert response.status_code in ((413,) if isinstance(expected, TooLargeError) else (415, 422)), name
            detail = problem_detail(response, response.status_code)
            assert response.status_code == 415 or str(expected) in detail, name
        else:
            label, top = parse_prediction(response)
            assert same_top(top, expected.top), name
            assert label == expected.label, name
            good += 1
    assert good > 100
    assert server.http.get("/readyz").status_code == 200
    assert server.metric("resnetlab_worker_restarts_total") == 0


def test_an_image_with_too_many_pixels_is_rejected(server):
    detail = problem_detail(server.post(png_of_size(encode_as("png"), 50_000, 50_000)), 413)
    assert "50,000 x 50,000 pixels, more than 100 megapixels" in detail


def test_an_image_with_too_many_bytes_is_rejected(server):
    assert "more than 1 MiB" in problem_detail(server.post(encode_as("png") + bytes(1 << 20)), 413)


def test_bodies_that_are_not_images_are_rejected(server):
    assert "-F" in problem_detail(server.post(b"--form\r\n"), 415)
    assert "empty" in problem_detail(server.post(b""), 415)
    compressed = server.http.post("/v1/predict", content=encode_as("png"), headers={"content-encoding": "gzip"})
    assert "gzip" in problem_detail(compressed, 415)
    assert "truncated" in problem_detail(server.post(encode_as("jpg")[:200]), 422)


def test_the_model_is_described(server, predictor):
    info = server.http.get("/v1/model").json()
    ModelInfo.model_validate(info)
    assert info["classes"] == list(CLASSES)
    assert (info["name"], info["backend"], info["precision"]) == ("resnet8", "torch", "fp32")
    assert (info["image_size"], info["channels"], info["max_bytes"]) == (32, 3, 1 << 20)
    assert info["preprocessing"]["mean"] == list(predictor.preprocessing.mean)
    assert info["version"] == __version__
    assert "provenance" not in info
    assert "pixel_mean" not in info["preprocessing"]


def test_health(server):
    assert server.http.get("/healthz").json() == {"status": "ok"}
    assert server.http.get("/readyz").json() == {"status": "ready"}


def test_metrics(server):
    before = {
        line: server.metric(line)
        for line in (
            'resnetlab_requests_total{path="/v1/predict",status="200"}',
            'resnetlab_images_total{outcome="answered"}',
            "resnetlab_batch_images_count",
            'resnetlab_stage_seconds_count{stage="queue"}',
            'resnetlab_stage_seconds_count{stage="decode"}',
            'resnetlab_stage_seconds_count{stage="inference"}',
            "resnetlab_image_seconds_count",
            'resnetlab_request_seconds_count{path="/v1/predict"}',
        )
    }
    for _ in range(3):
        server.post(encode_as("png"))
    assert {name: server.metric(name) - value for name, value in before.items()} == dict.fromkeys(before, 3)
    assert server.metric("resnetlab_queue_images") == server.metric("resnetlab_worker_images") == 0
    assert server.metric("resnetlab_worker_ready") == 1
    assert server.metric("process_resident_memory_bytes") > 1e6
    assert 'path="other"' in server.http.get("/metrics").text or server.http.get("/nowhere").status_code == 404


def test_unknown_paths_and_methods_get_problem_details(server):
    assert "/docs" in problem_detail(server.http.get("/v2/predict"), 404)
    assert "POST" in problem_detail(server.http.get("/v1/predict"), 405)
    assert "method HEAD is not allowed" not in server.http.head("/v1/predict").text
    assert "GET, HEAD" in problem_detail(server.http.post("/healthz"), 405)
    assert server.http.get("/v1/predict").headers["allow"] == "POST"
    assert server.http.get("/../../etc/passwd").headers["content-type"] == PROBLEM_MEDIA_TYPE


def test_the_web_page_has_a_strict_policy_and_loads_nothing(server):
    page = server.http.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page.text)
    assert server.http.head("/").status_code == 200


def test_the_api_documentation_loads_only_local_files(server):
    page = server.http.get("/docs")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) == 3
    assert server.http.get("/docs/").status_code == 404
    for path in loaded:
        assert path.startswith("docs/")
        assert len(server.http.get(f"/{path}").content) > 50
    document = server.http.get("/openapi.json").json()
    assert set(document["paths"]) >= {
        "/v1/predict",
        "/v1/predict/batch",
        "/v1/model",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    assert "image/jpeg" in document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]
    for path in ("/v1/predict", "/v1/predict/batch"):
        form = document["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert list(form["properties"]) == form["required"] == ["file"]


def test_concurrent_requests_are_batched(server, predictor):
    images = [encode_as("png") for _ in range(12)]
    before = server.metric('resnetlab_batch_images_bucket{le="1.0"}')
    connections = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in images]
    with paused(server.worker_pid()):  # so that all arrive before the first is computed, also on a busy machine
        for connection, data in zip(connections, images, strict=True):
            head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
            connection.sendall(head.encode() + data)
        wait_until(lambda: server.metric("resnetlab_worker_images") == len(images))
    for connection, data in zip(connections, images, strict=True):
        status, _, body = read_response(connection)
        connection.close()
        assert status == 200
        assert json.loads(body)["label"] == predictor(data).label
    assert server.metric('resnetlab_batch_images_bucket{le="1.0"}') - before < len(images)
