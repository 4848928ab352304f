from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glow.datasets import load_dataset


@pytest.fixture(scope="session")
def store(digits_run) -> Path:
    """A folder with a store that has a trained model, with digits in random order, and with noise."""
    folder, _ = digits_run
    digits, labels = load_dataset("digits", "test", image_shape=(1, 8, 8))
    order = np.random.default_rng(3).permutation(len(digits))
    noise = np.random.default_rng(0).integers(256, size=(80, 8, 8), dtype=np.uint8)
    for name, images in (("healthy", digits[order, 0].numpy()), ("noise", noise), ("sorted", digits[:, 0].numpy())):
        (folder / name).mkdir()
        for index, image in enumerate(images):
            label = f"{labels[index]}-" if name == "sorted" else ""
            Image.fromarray(image).save(folder / name / f"{label}{index:04}.png")
    return folder
