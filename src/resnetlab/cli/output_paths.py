"""Checks of the paths that a command writes, before its work."""

from pathlib import Path

from resnetlab.config import ConfigError

OTHER_SUFFIXES = (".pth", ".pt", ".th", ".tar", ".ckpt", ".bin", ".onnx", ".xml", ".pt2")
"""Suffixes of other kinds of file; a model file must not have them, since some select the engine of a file."""


def check_parent(option: str, path: Path) -> None:
    """Raise if the folder of an output cannot exist, because a part of its path is a file.

    Args:
        option: The option that named the path, such as `--out`.
        path: A file or folder to write.

    Raises:
        ConfigError: naming that part.
    """
    parent = next((folder for folder in path.parents if folder.exists()), None)
    if parent is not None and not parent.is_dir():
        raise ConfigError(f"{option} {path}: {parent} is a file, not a folder; name a path in a folder")


def check_output_folder(option: str, folder: Path) -> None:
    """Raise if a folder of results is a file, or is below one.

    Raises:
        ConfigError: in these cases.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{option} {folder} is a file; name a folder")
    check_parent(option, folder)


def check_model_output(option: str, path: Path) -> None:
    """Raise unless a new model file can be written to a path and read from it.

    Raises:
        ConfigError: for a path that exists, that is below a file, or that has the suffix of another format.
    """
    if path.exists():
        raise ConfigError(f"{path} exists already; choose another {option}, or delete it")
    check_parent(option, path)
    if path.suffix.lower() in OTHER_SUFFIXES:
        raise ConfigError(
            f"{path}: a model file is safetensors, and {path.suffix} is another format; name it "
            f"{path.with_suffix('.safetensors')}"
        )
