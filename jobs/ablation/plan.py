"""Plan an ablation: how many trials there are, which resources each gets, and how many run at a time.

Nothing here imports Ray or torch, or reads the data, so that ``--dry-run`` takes only a second.
"""

from __future__ import annotations

from collections.abc import Mapping

from jobs.display.events import Plan
from jobs.ray_runtime.resources import trial_resources
from jobs.specs.ablation import AblateSpec

__all__ = ["plan"]


def plan(spec: AblateSpec, taken: Mapping[str, float] | None = None) -> Plan:
    """Plan an ablation.

    Args:
        spec: the ablation.
        taken: resources of each worker (``cpus_per_worker``, ``gpus_per_worker``) with which the trials of a resumed
            ablation began; they replace those of `spec`. None for a new ablation.

    Raises:
        JobError: if the machines do not have the resources for one trial.
    """
    asked = spec.trial_spec(spec.trials()[0]).model_copy(update=taken)
    resources, at_a_time = trial_resources(asked, spec.number_of_trials, spec.concurrent)
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
