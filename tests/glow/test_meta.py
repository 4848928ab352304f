"""The devices of tensors, tested on torch's meta device, whose tensors have shapes and no numbers.

These tests find tensors that the code makes on the CPU by mistake. They cannot check what a GPU computes.
"""

import pytest
import torch
from torch.overrides import TorchFunctionMode

from glow import FitConfig, Glow, GlowConfig, Trainer, uniform_noise
from glow.training.objective import BitsPerDim
from glow.training.trainer import mean_bits_per_dim

META = torch.device("meta")

# Each permutation, coupling, scale, noise, input and network occurs once, and so do checkerboard couplings.
VARIANTS = {
    "1x1-affine-sigmoid": {},
    "shuffle-affine-bounded": {"permutation": "shuffle", "scale": "bounded"},
    "reverse-additive": {"permutation": "reverse", "coupling": "additive"},
    "floored-variational": {"scale": "floored", "dequantization": "variational"},
    "spline-logit": {"coupling": "spline", "input": "logit"},
    "checkerboard-residual": {"checkerboard": 2, "network": "residual"},
    "attention": {"network": "attention", "heads": 2, "actnorm": "off"},
}


class Elsewhere(TorchFunctionMode):
    """Collect the torch functions that make a tensor on another device inside the `with` block."""

    def __init__(self, *allowed: torch.Tensor) -> None:
        super().__init__()
        self.allowed = allowed
        self.found: list[str] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for part in result if isinstance(result, list | tuple) else [result]:
            if isinstance(part, torch.Tensor) and part.device != META and not any(part is one for one in self.allowed):
                self.found.append(getattr(function, "__name__", str(function)))
        return result


@pytest.fixture(params=list(VARIANTS.values()), ids=list(VARIANTS))
def variant(request):
    return request.param


@pytest.fixture(params=[None, 3], ids=["unconditional", "conditional"])
def glow(request, variant):
    """A Glow of two levels, so that it has a split."""
    return Glow(GlowConfig(image_shape=(3, 8, 8), levels=2, depth=1, width=8, num_classes=request.param, **variant)).to(
        META
    )


def images(n: int = 4) -> torch.Tensor:
    return torch.zeros(n, 3, 8, 8, dtype=torch.uint8, device=META)


def labels(glow: Glow, n: int = 4) -> torch.Tensor | None:
    return torch.zeros(n, dtype=torch.int64, device=META) if glow.config.num_classes else None


@pytest.mark.slow
@pytest.mark.parametrize(("memory", "precision"), [("stored", "bf16"), ("reversible", "float32")])
def test_likelihoods_and_gradients_stay_on_the_device(glow, memory, precision):
    glow.set_memory(memory).set_precision(precision)
    with Elsewhere() as elsewhere:
        for given in (None, labels(glow)):
            bits = glow.bits_per_dim(images(), given)
            bits.sum().backward()
        latents, log_det = glow(images().float())
        x = glow.inverse(latents)
        samples = glow.sample(4)
        chosen = glow.sample(4, labels=labels(glow))
        empty = glow.log_prob(images(0))
    assert elsewhere.found == []
    assert (bits.shape, log_det.shape, x.shape, empty.shape) == ((4,), (4,), (4, 3, 8, 8), (0,))
    assert samples.shape == chosen.shape == (4, 3, 8, 8)
    assert all(parameter.grad.device == META for parameter in glow.parameters())


def test_initialisation_stays_on_the_device(glow):
    """Tensors without numbers cannot tell whether the model is initialized, so this flag is on the CPU."""
    flag = glow.initialized = torch.tensor(False)
    with Elsewhere(flag) as elsewhere:
        glow.initialize(images())
    assert elsewhere.found == []
    assert flag


def test_a_model_can_be_made_there(variant):
    """There a model draws no weights: enough to load a checkpoint or to count parameters."""
    with META:
        glow = Glow(GlowConfig(image_shape=(1, 8, 8), levels=2, depth=1, width=8, **variant))
    tensors = {**dict(glow.named_parameters()), **dict(glow.named_buffers())}
    assert {name for name, tensor in tensors.items() if tensor.device != META} == set()


def test_a_generator_of_the_cpu_draws_for_every_device():
    glow = Glow(GlowConfig(image_shape=(3, 8, 8), levels=2, depth=1, width=8)).to(META)
    with Elsewhere() as elsewhere:
        assert glow.sample(4, generator=torch.Generator()).device == META
    assert elsewhere.found == ["randn", "randn"]  # the noise of each level


def test_noise_is_made_where_the_indices_are():
    with Elsewhere() as elsewhere:
        uniform_noise(torch.arange(4, device=META), (3, 8, 8))
    assert elsewhere.found == []


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({}, id="plain", marks=pytest.mark.slow),
        pytest.param({"ema": 0.9}, id="ema", marks=pytest.mark.slow),
        pytest.param({"memory": "reversible", "precision": "bf16"}, id="reversible, bf16"),
        pytest.param({"accumulate": 2, "flip": True}, id="accumulate, flip", marks=pytest.mark.slow),
    ],
)
def test_a_training_step_stays_on_the_device(glow, monkeypatch, values):
    """Everything but the optimizer's step is tested, and that is torch's.

    Whether the step is taken depends on numbers, and where Adam has no fused kernel it counts its steps on the CPU.
    """
    monkeypatch.setattr(Trainer, "_take_step", lambda self, finite: None)
    settings = {"epochs": 1, "batch_size": 4, "precision": "float32"} | values
    trainer = Trainer(glow, images(6), labels(glow, 6), config=FitConfig(**settings), device=META)
    trainer._objective = BitsPerDim(glow)
    with Elsewhere() as elsewhere:
        batch = trainer.images.take(torch.zeros(4, dtype=torch.int64, device=META))
        figures = trainer._train_step(batch, of=4)
    assert elsewhere.found == []
    assert figures.device == META
    trainer.optimizer.step()
    assert {state["exp_avg"].device for state in trainer.optimizer.state.values()} == {META}


def test_validation_stays_on_the_device():
    """Validation stays on the device up to its last line, which reads a number that these tensors do not have."""
    glow = Glow(GlowConfig(image_shape=(3, 8, 8), levels=2, depth=1, width=8)).to(META)
    with Elsewhere() as elsewhere, pytest.raises(RuntimeError, match="item"):
        mean_bits_per_dim(glow, images())
    assert elsewhere.found == []
