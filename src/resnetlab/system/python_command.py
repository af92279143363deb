"""The command that runs a module of this package in a new process."""

import sys
from pathlib import Path


def python_module(module: str) -> list[str]:
    """Return the first words of the command, such as `python -P -m resnetlab`.

    `python -m` alone looks for modules in the current folder first: a file `queue.py` or `random.py` there, such as
    among somebody's photographs, would be executed. So the folder is left out (`-P`), unless this process looks there
    too.
    """
    here = Path.cwd().resolve()
    looks_here = any(Path(entry).resolve() == here for entry in sys.path)
    return [sys.executable, *([] if looks_here else ["-P"]), "-m", module]
