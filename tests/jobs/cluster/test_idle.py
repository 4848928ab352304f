"""A head without jobs: when it ends, and that MLflow's database is kept."""

import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest

from glowctl.cluster import idle
from glowctl.cluster.client import CHECK, Cluster
from glowctl.errors import JobError
from glowctl.tracking.tag_names import TITLE


class Clock:
    """The time, which passes when somebody sleeps."""

    now = 1_000_000.0

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def head(tmp_path, monkeypatch):
    """A head with a database, a storage and a clock, which ends after an hour; its jobs are in `jobs`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GLOW_STORAGE", str(tmp_path / "storage"))
    monkeypatch.setenv("GLOW_IDLE_DOWN", "1h")
    monkeypatch.setenv("GLOW_SHUTDOWN", "touch $HOME/shut-down")
    (tmp_path / "storage").mkdir()
    (tmp_path / "glow").mkdir()
    with sqlite3.connect(tmp_path / "glow" / "mlflow.db") as database:
        database.execute("create table runs (name)")
        database.execute("insert into runs values ('the only run')")
    clock, jobs = Clock(), [SimpleNamespace(status=SimpleNamespace(value="RUNNING"), end_time=None, metadata=None)]
    monkeypatch.setattr(idle, "time", clock)

    def found(address: str) -> Cluster:
        cluster = object.__new__(Cluster)
        cluster.address = address
        cluster._client = SimpleNamespace(list_jobs=lambda: jobs)  # type: ignore[assignment]
        return cluster

    monkeypatch.setattr(idle, "Cluster", found)
    return SimpleNamespace(home=tmp_path, clock=clock, jobs=jobs, cluster=found("here"))


def end(job: SimpleNamespace, at: float) -> None:
    job.status.value, job.end_time = "SUCCEEDED", 1000 * at


def names_in(database: Path) -> list[tuple[str]]:
    with sqlite3.connect(database) as opened:
        return opened.execute("select name from runs").fetchall()


def test_a_head_ends_an_hour_after_its_last_job(head):
    start = head.clock.now
    assert idle.seconds_left(head.cluster, start) is None  # a job runs
    end(head.jobs[0], start + 600)
    head.jobs.append(SimpleNamespace(status=SimpleNamespace(value="RUNNING"), end_time=None, metadata={TITLE: CHECK}))
    assert idle.seconds_left(head.cluster, start) == 4200
    idle.watch()
    assert (head.home / "shut-down").exists()
    assert 4200 <= head.clock.now - start < 4200 + 60
    assert names_in(head.home / "storage" / "mlflow.db") == [("the only run",)]


def test_a_head_that_never_had_a_job_ends_an_hour_after_its_start(head):
    head.jobs.clear()
    start = head.clock.now
    idle.watch()
    assert 3600 <= head.clock.now - start < 3660


def test_a_job_that_comes_while_the_database_is_saved_keeps_the_head(head, monkeypatch):
    end(head.jobs[0], head.clock.now)
    waiting = SimpleNamespace(status=SimpleNamespace(value="PENDING"), end_time=None, metadata=None)

    def save() -> None:
        if len(head.jobs) > 1:
            raise SystemExit  # the second time
        head.jobs.append(waiting)

    monkeypatch.setattr(idle, "save", save)
    slept = head.clock.sleep

    def sleep(seconds: float) -> None:
        slept(seconds)
        if waiting in head.jobs:
            assert not (head.home / "shut-down").exists()
            end(waiting, head.clock.now - 3600)

    monkeypatch.setattr(head.clock, "sleep", sleep)
    with pytest.raises(SystemExit):
        idle.watch()


def test_a_storage_that_is_away_keeps_the_head_until_the_database_is_saved(head, capsys):
    end(head.jobs[0], head.clock.now)
    (head.home / "storage").rmdir()
    slept = head.clock.sleep

    def sleep(seconds: float) -> None:
        slept(seconds)
        if "tries again" in capsys.readouterr().out:
            assert not (head.home / "shut-down").exists()
            (head.home / "storage").mkdir()

    head.clock.sleep = sleep
    idle.watch()
    assert names_in(head.home / "storage" / "mlflow.db") == [("the only run",)]


def test_a_new_head_gets_the_database_back_and_an_old_one_keeps_its_own(head):
    database = head.home / "glow" / "mlflow.db"
    idle.save()
    with sqlite3.connect(database) as opened:
        opened.execute("insert into runs values ('a newer run')")
    idle.restore()
    assert len(names_in(database)) == 2
    database.unlink()
    idle.restore()
    assert names_in(database) == [("the only run",)]
    (head.home / "storage" / "mlflow.db").unlink()
    database.unlink()
    idle.restore()
    assert not database.exists()


def test_without_the_variable_the_head_stays(head, monkeypatch):
    monkeypatch.delenv("GLOW_IDLE_DOWN")
    idle.watch()
    assert idle.seconds_left_here() is None
    assert not (head.home / "shut-down").exists()


@pytest.mark.parametrize("given", ["4", "0h", "h", "4 hours", "-1h"])
def test_a_time_that_is_none_is_named(monkeypatch, given):
    monkeypatch.setenv("GLOW_IDLE_DOWN", given)
    with pytest.raises(JobError, match=f"not '{given}'"):
        idle.limit()
