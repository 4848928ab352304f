"""The messages that workers send to the driver of a training, and the settings that the driver gives to them.

The driver is the process that runs the command. Rank 0 also sends the events `Step` and `Epoch` of
`glowctl.display.events` to the driver, which shows them unchanged. Messages go through
`glowctl.ray_runtime.event_queue.Channel`; `Message` is the union of their classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from glow.config import GlowConfig
from glowctl.display.events import Epoch, Step
from glowctl.specs.training import TrainSpec

if TYPE_CHECKING:
    import pandas as pd
    import ray
    from ray.train import Checkpoint

    from glowctl.text import JsonObject
    from glowctl.training.samples import SampleGrid


@dataclass(frozen=True, eq=False)
class Attempt:
    """The message that the workers begin to train, from the start or from a checkpoint.

    Two objects never compare equal, so that each attempt can be a key of a dict.

    Attributes:
        workers: number of workers.
        epoch: number of epochs that the checkpoint had finished; 0 without a checkpoint.
        device: the name of rank 0's device, as it is shown to the user.
        precision: the precision of the coupling networks, "bf16" or "float32".
        parameters: number of parameters of the model.
        step: number of steps that the checkpoint had finished in the next epoch; 0 if it was saved after an epoch, and
            without a checkpoint.
    """

    workers: int
    epoch: int
    device: str
    precision: str
    parameters: int
    step: int = 0


@dataclass(frozen=True)
class Stored:
    """The message that a checkpoint is stored in the run's folder: the training will not train its epochs again.

    Attributes:
        path: the path of its folder in the file system of the output. When the message is read, Ray may have deleted
            the folder, because a newer checkpoint is stored, whose message follows.
    """

    path: str


@dataclass(frozen=True)
class Tested:
    """The best model by validation, tested at the end of the training.

    Attributes:
        test_bits_per_dim: the test set's bits/dim.
        samples: samples of that model.
    """

    test_bits_per_dim: float
    samples: SampleGrid


@dataclass(frozen=True)
class Scores:
    """The scores of consecutive images of a split under the best model by validation.

    Attributes:
        split: the name of the split, or `glow.datasets.corruptions.CORRUPTED`.
        start: the position, in the split, of the first of these images.
        table: one row per image, as `glow.scoring.score_shard` makes it.
    """

    split: str
    start: int
    table: pd.DataFrame


@dataclass(frozen=True)
class Machine:
    """The load of a machine, sent by the first worker on the machine.

    Attributes:
        name: the network name of the machine.
        figures: the measurements that `glowctl.system.machine_metrics.measured` returns, name -> value.
    """

    name: str
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Hardware:
    """What a machine is made of, sent by the first worker on the machine when it starts.

    Attributes:
        name: the network name of the machine.
        facts: what `glowctl.system.machine_metrics.machine_facts` returns.
    """

    name: str
    facts: JsonObject


@dataclass(frozen=True)
class Logged:
    """An entry for the log of the run: a warning of a worker, or the traceback of its error."""

    text: str


Message = Attempt | Step | Epoch | Stored | Tested | Scores | Machine | Hardware | Logged


class Outbox(Protocol):
    """The end of the queue to the driver into which workers put messages."""

    def put(self, message: Message) -> None:
        """Send a message to the driver."""


@dataclass(frozen=True)
class WorkerSettings:
    """The settings that every worker of a training receives.

    Attributes:
        spec: the settings of the training, without the tracking URI, which may hold a password.
        config: the configuration of the model.
        data: the result of `glowctl.training.ray_trainer.put_data`; empty if each worker maps the images itself.
        outbox: the queue to the driver.
        threads: number of torch's threads.
        on_cluster: whether the machines belong to a cluster, which may take one away after a notice.
        start: the checkpoint from which the first attempt continues; None at the start of a training.
        trial: the label of the trial, in an ablation; else empty.
    """

    spec: TrainSpec
    config: GlowConfig
    data: list[ray.ObjectRef]
    outbox: Outbox
    threads: int
    on_cluster: bool = False
    start: Checkpoint | None = None
    trial: str = ""
