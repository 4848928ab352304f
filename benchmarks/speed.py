"""Images per second against normflows and against bare convolutions: `python -m benchmarks.speed [--quick]`.

All programs do the same work with the same architecture, batch and threads, in turns in one process that keeps freed
memory. normflows is built as its documentation builds a Glow (https://vincentstimper.github.io/normalizing-flows),
and computes in float32. The bare convolutions are those of the coupling networks with their ReLUs, and nothing else:
torch's own, with channels last and with weights that are already in the precision.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import Job, glow_work, images_and_noise, medians, parse, precisions, trained_by
from glow import GlowConfig
from glow.memory import keep_freed_memory
from glow.model import Precision

LARGE = GlowConfig(depth=32, width=512)
JOBS = {
    "training, K=8 L=3 width 128, batch 128": (Job("training"), 9),
    "scoring, K=8 L=3 width 128, batch 128": (Job("scoring"), 15),
    "training, K=32 L=3 width 512, batch 32": (Job("training", LARGE, 32), 3),
    "sampling, K=8 L=3 width 128, 256 images": (Job("sampling", batch=256), 9),
}
TINY = {"training, a tiny model": (Job("training", GlowConfig((1, 8, 8), levels=2, depth=2, width=8), 4), 1)}


def normflows_glow(config: GlowConfig) -> Any:
    """Build a Glow of normflows: L levels of K steps of ActNorm, 1x1 convolution and affine coupling."""
    import normflows as nf

    priors, flows, merges = [], [], []
    for index, shape in enumerate(reversed(config.latent_shapes)):  # the top level first
        channels = shape[0] if index == 0 else 2 * shape[0]
        blocks = [
            nf.flows.GlowBlock(channels, config.width, split_mode="channel", scale=True) for _ in range(config.depth)
        ]
        flows.append([*blocks, nf.flows.Squeeze()])
        priors.append(nf.distributions.DiagGaussian(shape))
        if index > 0:
            merges.append(nf.flows.Merge())
    return nf.MultiscaleFlow(priors, flows, merges, class_cond=False)


def real_valued(images_BCHW: Tensor, noise_BCHW: Tensor) -> Tensor:
    """Return images with noise as normflows takes them: real values in [-0.5, 0.5)."""
    return (images_BCHW.to(torch.float32) + noise_BCHW) / 256 - 0.5


def normflows_work(job: Job) -> Callable[[], object]:
    """Return a function that does the work once with the Glow of normflows."""
    model = normflows_glow(job.config)
    x_BCHW = real_valued(*images_and_noise(job.config, job.batch))
    with torch.no_grad():
        model.log_prob(x_BCHW, None)  # initializes ActNorm
    if job.work == "training":
        return trained_by(lambda: model.forward_kld(x_BCHW), model.parameters())
    return torch.no_grad()((lambda: model.log_prob(x_BCHW, None)) if job.work == "scoring" else _sampled(model, job))


def _sampled(model: Any, job: Job) -> Callable[[], object]:
    return lambda: model.sample(job.batch)


def bare_work(job: Job, precision: Precision) -> Callable[[], object]:
    """Return a function that computes the bare convolutions of the work once, in training with their gradients."""
    like: dict[str, Any] = {
        "dtype": torch.bfloat16 if precision == "bf16" else torch.float32,
        "memory_format": torch.channels_last,
    }
    networks, inputs, gradients = nn.ModuleList(), [], []
    channels, height, width = job.config.image_shape
    for _ in range(job.config.levels):
        half, height, width = 2 * channels, height // 2, width // 2
        for _ in range(job.config.depth):
            networks.append(_network(half, job.config.width).to(**like))
            inputs.append(torch.randn(job.batch, half, height, width).to(**like).requires_grad_())
            gradients.append(torch.randn(job.batch, 2 * half, height, width).to(**like))
        channels = half

    def outputs() -> list[Tensor]:
        return [network(x) for network, x in zip(networks, inputs, strict=True)]

    def train() -> None:
        for tensor in (*networks.parameters(), *inputs):
            tensor.grad = None
        torch.autograd.backward(outputs(), gradients)

    return train if job.work == "training" else torch.no_grad()(outputs)


def _network(half: int, width: int) -> nn.Sequential:
    first, inner, last = (
        nn.Conv2d(half, width, 3, padding=1),
        nn.Conv2d(width, width, 1),
        nn.Conv2d(width, 2 * half, 3, 1, 1),
    )
    return nn.Sequential(first, nn.ReLU(inplace=True), inner, nn.ReLU(inplace=True), last)


def main() -> None:
    """Print the images per second of each program in each kind of work, and our share of the others."""
    keep_freed_memory()  # before threads start
    asked = parse(argparse.ArgumentParser(description=__doc__))
    warnings.filterwarnings("ignore", module="normflows")  # it uses deprecated functions of torch
    for title, (job, rounds) in (TINY if asked.quick else JOBS).items():
        runs = {"normflows float32": normflows_work(job)}
        for precision in precisions():
            runs |= {f"glow {precision}": glow_work(job, precision), f"bare {precision}": bare_work(job, precision)}
        taken = medians(runs, rounds)
        print(f"\n{title}", *(f"{name:18} {job.batch / taken[name]:8,.0f} images/s" for name in runs), sep="\n")
        for precision in precisions():
            ours = taken[f"glow {precision}"]
            print(
                f"{precision}: {taken['normflows float32'] / ours:.2f} times normflows, "
                f"{taken[f'bare {precision}'] / ours:.1%} of the bare convolutions",
                flush=True,
            )


if __name__ == "__main__":
    main()
