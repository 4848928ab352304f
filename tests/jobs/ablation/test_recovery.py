"""Which ends of trials are sent to MLflow again when an ablation is resumed. No Ray: Tune's trials are stand-ins."""

import errno
import os
import pickle
from queue import Queue
from types import SimpleNamespace
from typing import Any, cast

import pytest
from mlflow.entities import Run, RunData, RunInfo, RunTag
from ray.tune import Checkpoint
from ray.tune.experiment import Trial

from jobs.ablation import recovery, tuner
from jobs.ablation.log import AblationLog, settled_among
from jobs.ablation.log import Trial as TrialInLog
from jobs.ablation.messages import Ended, Failed, OfTrial
from jobs.ablation.trial_checkpoint import TrialFacts, read_facts, write_facts
from jobs.display.events import Show
from jobs.errors import JobError
from jobs.ray_runtime.resources import Resources
from jobs.specs.ablation import make_ablate_spec
from jobs.tracking import Record
from jobs.tracking.liveness import GONE
from jobs.training.log import TrainingLog
from jobs.training.prepare import Work
from jobs.training.progress import Progress

SPEC = make_ablate_spec("smoke", {"seeds": 5})


def trial(seed: int, status: str, **last_result: float) -> SimpleNamespace:
    return SimpleNamespace(config={"values": {"seed": seed}}, status=status, last_result=last_result, checkpoint=None)


@pytest.fixture
def told(monkeypatch):
    """A function from trials that Tune saved to the messages that are put into the queue."""

    def tell(trials: list[SimpleNamespace]) -> list[OfTrial]:
        monkeypatch.setattr(recovery, "has_begun", lambda place: True)
        monkeypatch.setattr(recovery, "damaged_file", lambda place: None)
        monkeypatch.setattr(recovery.tune, "ExperimentAnalysis", lambda place: SimpleNamespace(trials=trials))
        queue: Queue = Queue()
        recovery.catch_up("/place", SPEC, queue, "1234")
        return list(queue.queue)

    return tell


def test_ends_that_tune_will_not_report_again_are_sent_again(told):
    finished, stopped = trial(0, "TERMINATED", test_bits_per_dim=2.0), trial(1, "TERMINATED", epoch=3)
    assert told([finished, stopped]) == [
        OfTrial("1x1 s0", Ended({"test_bits_per_dim": 2.0}, None)),
        OfTrial("1x1 s1", Ended({"epoch": 3}, None)),
    ]


def test_nothing_is_sent_of_trials_that_tune_runs_again(told):
    """They may have reported their result, but will report it again, with a checkpoint."""
    running, failed = trial(0, "RUNNING", test_bits_per_dim=2.0), trial(1, "ERROR", epoch=3)
    assert told([running, failed, trial(2, "PENDING")]) == []


@pytest.mark.parametrize(
    "settings", [{"scheduler": "asha"}, {"search": "optuna", "samples": 2, "depths": "1,2"}], ids=["asha", "optuna"]
)
def test_a_damaged_state_of_a_scheduler_or_search_ends_the_ablation(monkeypatch, settings):
    monkeypatch.setattr(recovery, "has_begun", lambda place: True)
    monkeypatch.setattr(recovery, "damaged_file", lambda place: f"{place}/tuner.pkl")
    spec = make_ablate_spec("smoke", {"seeds": 2, **settings})
    with pytest.raises(JobError, match=r"/place/tuner\.pkl.*glowctl ablate --summarize 1234") as damaged:
        recovery.catch_up("/place", spec, Queue(), "1234")
    assert damaged.value.code == "tune-state-damaged"


@pytest.mark.parametrize("begun", [False, True])
def test_checkpoints_from_before_the_state_was_damaged_are_found_at_every_later_resume(monkeypatch, tmp_path, begun):
    for folder, epochs in {"tune-until-1700000000": {"a": 3, "b": 4}, "tune-until-1700000060": {"a": 7}}.items():
        for label, epoch in epochs.items():
            checkpoint = tmp_path / folder / label / f"checkpoint_{epoch:06}"
            checkpoint.mkdir(parents=True)
            write_facts(checkpoint, TrialFacts(label, last={"epoch": epoch}, best={"epoch": 1}))
    monkeypatch.setattr(recovery, "has_begun", lambda place: begun)
    monkeypatch.setattr(recovery, "damaged_file", lambda place: None)
    monkeypatch.setattr(recovery.tune, "ExperimentAnalysis", lambda place: SimpleNamespace(trials=[]))
    stood = recovery.catch_up(f"{tmp_path}/tune", SPEC, Queue(), "1234")
    assert {label: read_facts(kept.path).last["epoch"] for label, kept in stood.items()} == {"a": 7, "b": 4}


def run(status: str, **tags: str) -> Run:
    info = RunInfo("x", "0", user_id="", status=status, start_time=0, end_time=None, lifecycle_stage="active")
    return Run(info, RunData(tags=[RunTag(*tag) for tag in tags.items()]))


def resumed_log(known: dict[str, Run], show: Show = print) -> AblationLog:
    work, parent = cast(Work, None), cast(Record, None)  # which do not decide whether an end is settled
    return AblationLog(SPEC, SPEC, work, Resources((1, 1), 0, 1), parent, known, show, "folder")


def test_an_end_is_settled_unless_the_process_died_or_was_interrupted():
    known = {
        "1x1 s0": run("FINISHED"),
        "1x1 s1": run("FAILED", **{"glow.error": "training diverged"}),
        "1x1 s2": run("FAILED", **{"glow.error": GONE}),
        "1x1 s3": run("KILLED", **{"glow.stopped": "asha after epoch 3"}),
        "1x1 s4": run("KILLED"),
    }
    log = resumed_log(known)
    ends = [OfTrial(label, Ended({}, None)) for label in known]
    assert {end.trial for end in ends if log._is_over(end)} == {"1x1 s0", "1x1 s1", "1x1 s3"}
    assert log.finished == {"1x1 s0"}
    assert settled_among(known) == {"1x1 s0": "finished", "1x1 s1": "failed", "1x1 s3": "stopped"}


def test_trials_that_had_ended_before_a_resume_are_counted_unless_they_run_again(monkeypatch):
    """Tune ended trials 0, 1 and 3 for good; trial 2 failed too often and runs again, as does trial 4."""
    known = {
        "1x1 s0": run("FINISHED"),
        "1x1 s1": run("FAILED", **{"glow.error": "training diverged"}),
        "1x1 s2": run("FAILED", **{"glow.error": "its process died"}),
        "1x1 s3": run("KILLED", **{"glow.stopped": "asha after epoch 3"}),
        "1x1 s4": run("KILLED"),
    }
    shown: list[Any] = []
    log = resumed_log(known, shown.append)
    monkeypatch.setattr(
        log, "_known_trial", lambda label: TrialInLog(work=cast(Any, None), log=cast(Any, None), record=None)
    )
    ends = ("0", {"test_bits_per_dim": 2.0}), ("1", {"failed": "x"}), ("3", {"epoch": 3})
    for seed, metrics in (*ends, ("4", {"test_bits_per_dim": 2.0})):
        log.see(OfTrial(f"1x1 s{seed}", Ended(metrics, None)))
    log.see(OfTrial("1x1 s2", Failed("it died again")))
    assert [(event.trial, event.ended, event.of) for event in shown] == [("1x1 s4", 4, 5), ("1x1 s2", 5, 5)]


@pytest.mark.parametrize(("by_tune", "by_workers", "counted"), [(30.0, 90.0, 90.0), (30.0, 25.0, 30.0)])
def test_the_core_seconds_of_a_restarted_trial_are_those_of_all_its_attempts(
    monkeypatch, tmp_path, by_tune, by_workers, counted
):
    """Tune counts from the last restart if it has no checkpoint, and the workers leave out their start."""
    monkeypatch.setattr("jobs.ablation.log.copy_model", lambda source, target: None)
    Progress(seconds=by_workers).write(tmp_path)
    spec = make_ablate_spec("smoke", {"seeds": 5, "output": str(tmp_path / "outputs")})
    work, figures = cast(Work, None), dict[str, float]()
    record = cast(Record, SimpleNamespace(metrics=figures.update, finish=lambda status: None))
    log = AblationLog(spec, spec, work, Resources((2, 2), 0, 1.5), record, {}, print, "folder")
    training = cast(TrainingLog, SimpleNamespace(complete=lambda *_: None, conclude=lambda *_: None, scores={}))
    ended = TrialInLog(work, training, record, state="finished")
    metrics = {"epoch": 2, "best": {"epoch": 1}, "test_bits_per_dim": 2.0, "time_total_s": by_tune}
    log._record_end("1x1 s0", Ended(metrics, Checkpoint(str(tmp_path))), ended, record)
    assert figures == {"core_seconds": counted * 2 * 1.5, "gpu_seconds": 0}


def test_callbacks_that_an_older_glowctl_saved_find_the_queue_after_a_renaming_of_the_folder():
    """They were pickled with the folder's name at that time."""
    notices = object.__new__(tuner.Notices)
    vars(notices).update(_folder="1234", _spec=SPEC)
    queue: Queue = Queue()
    with tuner.reachable(queue):
        pickle.loads(pickle.dumps(notices)).on_trial_complete(1, [], trial(0, "TERMINATED", epoch=3))
    assert queue.get_nowait() == OfTrial("1x1 s0", Ended({"epoch": 3}, None))


def test_the_cause_of_a_failed_trial_survives_a_full_output(tmp_path):
    """Tune's file in the folder for temporary files is whole; its copy in the output is empty."""
    whole, empty = tmp_path / "whole.pkl", tmp_path / "empty.pkl"
    whole.write_bytes(pickle.dumps(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    empty.write_bytes(b"")
    for file, text, fact in (
        (whole, None, os.strerror(errno.ENOSPC)),
        (empty, "a traceback\nOSError: the last line\n", "the last line"),
        (empty, None, "no reason"),
    ):
        failed = SimpleNamespace(
            config={"values": {"seed": 0}}, trial_id="1", pickled_error_file=str(file), get_error=lambda text=text: text
        )
        queue: Queue = Queue()
        with tuner.reachable(queue):
            tuner.Notices(SPEC).on_trial_error(1, [], cast(Trial, failed))
        told = queue.get()
        assert told.trial == "1x1 s0"
        assert fact in told.message.reason
