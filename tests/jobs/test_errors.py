"""What a command prints about an error, and its exit code."""

import errno
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest

from glow.errors import DOWNLOAD_ADVICE
from glowctl.errors import JobError, SpecError, explained


def test_a_foreseen_error_is_its_own_sentence_in_words_of_the_command_line():
    shown = explained(JobError("mnist is missing", remedy=DOWNLOAD_ADVICE, code="no-mnist"))
    assert (str(shown), shown.remedy) == ("mnist is missing: leave out --no-download", "leave out --no-download")
    assert (shown.code, shown.exit_code) == ("no-mnist", 1)
    shown = explained(SpecError(f"mnist is missing: {DOWNLOAD_ADVICE}", code="x"))
    assert (str(shown), shown.exit_code) == ("mnist is missing: leave out --no-download", 2)


@pytest.mark.parametrize(
    ("error", "fact", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/outputs"), "/outputs", "disk-full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/outputs"), "quota", "disk-quota"),
        (OSError(errno.EROFS, "Read-only file system", "/outputs"), "/outputs", "disk-read-only"),
        (OSError("9000 requested and 8176 written"), "9000", "disk-full"),  # of NumPy, on a full disk
        (OSError("Not enough free space to write 40000000 bytes after offset 128"), "40000000", "disk-full"),
    ],
)
def test_a_disk_that_takes_no_file_is_told_from_a_bug(error, fact, code):
    shown = explained(error)
    assert fact in shown.problem
    assert "--output" in shown.remedy
    assert "please report" not in str(shown)
    assert (shown.code, shown.exit_code) == (code, 1)


def test_what_numpy_raises_on_a_full_disk_is_known():
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(OSError, match="requested") as full:
        np.zeros(100_000).tofile("/dev/full")
    assert explained(full.value).code == "disk-full"


def test_the_traceback_of_an_unexpected_error_is_in_the_file_that_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(KeyError) as caught:
        dict[str, int]()["missing-key"]
    shown = explained(caught.value)
    assert (shown.code, shown.exit_code) == ("unexpected-error", 1)
    assert "KeyError" in shown.problem
    assert "missing-key" in shown.problem
    [log] = re.findall(rf"{tmp_path}/\S+\.log", shown.remedy)
    assert "test_errors.py" in Path(log).read_text()


def test_an_unexpected_error_is_shown_where_no_file_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    said = str(explained(KeyError("missing-key")))
    assert "missing-key" in said
    assert "No such file" in said
    assert "\n" not in said
