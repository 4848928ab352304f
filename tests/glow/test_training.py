"""The training loop in one process, and in two real ones over gloo."""

import itertools
import math
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import pytest
import torch
import torch.multiprocessing

from glow import FitConfig, Glow, GlowConfig, Trainer, fit
from glow.config import highest_learning_rate, learning_rate_at
from glow.datasets import LazyDataset, load_dataset
from glow.training.trainer import SKIPS_IN_A_ROW, StepResult, TrainingDiverged, hardware_precision, mean_bits_per_dim
from tests.glow.flows import random_images, small_glow
from tests.glow.processes import run_in_processes
from tests.refusals import refused

CONFIG = GlowConfig(image_shape=(1, 8, 8), levels=2, depth=2, width=16)


def digits(n: int, split: str = "train"):
    images, labels = load_dataset("digits", split)
    return images[:n], labels[:n]


def as_mapped(images: torch.Tensor, labels: torch.Tensor) -> LazyDataset:
    """Return the same images as a data set that is read from a disk."""
    return LazyDataset(labels, tuple("0123456789"), (1, 8, 8), lambda positions: images[positions], mapped=True)


def fresh_trainer(
    n: int = 100, model: dict | None = None, double: bool = False, mapped: bool = False, **changes
) -> Trainer:
    values: dict[str, Any] = {"epochs": 2, "batch_size": 32, "warmup_steps": 5, "precision": "float32"} | changes
    images, labels = digits(n)
    glow = Glow(GlowConfig(**CONFIG.to_dict() | (model or {})))
    if double:  # Adam turns a rounding error into a whole step where a gradient is nearly zero
        glow = glow.double()
    validation = digits(50, "validation")
    if mapped:
        return Trainer(glow, as_mapped(images, labels), validation=as_mapped(*validation), config=FitConfig(**values))
    return Trainer(glow, images, labels, validation=validation[0], config=FitConfig(**values))


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def train(trainer: Trainer, epochs: int | None = None) -> list:
    return list(itertools.islice(trainer.epochs(), epochs))


def test_training_lowers_the_loss_on_images_it_has_not_seen():
    train_images, _ = digits(300)
    held_out, _ = digits(100, "validation")
    model = Glow(CONFIG)
    untrained = Glow(CONFIG)
    untrained.initialize(train_images[:25])
    results = fit(
        model,
        train_images,
        validation=held_out,
        config=FitConfig(epochs=4, batch_size=25, learning_rate=3e-3, warmup_steps=10),
    )
    assert [result.epoch for result in results] == [1, 2, 3, 4]
    bits = [result.validation_bits_per_dim for result in results]
    assert bits == sorted(bits, reverse=True)
    assert bits[-1] < mean_bits_per_dim(untrained, held_out) - 0.4
    assert results[-1].validation_bits_per_dim == pytest.approx(mean_bits_per_dim(model, held_out))
    assert results[-1].step == 4 * 12
    assert results[-1].skipped_steps == 0


def test_warm_up_and_cosine_reach_the_stated_rates():
    rates = [result.learning_rate for result in train(fresh_trainer(epochs=4, batch_size=50, learning_rate=0.1))]
    # Two steps per epoch and a warm-up of five: the epochs end with steps 2, 4, 6 and 8; the cosine counts from 0.
    cosine = [0.5 * (1 + math.cos(math.pi * step / 8)) for step in (1, 3, 5, 7)]
    assert rates == pytest.approx([0.1 * 2 / 5 * cosine[0], 0.1 * 4 / 5 * cosine[1], 0.1 * cosine[2], 0.1 * cosine[3]])


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1, 7, 300])
@pytest.mark.parametrize("steps", [1, 2, 40, 160])
def test_no_step_has_a_higher_learning_rate_than_the_highest(schedule, warmup, steps):
    config = FitConfig(learning_rate=0.01, warmup_steps=warmup, schedule=schedule)
    assert highest_learning_rate(config, steps) == max(learning_rate_at(config, step, steps) for step in range(steps))


@pytest.mark.parametrize(
    "changes", [{}, {"ema": 0.9, "flip": True}, {"optimizer": "adamax", "schedule": "constant"}], ids=str
)
def test_a_run_that_was_interrupted_ends_bit_for_bit_as_one_that_was_not(tmp_path, changes):
    whole = fresh_trainer(epochs=3, **changes)
    expected = train(whole)
    first = fresh_trainer(epochs=3, **changes)
    train(first, epochs=1)
    first.save(tmp_path)
    second = fresh_trainer(epochs=3, **changes)
    torch.rand(17)  # the global random state must not matter
    second.restore(tmp_path)
    rest = train(second)
    assert [result.epoch for result in rest] == [2, 3]
    assert torch.equal(weights(second), weights(whole))
    assert rest[-1].validation_bits_per_dim == expected[-1].validation_bits_per_dim


class Interrupted(Exception):
    pass


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="plain", marks=pytest.mark.slow),
        pytest.param({"ema": 0.9}, id="ema", marks=pytest.mark.slow),
        pytest.param({"accumulate": 3}, id="accumulate"),
    ],
)
@pytest.mark.parametrize("mapped", [False, True], ids=["in memory", "mapped"])
def test_a_run_that_was_interrupted_inside_an_epoch_ends_bit_for_bit_as_well(tmp_path, mapped, changes):
    def trainer() -> Trainer:
        made = fresh_trainer(epochs=3, mapped=mapped, **changes)
        assert made.steps_per_epoch == 4
        return made

    def stop_after(steps: int, made: Trainer) -> None:
        def after_step() -> None:
            if made.step == steps:
                made.pool()
                made.save(tmp_path)
                raise Interrupted

        with pytest.raises(Interrupted):
            list(made.epochs(after_step=after_step))

    whole = trainer()
    expected = train(whole)
    stop_after(2, trainer())
    second = trainer()
    second.restore(tmp_path)
    assert (second.epoch, second.step_of_epoch) == (0, 2)
    stop_after(7, second)
    third = trainer()
    third.restore(tmp_path)
    assert (third.epoch, third.step_of_epoch) == (1, 3)
    rest = train(third)
    assert torch.equal(weights(third), weights(whole))
    said = ("epoch", "step", "train_bits_per_dim", "validation_bits_per_dim", "gradient_norm")
    for result, one in zip(rest, expected[1:], strict=True):
        assert [getattr(result, name) for name in said] == [getattr(one, name) for name in said]


def test_no_step_is_told_twice_at_the_end_of_an_epoch():
    steps = []
    trainer = fresh_trainer(epochs=2)
    list(trainer.epochs(after_step=lambda: steps.append(trainer.step)))
    assert steps == [1, 2, 3, 5, 6, 7]


def test_it_changes_nothing_whether_images_of_a_packed_data_set_are_held_in_memory():
    mapped = fresh_trainer(mapped=True)
    validation = digits(50, "validation")
    held = Trainer(
        Glow(CONFIG),
        LazyDataset.held(*digits(100)),
        validation=LazyDataset.held(*validation),
        config=mapped.config,
    )
    one, other = train(mapped), train(held)
    assert torch.equal(weights(mapped), weights(held))
    assert [result.validation_bits_per_dim for result in one] == [result.validation_bits_per_dim for result in other]


def test_mapped_images_are_scored_as_those_in_a_tensor_and_trained_to_the_same_end():
    """Mapped images have another order, so the weights differ, but the loss hardly does."""
    held, mapped = fresh_trainer(epochs=3), fresh_trainer(epochs=3, mapped=True)
    one, other = train(held), train(mapped)
    assert mean_bits_per_dim(held.model, digits(50)[0]) == mean_bits_per_dim(held.model, as_mapped(*digits(50)))
    assert not torch.equal(weights(held), weights(mapped))
    assert other[-1].validation_bits_per_dim == pytest.approx(one[-1].validation_bits_per_dim, abs=0.2)


def test_averaged_weights_are_what_is_scored_and_saved(tmp_path):
    trainer = fresh_trainer(ema=0.5)
    results = train(trainer)
    assert trainer.evaluated_model is not trainer.model
    trainer.save(tmp_path)
    from glow import load_checkpoint

    saved = mean_bits_per_dim(load_checkpoint(tmp_path), digits(50, "validation")[0])
    assert saved == pytest.approx(results[-1].validation_bits_per_dim, rel=1e-6)
    assert saved != pytest.approx(mean_bits_per_dim(trainer.model, digits(50, "validation")[0]), rel=1e-6)


def test_accumulated_parts_give_the_step_of_the_whole_batch():
    one, parts = fresh_trainer(accumulate=1, double=True), fresh_trainer(accumulate=4, double=True)
    train(one)
    train(parts)
    torch.testing.assert_close(weights(parts), weights(one), atol=1e-9, rtol=1e-9)


def test_clipping_bounds_the_gradient():
    free = fresh_trainer(clip_norm=None)
    clipped = fresh_trainer(clip_norm=1e-3)
    a, b = train(free, 1)[0], train(clipped, 1)[0]
    assert min(a.gradient_norm, b.gradient_norm) > 1e-2  # reported as before clipping

    def last_gradient(trainer: Trainer) -> float:
        return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]).norm().item()

    assert last_gradient(free) > 1e-2
    assert last_gradient(clipped) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(("labels", "said"), [([0, 1, 2], "not 2"), ([0, -1, 1], "not -1"), ([0, 1], "2 labels for 3")])
def test_labels_that_the_model_has_no_class_for_are_refused(labels, said):
    model = Glow(GlowConfig(image_shape=(1, 8, 8), levels=2, depth=1, width=8, num_classes=2))
    with pytest.raises(ValueError, match=said):
        Trainer(model, digits(3)[0], torch.tensor(labels))


def test_a_conditional_model_needs_labels():
    images, labels = digits(40)
    glow = Glow(GlowConfig(**CONFIG.to_dict() | {"num_classes": 10}))
    with pytest.raises(ValueError, match="labels"):
        Trainer(glow, images)
    fit(glow, images, labels, config=FitConfig(epochs=1, batch_size=20))
    assert glow.top.classes is not None
    assert glow.top.classes.weight.abs().sum() > 0


def test_non_finite_steps_are_skipped_and_counted():
    trainer = fresh_trainer(n=96, epochs=1, batch_size=32)
    trainer.initialize()
    before = weights(trainer)
    network = trainer.model.levels[0].steps[0].coupling.network
    hook = network.register_forward_hook(lambda module, inputs, output: output * math.nan)
    result = train(trainer)[0]
    hook.remove()
    assert result.skipped_steps == 3
    assert torch.equal(weights(trainer), before)
    assert math.isnan(result.train_bits_per_dim)


class Deaf(torch.optim.Adam):
    """An Adam that ignores `found_inf`, as that of another version of torch might."""

    def step(self, closure=None):
        self.__dict__.pop("found_inf", None)
        return super().step(closure)


def test_an_optimizer_that_cannot_be_told_to_skip_is_not_fused(monkeypatch):
    """A fused optimizer that ignores `found_inf` would take steps on gradients that are not finite."""
    assert fresh_trainer().optimizer.defaults["fused"]
    monkeypatch.setattr("torch.optim.Adam", Deaf)
    assert not fresh_trainer().optimizer.defaults["fused"]
    test_non_finite_steps_are_skipped_and_counted()


def test_one_bad_step_does_not_hide_the_others():
    trainer = fresh_trainer(n=96, epochs=1, batch_size=32)
    trainer.initialize()
    calls = []

    def spoil_the_second(module, inputs, output):
        calls.append(1)
        return output * math.nan if len(calls) == 2 else output

    hook = trainer.model.levels[0].steps[0].coupling.network.register_forward_hook(spoil_the_second)
    result = next(iter(trainer.epochs()))
    hook.remove()
    assert result.skipped_steps == 1
    assert 4 < result.train_bits_per_dim < 10
    assert 0 < result.gradient_norm < 100


def test_a_run_that_stays_non_finite_ends_with_a_sentence():
    trainer = fresh_trainer(n=100, epochs=60, batch_size=50, learning_rate=1e3, schedule="constant", clip_norm=None)
    with refused("training-diverged", TrainingDiverged, match="epoch") as diverged:
        train(trainer)
    assert "learning rate" in diverged.value.remedy


@pytest.mark.parametrize(
    ("model", "floored"),
    [
        ({"scale": "sigmoid"}, True),
        ({"scale": "bounded"}, True),
        ({"scale": "floored"}, False),
        ({"coupling": "spline"}, False),
        ({"coupling": "additive"}, False),
    ],
)
def test_the_remedy_for_divergence_is_one_that_the_model_can_take(model, floored):
    trainer = fresh_trainer(model=model, epochs=SKIPS_IN_A_ROW)
    trainer.model.initialized.fill_(True)
    with torch.no_grad():
        actnorm = trainer.model.levels[0].steps[0].actnorm
        assert actnorm is not None
        actnorm.log_scale.fill_(math.nan)
    with pytest.raises(TrainingDiverged) as diverged:
        train(trainer)
    assert "learning rate" in diverged.value.remedy
    assert ("'floored'" in diverged.value.remedy) == floored


def test_impossible_settings_are_refused():
    for values, message in (
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"optimizer": "sgd"}, "adam, adamax"),
        ({"schedule": "step"}, "constant, cosine"),
        ({"ema": 1.0}, "ema"),
        ({"clip_norm": -1.0}, "clip_norm"),
        ({"precision": "fp8"}, "auto, bf16, float32"),
        ({"gradient_precision": "fp8"}, "float32, bf16"),
    ):
        with pytest.raises(ValueError, match=message):
            FitConfig(**values)
    with pytest.raises(ValueError, match="no images"):
        Trainer(small_glow(), random_images(0))


def test_steps_are_told_at_intervals(monkeypatch):
    monkeypatch.setattr("glow.training.trainer.STEP_INTERVAL_S", 0.0)
    told: list[StepResult] = []
    for _ in fresh_trainer(n=64, epochs=1, batch_size=32).epochs(on_step=told.append):
        pass
    assert [(step.epoch, step.step, step.steps) for step in told] == [(1, 1, 2), (1, 2, 2)]


@pytest.mark.parametrize("has_bf16", [True, False])
@pytest.mark.parametrize("public", [True, False], ids=["torch 2.13", "older"])
def test_the_precision_of_a_cpu_is_what_it_multiplies_in(monkeypatch, public, has_bf16):
    if public:
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": has_bf16}, raising=False)
    else:
        monkeypatch.delattr("torch.cpu.get_capabilities", raising=False)
        monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: has_bf16, raising=False)
    assert hardware_precision(torch.device("cpu")) == ("bf16" if has_bf16 else "float32")


@pytest.mark.nightly
@pytest.mark.timeout(900)  # the compiler takes a minute, and several on a busy machine
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",  # torch's own, when the compiler is imported
    "ignore::FutureWarning",
    "ignore:Guards may run slower on Python 3.13.0:RuntimeWarning",
)
def test_compiled_training_takes_the_same_steps():
    # A small model, since the compiler is slow.
    small: dict[str, Any] = {"epochs": 1, "double": True, "model": {"depth": 1}}
    eager, compiled = fresh_trainer(**small), fresh_trainer(**small, compile=True)
    train(eager)
    train(compiled)
    torch.testing.assert_close(weights(compiled), weights(eager), atol=1e-9, rtol=1e-9)


def _first_steps(n: int, batch_size: int, changes: dict) -> dict:
    """Initialize and train one epoch on this process's share; return the weights after both, and the result."""
    trainer = fresh_trainer(n=n, epochs=1, batch_size=batch_size, double=True, **changes)
    trainer.initialize()
    initial = weights(trainer)
    result = train(trainer)[0]
    return {"initial": initial, "trained": weights(trainer), "result": asdict(result)}


@pytest.mark.parametrize(
    ("n", "changes"),
    [
        pytest.param(96, {}, id="even", marks=pytest.mark.slow),
        pytest.param(97, {}, id="one left over", marks=pytest.mark.slow),
        pytest.param(65, {}, id="less than a batch left", marks=pytest.mark.slow),
        pytest.param(65, {"flip": True}, id="flips", marks=pytest.mark.slow),
    ],
)
def test_two_processes_take_the_steps_of_one(n, changes, tmp_path):
    """Two processes initialize from the whole batch, and have the weights of one process after an epoch.

    That is so even if the last batch has no image for the second process.
    """
    alone = _first_steps(n, 32, changes)
    first, second = run_in_processes(2, _first_steps, (n, 32, changes), tmp_path)
    assert torch.equal(first["initial"], second["initial"])
    torch.testing.assert_close(first["initial"], alone["initial"], atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(first["trained"], second["trained"], atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(first["trained"], alone["trained"], atol=1e-9, rtol=1e-9)
    for key in ("train_bits_per_dim", "validation_bits_per_dim"):
        assert first["result"][key] == pytest.approx(alone["result"][key], rel=1e-9)


def _interrupted(folder: str, mapped: bool) -> dict:
    """Interrupt a training inside its second epoch, continue it, and return its result and weights."""
    trainer = fresh_trainer(n=97, epochs=2, double=True, mapped=mapped)

    def after_step() -> None:
        if trainer.step == 6:
            trainer.pool()
            if torch.distributed.get_rank() == 0:
                trainer.save(folder)
            torch.distributed.barrier()
            raise Interrupted

    with suppress(Interrupted):
        list(trainer.epochs(after_step=after_step))
    second = fresh_trainer(n=97, epochs=2, double=True, mapped=mapped)
    second.restore(folder)
    (result,) = train(second)
    return {"weights": weights(second), "result": asdict(result)}


@pytest.mark.parametrize("mapped", [False, True], ids=["in memory", "mapped"])
@pytest.mark.slow
def test_two_processes_go_on_inside_an_epoch(tmp_path, mapped):
    whole = fresh_trainer(n=97, epochs=2, double=True, mapped=mapped)
    expected = train(whole)[-1]
    for found in run_in_processes(2, _interrupted, (str(tmp_path), mapped), tmp_path):
        torch.testing.assert_close(found["weights"], weights(whole), atol=1e-9, rtol=1e-9)
        for name in ("train_bits_per_dim", "validation_bits_per_dim"):
            assert found["result"][name] == pytest.approx(getattr(expected, name), rel=1e-9)


def test_flips_are_trained_on_and_not_scored(monkeypatch):
    """If every image is flipped, training equals that on images that were flipped beforehand."""
    monkeypatch.setattr(
        "glow.training.augmentation.uniform_noise", lambda indices, *_: torch.zeros(len(indices), 1, 1, 1)
    )
    conditional = {"num_classes": 10}
    flipping = fresh_trainer(model=conditional, flip=True)
    never = fresh_trainer(model=conditional)
    images, labels = digits(100)
    validation = digits(50, "validation")[0]
    model = Glow(GlowConfig(**CONFIG.to_dict() | conditional))
    beforehand = Trainer(model, images.flip(3), labels, validation=validation, config=never.config)
    told = [train(trainer)[-1] for trainer in (flipping, beforehand, never)]
    assert torch.equal(weights(flipping), weights(beforehand))
    assert told[0].validation_bits_per_dim == told[1].validation_bits_per_dim
    assert not torch.equal(weights(flipping), weights(never))


def test_a_training_that_never_flips_sees_the_images_as_they_are():
    trainer = fresh_trainer()
    order = trainer._order(1)[:]
    batch = trainer.images.take(order)
    assert torch.equal(trainer._augmented(batch, 1), digits(100)[0][order])
    flipping = fresh_trainer(flip=True)
    assert not torch.equal(flipping._augmented(batch, 1), batch.images_BCHW)
    assert not torch.equal(flipping._augmented(batch, 2), flipping._augmented(batch, 1))


def test_a_seed_pairs_the_permutations():
    """At one seed, models with different permutations have equal couplings, order of images and noise.

    So their comparison shows the effect of the permutations.
    """
    trainers = [fresh_trainer(model={"permutation": name, "seed": 3}, seed=3) for name in ("1x1", "shuffle", "reverse")]
    first, *others = trainers
    for trainer in others:
        couplings = {name: w for name, w in trainer.model.state_dict().items() if "coupling" in name}
        assert couplings
        for name, weight in couplings.items():
            torch.testing.assert_close(weight, first.model.state_dict()[name], rtol=0, atol=0)
        order = trainer._order(4)[:]
        assert torch.equal(order, first._order(4)[:])
        assert torch.equal(trainer._noise(order, 4), first._noise(order, 4))
