"""`glowctl watch` on a stream of files: evidence, alarms, and what survives a kill. No Ray."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from glowctl.display import events
from glowctl.errors import JobError, SpecError
from glowctl.monitoring import watch as job
from glowctl.monitoring.journal import JOURNAL_FILE, Journal
from glowctl.outputs import claimed
from glowctl.specs.base import validated
from glowctl.specs.monitoring import WatchSpec
from glowctl.tracking.runs import find_run, metric_history
from tests.jobs.command_line import GLOWCTL, environment, wait_until
from tests.jobs.monitoring.settings import spec_in
from tests.jobs.monitoring.streams import HEALTHY, STRANGE, one, paths, resumed, watched


def test_a_stream_that_belongs_gives_no_alarm(store, tmp_path):
    alarmed, shown = watched(job.prepare(spec_in(store, tmp_path)), paths(store, "healthy"))
    end = one(shown, events.Watched)
    assert (alarmed, end.images, end.alarms, end.unreadable) == (False, HEALTHY, 0, 0)
    assert end.evidence < end.threshold == pytest.approx(2)


@pytest.mark.parametrize("ranks", ["growing", "fixed"])
def test_a_change_gives_an_alarm_that_is_recorded(store, tmp_path, ranks):
    spec = spec_in(store, tmp_path, ranks=ranks, exit_on_alarm=True, prometheus=str(tmp_path / "glow.prom"))
    alarmed, shown = watched(job.prepare(spec), paths(store, "healthy", "noise"))
    alarm, end = one(shown, events.Alarm), one(shown, events.Watched)
    assert alarmed
    assert HEALTHY < alarm.image <= HEALTHY + 20
    assert HEALTHY - 10 <= alarm.earliest <= alarm.start <= alarm.latest <= alarm.image
    assert Path(alarm.file) == store / "noise" / f"{alarm.image - HEALTHY - 1:04}.png"
    assert all(Path(file).parent.name == "noise" for file in alarm.moved[:3])
    assert Path(alarm.picture).is_file()
    run = find_run(spec.tracking_uri or "", "glow", end.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["alarms"] == 1
    assert max(metric_history(spec.tracking_uri or "", end.run_id, "evidence").values()) == end.evidence
    exposed = dict(line.rsplit(" ", 1) for line in (tmp_path / "glow.prom").read_text().splitlines() if line[0] != "#")
    assert float(exposed["glow_watch_images"]) == end.images
    assert float(exposed["glow_watch_alarms"]) == 1


class Killed(BaseException):
    """Ends a watch as a kill does, without its end."""


def test_a_watch_that_dies_goes_on_where_it_was_bit_for_bit(store, tmp_path, monkeypatch):
    monkeypatch.setattr("glowctl.monitoring.arrivals.GATHER_S", 0.05)
    lines, dice = paths(store, "healthy", "noise"), random.Random(0)
    _, shown = watched(job.prepare(spec_in(store, tmp_path / "whole")), lines)
    expected = one(shown, events.Watched)
    out = tmp_path / "killed"
    work = job.prepare(spec_in(store, out))
    for _ in range(2):
        with pytest.raises(Killed):
            watched(work, dying(lines, dice.randrange(20, len(lines)), out))
        (journal,) = out.glob(f"*/{JOURNAL_FILE}")
        os.truncate(journal, dice.randrange(journal.stat().st_size))  # in the middle of a line
        work = job.prepare_resume(journal.parent.name, {"tracking_uri": f"sqlite:///{store}/mlflow.db"})
    _, shown = watched(work, lines)
    end = one(shown, events.Watched)
    assert (end.images, end.evidence, end.alarms) == (expected.images, expected.evidence, expected.alarms)
    read = [line.file for line in Journal(journal.parent).lines()]
    assert read == [line.strip() for line in lines]


def dying(lines: list[str], after: int, out: Path):
    """Yield some lines, and then end the watch as a kill would, but not before anything is in its journal."""
    yield from lines[:after]
    wait_until(lambda: any(journal.stat().st_size for journal in out.glob(f"*/{JOURNAL_FILE}")), every=0.02)
    raise Killed


@pytest.mark.nightly
def test_kills_at_twenty_random_moments_change_nothing(store, tmp_path):
    lines, dice = paths(store, "healthy", "noise"), random.Random(1)
    _, shown = watched(job.prepare(spec_in(store, tmp_path / "whole")), lines)
    expected = one(shown, events.Watched)
    where = ["--tracking-uri", f"sqlite:///{store}/mlflow.db", "--json"]
    command = [str(GLOWCTL), "watch", "-", "--output", str(tmp_path / "out"), *where]
    judged = []
    for kill in range(20):
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, env=environment(), text=True)
        assert process.stdin is not None
        process.stdin.write("".join(lines[: (kill + 1) * len(lines) // 20]))
        process.stdin.flush()
        wait_until(lambda: "--resume" in (tmp_path / "log").read_text(), every=0.02)
        time.sleep(dice.uniform(0, 3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        (folder,) = (path for path in (tmp_path / "out").iterdir() if path.is_dir())
        command = [str(GLOWCTL), "watch", "--resume", folder.name, *where]
        judged.append(len(list(Journal(folder).lines())))
    print("images in the journal at each kill:", judged)
    assert len(set(judged)) > 5
    done = subprocess.run(command, input="".join(lines), capture_output=True, text=True, env=environment(), check=False)
    end = json.loads(done.stdout.splitlines()[-1])
    assert (end["images"], end["evidence"], end["alarms"]) == (expected.images, expected.evidence, expected.alarms)


def test_an_alarm_is_told_once_although_the_watch_is_resumed(store, tmp_path):
    hook = f"tee -a {tmp_path / 'hook'}"
    spec = spec_in(store, tmp_path / "out", on_alarm=hook)
    _, shown = watched(job.prepare(spec), paths(store, "healthy", "noise"))
    alarm = one(shown, events.Alarm)
    told = json.loads((tmp_path / "hook").read_text())
    assert (told["job"], told["state"], told["image"], told["moved"]) == ("watch", "alarm", alarm.image, alarm.moved)
    _, shown = resumed(store, tmp_path / "out", paths(store, "healthy", "noise"))
    assert not [event for event in shown if isinstance(event, events.Alarm)]
    assert one(shown, events.Watched).images == HEALTHY + STRANGE
    assert json.loads((tmp_path / "hook").read_text()) == told


def test_an_acknowledged_alarm_begins_the_evidence_anew(store, tmp_path):
    digits, noise = paths(store, "healthy"), paths(store, "noise")
    ends, out = {"exit_on_alarm": True}, tmp_path / "out"
    alarmed, shown = watched(
        job.prepare(spec_in(store, out, on_alarm=f"tee -a {tmp_path / 'hook'}", **ends)), noise[:30]
    )
    first = one(shown, events.Alarm)
    assert alarmed
    assert resumed(store, out, digits)[0]  # the alarm stays until it is acknowledged
    alarmed, shown = resumed(store, out, digits, acknowledges=True)
    end = one(shown, events.Watched)
    assert not alarmed
    assert (end.images, end.alarms) == (30 + HEALTHY, 1)
    assert end.evidence < end.threshold
    (folder,) = (path for path in out.iterdir() if path.is_dir())
    assert f"after image {first.image:,} is acknowledged" in (folder / "log.txt").read_text()
    _, shown = resumed(store, out, [], acknowledges=True)  # there is no alarm any more, and the evidence is kept
    again = one(shown, events.Watched)
    assert (again.images, again.evidence) == (end.images, end.evidence)
    alarmed, shown = resumed(store, out, noise[30:])
    second = one(shown, events.Alarm)
    assert alarmed
    assert 30 + HEALTHY < second.image <= 50 + HEALTHY
    assert second.earliest > 20 + HEALTHY
    assert len((tmp_path / "hook").read_text().split('"state"')) == 3


def test_a_hook_that_fails_is_a_note_and_changes_nothing(store, tmp_path):
    spec = spec_in(store, tmp_path, on_alarm="/no/such/command", exit_on_alarm=True)
    alarmed, shown = watched(job.prepare(spec), paths(store, "noise"))
    assert alarmed
    assert any("/no/such/command" in event.message for event in shown if isinstance(event, events.Noted))


def test_thin_judges_each_nth_image(store, tmp_path):
    _, shown = watched(job.prepare(spec_in(store, tmp_path, thin=10)), paths(store, "healthy"))
    assert one(shown, events.Watched).images == HEALTHY / 10
    (journal,) = tmp_path.glob(f"*/{JOURNAL_FILE}")
    judged = [line.scores is not None for line in Journal(journal.parent).lines()]
    assert judged == [number % 10 == 0 for number in range(HEALTHY)]


def test_a_folder_is_watched_until_it_is_interrupted(store, tmp_path, monkeypatch):
    monkeypatch.setattr("glowctl.monitoring.arrivals.POLL_S", 0.1)
    camera = tmp_path / "camera"
    camera.mkdir()
    content = (store / "healthy" / "0000.png").read_bytes()
    (camera / "half.png").write_bytes(content[:40])
    shown: list[events.Event] = []

    def feed() -> None:
        for path in sorted((store / "noise").iterdir()):
            shutil.copy(path, camera)
        (camera / "half.png").write_bytes(content)

    threading.Timer(1.0, feed).start()
    spec = spec_in(store, tmp_path / "out", source=str(camera), exit_on_alarm=True)
    assert job.run(job.prepare(spec), (), shown.append)
    (journal,) = tmp_path.glob(f"out/*/{JOURNAL_FILE}")
    assert not [line for line in Journal(journal.parent).lines() if line.problem]


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"source": "/no/such/folder"}, "source-not-folder"),
        ({"output": "s3://bucket/x"}, "output-not-folder"),
        ({"detector": "nonsense"}, "check-impossible"),
    ],
)
def test_what_cannot_be_watched_is_refused(store, tmp_path, settings, code):
    with pytest.raises(SpecError) as refusal:
        job.run(job.prepare(spec_in(store, tmp_path, **settings)), (), lambda event: None)
    assert refusal.value.code == code


@pytest.mark.parametrize("text", ["never", "every=1", "every=", "every=-5"])
def test_a_guarantee_is_ever_or_every_n(text):
    with pytest.raises(SpecError, match="--guarantee must be ever, or every=N"):
        validated(WatchSpec, {"source": "-", "guarantee": text})


def test_a_reference_does_not_change_the_detector_so_that_a_resumed_watch_has_the_same(store, tmp_path):
    new = job.prepare(spec_in(store, tmp_path, reference=f"folder:{store}/noise"))
    assert new.reference
    assert new.judge(lambda event: None).detector == new.scorer.calibration.recommended
    unknown = job.prepare(spec_in(store, tmp_path, detector="nonsense"))
    with pytest.raises(SpecError, match="nonsense"):
        unknown.judge(lambda event: None)


def test_a_resumed_watch_keeps_its_settings_and_is_continued_by_one_command(store, tmp_path):
    spec = spec_in(store, tmp_path)
    watched(job.prepare(spec), paths(store, "healthy")[:5])
    (folder,) = tmp_path.iterdir()
    where = {"tracking_uri": spec.tracking_uri}
    with pytest.raises(SpecError) as refusal:
        job.prepare_resume(folder.name, {**where, "alpha": 0.9})
    assert refusal.value.code == "fixed-setting"
    work = job.prepare_resume(folder.name, where)
    with claimed(str(folder), folder.name, "watch"), pytest.raises(JobError) as locked:
        job.run(work, (), lambda event: None)
    assert locked.value.code == "run-locked"
    assert find_run(spec.tracking_uri or "", "glow", folder.name).info.status == "FINISHED"
    (training,) = (run for run in [find_run(spec.tracking_uri or "", "glow", "train digits small")])
    with pytest.raises(JobError) as other:
        job.prepare_resume(training.info.run_id, where)
    assert other.value.code == "run-of-another-job"


def test_every_lets_alarms_repeat_of_which_the_first_is_told(store, tmp_path):
    spec = spec_in(store, tmp_path, guarantee="every=1000")
    _, shown = watched(job.prepare(spec), paths(store, "healthy", "noise"))
    assert HEALTHY < one(shown, events.Alarm).image < HEALTHY + 20
    assert one(shown, events.Watched).alarms > 2
