"""The cache of remote shards deletes its own files, and no other ones."""

import os

from resnetlab.data.shards.cache import STALE_PART_S, ShardCache


def write(path, num_bytes=10, age_s=0.0):
    path.write_bytes(b"x" * num_bytes)
    time_s = path.stat().st_mtime - age_s
    os.utime(path, (time_s, time_s))
    return path


def test_files_of_the_user_are_neither_deleted_nor_counted(tmp_path):
    cache = ShardCache(tmp_path / "shards", 25)
    folder = cache.folder
    mine = [
        *(
            write(folder / name, 1000, age_s=10**6)
            for name in ("holiday.tar", "notes.part", "a" * 63, "A" * 64, "b" * 65)
        ),
        folder / ("d" * 64),
    ]
    mine[-1].mkdir()
    (link := folder / ("e" * 64)).symlink_to(mine[0])
    old, new = write(cache.path("1" * 64), age_s=50), [write(cache.path(digit * 64), age_s=5) for digit in "23"]
    stale = write(folder / ("4" * 64 + ".part"), age_s=STALE_PART_S + 9)
    killed = write(folder / ("." + "5" * 64 + ".abcd1234"), age_s=99)  # of `write_atomic`
    assert cache.trim() == [killed, old]
    assert all(path.exists() for path in (*mine, link, *new))
    assert not stale.exists()
    assert cache.trim() == []
