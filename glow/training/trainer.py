"""Training, in one process or as one process of a data-parallel group.

`fit` trains a model from the first epoch to the last. Use `Trainer` for checkpoints, for reports during an epoch, or
for control between epochs.

In a process group (`torch.distributed`) every process can read all images (`glow.training.batches`), and takes its
share of each batch. The batches, their order, the dequantization noise, and the flips and mutations of images follow
from (seed, epoch, image index) alone (`glow.training.augmentation`). So neither the number of processes nor an
interruption changes them, and a checkpoint need not hold the state of a random generator.

Shapes: N images, B images in a batch or in one process's share of it, C channels, H rows, W columns.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from glow.checkpoint import load_training_state, load_weights, save_checkpoint, save_training_state
from glow.config import FitConfig, GlowConfig, learning_rate_at
from glow.datasets.lazy import LazyDataset
from glow.dequantization import uniform_noise
from glow.distributed import all_reduce_sum, rank, world_size
from glow.errors import TrainingDiverged
from glow.hardware import hardware_precision, skips_when_told
from glow.model import Glow
from glow.training.augmentation import flip_half, flip_stream, mutate, mutation_stream, noise_stream
from glow.training.batches import Batch, Order, source_of
from glow.training.epoch_results import EpochResult, StepFigures, StepResult
from glow.training.objective import make_objective

SKIPS_IN_A_ROW = 50
"""Number of consecutive non-finite steps that mean divergence, not an unlucky batch. The count is read only once in as
many steps and at the end of an epoch, because reading it waits for the GPU."""

STEP_INTERVAL_S = 1.0
"""Least time between two calls of `on_step`, in seconds."""

EVALUATION_BATCH = 256
"""Number of images per batch and process in validation."""


class Trainer:
    """The training of one model, epoch by epoch, with checkpoints from which the training can continue.

    In a process group each process makes a `Trainer` with the same arguments, and trains on its share of each batch.

    Args:
        model: the model, trained in place and moved to the device.
        images: uint8 (N, C, H, W), all images in every process, copied to the device; or a data set, whose images are
            shuffled in blocks, and read batch by batch if they are not in memory.
        labels: int64 (N,), used only by a class-conditional model. A data set brings its own labels.
        validation: uint8 (N', C, H, W) or a data set, scored after each epoch, always with the same noise. None for no
            validation.
        config: the settings; those of `FitConfig()` if None.
        device: the device that trains; None for the model's.

    Attributes:
        model: the model that is trained.
        average: the moving average of the weights (`torch.optim.swa_utils.AveragedModel`); None if `FitConfig.ema` is
            None.
        precision: the precision of the coupling networks, "bf16" or "float32".
        optimizer: the optimizer.
        steps_per_epoch: ceil(N / batch_size).
        epoch: number of finished epochs.
        step: number of finished steps since the start of training, skipped ones included.

    Raises:
        ValueError: if there are no images, no labels for a class-conditional model, or fewer images in a batch than
            processes.

    Examples:
        >>> import tempfile
        >>> from glow import GlowConfig
        >>> images = torch.arange(256, dtype=torch.uint8).view(16, 1, 4, 4)
        >>> def trainer():
        ...     model = Glow(GlowConfig(image_shape=(1, 4, 4), levels=1, depth=1, width=4))
        ...     return Trainer(model, images, config=FitConfig(epochs=2, batch_size=8))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     first = trainer()
        ...     result = next(first.epochs())
        ...     first.save(folder)
        ...     second = trainer()
        ...     second.restore(folder)
        >>> second.epoch, [result.epoch for result in second.epochs()]
        (1, [2])
    """

    def __init__(
        self,
        model: Glow,
        images: Tensor | LazyDataset,
        labels: Tensor | None = None,
        *,
        validation: Tensor | LazyDataset | None = None,
        config: FitConfig | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        self.config = config = config or FitConfig()
        if len(images) == 0:
            raise ValueError("there are no images to train on: pass at least one")
        if isinstance(images, LazyDataset):
            labels = images.labels
        if model.config.num_classes is not None and labels is None:
            raise ValueError("a class-conditional Glow is trained with labels, and there are none: pass labels")
        if model.config.num_classes is not None and labels is not None:
            check_labels(labels, len(images), model.config.num_classes)
        if min(config.batch_size, len(images)) < world_size():
            raise ValueError(
                f"a batch of {min(config.batch_size, len(images))} images cannot be shared by {world_size()} processes"
            )
        self.device = torch.device(device) if device is not None else model.device
        self.precision = hardware_precision(self.device) if config.precision == "auto" else config.precision
        self.model = model.to(self.device).set_precision(self.precision).set_memory(config.memory)
        self.device = self.model.device  # "cuda" alone is another GPU in the thread that reads images
        self.images = source_of(images, labels if model.config.num_classes else None, self.device)
        self.validation = validation.to(self.device) if isinstance(validation, Tensor) else validation

        self.steps_per_epoch = math.ceil(len(images) / config.batch_size)
        self.optimizer = _optimizer(model, config, self.device)
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema)) if config.ema else None
        self.epoch = 0
        self.step = 0
        self._so_far = self._no_figures()  # sums over the current epoch
        self._skips = torch.zeros(2, dtype=torch.int64, device=self.device)  # all skips, and those in a row
        self._objective: nn.Module | None = None

    @property
    def skipped_steps(self) -> int:
        """The number of steps skipped since the start of training because their gradient was not finite."""
        return int(self._skips[0])

    @property
    def step_of_epoch(self) -> int:
        """The number of finished steps of the current epoch."""
        return self.step - self.epoch * self.steps_per_epoch

    @property
    def evaluated_model(self) -> Glow:
        """The model that is scored and saved: the averaged one if there is an average, else the trained one."""
        if self.average is None:
            return self.model
        averaged = self.average.module
        assert isinstance(averaged, Glow)
        return averaged

    def initialize(self) -> None:
        """Initialize every ActNorm from the first batch, unless the model is initialized already.

        `epochs` calls this method. In a process group every process must call it.
        """
        if self.model.initialized:
            return
        batch = self.images.take(self._share(self._order(0)[: self.config.batch_size]))
        self.model.initialize(self._augmented(batch, 0), self._noise(batch.indices_B, 0))
        if self.average is not None:
            self.evaluated_model.load_state_dict(self.model.state_dict())

    def epochs(
        self, on_step: Callable[[StepResult], None] | None = None, after_step: Callable[[], None] | None = None
    ) -> Iterator[EpochResult]:
        """Train the epochs that are left, and yield the result of each.

        In a process group every process must take every result, because the processes train each step together.

        Args:
            on_step: called after a step if `STEP_INTERVAL_S` seconds have passed since the last call.
            after_step: called after every step except an epoch's last. To save a checkpoint inside the epoch, this
                function calls `pool` in every process, and then `save` in the process of rank 0.

        Raises:
            TrainingDiverged: after `SKIPS_IN_A_ROW` consecutive steps with a non-finite gradient.
        """
        self.initialize()
        if self._objective is None:
            self._objective = make_objective(self.model, self.config, self.device)
        while self.epoch < self.config.epochs:
            yield self._train_epoch(on_step, after_step)

    def save(self, folder: str | Path) -> None:
        """Write a checkpoint from which `restore` continues; its model is `evaluated_model`.

        In a process group only the process of rank 0 calls this method. Inside an epoch, all processes must call `pool`
        first.

        Args:
            folder: made if it does not exist. The files of an earlier checkpoint in it are replaced one by one, so that
                none is left if the process dies in between. Give another folder each time to keep the earlier one.

        Raises:
            CheckpointError: if it cannot be written.
        """
        save_checkpoint(self.evaluated_model, folder)
        state: dict[str, Any] = {
            "epoch": self.epoch,
            "step": self.step,
            "skipped_steps": self.skipped_steps,
            "so_far": self._so_far,
            "optimizer": self.optimizer.state_dict(),
        }
        if self.average is not None:
            state |= {"weights": self.model.state_dict(), "averaged": self.average.n_averaged}
        save_training_state(state, folder)

    def restore(self, folder: str | Path) -> None:
        """Return to the state at which `save` was called, so that `epochs` continues from there.

        In a process group every process restores the same checkpoint.

        Args:
            folder: a checkpoint of a training with equal images and settings.

        Raises:
            CheckpointError: if files are missing or damaged, or the weights are of another model.
        """
        state = load_training_state(folder)
        load_weights(self.evaluated_model, folder)
        if self.average is not None:
            self.model.load_state_dict(state["weights"])
            self.average.n_averaged.copy_(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.step = state["epoch"], state["step"]
        self._skips[0] = state["skipped_steps"]
        self._so_far = state["so_far"].to(self.device)
        self._leave_to_first()

    def pool(self) -> None:
        """Sum the bits/dim of the current epoch over all processes, so that a checkpoint of one process has the sum.

        Every process must call it at the same step. It is needed only before a `save` inside an epoch.
        """
        figures = StepFigures(*self._so_far)
        sums = all_reduce_sum(torch.stack([figures.bits_per_dim, figures.images]))
        self._so_far = torch.cat([sums, self._so_far[len(sums) :]])
        self._leave_to_first()

    def _leave_to_first(self) -> None:
        """Keep pooled sums in the first process alone: the end of the epoch sums over all processes once more."""
        if rank() != 0:
            self._so_far[:2] = 0.0

    def _train_epoch(
        self, on_step: Callable[[StepResult], None] | None, after_step: Callable[[], None] | None
    ) -> EpochResult:
        started = told = time.perf_counter()
        size, first = self.config.batch_size, self.step_of_epoch
        sizes = [min(size, len(self.images) - start) for start in range(first * size, len(self.images), size)]
        seen = 0
        for step, (batch, of) in enumerate(zip(self._batches(first), sizes, strict=True), start=first + 1):
            learning_rate = self._set_learning_rate()
            self._so_far = self._so_far + self._train_step(batch, of)
            seen += of
            if self.step % SKIPS_IN_A_ROW == 0:
                self._check_skips()
            now = time.perf_counter()
            if on_step is not None and now - told >= STEP_INTERVAL_S:
                told = now
                so_far = StepFigures(*self._so_far)
                mean = (so_far.bits_per_dim / so_far.images).item()
                on_step(StepResult(self.epoch + 1, step, self.steps_per_epoch, seen / (now - started), mean))
            if after_step is not None and step < self.steps_per_epoch:
                after_step()
        self._check_skips()
        own = StepFigures(*self._so_far)
        norm, taken = own.gradient_norm.item(), own.steps.item()
        bits, counted = all_reduce_sum(torch.stack([own.bits_per_dim, own.images])).tolist()
        trained = time.perf_counter()
        self.epoch += 1
        self._so_far = self._no_figures()
        return EpochResult(
            epoch=self.epoch,
            step=self.step,
            train_bits_per_dim=bits / counted if counted else math.nan,
            validation_bits_per_dim=self.validate(),
            images_per_second=seen / (trained - started),
            gradient_norm=norm / taken if taken else math.nan,
            learning_rate=learning_rate,
            skipped_steps=self.skipped_steps,
            seconds=time.perf_counter() - started,
        )

    def validate(self) -> float:
        """Compute the mean bits/dim of the validation images, over all processes; NaN if there are none.

        In a process group every process must call it.
        """
        if self.validation is None or len(self.validation) == 0:
            return math.nan
        return mean_bits_per_dim(self.evaluated_model, self.validation)

    def _batches(self, first: int) -> Iterator[Batch]:
        """Yield this process's share of each batch of the epoch, beginning at step `first`, counted from 0.

        Every process must take part in the all-reduce. So a process for which a small last batch has no image gets the
        batch's first one, with weight 0.
        """
        order, size = self._order(self.epoch), self.config.batch_size
        whole = (order[start : start + size] for start in range(first * size, len(self.images), size))
        return self.images.batches(self._share(batch) if rank() < len(batch) else batch[:1] for batch in whole)

    def _train_step(self, batch: Batch, of: int) -> Tensor:
        """Take one optimizer step on this process's share of a batch of `of` images.

        Returns:
            `StepFigures` as one tensor, which `_train_epoch` adds up; zeros if the step was skipped.
        """
        assert self._objective is not None
        share = len(batch.indices_B) if rank() < of else 0
        weight = world_size() / of if share else 0.0
        parts = batch.parts(self.config.accumulate)
        bits = torch.zeros((), dtype=torch.float64, device=self.device)
        self.optimizer.zero_grad(set_to_none=True)
        for index, part in enumerate(parts):
            with self._synchronise(index == len(parts) - 1):
                noise = self._noise(part.indices_B, self.epoch)
                bits_B = self._objective(self._augmented(part, self.epoch), part.labels_B, noise)
                (bits_B.sum() * weight).backward()
            bits += bits_B.detach().double().sum()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm or math.inf)
        finite = torch.isfinite(norm)
        self._take_step(finite)
        self._skips = torch.stack([self._skips[0] + ~finite, (self._skips[1] + 1) * ~finite])
        self.step += 1
        images = bits.new_tensor(share)
        figures = StepFigures(
            bits_per_dim=bits if share else images,
            images=images,
            gradient_norm=norm.double(),
            steps=torch.ones_like(bits),
        )
        return torch.where(finite, torch.stack(figures), 0.0)

    def _take_step(self, finite: Tensor) -> None:
        """Take the optimizer's step if the gradient is finite.

        Fused optimizers decide this on the device, without a wait for the GPU: they read the attribute `found_inf`,
        which `torch.amp.GradScaler` sets too.
        """
        if self.optimizer.defaults.get("fused"):
            self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        elif finite:
            self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)

    def _set_learning_rate(self) -> float:
        """Set the learning rate of the next step, and return it."""
        rate = learning_rate_at(self.config, self.step, self.config.epochs * self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _check_skips(self) -> None:
        if self._skips[1] >= SKIPS_IN_A_ROW:
            raise TrainingDiverged(
                f"training diverged in epoch {self.epoch + 1}, since the gradient was not finite in {SKIPS_IN_A_ROW} "
                "consecutive steps",
                remedy=_remedy(self.model.config),
                code="training-diverged",
            )

    def _synchronise(self, last: bool) -> contextlib.AbstractContextManager[None]:
        if last or not isinstance(self._objective, DistributedDataParallel):
            return contextlib.nullcontext()
        return self._objective.no_sync()

    def _order(self, epoch: int) -> Order:
        return self.images.order(noise_stream(self.config.seed, epoch))

    def _no_figures(self) -> Tensor:
        return torch.zeros(len(StepFigures._fields), dtype=torch.float64, device=self.device)

    def _augmented(self, batch: Batch, epoch: int) -> Tensor:
        """Return the images as an epoch trains on them: flipped and mutated if the config says so."""
        images_BCHW, seed = batch.images_BCHW, self.config.seed
        if self.config.flip:
            images_BCHW = flip_half(images_BCHW, batch.indices_B, flip_stream(seed, epoch))
        return mutate(images_BCHW, batch.indices_B, self.config.mutation, mutation_stream(seed, epoch))

    def _noise(self, indices_B: Tensor, epoch: int) -> Tensor:
        return uniform_noise(indices_B, self.model.config.image_shape, noise_stream(self.config.seed, epoch))

    @staticmethod
    def _share(batch: Tensor) -> Tensor:
        return batch[rank() :: world_size()]


def fit(
    model: Glow,
    images: Tensor | LazyDataset,
    labels: Tensor | None = None,
    *,
    validation: Tensor | LazyDataset | None = None,
    config: FitConfig | None = None,
    device: str | torch.device | None = None,
    on_epoch: Callable[[EpochResult], None] | None = None,
) -> list[EpochResult]:
    """Train a model in place, from the first epoch to the last: a `Trainer` without checkpoints.

    Args:
        model: the model. At the end it has the averaged weights if `config.ema` asks for an average.
        images: as for `Trainer`.
        labels: as for `Trainer`.
        validation: as for `Trainer`.
        config: as for `Trainer`.
        device: as for `Trainer`.
        on_epoch: called with the result of each epoch as soon as it is known.

    Returns:
        The result of each epoch.

    Raises:
        ValueError: as for `Trainer`.
        TrainingDiverged: as for `Trainer.epochs`.

    Examples:
        >>> from glow import GlowConfig
        >>> images = torch.arange(256, dtype=torch.uint8).view(16, 1, 4, 4)
        >>> model = Glow(GlowConfig(image_shape=(1, 4, 4), levels=1, depth=1, width=4))
        >>> results = fit(model, images, config=FitConfig(epochs=3, batch_size=8, warmup_steps=1))
        >>> [result.step for result in results]
        [2, 4, 6]
        >>> results[-1].train_bits_per_dim < results[0].train_bits_per_dim
        True
    """
    trainer = Trainer(model, images, labels, validation=validation, config=config, device=device)
    results = []
    for result in trainer.epochs():
        results.append(result)
        if on_epoch is not None:
            on_epoch(result)
    if trainer.average is not None:
        model.load_state_dict(trainer.evaluated_model.state_dict())
    return results


@torch.no_grad()
def mean_bits_per_dim(model: Glow, images: Tensor | LazyDataset, seed: int = 0) -> float:
    """Compute the mean bits/dim of images.

    In a process group every process must call this function, and each scores its share of the images.

    Args:
        model: the model, which is left in training mode. A class-conditional model computes log p(x), without labels.
        images: uint8 (N, C, H, W) on any device, or a data set; N is at least 1.
        seed: seed of the dequantization noise, which is a function of (seed, position of the image).

    Returns:
        The mean, the same in every process.

    Raises:
        ValueError: if the images have another type or shape than the model's.

    Examples:
        >>> from glow import GlowConfig
        >>> images = torch.arange(256, dtype=torch.uint8).view(16, 1, 4, 4)
        >>> model = Glow(GlowConfig(image_shape=(1, 4, 4), levels=1, depth=1, width=4))
        >>> round(mean_bits_per_dim(model, images), 2) == round(mean_bits_per_dim(model, images.flip(0)), 2)
        True
    """
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=model.device)
    source = source_of(images, None, model.device if isinstance(images, LazyDataset) else images.device)
    indices = torch.arange(rank(), len(images), world_size(), device=source.index_device)
    for batch in source.batches(indices.split(EVALUATION_BATCH)):
        noise = uniform_noise(batch.indices_B.to(model.device), model.config.image_shape, seed)
        total += model.bits_per_dim(batch.images_BCHW.to(model.device), noise_BCHW=noise).double().sum()
    model.train()
    return all_reduce_sum(total).item() / len(images)


def _remedy(config: GlowConfig) -> str:
    """Return what may help against divergence; only affine couplings have a scale that can be another."""
    if config.coupling == "affine" and config.scale != "floored":
        return "use a lower learning rate, more warm-up steps, or couplings with the scale 'floored'"
    return "use a lower learning rate, or more warm-up steps"


def check_labels(labels_N: Tensor, images: int, classes: int) -> None:
    """Check the labels of a class-conditional model; a GPU would end the process at a wrong one.

    Args:
        labels_N: int64 (N,).
        images: number of images.
        classes: number of classes.

    Raises:
        ValueError: if there are not as many labels as images, or a label is not between 0 and `classes` - 1.

    Examples:
        >>> check_labels(torch.tensor([1, 2]), images=2, classes=2)
        Traceback (most recent call last):
        ValueError: labels must be between 0 and 1, not 2
    """
    if len(labels_N) != images:
        raise ValueError(f"there are {len(labels_N)} labels for {images} images: pass one label per image")
    if labels_N.is_meta:  # which has no values
        return
    wrong = labels_N[(labels_N < 0) | (labels_N >= classes)]
    if len(wrong):
        raise ValueError(f"labels must be between 0 and {classes - 1}, not {int(wrong[0])}")


def _optimizer(model: Glow, config: FitConfig, device: torch.device) -> torch.optim.Optimizer:
    if config.optimizer == "adamax":
        return torch.optim.Adamax(model.parameters(), lr=config.learning_rate)
    fused = device.type in ("cpu", "cuda") and skips_when_told(torch.optim.Adam, device)
    return torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=fused)
