import itertools
import json
import os
import random
import resource

import pytest

from helpers.records import rewrite_without_checksums
from resnetlab.training.run_files.record import Record, RecordError, read_record, read_record_content


@pytest.fixture
def path(tmp_path):
    with Record(tmp_path / "record.jsonl") as record:
        record.write("run", name="größe")
        record.write("epoch", epoch=1, loss=float("nan"), curve={"loss": [1.0, float("inf")]})
    with Record(tmp_path / "record.jsonl") as record:
        record.write("result", status="done")
    return tmp_path / "record.jsonl"


def test_lines_come_back_in_order(path):
    lines = read_record(path)
    assert [line["kind"] for line in lines] == ["run", "epoch", "result"]
    assert lines[0]["name"] == "größe"
    assert lines[1] == {"kind": "epoch", "epoch": 1, "loss": None, "curve": {"loss": [1.0, None]}}
    assert all(json.loads(text) for text in path.read_text().splitlines())


def test_a_line_is_there_before_the_next(tmp_path):
    with Record(tmp_path / "r") as record:
        record.write("epoch", epoch=1)
        assert read_record(tmp_path / "r") == [{"kind": "epoch", "epoch": 1}]


def test_a_line_cut_off_by_a_kill_is_not_damage(path):
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert len(read_record(path)) == whole[:length].count(b"\n")


@pytest.mark.parametrize("damage", [b"{]\n", b"3\n", b'{"kind": "epok"}\n', b"\n", b'{"epoch": 1}\n'])
def test_damage_is_named_with_its_line(path, damage):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + damage + lines[2])
    with pytest.raises(RecordError, match=r"record\.jsonl, line 2: not"):
        read_record(path)


def test_what_is_no_text_or_no_file_is_named(path):
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(RecordError, match=r"record\.jsonl, line 1: not JSON"):
        read_record(path)
    with pytest.raises(RecordError, match="cannot be read \\(Is a directory\\)"):
        read_record(path.parent)


def test_unknown_kinds_are_not_written(tmp_path):
    with Record(tmp_path / "r") as record, pytest.raises(ValueError, match="kind 'note' is unknown"):
        record.write("note")


def test_no_path_keeps_nothing():
    with Record(None) as record:
        record.write("run")


def test_only_the_kept_bytes_stay(path):
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    with Record(path, keep_bytes=first) as record:
        assert record.num_bytes == first
        record.write("warning", message="again")
    assert path.read_bytes().startswith(whole[:first] + b'{"seal": "')
    assert read_record(path)[1:] == [{"kind": "warning", "message": "again"}]
    with pytest.raises(RecordError, match="bytes, and the checkpoint expects 5000"):
        Record(path, keep_bytes=5000)


def test_a_full_disk_keeps_lines_waiting(tmp_path):
    """The kernel takes only the first 60 bytes: whole lines stay, the others come when there is room again."""
    path = tmp_path / "record.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Record(path) as record:
        record.write("epoch", epoch=1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60, before[1]))
        try:
            record.write("epoch", epoch=2, text="x" * 30)
            record.write("epoch", epoch=3)
            assert read_record(path) == [{"kind": "epoch", "epoch": 1}]
            assert record.problem in ("File too large", "No space left on device")
            with pytest.raises(OSError, match=r"File too large|No space left"):
                record.flush()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        record.write("epoch", epoch=4)
        assert record.problem is None
    assert [line["epoch"] for line in read_record(path)] == [1, 2, 3, 4]


def test_each_flipped_bit_is_noticed(path):
    """A changed byte of any whole line is noticed, its line end and its checksum included."""
    with Record(path) as record:
        for epoch in range(40):
            record.write("epoch", epoch=epoch, loss=1 / (epoch + 1), text="größe")
    data, rng = path.read_bytes(), random.Random(0)
    for position in [*range(120), *rng.sample(range(len(data)), 300), *range(len(data) - 40, len(data))]:
        changed = bytearray(data)
        changed[position] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(RecordError, match=r"record\.jsonl, line \d+: not"):
            read_record(path)


def test_each_bit_of_a_record_of_one_line_is_noticed(tmp_path):
    with Record(tmp_path / "r") as record:
        record.write("result", status="failed", time_s=1.25)
    data = (tmp_path / "r").read_bytes()
    for position, bit in itertools.product(range(len(data)), range(8)):
        changed = bytearray(data)
        changed[position] ^= 1 << bit
        (tmp_path / "r").write_bytes(changed)
        with pytest.raises(RecordError):
            read_record(tmp_path / "r")


def test_removed_and_moved_lines_are_noticed(path):
    lines = path.read_bytes().splitlines(keepends=True)
    for order in ([1, 2], [0, 2], [1, 0, 2], [0, 2, 1], [0, 1, 1, 2], [2], [2, 1, 0]):
        path.write_bytes(b"".join(lines[number] for number in order))
        with pytest.raises(RecordError, match=r"line \d: not as written .*removed or moved; copy .*--fresh"):
            read_record(path)
        with pytest.raises(RecordError, match="not as written"):
            Record(path)


def test_nothing_is_appended_to_a_changed_record(path):
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"epoch": 1', b'"epoch": 2'))
    first_two = data.index(b"\n", data.index(b"\n") + 1) + 1
    with pytest.raises(RecordError, match="line 2: not as written"):
        Record(path, keep_bytes=first_two)
    with Record(path, keep_bytes=data.index(b"\n") + 1) as record:  # the changed line goes
        record.write("epoch", epoch=3)
    assert [line.get("epoch") for line in read_record(path)] == [None, 3]
    with pytest.raises(RecordError, match="no line end at byte 9"):
        Record(path, keep_bytes=9)


def test_an_incomplete_last_line_goes_before_the_next(path):
    path.write_bytes(path.read_bytes() + b'{"seal": "012')
    assert read_record_content(path).num_cut_bytes == 13
    with Record(path) as record:
        record.write("warning", message="again")
    assert [line["kind"] for line in read_record(path)] == ["run", "epoch", "result", "warning"]


def test_a_record_of_an_older_version_reads_on_without_checksums(path):
    before = read_record(path)
    assert read_record_content(path).has_checksums
    rewrite_without_checksums(path)
    assert read_record(path) == before
    assert not read_record_content(path).has_checksums
    with Record(path) as record:
        record.write("warning", message="resumed")
    assert read_record(path) == [*before, {"kind": "warning", "message": "resumed"}]
    path.write_bytes(path.read_bytes().replace(b'"epoch": 1', b'"epoch": 2'))  # checked by the line after it
    with pytest.raises(RecordError, match="line 4: not as written"):
        read_record(path)


def test_a_line_without_a_checksum_behind_others_is_refused(path):
    path.write_bytes(path.read_bytes() + b'{"kind": "result", "status": "done"}\n')
    with pytest.raises(RecordError, match=r"line 4: not as written \(it has no checksum\)"):
        read_record(path)


def test_deeply_nested_lines_are_damage(path):
    path.write_bytes(b"[" * 100_000 + b"\n")
    with pytest.raises(RecordError, match="line 1: not JSON"):
        read_record(path)


def test_a_held_record_stays_as_it_is_until_its_release(tmp_path):
    path = tmp_path / "r"
    with Record(path) as record:
        record.write("run", seed=1)
        kept = record.num_bytes
        record.write("result", status="done")
    before = path.read_bytes()
    with Record(path, keep_bytes=kept, hold=True) as record:
        record.write("result", status="failed")
        record.flush(sync=True)
    assert path.read_bytes() == before
    with Record(path, keep_bytes=kept, hold=True) as record:
        record.write("warning", message="first")
        record.release()
        record.write("result", status="done")
        assert record.num_bytes == len(path.read_bytes())
    assert [line["kind"] for line in read_record(path)] == ["run", "warning", "result"]


def test_a_name_that_is_not_utf_8_is_kept(tmp_path):
    names = {"data": os.fsdecode(b"/photos/caf\xe9"), "plain": "caf\u00e9"}
    with Record(tmp_path / "r") as record:
        record.write("run", **names)
        record.write("warning", message="caf\u00e9")
    assert read_record(tmp_path / "r") == [{"kind": "run", **names}, {"kind": "warning", "message": "caf\u00e9"}]
    assert "caf\u00e9".encode() in (tmp_path / "r").read_bytes()
