"""`resnetlab serve`: exported files, greyscale models, options, and error messages."""

import re
import shutil
import socket
import time

import pytest

from helpers.odd_images import encode, encode_as, noisy_image
from helpers.small_network import GREY, model_file

from conftest import resnetlab

pytest.importorskip("fastapi")

from helpers.http_client import parse_prediction, problem_detail, run_server, same_top
from resnetlab.cli import serve
from resnetlab.cli.main import UsageError, parse
from resnetlab.config import ConfigError
from resnetlab.inference.predictor import load
from resnetlab.serving import server as server_module
from resnetlab.serving.metrics import ServerMetrics


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_file(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def predictor(model):
    return load(model)


@pytest.mark.slow
def test_an_exported_file_is_served(small_exports, predictor, tmp_path):
    pytest.importorskip("onnxruntime")
    exported = tmp_path / "model.onnx"
    shutil.copy(small_exports / "model.onnx", exported)
    data = encode(noisy_image(width=300, height=200), "JPEG")
    with run_server(exported, "--backend", "onnxruntime") as server:
        response = server.post(data, explain=1)
        assert same_top(parse_prediction(response)[1], predictor(data).top)
        assert response.json()["overlay"].startswith("data:image/png;base64,")
        assert server.http.get("/v1/model").json()["backend"] == "onnxruntime"


@pytest.mark.alone
@pytest.mark.slow
def test_without_uvloop_and_httptools_responses_are_not_delayed(model, predictor, tmp_path):
    """With h11 and asyncio alone, no response may be delayed by Nagle's algorithm (40 ms)."""
    for name in ("uvloop", "httptools"):
        (tmp_path / f"{name}.py").write_text("raise ImportError")
    data, times_s = encode_as("png"), []
    with run_server(model, PYTHONPATH=str(tmp_path)) as server:
        for _ in range(40):
            start = time.perf_counter()
            label, _ = parse_prediction(server.post(data))
            times_s.append(time.perf_counter() - start)
            assert label == predictor(data).label
        assert sorted(times_s)[10] < 0.035
        assert problem_detail(server.post(bytes(20 << 20)), 413)


@pytest.mark.slow
def test_a_greyscale_model_is_served(tmp_path):
    grey = model_file(tmp_path / "grey.safetensors", GREY)
    options = ("--access-log", "--allow-host", "cats.example", "--host", "localhost")
    with run_server(grey, *options, expect_empty_stderr=False) as server:
        data = encode_as("jpg")
        assert same_top(parse_prediction(server.post(data))[1], load(grey)(data).top)
        assert server.http.get("/v1/model").json()["channels"] == 1
        assert server.http.get("/healthz", headers={"host": "cats.example"}).status_code == 200
        assert server.http.get("/healthz", headers={"host": "dogs.example"}).status_code == 421
        assert server.stop() == 0
        assert re.search(r"^127\.0\.0\.1 POST /v1/predict 200 \d+\.\d ms$", server.stderr(), re.M)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--host", "256.1.1.1"), "cannot listen on 256.1.1.1"),
        (("--port", 70_000), "port must be from 0 to 65535"),
        (("--max-queue", 0), "max-queue must be at least 1"),
        (("--timeout", 0), "timeout must be above 0 seconds"),
        (("--body-timeout", "nan"), "body-timeout must be above 0 seconds"),
        (("--max-wait-ms", -1), "max-wait-ms must be at least 0"),
        (("--cores", 0), "cores must be at least 1"),
        (("--max-batch-images", 500), "must be at most max-queue"),
        (("--max-decode-mib", 15), "max-decode-mib must be at least 16"),
        (("--allow-origin", "app.example"), "allow-origin must be a scheme and a host"),
        (("--root-path", "resnet/"), "root-path must start with a slash"),
    ],
)
def test_an_invalid_option_is_rejected(model, options, reason):
    with pytest.raises(ConfigError, match=reason):
        serve.run(parse(serve.Options, "serve", [str(model), *map(str, options)]))


@pytest.mark.parametrize(("old", "new"), [("--timeout-s", "--timeout"), ("--body-timeout-s", "--body-timeout")])
def test_a_renamed_option_is_refused_and_the_new_one_named(old, new):
    with pytest.raises(UsageError, match=rf"{new}(?!-s)"):
        parse(serve.Options, "serve", ["model", old, "5"])


def test_an_error_is_one_line(model, tmp_path):
    occupied = socket.create_server(("127.0.0.1", 0))
    for arguments, reason in {
        (model, "--port", occupied.getsockname()[1]): "(Address already in use); choose others",
        (tmp_path / "none.safetensors",): "no such model file",
    }.items():
        result = resnetlab("serve", *map(str, arguments))
        assert result.returncode == 2, result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert reason in result.stderr
        assert result.stdout == ""
    occupied.close()


@pytest.mark.slow
def test_the_first_lines_say_what_happens_and_who_can_reach_the_server(model):
    """The path prefix is tested with the same server, which a proxy publishes under /resnet."""
    options = ("--host", "0.0.0.0", "--root-path", "/resnet", "--allow-origin", "https://app.example")
    with run_server(model, *options, expect_empty_stderr=False) as server:
        own = {"host": "127.0.0.1"}
        assert server.http.get("/resnet/v1/model", headers=own).json()["runtime"] == "torch fp32"
        assert server.http.get("/v1/model", headers=own).status_code == 200
        assert server.http.get("/resnet", headers=own).headers["location"] == "/resnet/"
        assert server.http.get("/openapi.json", headers=own).json()["servers"] == [{"url": "/resnet"}]
        for page in ("/resnet/", "/resnet/docs", "/resnet/docs/start.js"):
            assert not re.search(r"""["'`(=]/(v1|docs|openapi)""", server.http.get(page, headers=own).text), page
        assert problem_detail(server.http.get("/healthz", headers={"host": "evil.example"}), 421)
        response = server.http.post(
            "/v1/predict", content=encode_as("png"), headers={**own, "origin": "https://app.example"}
        )
        assert response.headers["access-control-allow-origin"] == "https://app.example"
        assert server.stop() == 0
        warning, loading, stopped = server.all_stderr().splitlines()
        assert warning.startswith("resnetlab: warning: other machines can reach the server at 0.0.0.0")
        assert loading == f"resnetlab: loading {model}"
        assert stopped == "resnetlab: stopped; answered 9 requests"


@pytest.mark.parametrize(("paths", "line"), [(3, "answered 3 requests"), (1, "answered 1 request")])
def test_the_last_line_says_how_many_requests_were_answered(model, monkeypatch, capsys, paths, line):
    """Requests whose client disconnected (499) are not answered."""
    metrics = ServerMetrics()
    for path in ("/v1/predict", "/healthz", "/")[:paths]:
        metrics.requests.labels(path, 200).inc()
    metrics.requests.labels("/v1/predict", 499).inc()
    monkeypatch.setattr(server_module, "serve", lambda *_, **__: metrics.num_answered)
    assert serve.run(parse(serve.Options, "serve", [str(model)])) == 0
    assert capsys.readouterr() == ("", f"resnetlab: stopped; {line}\n")


@pytest.mark.slow
def test_a_file_that_is_not_a_model_is_rejected(tmp_path):
    (tmp_path / "words.safetensors").write_text("words")
    result = resnetlab("serve", tmp_path / "words.safetensors", "--port", "0")
    assert result.returncode == 2
    loading, error = result.stderr.splitlines()
    assert loading == f"resnetlab: loading {tmp_path / 'words.safetensors'}"
    assert "cannot be read as safetensors" in error


def test_a_missing_package_is_reported(model, tmp_path):
    (tmp_path / "uvicorn.py").write_text("raise ImportError('No module named uvicorn')")
    result = resnetlab("serve", model, PYTHONPATH=str(tmp_path))
    assert result.returncode == 2
    assert "pip install 'resnetlab[serve]'" in result.stderr
