"""Names of the metrics that a training writes to MLflow. All are mean negative log-likelihoods in bits/dim."""

from __future__ import annotations

TRAIN = "train/bits_per_dim"
"""NLL of the training images, averaged over the steps of an epoch while the model changes; per epoch."""

VALIDATION = "validation/bits_per_dim"
"""NLL of the validation images, per epoch."""

BEST_VALIDATION = "validation/best_bits_per_dim"
"""The lowest validation NLL of all epochs, which is that of the model that is kept."""

TEST = "test/bits_per_dim"
"""NLL of the test images under the model of the best epoch by validation; once."""

TEST_ORIGINAL = "test/bits_per_dim_original"
"""The same as `TEST`, but in bits per value of the images before padding."""

TEST_BY_EPOCH = "test/bits_per_dim_by_epoch"
"""NLL of the test images, per epoch; only with --test-every."""
