"""The records and unfinished runs of `table6.py` as files of limited size, which the next part's machine gets.

A tar archive is cut into files `table6-1-of-3.part`, `table6-2-of-3.part` and so on. It holds `records/` and, of each
run that has not ended, its directory and the log of its output in `runs/`.
"""

import io
import re
import shutil
import tarfile
import tempfile
from pathlib import Path

from table6_records import ENDED, log_of, read_record

MAX_PART_BYTES = 15 * 2**20
"""Limit of a file, in bytes."""
PART = re.compile(r"table6-(\d+)-of-(\d+)\.part")


def pack(folder: Path, out: Path, records: Path) -> str:
    """Write all records, and the runs that have not ended, to a folder; return a line about it."""
    folder.mkdir(parents=True, exist_ok=True)
    stream = io.BytesIO()
    started = sorted(path.parent for path in out.glob("*/config.json"))
    runs = [run for run in started if read_record(records / f"{run.name}.json")["status"] not in ENDED]
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path in sorted(records.glob("*.json")):
            archive.add(path, f"records/{path.name}")
        for path in (path for run in runs for path in (run, log_of(run)) if path.exists()):
            archive.add(path, f"runs/{path.name}")
    before = _parts(folder)
    content = stream.getbuffer()
    starts = range(0, len(content), MAX_PART_BYTES)
    for number, start in enumerate(starts, start=1):
        (folder / f"{number}.new").write_bytes(content[start : start + MAX_PART_BYTES])
    for path in before:
        path.unlink()  # parts of two archives never stand side by side
    for number in range(1, len(starts) + 1):
        (folder / f"{number}.new").rename(folder / f"table6-{number}-of-{len(starts)}.part")
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
