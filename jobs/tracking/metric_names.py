"""The names of the metrics of a training in MLflow, spelled once."""

from __future__ import annotations

TRAIN = "train/bits_per_dim"
"""NLL of the training images while they are trained on, per epoch."""

VALIDATION = "validation/bits_per_dim"
"""NLL of the validation images, per epoch."""

BEST_VALIDATION = "validation/best_bits_per_dim"
"""The lowest validation NLL: that of the model which is kept."""

TEST = "test/bits_per_dim"
"""NLL of the test images under the model that is kept."""

TEST_ORIGINAL = "test/bits_per_dim_original"
"""The same in bits per pixel of the images before padding."""

TEST_BY_EPOCH = "test/bits_per_dim_by_epoch"
"""NLL of the test images, per epoch, where it was asked for."""
