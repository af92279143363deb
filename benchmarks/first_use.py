r"""Time what a new user does with a folder of photographs, from the installation to a served network.

Every step is a process of its own, in an empty folder with an empty cache. It prints to a pipe, 80 columns wide. A line
per step has its seconds, its memory, and what it printed. There are two walks:

- `name` fine-tunes `resnet18.tv_in1k`, which is downloaded from a server on this machine. The file is generated and its
  weights are random. So the times are those of published weights, without the time of the network, and the errors mean
  nothing.
- `file` fine-tunes published CIFAR-10 weights from a file, at 32 pixels. Its validation error is a real one.

Peak memory is that of the process; for `serve` it is the memory of all its processes after the request.

    python benchmarks/first_use.py
    python benchmarks/first_use.py file --weights resnet20-12fca82f.th --minutes 5
    python benchmarks/first_use.py --install --pip-flags='--extra-index-url https://download.pytorch.org/whl/cpu'

`--install` clones the committed state of this checkout, and installs it with the versions of constraints.txt into a new
environment, which the walks use. Without it they use the package that runs this script. The exit status is 1 if a step
fails.
"""

import argparse
import functools
import hashlib
import http.server
import os
import platform
import shlex
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmark_data import add_data_argument, default_path
from first_use_steps import RESNETLAB, StepError, Walk, copy, export, printed, record, serve, train
from resnetlab.system.cores import usable_cores
from timed_command import run_timed

ROOT = Path(__file__).resolve().parent.parent
LAUNCHER = str(Path(__file__).with_name("generated_weights.py"))
NAME = "resnet18.tv_in1k"
WALKS = ("name", "file")


def main() -> int:
    """Walk and print; return 1 if a step fails."""
    parser = argparse.ArgumentParser(description="time the steps of a first use, from photographs to a served network")
    parser.add_argument("walks", nargs="*", metavar="WALK", help=f"{' or '.join(WALKS)}; both if not given")
    add_data_argument(parser, "--photos", "imagenette224-sample", "photographs, in folders called after the classes")
    weights = default_path("weights/resnet20-12fca82f.th")
    parser.add_argument("--weights", type=Path, default=weights, help="published CIFAR-10 weights for the walk `file`")
    parser.add_argument("--minutes", type=float, default=1.5, help="time that the training is fitted to")
    parser.add_argument("--install", action="store_true", help="install this checkout first; takes minutes")
    parser.add_argument("--pip-flags", default="", help="flags for pip, as PIP_FLAGS of the Makefile")
    options = parser.parse_args()
    walks = tuple(options.walks) or WALKS
    if unknown := set(walks) - set(WALKS):
        parser.error(f"there is no walk {min(unknown)!r}; walks: {', '.join(WALKS)}")
    if not options.photos.is_dir():
        parser.error(f"{options.photos}: no such folder; name photographs with --photos")
    print(f"{usable_cores()} cores, Python {platform.python_version()}, Linux {platform.release()}", flush=True)
    try:
        with tempfile.TemporaryDirectory(prefix="first-use-") as folder:
            python = install(Path(folder), options.pip_flags) if options.install else sys.executable
            for name in walks:
                walk_through(name, make_walk(Path(folder) / name, python, installed=options.install), options)
    except StepError as error:
        print(error, flush=True)
        return 1
    return 0


def make_walk(folder: Path, python: str, *, installed: bool) -> Walk:
    """Return a walk in a new folder, with caches of its own."""
    folder.mkdir()
    env = {
        **os.environ,
        "COLUMNS": "80",
        "RESNETLAB_CACHE": str(folder / "cache"),
        "TORCH_HOME": str(folder / "torch"),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    if installed:
        env.pop("PYTHONPATH", None)  # it may name another checkout
    return Walk(folder, python, env)


def install(folder: Path, pip_flags: str) -> str:
    """Install the committed state of this checkout into a new environment; return its Python.

    Raises:
        StepError: if cloning, creating the environment, or pip fails.
    """
    walk, python = Walk(folder, sys.executable, dict(os.environ)), str(folder / "venv" / "bin" / "python")
    done = run_timed(["git", "clone", "--quiet", str(ROOT), "clone"], cwd=folder, env=walk.env)
    if done.status:
        raise StepError(f"install FAILED: git clone {ROOT}\n" + "\n".join(line for _, line in done.lines))
    venv = walk.run("install", ["-m", "venv", "venv"])
    constraints = str(folder / "clone" / "constraints.txt")
    words = ["-m", "pip", "install", "--quiet", "--constraint", constraints, *shlex.split(pip_flags)]
    pip = Walk(folder, python, walk.env).run("install", [*words, f"{folder / 'clone'}[all]"])
    size_mib = sum(path.lstat().st_size for path in (folder / "venv").rglob("*")) / 2**20
    record("install", venv.time_s + pip.time_s, pip.peak_mib, f"{size_mib:,.0f} MiB on the disk")
    return python


def walk_through(name: str, walk: Walk, options: argparse.Namespace) -> None:
    """Go through the steps of a walk, and print a line for each.

    Raises:
        StepError: if a step fails.
    """
    if name == "file" and (options.weights is None or not options.weights.is_file()):
        missing = f"{options.weights} is no file" if options.weights else "no weights are given"
        print(f"\nwalk `file` skipped: {missing}; name published CIFAR-10 weights with --weights", flush=True)
        return
    subject = f"{options.weights.name}: published CIFAR-10 weights" if name == "file" else f"{NAME} from loopback"
    print(f"\n{subject}", flush=True)
    if name == "name":
        print("The weights are generated, with random values: the errors below mean nothing.", flush=True)
    copy(walk, options.photos)
    words = ["train", "--data", "photos", "--minutes", f"{options.minutes:g}", "--yes"]
    if name == "file":
        run_dir = train(walk, [*RESNETLAB, *words, "--from", str(options.weights.resolve())])
    else:
        with generated_file(walk) as address:
            run_dir = train(walk, [LAUNCHER, "use", *address, *words, "--from", NAME], ("downloading",))
    done = walk.run("evaluate", [*RESNETLAB, "evaluate", run_dir])
    record("evaluate", done.time_s, done.peak_mib, printed(done, "top-1 error"))
    image = first_photo(walk.folder)
    done = walk.run("predict", [*RESNETLAB, "predict", run_dir, image])
    record("predict", done.time_s, done.peak_mib, printed(done, image))
    export(walk, run_dir)
    serve(walk, run_dir, image)


def first_photo(folder: Path) -> str:
    """Return the path of a photograph below `folder`, from the validation split if it is a folder."""
    photos = folder / "photos"
    split = photos / "val" if (photos / "val").is_dir() else photos
    return str(min(path for path in split.rglob("*") if path.is_file()).relative_to(folder))


@contextmanager
def generated_file(walk: Walk) -> Iterator[tuple[str, str]]:
    """Make the generated weights and serve them on loopback; yield address and SHA-256."""
    folder = walk.folder / "published"
    folder.mkdir()
    walk.run("make weights", [LAUNCHER, "make", str(folder)])
    path = next(folder.iterdir())
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/{path.name}"
            yield url, hashlib.sha256(path.read_bytes()).hexdigest()
        finally:
            server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and logs nothing."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name of http.server
        """Print nothing."""


if __name__ == "__main__":
    sys.exit(main())
