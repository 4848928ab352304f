"""Data sets by name, as uint8 tensors.

`load_dataset("mnist", "test")` returns a whole split; `open_dataset` returns a `LazyDataset`, whose images are read in
pieces. Images are neither dequantized nor put into batches here.

| file | content |
| --- | --- |
| `by_name` | the functions that take a name, for all kinds of data sets |
| `registry` | the known data sets |
| `names` | names that contain a path: `folder:PATH`, `arrays:PATH`, `parquet:PATH`, `packed:PATH` |
| `readers`, `published` | the files of known data sets, and the checksums of the published versions |
| `folder`, `folder_files`, `decode` | a folder of a user's own images, its files, and a single image file |
| `looks` | one listing of the files for several calls |
| `arrays`, `parquet`, `packed` | numpy files, encoded images in Parquet files, and the output of `glowctl pack` |
| `buckets`, `packed_bucket` | files in buckets, and packed data sets in buckets |
| `block_cache` | a cache on the local disk for what is read from buckets |
| `parts` | how a user's own images are divided into splits |
| `lazy`, `tensors` | an opened data set; splits, conversions and fingerprints of tensors |
| `corruptions` | images with noise, blur and other damage |
| `base` | types and errors that the other files share |
"""

from glow.datasets.base import DatasetCorrupt, DatasetInfo, DatasetNotFound, DatasetStatus, padding
from glow.datasets.by_name import (
    data_root,
    dataset_names,
    describe,
    load_dataset,
    open_dataset,
    own_channels,
    status,
)
from glow.datasets.folder import read_image
from glow.datasets.lazy import LazyDataset
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
