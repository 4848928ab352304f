"""The likelihoods and OOD decisions of a model in bf16 and in float32: `python -m benchmarks.precision [--quick]`.

The script trains on 10,000 images of MNIST, for about a minute, and tests on MNIST and Fashion-MNIST. `--quick` takes
the digits of scikit-learn and noise.
"""

from __future__ import annotations

import argparse

from benchmarks.common import parse, precisions
from glow import FitConfig, Glow, GlowConfig, fit, load_dataset, score
from glow.ood import OodSettings, evaluate_ood, held_out_protocol

CASES = {False: ("mnist", "fashion-mnist", 1000, 3, 8), True: ("digits", "noise", None, 2, 1)}
"""For `--quick` or not: the data set, the other one, images per class, levels and epochs."""


def main() -> None:
    """Print the difference of the mean NLL, and the OOD ratios that leave each other's intervals."""
    asked = parse(argparse.ArgumentParser(description=__doc__))
    own, other, per_class, levels, epochs = CASES[asked.quick]
    train, _ = load_dataset(own, "train", per_class=per_class)
    shape = (train.shape[1], train.shape[2], train.shape[3])
    held_out, _ = load_dataset(own, "validation")
    images = {"train": train, "held out": held_out}
    images |= {name: load_dataset(name, "test", image_shape=shape)[0] for name in (own, other)}
    model = Glow(GlowConfig(shape, levels=levels, depth=8, width=64))
    fit(model, train, config=FitConfig(epochs=epochs, learning_rate=2e-3, warmup_steps=50))
    bits, ratios = {}, {}
    for precision in precisions():
        tables = {name: score(model, some[:5000], precision=precision) for name, some in images.items()}
        bits[precision] = tables[own].bits_per_dim
        deal = held_out_protocol(tables["held out"], {name: tables[name] for name in (own, other)})
        table = evaluate_ood(tables["train"], deal, OodSettings(batch_sizes=(1, 2, 5, 10))).ratios
        ratios[precision] = table[table.detector == "typicality"].reset_index(drop=True)
    (full, *_), (before, *_) = bits.values(), ratios.values()
    half, after = bits[precisions()[-1]], ratios[precisions()[-1]]
    print(f"mean NLL {full.mean():.5f} bits/dim in float32, {half.mean():.5f} in {precisions()[-1]}")
    print(f"largest difference of an image {(half - full).abs().max():.5f} bits/dim")
    within = after.ratio.between(before.ratio_low, before.ratio_high)
    within &= before.ratio.between(after.ratio_low, after.ratio_high)
    print(f"OOD ratios within each other's intervals: {within.mean():.0%} of {len(within)}")
    for both in before.assign(other=after.ratio).itertuples():
        print(f"{both.dataset}, M={both.batch_size}: {both.ratio:.1%} of the batches OOD, {both.other:.1%}")


if __name__ == "__main__":
    main()
