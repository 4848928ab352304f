"""Training and scoring on packed images that take more memory than the process may use (RLIMIT_DATA, Linux)."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from glow.datasets.packed_index import INDEX, PackedIndex, PackedShard, PackedSplit, labels_file, shard_file

SHAPE = (3, 64, 64)
IMAGES = 32_768  # 403 MB
ALLOWED_MB = 320
"""Memory for the training and scoring, in addition to what a first small training has taken."""

PROGRAM = f"""
import json, resource, sys
from glow import FitConfig, Glow, GlowConfig, Trainer
from glow.datasets import open_dataset
from glow.scoring import score_shard, shards_of

def train(images):
    model = Glow(GlowConfig(image_shape={SHAPE}, levels=1, depth=1, width=4))
    how = FitConfig(epochs=1, batch_size=64, precision="float32")
    trainer = Trainer(model, images, validation=validation, config=how)
    [result] = trainer.epochs()
    return trainer

name, held = sys.argv[1], sys.argv[2] == "held"
images, validation = open_dataset(name, "train"), open_dataset(name, "validation")
score_shard(train(validation.images()).model, validation, 0)  # what torch and scipy import and keep at the first call
taken = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (1024 * taken + {ALLOWED_MB} * 2**20,) * 2)
trainer = train(images.images() if held else images)
splits = {{"train": images, "validation": validation}}
scored = [score_shard(trainer.model, splits[split], start) for split, start in shards_of(splits)]
print(json.dumps([trainer.step, sum(map(len, scored))]))
"""

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Linux alone limits the memory of a process so"),
]


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The name of a packed data set of black images. Its files are sparse and take no room on the disk."""
    folder = tmp_path_factory.mktemp("packed")
    splits = {}
    for split, n in (("train", IMAGES), ("validation", 64)):
        with (folder / shard_file(split, 0)).open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (n, *SHAPE)})
            file.truncate(file.tell() + n * int(np.prod(SHAPE)))
        np.save(folder / labels_file(split), np.zeros(n, np.int64))
        splits[split] = PackedSplit([PackedShard(n, "0" * 16)])
    (folder / INDEX).write_text(PackedIndex(SHAPE, SHAPE, ("black",), splits, "folder:/nowhere").to_json())
    return f"packed:{folder}"


def limited(*arguments):
    return subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False)


def test_more_images_than_memory_are_trained_on_and_scored(packed):
    done = limited(packed, "mapped")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [IMAGES // 64, IMAGES + 64]


def test_the_same_images_do_not_fit(packed):
    assert IMAGES * np.prod(SHAPE) > ALLOWED_MB * 2**20
    done = limited(packed, "held")
    assert done.returncode != 0
    assert "allocate" in done.stderr or "MemoryError" in done.stderr
