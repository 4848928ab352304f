"""The ablation job: trains variants of a model as trials of Ray Tune, and compares them with error bars.

- `plan`, which is here, counts trials and resources. It imports neither Ray nor torch and reads no data, so that
  ``--dry-run`` takes only a second.
- `prepare` checks settings and data, without Ray.
- `run` drives the job in `glowctl`; Ray Tune runs what is in `tuner` and `trial`.
- `log` brings the messages of the trials to the screen, to the folder of the ablation, and to MLflow.
- `summary` compares the trials.
"""

from __future__ import annotations

from collections.abc import Mapping

from glowctl.display.events import Plan
from glowctl.ray_runtime.resources import TRIAL_REMEDY, trial_resources
from glowctl.specs.ablation import AblateSpec


def plan(spec: AblateSpec, taken: Mapping[str, float] | None = None, run_id: str | None = None) -> Plan:
    """Plan an ablation.

    Args:
        spec: the ablation.
        taken: resources of each worker (``cpus_per_worker``, ``gpus_per_worker``) with which the trials of a resumed
            ablation began; they replace those of `spec`. None for a new ablation.
        run_id: the run in MLflow that is resumed; None if there is none.

    Raises:
        JobError: if the machines do not have the resources for one trial.
    """
    asked = spec.trial_spec(spec.trials()[0]).model_copy(update=taken)
    remedy = TRIAL_REMEDY if taken is None else _resume_elsewhere(run_id)
    resources, at_a_time = trial_resources(asked, spec.number_of_trials, spec.concurrent, remedy)
    return Plan(
        trials=spec.number_of_trials,
        configurations=spec.number_of_configurations,
        seeds=spec.seeds,
        at_a_time=at_a_time,
        workers=resources.workers[0],
        cpus=resources.cpus,
        gpus=resources.gpus,
        epochs=spec.train.epochs,
        labels=[spec.label(values) for values in spec.trials()] if spec.known_beforehand else [],
    )


def _resume_elsewhere(run_id: str | None) -> str:
    """Return what to do if the trials of a resumed ablation, whose resources cannot change, do not fit."""
    summarize = f", or compare what finished with glowctl ablate --summarize {run_id}" if run_id else ""
    return f"resume the ablation on machines that have this much for a trial{summarize}"
