"""Ray Train without the processes that a command on a Ray of its own has no use for: a second of start-up, 400 MB.

They tell an autoscaler what is wanted, hand out shards of Ray's data sets, and free what a dead controller held. How
Ray starts them is its own affair: where it has changed, they start.
"""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchTrainer

__all__ = ["LeanTrainer"]

try:
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
    from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
except ImportError:
    LeanTrainer = TorchTrainer
else:

    class UntoldPolicy(FixedScalingPolicy):
        """Workers of a fixed number, of which no autoscaler is told."""

        def _send_resource_request(self) -> None: ...
        def _maybe_send_resource_request(self) -> None: ...
        def _cancel_resource_request(self) -> None: ...

    class LeanTrainer(TorchTrainer):  # type: ignore[no-redef]
        def _initialize_and_run_controller(self, **given: Any) -> Any:
            needless = (DatasetsCallback, PlacementGroupCleanerCallback)
            given["callbacks"] = [one for one in given["callbacks"] if not isinstance(one, needless)]
            if type(given["scaling_policy"]) is FixedScalingPolicy:
                given["scaling_policy"] = UntoldPolicy(self.scaling_config)
            return super()._initialize_and_run_controller(**given)
