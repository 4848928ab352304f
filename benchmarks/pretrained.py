"""Put a model that `glowctl push` wrote among those that come with the package.

python -m benchmarks.pretrained FOLDER NAME: FOLDER is what `push` wrote, NAME is the name of the data set. The package
must stay small, so of each table of scores it gets every second row, in 32 bits.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from glow import pretrained
from glow.checkpoint import WEIGHTS_FILE

NARROW = {torch.float64: torch.float32, torch.int64: torch.int32}

USE = """## Use

`glowctl check IMAGES --model pretrained:{name}` judges images, and every other command that takes `--model`
takes this one. In Python, it is `glow.load_pretrained("{name}")`. The package has the scores of {held_out:,} held-out
images and {train:,} training images of it, half of those behind the tables above.
"""


def thin(scores: Path, to: Path) -> dict[str, int]:
    """Write every second row of each table of scores, and return how many training and held-out images these are."""
    arrays = load_file(scores)
    for name, array in arrays.items():
        if "." in name:
            array = array[::2].contiguous()
        arrays[name] = array.to(NARROW.get(array.dtype, array.dtype))
    save_file(arrays, to)
    return {part: len(arrays[f"{part}.nll"]) for part in ("train", "held_out")}


def main(source: Path, name: str) -> None:
    """Copy weights, configuration, settings, scores and card to glow/pretrained/NAME."""
    folder = Path(pretrained.__file__).parent / name
    folder.mkdir(exist_ok=True)
    for file in (WEIGHTS_FILE, "config.json"):
        shutil.copy(source / "artifacts" / "checkpoint" / file, folder)
    sizes = thin(source / "artifacts" / "scores.safetensors", folder / "scores.safetensors")

    spec = json.loads((source / "artifacts" / "spec.json").read_text())
    prefix, _, place = spec["dataset"].rpartition(":")
    spec["dataset"] = f"{prefix}:{Path(place).name}" if prefix else place  # not the path on this machine
    (folder / "spec.json").write_text(json.dumps(spec, indent=2) + "\n")

    card = (source / "README.md").read_text()
    start, end = card.index("## Use\n"), card.index("## Limits\n")
    (folder / "README.md").write_text(f"{card[:start]}{USE.format(name=name, **sizes)}\n{card[end:]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
