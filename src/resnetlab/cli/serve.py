"""`resnetlab serve`: answer over HTTP what is in pictures, with a page for people."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from resnetlab.config import ConfigError
from resnetlab.serving.limits import Limits


@dataclass(frozen=True)
class Options:
    """Serve a network over HTTP, and a page for people on the same address.

    A line with the address is printed when the network is ready. SIGTERM or Ctrl-C ends it: requests that have begun
    are answered, new ones get 503, and the exit status is 0.
    """

    model: Annotated[Path, tyro.conf.Positional]
    """A model file, a run directory or an exported file."""
    host: str = "127.0.0.1"
    """Address to listen on: this machine alone, if not given; 0.0.0.0 for all, behind a proxy with TLS."""
    port: int = 8000
    """Port to listen on; 0 for one that is free."""
    backend: Literal["auto", "torch", "onnxruntime", "openvino"] = "auto"
    """What computes the network; auto measures which is fastest and gives the same answers."""
    cores: int | None = None
    """Threads that compute the network, at least 1; all cores, if not given."""
    max_batch: int = Limits.max_batch
    """Images that go through the network together, at least 1."""
    max_wait_ms: float = Limits.max_wait_ms
    """Milliseconds that an image waits for others that are being decoded; it never waits for what has not come."""
    max_queue: int = Limits.max_queue
    """Images that may wait, at least 1; beyond them the answer is 429."""
    timeout_s: float = Limits.timeout_s
    """Seconds from a whole request to its answer; then the answer is 503."""
    body_timeout_s: float = Limits.body_timeout_s
    """Seconds in which a request's body must have come; then the answer is 408."""
    max_mib: int = Limits.max_mib
    """MiB of one encoded image; beyond them the answer is 413."""
    max_megapixels: int = Limits.max_megapixels
    """Megapixels that an image may claim; beyond them the answer is 413, before memory is taken."""
    max_batch_images: int = Limits.max_batch_images
    """Images of one request to /v1/predict/batch."""
    allow_host: tuple[str, ...] = ()
    """Names by which the server may be asked for, beside localhost and addresses. Without any, a server that others can
    reach answers to every name."""
    access_log: bool = False
    """Print a line for each request: client, method, path, status, time."""


def run(options: Options) -> int:
    """Serve until a signal comes; return 0.

    Raises:
        ConfigError: for a mistake in the call.
    """
    if options.cores is not None and options.cores < 1:
        raise ConfigError(f"cores must be at least 1, not {options.cores}")
    limits = Limits(**{name: getattr(options, name) for name in Limits.__dataclass_fields__})
    from resnetlab.models.model_card import find_model_file

    find_model_file(options.model)  # a path that is not there is told before anything is loaded
    try:
        from resnetlab.serving.server import ListenOptions, ServiceOptions, serve
    except ImportError as error:
        raise ConfigError(f"serving needs more packages ({error}); pip install 'resnetlab[serve]'") from error
    serve(
        ServiceOptions(options.model, options.backend, options.cores, limits),
        ListenOptions(options.host, options.port, options.allow_host),
        ready=print_ready,
        log=print_log_line if options.access_log else None,
    )
    return 0


def print_ready(address: str, model: dict[str, Any]) -> None:
    """Print where the server is, and what it serves."""
    what = f"{model['name']}, {len(model['classes'])} classes, {model['backend']} {model['precision']}"
    print(f"serving {what} on {address}", flush=True)


def print_log_line(line: str) -> None:
    """Print a line of the access log."""
    print(line, file=sys.stderr, flush=True)
