"""Data sets by name, as uint8 tensors: `load_dataset("mnist", "test")`, or `open_dataset` for a piece at a time.

`registry` holds the list of names and what is asked about one, `names` takes apart those that hold a path, `readers`
reads files of known data sets, `published` knows what these should be. Of a user's own images `folder` lists files and
`decode` reads one, `arrays` reads numpy's, `packed` maps the shards of `glowctl pack`. `lazy` is an opened data set,
`tensors` splits and converts. Nothing here dequantises or makes batches.
"""

from glow.datasets.base import DatasetCorrupt, DatasetInfo, DatasetNotFound, DatasetStatus, padding
from glow.datasets.folder import read_image
from glow.datasets.lazy import LazyDataset
from glow.datasets.registry import (
    data_root,
    dataset_names,
    describe,
    load_dataset,
    open_dataset,
    own_channels,
    status,
)
from glow.datasets.tensors import fingerprint

__all__ = [
    "DatasetCorrupt",
    "DatasetInfo",
    "DatasetNotFound",
    "DatasetStatus",
    "LazyDataset",
    "data_root",
    "dataset_names",
    "describe",
    "fingerprint",
    "load_dataset",
    "open_dataset",
    "own_channels",
    "padding",
    "read_image",
    "status",
]
