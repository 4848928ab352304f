"""What a command prints about an error, and its exit code."""

import errno
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest

from glow.errors import DOWNLOAD_ADVICE
from jobs.errors import JobError, SpecError, code_of, sentence_of


def test_a_foreseen_error_is_its_own_sentence_in_words_of_the_command_line():
    assert sentence_of(JobError("mnist is missing", remedy=DOWNLOAD_ADVICE)).endswith("leave out --no-download")
    assert code_of(JobError("x")) == 1
    assert code_of(SpecError("x")) == 2


@pytest.mark.parametrize(
    ("error", "fact"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/outputs"), "/outputs"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/outputs"), "quota"),
        (OSError(errno.EROFS, "Read-only file system", "/outputs"), "/outputs"),
        (OSError("9000 requested and 8176 written"), "9000"),  # of NumPy, on a full disk
        (OSError("Not enough free space to write 40000000 bytes after offset 128"), "40000000"),
    ],
)
def test_a_disk_that_takes_no_file_is_told_from_a_bug(error, fact):
    said = sentence_of(error)
    assert fact in said
    assert "--output" in said
    assert "please report" not in said


def test_what_numpy_raises_on_a_full_disk_is_known():
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(OSError, match="requested") as full:
        np.zeros(100_000).tofile("/dev/full")
    assert "--output" in sentence_of(full.value)


def test_the_traceback_of_an_unexpected_error_is_in_the_file_that_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(KeyError) as caught:
        {}["missing-key"]
    said = sentence_of(caught.value)
    assert code_of(caught.value) == 1
    assert "KeyError" in said
    assert "missing-key" in said
    [log] = re.findall(rf"{tmp_path}/\S+\.log", said)
    assert "test_errors.py" in Path(log).read_text()


def test_an_unexpected_error_is_shown_where_no_file_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    said = sentence_of(KeyError("missing-key"))
    assert "missing-key" in said
    assert "No such file" in said
    assert "\n" not in said
