"""Data sets by name, as uint8 tensors.

`load_dataset("mnist", "test")` returns a whole split; `open_dataset` returns a `LazyDataset`, whose images are read in
pieces. Images are neither dequantized nor put into batches here.

| file | content |
| --- | --- |
| `names` | the functions that take a name, for all kinds of data sets |
| `lazy` | a data set before and after it is opened; fingerprints; one look at the files for several calls |
| `registry`, `readers` | the known data sets, and the readers of their files |
| `folder`, `parquet`, `files` | a user's own images in a folder or in Parquet files, and the lists of these files |
| `arrays` | numpy files |
| `packed`, `packed_index` | the output of `glowctl pack`, on disk and in buckets, with a cache |
| `buckets` | files in buckets |
| `splits` | names of splits and of classes, and rules that assign images to splits |
| `decode` | one image file as a tensor, and conversions of images |
| `incoming` | images that arrive and shall be judged, each with its name |
| `duplicates` | equal images, within a split and between splits |
| `corruptions` | images with noise, blur and other damage |
| `base` | names with a path, and the types and errors that the other files share |
"""

from glow.datasets.base import DatasetCorrupt, DatasetInfo, DatasetNotFound, DatasetStatus, padding
from glow.datasets.folder import read_image
from glow.datasets.lazy import LazyDataset, fingerprint
from glow.datasets.names import data_root, dataset_names, describe, load_dataset, open_dataset, own_channels, status

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
