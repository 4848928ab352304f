"""What an ablation will run, as arithmetic: how many trials, what each gets, and how many at a time.

Nothing here imports Ray, so that a dry run on this machine need not start one.
"""

from __future__ import annotations

import json

from jobs.ablation.prepare import Ablation
from jobs.display.events import Plan
from jobs.ray_runtime.resources import trial_resources
from jobs.tracking import tag_names

__all__ = ["plan"]


def plan(ablation: Ablation) -> Plan:
    """The plan of an ablation. Raises JobError if there is no room for one trial."""
    spec = ablation.spec
    asked = spec.trial_spec(spec.trials()[0])
    if ablation.resumed is not None:  # its trials take what they took
        asked = asked.model_copy(update=json.loads(ablation.resumed.data.tags[tag_names.RESOURCES]))
    elif ablation.kept is not None:
        asked = asked.model_copy(update=ablation.kept.resources)
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
