"""What MLflow is told of trials when an ablation is resumed. No Ray runs; Tune's trials are stand-ins."""

from queue import Queue
from types import SimpleNamespace

import pytest

from jobs.ablation import recovery
from jobs.ablation.log import AblationLog
from jobs.ablation.messages import Ended, OfTrial
from jobs.errors import JobError
from jobs.specs.ablation import make_ablate_spec
from jobs.tracking.liveness import GONE

SPEC = make_ablate_spec("smoke", {"seeds": 5})


def trial(seed: int, status: str, **last_result: float) -> SimpleNamespace:
    return SimpleNamespace(config={"values": {"seed": seed}}, status=status, last_result=last_result, checkpoint=None)


@pytest.fixture
def told(monkeypatch):
    """Of these trials that Tune saved, what is put into the queue."""

    def tell(trials: list[SimpleNamespace]) -> list[OfTrial]:
        monkeypatch.setattr(recovery, "has_begun", lambda place: True)
        monkeypatch.setattr(recovery, "damaged_file", lambda place: None)
        monkeypatch.setattr(recovery.tune, "ExperimentAnalysis", lambda place: SimpleNamespace(trials=trials))
        queue: Queue = Queue()
        recovery.catch_up("/place", SPEC, queue, "1234")
        return list(queue.queue)

    return tell


def test_it_is_told_of_ends_that_tune_will_not_say_again(told):
    finished, stopped = trial(0, "TERMINATED", test_bits_per_dim=2.0), trial(1, "TERMINATED", epoch=3)
    assert told([finished, stopped]) == [
        OfTrial("1x1 s0", Ended({"test_bits_per_dim": 2.0}, None)),
        OfTrial("1x1 s1", Ended({"epoch": 3}, None)),
    ]


def test_it_is_not_told_of_trials_that_tune_runs_again(told):
    """Though they have said their last: they will say it again, with a checkpoint."""
    running, failed = trial(0, "RUNNING", test_bits_per_dim=2.0), trial(1, "ERROR", epoch=3)
    assert told([running, failed, trial(2, "PENDING")]) == []


@pytest.mark.parametrize(
    "settings", [{"scheduler": "asha"}, {"search": "optuna", "samples": 2, "depths": "1,2"}], ids=["asha", "optuna"]
)
def test_what_only_tunes_files_knew_is_not_made_up(monkeypatch, settings):
    monkeypatch.setattr(recovery, "has_begun", lambda place: True)
    monkeypatch.setattr(recovery, "damaged_file", lambda place: f"{place}/tuner.pkl")
    spec = make_ablate_spec("smoke", {"seeds": 2, **settings})
    with pytest.raises(JobError, match=r"/place/tuner.pkl is damaged.*ablate --summarize 1234"):
        recovery.catch_up("/place", spec, Queue(), "1234")


def run(status: str, **tags: str) -> SimpleNamespace:
    return SimpleNamespace(info=SimpleNamespace(status=status), data=SimpleNamespace(tags=tags))


def test_an_end_is_settled_that_a_trial_came_to_itself():
    known = {
        "1x1 s0": run("FINISHED"),
        "1x1 s1": run("FAILED", **{"glow.error": "training diverged"}),
        "1x1 s2": run("FAILED", **{"glow.error": GONE}),
        "1x1 s3": run("KILLED", **{"glow.stopped": "asha after epoch 3"}),
        "1x1 s4": run("KILLED"),
    }
    log = AblationLog(SPEC, SPEC, None, None, None, known, print, "folder")
    ends = [OfTrial(label, Ended({}, None)) for label in known]
    assert {end.trial for end in ends if log._is_over(end)} == {"1x1 s0", "1x1 s1", "1x1 s3"}
    assert log.finished == {"1x1 s0"}
