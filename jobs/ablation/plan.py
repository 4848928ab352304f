"""What an ablation will run, as arithmetic: how many trials, what each gets, and how many at a time.

Nothing here imports Ray or torch, or reads the data, so that a dry run takes a second.
"""

from __future__ import annotations

from collections.abc import Mapping

from jobs.display.events import Plan
from jobs.ray_runtime.resources import trial_resources
from jobs.specs.ablation import AblateSpec

__all__ = ["plan"]


def plan(spec: AblateSpec, taken: Mapping[str, float] | None = None) -> Plan:
    """The plan of an ablation; `taken` are the resources of each worker where trials have begun. Raises JobError if
    there is no room for one trial."""
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
