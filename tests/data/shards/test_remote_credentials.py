"""Credentials for shards behind a URL: refused in the URL, and read by fsspec from its own settings."""

import base64
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from helpers.web_server import serve_folder
from resnetlab.cli.main import main
from resnetlab.config import ConfigError, DataConfig, RunConfig, read_config
from resnetlab.models.model_file import save_model
from resnetlab.models.zoo import model_config
from resnetlab.serialization import to_json
from resnetlab.training.fit import fit
from resnetlab.training.recipes import recipe

LOGIN = "Basic " + base64.b64encode(b"user:s3cret").decode()
BY_HEADER = json.dumps({"client_kwargs": {"headers": {"Authorization": LOGIN}}})


pytest.importorskip("aiohttp")


@pytest.mark.parametrize(
    ("variables", "file", "content"),
    [
        ({"FSSPEC_HTTP": BY_HEADER}, None, ""),
        (
            {"FSSPEC_HTTP": '{"client_kwargs": {"trust_env": true}}', "NETRC": "FOLDER/netrc"},
            "netrc",
            "machine 127.0.0.1 login user password s3cret\n",
        ),
        ({"FSSPEC_CONFIG_DIR": "FOLDER"}, "http.json", f'{{"http": {BY_HEADER}}}'),
    ],
    ids=["variable", "netrc", "file"],
)
def test_fsspec_finds_credentials(tmp_path, variables, file, content):
    """docs/scale.md lists these settings; fsspec reads them once, at import."""
    (tmp_path / "index.json").write_text("{}")
    if file:
        (tmp_path / file).write_text(content)
    environment = {name: value.replace("FOLDER", str(tmp_path)) for name, value in variables.items()}
    with serve_folder(tmp_path) as server:
        server.authorization = LOGIN
        code = (
            "from resnetlab.data.shards.fetch import RemoteReader; "
            f"RemoteReader({server.url!r}).read_small('index.json')"
        )
        for extra, status in (({}, 1), (environment, 0)):
            done = subprocess.run(
                [sys.executable, "-c", code],
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
                env={**os.environ, **extra},
            )
            assert done.returncode == status, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--out", "out", "--data"),
        ("doctor", "--data"),
        ("plan", "--data"),
        ("study", "--out", "out", "--data"),
        ("data", "check"),
        ("data", "pack", "--out", "out"),
    ],
    ids=" ".join,
)
def test_no_command_takes_a_password(tmp_path, monkeypatch, capfd, words):
    monkeypatch.chdir(tmp_path)
    assert main([*words, "http://user:s3cret@127.0.0.1:9/shards"]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("resnetlab: data: the URL contains a password")
    assert captured.err.count("\n") == 1
    assert "s3cret" not in captured.err
    assert not list(tmp_path.iterdir())


def test_old_runs_with_a_password_can_be_inspected(tmp_path, capsys):
    """Earlier versions accepted such URLs: their runs can be inspected, but their data are not opened."""
    old = RunConfig(model_config("resnet8"), DataConfig("http://user:s3cret@127.0.0.1:9/shards"), recipe("digits"))
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match="password"):
        fit(old, out)
    assert not out.exists()
    digits = fit(RunConfig(model_config("resnet8"), DataConfig("digits"), recipe("digits", steps=1)), out)
    card = replace(digits.card, provenance={**digits.card.provenance, "config": to_json(old)})
    save_model(out / "model.safetensors", digits.model, card)
    (out / "config.json").write_text(json.dumps(to_json(old)))
    assert read_config(out / "config.json") == old
    capsys.readouterr()
    assert main(["inspect", str(out)]) == 0
    assert main(["evaluate", str(out), "--data", old.data.name]) == 2
    assert "s3cret" not in capsys.readouterr().err
