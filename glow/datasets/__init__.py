"""Data sets by name, as uint8 tensors: `load_dataset("mnist", "test")`.

`registry` holds the list of names and what is asked about one, `readers` reads files of known data sets,
`folder` reads a user's own images, `tensors` splits and converts. Nothing here dequantises or makes batches.
"""

from glow.datasets.base import DOWNLOAD_ADVICE, DatasetCorrupt, DatasetInfo, DatasetNotFound, DatasetStatus
from glow.datasets.registry import data_root, dataset_names, describe, load_dataset, own_channels, status
from glow.datasets.tensors import fingerprint

__all__ = [
    "DOWNLOAD_ADVICE",
    "DatasetCorrupt",
    "DatasetInfo",
    "DatasetNotFound",
    "DatasetStatus",
    "data_root",
    "dataset_names",
    "describe",
    "fingerprint",
    "load_dataset",
    "own_channels",
    "status",
]
