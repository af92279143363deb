"""Imports of the optional runtimes: clear errors if a package is missing, and no telemetry."""

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
"""A module that OpenVINO imports. It stores an identity in the home folder and sends events unless users opt out."""


def installed(backend: Backend) -> bool:
    """Return whether a runtime's package is installed, without importing it."""
    return importlib.util.find_spec(backend) is not None


def require(backend: Backend) -> None:
    """Import a runtime, so that a missing package is reported before any other work.

    Raises:
        ConfigError: The runtime is not installed.
    """
    if backend != "torch":
        (onnxruntime if backend == "onnxruntime" else openvino)()


def versions() -> dict[str, str]:
    """Return the versions of the installed runtimes and of the packages that convert between them."""
    found = {}
    for name in ("torch", "onnx", "onnxscript", "onnxruntime", "openvino"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def onnxruntime() -> Any:
    """Import ONNX Runtime and turn off its telemetry.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f"the backend onnxruntime needs its package ({error}); {INSTALL}") from error
    onnxruntime.disable_telemetry_events()
    return onnxruntime


def openvino() -> Any:
    """Import OpenVINO without its telemetry.

    Raises:
        ConfigError: It is not installed.
    """
    blocked = TELEMETRY not in sys.modules
    if blocked:
        sys.modules[TELEMETRY] = None  # pyright: ignore[reportArgumentType]  # Python's way to make an import fail
    try:
        import openvino
    except ImportError as error:
        raise ConfigError(f"the backend openvino needs its package ({error}); {INSTALL}") from error
    finally:
        if blocked:
            del sys.modules[TELEMETRY]
    return openvino


@cache
def openvino_core() -> Any:
    """Return the one `openvino.Core` of this process, with its CPU plugin loaded.

    The plugin gives the thread that loads it an alternate stack for signal handlers, and frees that memory when it is
    unloaded, in any thread. The next signal in the loading thread would then end the process (docs/log.md). So a
    separate thread loads the plugin; Python's signals go to the main thread.

    Raises:
        ConfigError: OpenVINO is not installed.
    """
    core = openvino().Core()
    with ThreadPoolExecutor(1) as thread:
        thread.submit(core.get_property, "CPU", "OPTIMIZATION_CAPABILITIES").result()
    return core


def onnx() -> Any:
    """Import the package that reads ONNX files.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise ConfigError(f"ONNX files need the package onnx ({error}); {INSTALL}") from error
    return onnx


def onnxscript() -> Any:
    """Import the package with which PyTorch exports ONNX graphs.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import onnxscript
    except ImportError as error:
        raise ConfigError(f"exporting ONNX graphs needs the package onnxscript ({error}); {INSTALL}") from error
    return onnxscript
