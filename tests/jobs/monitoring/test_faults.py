"""What happens around a watch: docs/monitoring.md has a table of it. No Ray."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from PIL import Image

from glow.datasets.buckets import BucketFolder
from glowctl.display import events
from glowctl.errors import SpecError, explained
from glowctl.monitoring import watch as job
from glowctl.monitoring.journal import JOURNAL_FILE, Journal
from glowctl.tracking.runs import find_run, metric_history
from tests.jobs.command_line import free_port
from tests.jobs.disks import fill, small_disk
from tests.jobs.monitoring.settings import spec_in
from tests.jobs.monitoring.streams import HEALTHY, STRANGE, one, paths, resumed, watched
from tests.jobs.stores import mlflow_server


def test_files_that_cannot_be_read_are_counted_and_other_shapes_are_converted(store, tmp_path, monkeypatch):
    monkeypatch.setattr("glowctl.monitoring.arrivals.RETRY_S", 0.0)
    monkeypatch.setattr("glowctl.monitoring.arrivals.PATIENCE_S", 0.2)
    (tmp_path / "broken.png").write_bytes(b"no image")
    Image.new("I;16", (8, 8)).save(tmp_path / "deep.png")
    Image.new("RGB", (30, 20)).save(tmp_path / "wide.png")
    (tmp_path / "folder.png").mkdir()
    names = ("broken.png", "deep.png", "missing.png", "folder.png", "wide.png")
    lines = [*(f"{tmp_path / name}\n" for name in names), "\n", *paths(store, "healthy")[:30]]
    _, shown = watched(job.prepare(spec_in(store, tmp_path / "out")), lines)
    end = one(shown, events.Watched)
    assert (end.images, end.unreadable) == (31, 4)
    (journal,) = tmp_path.glob(f"out/*/{JOURNAL_FILE}")
    problems = {line.file for line in Journal(journal.parent).lines() if line.problem}
    assert problems == {str(tmp_path / name) for name in names[:4]}


def test_a_bucket_is_watched_although_it_goes_away_and_returns(store, tmp_path, monkeypatch, bucket):
    for name in ("POLL_S", "RETRY_S"):
        monkeypatch.setattr(f"glowctl.monitoring.arrivals.{name}", 0.0)
    for place in ("arrivals", "watch"):
        monkeypatch.setattr(f"glowctl.monitoring.{place}.BUCKET_POLL_S", 0.0)
    for path in sorted((store / "noise").iterdir())[:STRANGE]:
        bucket.put(f"camera/today/{path.name}", path.read_bytes())
    work = job.prepare(spec_in(store, tmp_path, source=bucket.uri("camera"), exit_on_alarm=True))
    listing, reading, calls = BucketFolder.files, BucketFolder.read, itertools.count()

    def listed(self):
        if next(calls) in (1, 3):
            raise self._unreadable(OSError("the network is down"))
        return listing(self)

    def read(self, *arguments):
        if next(calls) < 20:
            raise self._unreadable(OSError("the network is down"))
        return reading(self, *arguments)

    monkeypatch.setattr(BucketFolder, "files", listed)
    monkeypatch.setattr(BucketFolder, "read", read)
    alarmed, shown = watched(work, ())
    alarm, end = one(shown, events.Alarm), one(shown, events.Watched)
    assert alarmed
    assert alarm.image <= 20
    assert end.unreadable == 0
    assert alarm.moved[0].startswith(bucket.uri("camera/today/"))
    notes = [event.message for event in shown if isinstance(event, events.Noted)]
    assert sum("returns" in note for note in notes) >= 3
    assert sum("there again" in note for note in notes) == 2
    with pytest.raises(Exception, match="no bucket") as refusal:
        job.prepare(spec_in(store, tmp_path, source="s3://no-such-bucket/camera"))
    assert explained(refusal.value).code == "bucket-unreachable"


def test_a_clock_that_jumps_changes_nothing(store, tmp_path, monkeypatch):
    lines = paths(store, "healthy")
    _, shown = watched(job.prepare(spec_in(store, tmp_path / "whole")), lines)
    expected = one(shown, events.Watched)
    days, clock = itertools.cycle((0, 86_400, -86_400)), time.time
    monkeypatch.setattr(time, "time", lambda: clock() + next(days))
    _, shown = watched(job.prepare(spec_in(store, tmp_path / "jumps")), lines)
    assert one(shown, events.Watched).evidence == expected.evidence


def test_a_hook_that_hangs_stops_nothing_and_is_ended(store, tmp_path, monkeypatch):
    monkeypatch.setattr("glowctl.tracking.on_end.COMMAND_TIMEOUT_S", 0.2)
    lines = paths(store, "healthy", "noise")
    _, shown = watched(job.prepare(spec_in(store, tmp_path, on_alarm="sleep 600")), lines)
    assert one(shown, events.Watched).images == len(lines)
    assert any("sleep 600" in event.message for event in shown if isinstance(event, events.Noted))


def test_p_values_for_prometheus_are_those_of_the_reference_after_a_resumption_too(store, tmp_path):
    file, noise = tmp_path / "glow.prom", paths(store, "noise")
    watched(job.prepare(spec_in(store, tmp_path / "out", reference=f"folder:{store}/noise")), noise[:40])
    for lines in ([], noise[40:]):
        resumed(store, tmp_path / "out", lines, prometheus=str(file))
        exposed = dict(line.rsplit(" ", 1) for line in file.read_text().splitlines() if line[0] != "#")
        assert float(exposed['glow_watch_p_value{quantile="0.5"}']) > 0.2  # among digits, noise has the smallest
    with pytest.raises(SpecError) as refusal:
        resumed(store, tmp_path / "out", [], reference=f"folder:{store}/healthy")
    assert refusal.value.code == "fixed-setting"


@pytest.mark.root
def test_a_full_disk_ends_the_watch_and_loses_nothing(store, tmp_path):
    lines = paths(store, "healthy", "noise")
    _, shown = watched(job.prepare(spec_in(store, tmp_path / "whole")), lines)
    expected = one(shown, events.Watched)
    with small_disk(tmp_path, 4) as disk:

        def filling():
            yield from lines[:100]
            while not any(journal.stat().st_size for journal in disk.glob(f"*/{JOURNAL_FILE}")):
                time.sleep(0.02)
            fill(disk)
            yield from lines[100:]

        with pytest.raises(OSError, match="No space left") as ended:
            watched(job.prepare(spec_in(store, disk)), filling())
        sentence = explained(ended.value)
        assert (sentence.code, sentence.exit_code) == ("disk-full", 1)
        (disk / "ballast").unlink()
        _, shown = resumed(store, disk, lines)
        end = one(shown, events.Watched)
        assert (end.images, end.evidence, end.alarms) == (expected.images, expected.evidence, expected.alarms)


@pytest.mark.nightly
def test_mlflow_is_away_for_two_minutes(store, tmp_path):
    """The alarm is told in the meantime, and the record has everything afterwards."""
    lines, served = paths(store, "healthy", "noise"), tmp_path / "served"
    served.mkdir()
    port = free_port()
    with ExitStack() as ending:
        server = ending.enter_context(mlflow_server(served, port))
        hook = tmp_path / "hook"
        where = {"tracking_uri": server.uri, "model": str(store / "trained"), "on_alarm": f"tee {hook}"}

        def away():
            yield from lines[:60]
            time.sleep(10)
            os.killpg(server.process.pid, signal.SIGKILL)
            yield from lines[60:]
            gone = time.monotonic()
            while time.monotonic() < gone + 120:
                time.sleep(1)
            assert json.loads(hook.read_text())["state"] == "alarm"
            ending.enter_context(mlflow_server(served, port))

        _, shown = watched(job.prepare(spec_in(store, tmp_path / "out", **where)), away())
        end = one(shown, events.Watched)
        assert (end.images, end.alarms) == (HEALTHY + STRANGE, 1)
        run = find_run(server.uri, "glow", end.run_id)
        assert run.info.status == "FINISHED"
        assert metric_history(server.uri, end.run_id, "evidence")[end.images] == end.evidence


def test_a_folder_that_goes_away_during_a_watch_loses_no_image(store, tmp_path, monkeypatch):
    monkeypatch.setattr("glowctl.monitoring.arrivals.POLL_S", 0.05)
    camera, away = tmp_path / "camera", tmp_path / "away"
    shutil.copytree(store / "noise", away)
    camera.mkdir()
    work = job.prepare(spec_in(store, tmp_path / "out", source=str(camera), exit_on_alarm=True))
    shown: list[events.Event] = []

    def show(event: events.Event) -> None:
        shown.append(event)
        if isinstance(event, events.Noted) and "continue" in event.message:
            camera.rmdir()
        if isinstance(event, events.Noted) and "gone" in event.message:
            away.rename(camera)

    assert job.run(work, (), show)
    assert one(shown, events.Alarm).image <= 20
    assert Path(one(shown, events.Alarm).file).parent == camera
