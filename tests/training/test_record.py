import json
import resource

import pytest

from resnetlab.training.record import Record, RecordError, read_record


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
    assert path.read_bytes() == whole[:first] + b'{"kind": "warning", "message": "again"}\n'
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
