"""What a kill may have left undone of an ablation, and how it is made good before the ablation goes on."""

from __future__ import annotations

import time
from pathlib import Path

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.integration.ray_train import CHECKPOINT_PATH_KEY

from jobs.ablation.messages import Ended, OfTrial, TrialQueue
from jobs.ablation.older_versions import know_moved_modules
from jobs.ablation.trial_checkpoint import last_whole, put_back
from jobs.ablation.tune_state import damaged_file, has_begun
from jobs.errors import JobError
from jobs.outputs import is_remote
from jobs.specs.ablation import AblateSpec

__all__ = ["catch_up", "end_of"]


def catch_up(place: str, spec: AblateSpec, queue: TrialQueue, run_id: str) -> dict[str, tune.Checkpoint]:
    """Does what a kill may have left undone of the experiment in this folder, if one has begun there. Every end that
    Tune knows is told again: MLflow may lack it, or epochs before it.

    If Tune cannot read what it saved, it begins anew; given are then the last checkpoints of the trials, by label.
    Raises JobError where more was lost than which trials there are.
    """
    if not has_begun(place):
        return {}
    know_moved_modules()
    damaged = damaged_file(place)
    if damaged is None:
        for trial in tune.ExperimentAnalysis(place).trials:
            if trial.checkpoint is not None:
                put_back(trial.checkpoint)
            # Others are run again from their last checkpoint, also if they had said their last.
            if trial.status == Trial.TERMINATED:
                queue.put(end_of(trial, spec))
        return {}
    if is_remote(place) or spec.scheduler != "none" or not spec.known_beforehand:
        raise JobError(
            f"{damaged} is damaged, as it is if Ray Tune is killed while it writes: start a new ablation; "
            f"glowctl ablate --summarize {run_id} compares the trials that came to their end"
        )
    return last_whole(Path(place).rename(f"{place}-until-{time.time():.0f}"))


def end_of(trial: Trial, spec: AblateSpec) -> OfTrial:
    """What Tune knows of a trial's end. A trial of several workers that was stopped has its checkpoints in the words of
    Ray Train."""
    metrics, checkpoint = dict(trial.last_result), trial.checkpoint
    if checkpoint is None and CHECKPOINT_PATH_KEY in metrics:
        assert trial.storage is not None
        checkpoint = tune.Checkpoint(metrics[CHECKPOINT_PATH_KEY], trial.storage.storage_filesystem)
    return OfTrial(spec.label(trial.config["values"]), Ended(metrics, checkpoint))
