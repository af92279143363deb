"""The records and unfinished runs of `table6.py` as files of limited size, which the next part's machine gets.

A tar archive is cut into files `table6-1-of-3.part`, `table6-2-of-3.part` and so on. It holds `records/` and, of each
run that has not ended, its directory and the log of its output in `runs/`.
"""

import io
import re
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from table6_records import ENDED, log_of, read_record

MAX_PART_BYTES = 15 * 2**20
"""Limit of a file, in bytes."""
PART = re.compile(r"table6-(\d+)-of-(\d+)\.part")


def pack(folder: Path, out: Path, records: Path, names: Sequence[str]) -> str:
    """Write all records, and those of the named runs that have not ended, to a folder; return a line about it."""
    folder.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    open_names = [name for name in names if read_record(records / f"{name}.json")["status"] not in ENDED]
    runs = [out / name for name in open_names if (out / name).is_dir()]
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path in sorted(records.glob("*.json")):
            archive.add(path, f"records/{path.name}")
        for path in (path for run in runs for path in (run, log_of(run)) if path.exists()):
            archive.add(path, f"runs/{path.name}")
    for path in _parts(folder):
        path.unlink()  # before the first new one: parts of two archives never stand side by side
    content = stream.getbuffer()
    starts = range(0, len(content), MAX_PART_BYTES)
    for number, start in enumerate(starts, start=1):
        part = folder / f"table6-{number}-of-{len(starts)}.part"
        part.write_bytes(content[start : start + MAX_PART_BYTES])
    return f"packed {len(runs)} unfinished runs and the records: {len(starts)} files, {len(content) / 2**20:.1f} MiB"


def unpack(folder: Path, out: Path, records: Path) -> str:
    """Unpack what `pack` has written; return a line about it. Runs that are in `out`, and ended records, stay.

    Raises:
        FileNotFoundError: if a part is missing.
    """
    parts = _parts(folder)
    total = parts[0].stem.rpartition("-")[2] if parts else "the"
    if str(len(parts)) != total:
        raise FileNotFoundError(f"{folder}: has {len(parts)} of {total} files table6-*.part; copy all of them there")
    stream = io.BytesIO(b"".join(part.read_bytes() for part in parts))
    taken = []
    with tempfile.TemporaryDirectory(dir=out) as aside, tarfile.open(fileobj=stream) as archive:
        archive.extractall(aside, filter="data")
        for path in sorted(Path(aside).glob("runs/*")):
            if not (out / path.name).exists():
                shutil.move(path, out / path.name)
                taken += [path.name] if (out / path.name).is_dir() else []
        for path in Path(aside).glob("records/*.json"):
            if read_record(records / path.name)["status"] not in ENDED:
                shutil.move(path, records / path.name)
    return f"unpacked {len(taken)} unfinished runs: {', '.join(taken) or 'none that is not there already'}"


def _parts(folder: Path) -> list[Path]:
    """Return the parts in a folder, in order."""
    found = [(int(match[1]), path) for path in folder.glob("*.part") if (match := PART.fullmatch(path.name))]
    return [path for _, path in sorted(found)]
