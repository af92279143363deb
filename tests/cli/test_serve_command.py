"""`resnetlab serve` as it is called: what it serves besides model files, and what it says of a mistake."""

import re
import socket
import time

import pytest

from helpers.odd_images import one, picture, saved
from helpers.small_network import GREY, model_file

from conftest import resnetlab

pytest.importorskip("fastapi")

from helpers.http_client import predictions, problem, same, served
from resnetlab.cli import serve
from resnetlab.cli.main import parse
from resnetlab.config import ConfigError
from resnetlab.inference.predictor import load


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_file(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def predictor(model):
    return load(model)


@pytest.mark.slow
def test_an_exported_file_is_served_too(model, predictor, tmp_path):
    pytest.importorskip("onnxruntime")
    exported = tmp_path / "model.onnx"
    done = resnetlab("export", model, "--format", "onnx", "--out", exported)
    assert done.returncode == 0, done.stderr
    data = saved(picture(width=300, height=200), "JPEG")
    with served(exported, "--backend", "onnxruntime") as server:
        answer = server.post(data, explain=1)
        assert same(predictions(answer)[1], predictor(data).top)
        assert answer.json()["overlay"].startswith("data:image/png;base64,")
        assert server.http.get("/v1/model").json()["backend"] == "onnxruntime"


@pytest.mark.slow
def test_without_faster_parsers_it_is_still_prompt(model, predictor, tmp_path):
    """By h11 and asyncio alone: no answer may wait for a packet that was put off (Nagle's algorithm, 40 ms)."""
    for name in ("uvloop", "httptools"):
        (tmp_path / f"{name}.py").write_text("raise ImportError")
    data, took = one("png"), []
    with served(model, PYTHONPATH=str(tmp_path)) as server:
        for _ in range(40):
            begun = time.perf_counter()
            label, _ = predictions(server.post(data))
            took.append(time.perf_counter() - begun)
            assert label == predictor(data).label
        assert sorted(took)[10] < 0.035
        assert problem(server.post(bytes(20 << 20)), 413)


@pytest.mark.slow
def test_grey_networks_are_served_too(tmp_path):
    grey = model_file(tmp_path / "grey.safetensors", GREY)
    words = ("--access-log", "--allow-host", "cats.example", "--host", "localhost")
    with served(grey, *words, clean=False) as server:
        data = one("jpg")
        assert same(predictions(server.post(data))[1], load(grey)(data).top)
        assert server.http.get("/v1/model").json()["channels"] == 1
        assert server.http.get("/healthz", headers={"host": "cats.example"}).status_code == 200
        assert server.http.get("/healthz", headers={"host": "dogs.example"}).status_code == 421
        assert server.end() == 0
        assert re.search(r"^127\.0\.0\.1 POST /v1/predict 200 \d+\.\d ms$", server.stderr(), re.M)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--host", "256.1.1.1"), "cannot listen on 256.1.1.1"),
        (("--port", 70_000), "port must be from 0 to 65535"),
        (("--max-queue", 0), "max-queue must be at least 1"),
        (("--timeout-s", 0), "timeout-s must be above 0"),
        (("--max-wait-ms", -1), "max-wait-ms must be at least 0"),
        (("--cores", 0), "cores must be at least 1"),
        (("--max-batch-images", 500), "more than the queue holds"),
    ],
)
def test_mistakes_in_the_call(model, words, reason):
    with pytest.raises(ConfigError, match=reason):
        serve.run(parse(serve.Options, "serve", [str(model), *map(str, words)]))


def test_a_mistake_is_one_line(model, tmp_path):
    taken = socket.create_server(("127.0.0.1", 0))
    for words, reason in {
        (model, "--port", taken.getsockname()[1]): "(Address already in use); choose others",
        (tmp_path / "none.safetensors",): "no such model file",
    }.items():
        done = resnetlab("serve", *map(str, words))
        assert done.returncode == 2, done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert reason in done.stderr
        assert done.stdout == ""
    taken.close()


@pytest.mark.slow
def test_a_file_that_is_no_model_is_one_line(tmp_path):
    (tmp_path / "words.safetensors").write_text("words")
    done = resnetlab("serve", tmp_path / "words.safetensors", "--port", "0")
    assert done.returncode == 2
    assert "cannot be read as safetensors" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_missing_package_is_named(model, tmp_path):
    (tmp_path / "uvicorn.py").write_text("raise ImportError('No module named uvicorn')")
    done = resnetlab("serve", model, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "pip install 'resnetlab[serve]'" in done.stderr
