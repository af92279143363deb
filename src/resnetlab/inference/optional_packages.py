"""The runtimes as packages: what to install where one is missing; quiet, and telling nobody that they are used."""

import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from resnetlab.config import ConfigError
from resnetlab.inference.engines.base import Backend

INSTALL = "pip install 'resnetlab[export]'"
TELEMETRY = "openvino_telemetry"
"""OpenVINO's `import` writes an identity into the home folder with it, and sends events unless a person has said no."""


def installed(backend: Backend) -> bool:
    """Say whether a runtime's package is there; it is not loaded."""
    return importlib.util.find_spec(backend) is not None


def require(backend: Backend) -> None:
    """Load a runtime, so that one that is missing is told before anything is made for it.

    Raises:
        ConfigError: where it is not installed.
    """
    if backend != "torch":
        (onnxruntime if backend == "onnxruntime" else openvino)()


def versions() -> dict[str, str]:
    """Return the versions of the runtimes that are installed, and of what converts between them."""
    found = {}
    for name in ("torch", "onnx", "onnxscript", "onnxruntime", "openvino"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def onnxruntime() -> Any:
    """Load ONNX Runtime.

    Raises:
        ConfigError: where it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f"the backend onnxruntime needs its package ({error}); {INSTALL}") from error
    onnxruntime.disable_telemetry_events()
    return onnxruntime


def openvino() -> Any:
    """Load OpenVINO without its telemetry.

    Raises:
        ConfigError: where it is not installed.
    """
    hidden = TELEMETRY not in sys.modules
    if hidden:
        sys.modules[TELEMETRY] = None  # pyright: ignore[reportArgumentType]  # as Python says: cannot be imported
    try:
        import openvino
    except ImportError as error:
        raise ConfigError(f"the backend openvino needs its package ({error}); {INSTALL}") from error
    finally:
        if hidden:
            del sys.modules[TELEMETRY]
    return openvino


@cache
def openvino_core() -> Any:
    """Return the one `openvino.Core` of this process, its plugin for the processor loaded.

    The plugin gives the thread that loads it another stack for signal handlers, and takes that memory back with itself,
    in whatever thread that is: the next signal would then end the process (docs/log.md). So a thread of its own loads
    it, which gets no signals.

    Raises:
        ConfigError: where OpenVINO is not installed.
    """
    core = openvino().Core()
    with ThreadPoolExecutor(1) as thread:
        thread.submit(core.get_property, "CPU", "OPTIMIZATION_CAPABILITIES").result()
    return core


def onnx() -> Any:
    """Load the package that reads ONNX files.

    Raises:
        ConfigError: where it is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise ConfigError(f"ONNX files need the package onnx ({error}); {INSTALL}") from error
    return onnx


def onnxscript() -> Any:
    """Load the package that PyTorch's exporter makes ONNX graphs with.

    Raises:
        ConfigError: where it is not installed.
    """
    try:
        import onnxscript
    except ImportError as error:
        raise ConfigError(f"making ONNX graphs needs the package onnxscript ({error}); {INSTALL}") from error
    return onnxscript
