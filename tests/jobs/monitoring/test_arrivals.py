"""Files arrive once each, in order, and whole; the journal loses none of them."""

from __future__ import annotations

import errno
import os
import shutil

import pytest

from glowctl.monitoring import arrivals
from glowctl.monitoring.arrivals import Arrivals, Arrived, Seen, from_folder, from_lines, identity
from glowctl.monitoring.journal import JOURNAL_FILE, Journal, Line


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    for name, seconds in {
        "POLL_S": 0.0,
        "BUCKET_POLL_S": 0.0,
        "GATHER_S": 0.01,
        "RETRY_S": 0.0,
        "PATIENCE_S": 0.05,
    }.items():
        monkeypatch.setattr(arrivals, name, seconds)


def names(found: list[Arrived]) -> list[str]:
    return [os.path.basename(file.file) for file in found]


def seen_before(name: str) -> Seen:
    seen = Seen()
    assert seen.add(name)
    return seen


def test_a_file_in_a_folder_arrives_when_two_looks_find_it_unchanged(tmp_path):
    looks = from_folder(tmp_path, Seen(), lambda said: None)
    assert next(looks) == []
    (tmp_path / "b.png").write_bytes(b"1")
    (tmp_path / "notes.txt").write_bytes(b"1")
    assert next(looks) == []
    (tmp_path / "b.png").write_bytes(b"12")
    assert next(looks) == []
    assert names(next(looks)) == ["b.png"]
    assert next(looks) == []


def test_files_of_a_folder_arrive_in_the_order_in_which_they_were_changed(tmp_path):
    for age, name in enumerate(("new.png", "sub/middle.jpg", "old.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (2e9 - age, 2e9 - age))  # in the future, as after a jump of the clock
    looks = from_folder(tmp_path, seen_before(str(tmp_path / "seen.png")), lambda said: None)
    (tmp_path / "seen.png").touch()
    next(looks)
    assert names(next(looks)) == ["old.png", "middle.jpg", "new.png"]


def test_a_folder_that_goes_away_and_returns_is_noted_and_loses_nothing(tmp_path):
    folder, said = tmp_path / "camera", list[str]()
    folder.mkdir()
    (folder / "a.png").touch()
    looks = from_folder(folder, Seen(), said.append)
    next(looks)
    assert names(next(looks)) == ["a.png"]
    shutil.move(folder, tmp_path / "away")
    assert [next(looks) for _ in range(3)] == [[], [], []]
    shutil.move(tmp_path / "away", folder)
    (folder / "b.png").touch()
    next(looks)
    assert names(next(looks)) == ["b.png"]
    assert ["gone" in sentence for sentence in said] == [True, False]


def test_a_path_that_comes_twice_is_judged_twice_only_if_its_file_has_changed(tmp_path):
    (tmp_path / "a.png").touch()
    path = f"{tmp_path}/a.png"

    def lines():
        yield from (f"{path}\n", f"{path}\n", "\n")
        os.utime(path, (1, 1))
        yield path

    found = [file for batch in from_lines(lines(), seen_before(identity("/gone.png", 0))) for file in batch]
    assert found[0].file == path
    assert len({file.modified for file in found}) == len(found)
    assert list(from_lines(["/gone.png\n"], seen_before(identity("/gone.png", 0)))) == [[]]


def test_an_error_of_standard_input_ends_the_watch():
    def lines():
        yield "a.png\n"
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid")

    with pytest.raises(UnicodeDecodeError):
        list(from_lines(lines(), Seen()))


def test_a_file_is_handed_out_again_until_patience_ends():
    tries = 0
    files = Arrivals([[Arrived("half.png", 1)]])
    for batch in files:
        tries += len(batch)
        for file in batch:
            files.again(file)
    assert tries > 1


def test_batches_have_at_most_64_files():
    files = [Arrived(f"{number}.png", 1) for number in range(150)]
    assert [len(batch) for batch in Arrivals([files])] == [64, 64, 22]


LINES = [Line("a.png", 1, (1.5, float("inf"))), Line("b\n\udcff.png", 2), Line("c.png", 3, None, "no image")]


def test_a_journal_has_what_was_written(tmp_path):
    journal = Journal(tmp_path)
    assert list(journal.lines()) == []
    journal.append(LINES[:1])
    journal.append(LINES[1:])
    assert list(Journal(tmp_path).lines()) == LINES


def test_part_of_a_line_is_removed(tmp_path):
    Journal(tmp_path).append(LINES)
    path = tmp_path / JOURNAL_FILE
    whole = path.read_bytes()
    for size in (len(whole) - 1, whole.index(b"\n") + 5, 3):
        path.write_bytes(whole[:size])
        assert list(Journal(tmp_path).lines()) == LINES[: whole[:size].count(b"\n")]


def test_a_full_disk_leaves_no_part_of_a_batch(tmp_path, monkeypatch):
    journal = Journal(tmp_path)
    journal.append(LINES[:1])

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            journal.append(LINES[1:])
    assert list(Journal(tmp_path).lines()) == LINES[:1]
