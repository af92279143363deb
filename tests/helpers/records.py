"""Records as older versions wrote them, without checksums: tests change their lines."""

import json

from resnetlab.training.run_files.record import read_record


def rewrite_without_checksums(path, change=lambda lines: lines):
    """Write a record again without checksums; `change` returns its lines, each an object."""
    lines = change(read_record(path))
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
