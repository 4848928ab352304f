"""The number of processes that read images, and of threads in each of them."""

import pytest

from jobs.packing.readers import Readers, readers_for


@pytest.mark.parametrize(
    ("cores", "most", "shards", "expected"),
    [
        ([2], None, 4, Readers(1, 2)),
        ([2], 1, 4, Readers(1, 1)),
        ([1, 1], None, 9, Readers(2, 1)),
        ([64], None, 100, Readers(16, 4)),
        ([5], None, 100, Readers(1, 5)),
        ([6, 6], None, 100, Readers(4, 3)),
        ([16], None, 2, Readers(2, 8)),
        ([64], None, 1, Readers(1, 8)),
        ([0, 4, 1], None, 100, Readers(5, 1)),
        ([8], 3, 100, Readers(1, 3)),
        ([0], None, 3, Readers(1, 1)),
    ],
)
def test_processes_use_the_cores(cores, most, shards, expected):
    found = readers_for([{"CPU": float(each)} for each in cores], most, shards)
    assert found == expected
    assert found.threads == expected.cores + 1
