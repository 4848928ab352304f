"""Repair the state of an ablation that was killed, before the ablation continues."""

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
    """Repair the state of a killed experiment of Ray Tune, if an experiment has begun in the folder.

    Checkpoints that Tune has lost are restored. For each trial whose end Tune has recorded, the message about this end
    is sent to the queue again, because MLflow may lack the end or epochs before it.

    If Tune cannot read its own files, the folder is renamed, and the experiment begins anew with the trials' last
    checkpoints. If it is interrupted again, a trial that has stored none since begins with the same one.

    Args:
        place: folder of the experiment.
        spec: the ablation.
        queue: queue of the messages to the driver.
        run_id: id of the ablation's run.

    Returns:
        The last complete checkpoint of each trial in the renamed folders, by the label of the trial: the trial begins
        with it if Tune has none.

    Raises:
        JobError: if Tune's files are damaged and the experiment cannot begin anew, because the ablation has a scheduler
            or a search whose state is lost, or because the files are in a bucket.
    """
    if not has_begun(place):
        return _stood(place)
    know_moved_modules()
    damaged = damaged_file(place)
    if damaged is None:
        for trial in tune.ExperimentAnalysis(place).trials:
            if trial.checkpoint is not None:
                put_back(trial.checkpoint)
            # All other trials run again from their last checkpoint, even if they had reported their result.
            if trial.status == Trial.TERMINATED:
                queue.put(end_of(trial, spec))
        return _stood(place)
    if is_remote(place) or spec.scheduler != "none" or not spec.known_beforehand:
        raise JobError(
            f"{damaged} is damaged, as happens if Ray Tune is killed while it writes the file",
            remedy=f"start a new ablation; glowctl ablate --summarize {run_id} compares the trials that finished",
            code="tune-state-damaged",
        )
    Path(place).rename(f"{place}-until-{time.time():.0f}")
    return _stood(place)


def _stood(place: str) -> dict[str, tune.Checkpoint]:
    """Return the last complete checkpoint of each trial, from the newest renamed folder that contains one."""
    folder = Path(place)  # in a bucket no folder is renamed
    renamed = sorted(folder.parent.glob(f"{folder.name}-until-*"))
    return {label: checkpoint for each in renamed for label, checkpoint in last_whole(each).items()}


def end_of(trial: Trial, spec: AblateSpec) -> OfTrial:
    """Return the message about a trial's end, made from what Tune has of the trial.

    Args:
        trial: the trial, which has ended.
        spec: the ablation.
    """
    # A trial of several workers that was stopped has its checkpoint only in a metric of Ray Train.
    metrics, checkpoint = dict(trial.last_result), trial.checkpoint
    if checkpoint is None and CHECKPOINT_PATH_KEY in metrics:
        assert trial.storage is not None
        checkpoint = tune.Checkpoint(metrics[CHECKPOINT_PATH_KEY], trial.storage.storage_filesystem)
    return OfTrial(spec.label(trial.config["values"]), Ended(metrics, checkpoint))
