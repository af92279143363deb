"""`resnetlab serve` as clients and people meet it: one real server, asked over HTTP."""

import base64
import json
import re
import socket
from io import BytesIO

import pytest
from PIL import Image

from helpers.odd_images import one, picture, png_of_size, saved, strange_images
from helpers.small_network import CLASSES, model_file

pytest.importorskip("fastapi")

from helpers.http_client import PROBLEM, heard, line, predictions, problem, same, served
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
    with served(model, "--max-mib", 1, "--max-batch-images", 4) as one_server:
        yield one_server


def test_it_says_where_it_is(server):
    assert server.said == f"serving resnet8, 6 classes, torch fp32 on http://127.0.0.1:{server.port}/"


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "ppm"])
def test_an_image_gets_the_predictors_answer(server, predictor, suffix):
    data = one(suffix)
    answer = server.http.post("/v1/predict", content=data, headers={"content-type": "text/whatever"})
    label, top = predictions(answer)
    expected = predictor(data)
    assert label == expected.label
    assert same(top, expected.top)
    assert len(top) == 5
    said = PredictionResponse.model_validate_json(answer.content)
    assert said.overlay is None
    assert answer.headers["content-type"] == "application/json"
    times = said.times_ms
    assert times.total == pytest.approx(times.queue + times.decode + times.inference + times.explain, abs=0.1)
    assert min(times.decode, times.inference) > 0


def test_top_is_heeded(server, predictor):
    data = one("png")
    for top in (1, 3, 6, 10**30):
        _, named = predictions(server.post(data, top=top))
        assert same(named, predictor(data, top=min(top, 6)).top)
        assert len(named) == min(top, 6)
    for top in (0, -1, "many", ""):
        assert "top" in problem(server.post(data, top=top), 422)


def test_an_explanation_is_the_drawing_of_predict(server, predictor):
    data = saved(picture(width=300, height=200), "JPEG")
    answer = server.post(data, explain=1)
    kind, _, text = answer.json()["overlay"].partition(",")
    assert kind == "data:image/png;base64"
    seen = predictor.view(data)
    expected = render_overlay(predictor, data, seen, predictor(data))
    drawn = Image.open(BytesIO(base64.b64decode(text)))
    assert drawn.size == expected.size
    differing = sum(a != b for a, b in zip(drawn.tobytes(), expected.tobytes(), strict=True))
    assert differing < 0.01 * len(expected.tobytes())  # of the last digit, by batches' arithmetic
    assert answer.json()["times_ms"]["explain"] > 0
    assert "overlay" not in server.post(data, explain=0).json()


def test_several_at_once(server, predictor):
    images = [one("png"), b"words", one("jpg"), one("jpg")[:300]]
    body = {"images": [base64.b64encode(data).decode() for data in images]}
    answer = server.http.post("/v1/predict/batch", json=body, params={"top": 2})
    assert answer.status_code == 200
    said = answer.json()["predictions"]
    for at in (0, 2):
        assert same([(row["class"], row["probability"]) for row in said[at]["top"]], predictor(images[at], top=2).top)
    assert [said[at]["status"] for at in (1, 3)] == [415, 422]
    assert "truncated" in said[3]["detail"]
    BatchResponse.model_validate_json(answer.content)
    assert "more than 4" in problem(server.http.post("/v1/predict/batch", json={"images": ["eA=="] * 5}), 413)
    assert "images" in problem(server.http.post("/v1/predict/batch", json={"pictures": []}), 422)


def said_of(predictor, data):
    try:
        return predictor(data)
    except BadImageError as error:
        return error


@pytest.mark.slow
def test_strange_images_each_get_their_own_answer(server, predictor):
    good = 0
    for name, data in strange_images().items():
        answer = server.post(data)
        expected = said_of(predictor, data)
        if isinstance(expected, BadImageError):
            assert answer.status_code in ((413,) if isinstance(expected, TooLargeError) else (415, 422)), name
            detail = problem(answer, answer.status_code)
            assert answer.status_code == 415 or str(expected) in detail, name
        else:
            label, top = predictions(answer)
            assert same(top, expected.top), name
            assert label == expected.label, name
            good += 1
    assert good > 100
    assert server.http.get("/readyz").status_code == 200
    assert server.metric("resnetlab_worker_restarts_total") == 0


def test_a_header_that_claims_too_much(server):
    detail = problem(server.post(png_of_size(one("png"), 50_000, 50_000)), 413)
    assert "50,000 x 50,000 pixels, more than 100 megapixels" in detail


def test_bytes_beyond_the_limit(server):
    assert "more than 1 MiB" in problem(server.post(one("png") + bytes(1 << 20)), 413)


def test_what_is_no_image(server):
    assert "-F" in problem(server.http.post("/v1/predict", files={"file": one("png")}), 415)
    assert "empty" in problem(server.post(b""), 415)
    packed = server.http.post("/v1/predict", content=one("png"), headers={"content-encoding": "gzip"})
    assert "gzip" in problem(packed, 415)
    assert "truncated" in problem(server.post(one("jpg")[:200]), 422)


def test_what_is_served(server, predictor):
    said = server.http.get("/v1/model").json()
    ModelInfo.model_validate(said)
    assert said["classes"] == list(CLASSES)
    assert (said["name"], said["backend"], said["precision"]) == ("resnet8", "torch", "fp32")
    assert (said["image_size"], said["channels"], said["max_bytes"]) == (32, 3, 1 << 20)
    assert said["preprocessing"]["mean"] == list(predictor.preprocessing.mean)
    assert said["version"] == __version__
    assert "provenance" not in said
    assert "pixel_mean" not in said["preprocessing"]


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
        server.post(one("png"))
    assert {name: server.metric(name) - value for name, value in before.items()} == dict.fromkeys(before, 3)
    assert server.metric("resnetlab_queue_images") == server.metric("resnetlab_worker_images") == 0
    assert server.metric("resnetlab_worker_ready") == 1
    assert server.metric("process_resident_memory_bytes") > 1e6
    assert 'path="other"' in server.http.get("/metrics").text or server.http.get("/nowhere").status_code == 404


def test_errors_are_problems(server):
    assert "/docs" in problem(server.http.get("/v2/predict"), 404)
    assert "POST" in problem(server.http.get("/v1/predict"), 405)
    assert server.http.get("/v1/predict").headers["allow"] == "POST"
    assert server.http.get("/../../etc/passwd").headers["content-type"] == PROBLEM


def test_the_page_is_whole_and_guarded(server):
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


def test_the_description_needs_no_internet(server):
    page = server.http.get("/docs")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) == 3
    assert server.http.get("/docs/").status_code == 404
    for path in loaded:
        assert path.startswith("/docs/")
        assert len(server.http.get(path).content) > 50
    described = server.http.get("/openapi.json").json()
    assert set(described["paths"]) >= {
        "/v1/predict",
        "/v1/predict/batch",
        "/v1/model",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    assert "image/jpeg" in described["paths"]["/v1/predict"]["post"]["requestBody"]["content"]


def test_another_host_is_refused(server):
    for host in ("localhost", "127.0.0.1:1", "[::1]:80", "LOCALHOST.", "192.168.1.7"):
        assert server.http.get("/healthz", headers={"host": host}).status_code == 200, host
    for host in ("evil.example", "localhost.evil.example:8000", "127.0.0.1.evil.example"):
        assert "--allow-host" in problem(server.http.get("/v1/model", headers={"host": host}), 421)


def test_pages_of_other_sites_cannot_use_it(server):
    crossing = {"sec-fetch-site": "cross-site", "origin": "https://evil.example"}
    assert problem(server.http.post("/v1/predict", content=one("png"), headers=crossing), 403)
    answer = server.http.post("/v1/predict", content=one("png"), headers={"origin": "https://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert server.http.options("/v1/predict", headers=crossing).status_code in (403, 405)


def test_garbage_is_no_request(server):
    with line(server.port) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert heard(connection)[0] == 400
    with line(server.port) as connection:
        connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert heard(connection)[0] == 200


def test_requests_one_after_the_other_on_one_connection(server, predictor):
    """Also where a client does not wait for the answer before."""
    images = [one("png"), one("jpg")]
    with line(server.port) as connection:
        for data in images:
            head = f"POST /v1/predict?top=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
            connection.sendall(head.encode() + data)
        with connection.makefile("rb") as file:
            for data in images:
                length = 0
                while words := file.readline().strip().lower():
                    if words.startswith(b"content-length:"):
                        length = int(words.split()[1])
                assert json.loads(file.read(length))["label"] == predictor(data).label


def test_many_at_once_are_batched(server, predictor):
    images = [one("png") for _ in range(12)]
    before = server.metric('resnetlab_batch_images_bucket{le="1.0"}')
    lines = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in images]
    for connection, data in zip(lines, images, strict=True):
        head = f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data)
    for connection, data in zip(lines, images, strict=True):
        status, _, body = heard(connection)
        connection.close()
        assert status == 200
        assert json.loads(body)["label"] == predictor(data).label
    assert server.metric('resnetlab_batch_images_bucket{le="1.0"}') - before < len(images)
