"""`resnetlab serve`: serve a model over HTTP, with a web page for people."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from resnetlab.config import ConfigError
from resnetlab.inference.rejection import check_reject_below
from resnetlab.serving.limits import Limits
from resnetlab.system.count_text import count_text


@dataclass(frozen=True)
class Options:
    """Serve a model over HTTP, with a web page for people at the same address.

    A line with the address is printed when the server is ready. On SIGTERM or Ctrl-C the server drains: it finishes
    requests in flight, rejects new ones with 503, and exits with status 0.
    """

    model: Annotated[Path, tyro.conf.Positional]
    """A model file, a run directory, an exported file, or a name from `resnetlab weights`."""
    host: str = "127.0.0.1"
    """Address to listen on. The default is this machine only; 0.0.0.0 for all interfaces, behind a proxy with TLS."""
    port: int = 8000
    """Port to listen on; 0 for any free port."""
    reject_below: float | None = None
    """Answer unknown, and list the candidates, if the most probable class has a lower probability; above 1 / number of
    classes and below 1, such as 0.8."""
    backend: Literal["auto", "torch", "onnxruntime", "openvino"] = "auto"
    """Inference runtime; auto measures which one is fastest and gives the same predictions."""
    cores: int | None = None
    """Threads for the network and for decoding, at least 1; all cores by default."""
    max_batch: int = Limits.max_batch
    """Images per batch through the network, at least 1."""
    max_wait_ms: float = Limits.max_wait_ms
    """Milliseconds that an image waits for others that are being decoded; an image alone never waits."""
    max_queue: int = Limits.max_queue
    """Images that may wait in the queue, at least 1; requests beyond it get 429."""
    timeout_s: Annotated[float, tyro.conf.arg(name="timeout")] = Limits.timeout_s
    """Seconds from a complete request to its response; after it the request gets 503."""
    body_timeout_s: Annotated[float, tyro.conf.arg(name="body-timeout")] = Limits.body_timeout_s
    """Seconds within which a request body must arrive; after it the request gets 408."""
    max_mib: int = Limits.max_mib
    """Largest encoded image in MiB; larger ones get 413."""
    max_megapixels: int = Limits.max_megapixels
    """Largest image in megapixels; larger ones get 413 before memory is allocated."""
    max_decode_mib: int = Limits.max_decode_mib
    """Memory for decoding large images at a time in MiB; an image that needs more gets 413. Small images, of an eighth
    of it or less each, may take as much again."""
    max_batch_images: int = Limits.max_batch_images
    """Most images in one request to /v1/predict/batch."""
    allow_host: tuple[str, ...] = ()
    """Host names to accept besides localhost, IP addresses and that of --host (beyond this machine also its own name);
    '*' for any."""
    allow_origin: tuple[str, ...] = ()
    """Origins of other web pages that may send images, such as https://app.example."""
    root_path: str = ""
    """Path under which a proxy publishes the server, such as /resnet."""
    access_log: bool = False
    """Print a line per request to stderr: client, method, path, status, time."""


def run(options: Options) -> int:
    """Serve until a signal arrives, say that it stopped, and return 0.

    Raises:
        ConfigError: If an option is invalid, or a package is missing.
    """
    if options.cores is not None and options.cores < 1:
        raise ConfigError(f"cores must be at least 1, not {options.cores}")
    check_reject_below(options.reject_below)
    limits = Limits(
        max_batch=options.max_batch,
        max_wait_ms=options.max_wait_ms,
        max_queue=options.max_queue,
        timeout_s=options.timeout_s,
        body_timeout_s=options.body_timeout_s,
        max_mib=options.max_mib,
        max_megapixels=options.max_megapixels,
        max_decode_mib=options.max_decode_mib,
        max_batch_images=options.max_batch_images,
    )
    from resnetlab.models.model_card import find_model_file

    find_model_file(options.model)  # report a missing file before loading anything
    try:
        from resnetlab.serving.server import ListenOptions, ServiceOptions, is_loopback, serve
    except ImportError as error:
        raise ConfigError(f"serving needs more packages ({error}); pip install 'resnetlab[serve]'") from error
    if not is_loopback(options.host):
        print_note(
            f"warning: other machines can reach the server at {options.host}; it has no TLS and no accounts, so put a "
            "proxy in front of it"
        )
    num_answered = serve(
        ServiceOptions(
            model=options.model,
            backend=options.backend,
            cores=options.cores,
            reject_below=options.reject_below,
            limits=limits,
        ),
        ListenOptions(options.host, options.port, options.allow_host, options.allow_origin, options.root_path),
        on_ready=print_ready,
        on_start=lambda: print_note(f"loading {options.model}"),
        log=print_access_log if options.access_log else None,
    )
    print_note(f"stopped; answered {count_text(num_answered, 'request')}")
    return 0


def print_ready(url: str, model_info: dict[str, Any]) -> None:
    """Print the model and the address of the server."""
    classes, runtime = count_text(len(model_info["classes"]), "class"), model_info["runtime"]
    print(f"serving {model_info['name']}, {classes}, {runtime} on {url}", flush=True)


def print_note(line: str) -> None:
    """Print a line to stderr: standard output has the address only, for scripts."""
    print(f"resnetlab: {line}", file=sys.stderr, flush=True)


def print_access_log(line: str) -> None:
    """Print a line of the access log to stderr."""
    print(line, file=sys.stderr, flush=True)
