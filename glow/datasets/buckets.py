"""Files in buckets and other remote file systems, by URI, through pyarrow.

pyarrow reads ``s3://``, ``gs://``, ``abfs://`` (Azure) and ``hdfs://``, with the credentials of the environment. A URI
can have options, such as ``s3://bucket/cats?region=eu-central-1``.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeVar

from glow.datasets.base import DatasetCorrupt, DatasetNotFound, reason
from glow.datasets.decode import EncodedImage, ImageFile

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

Result = TypeVar("Result")

THREADS = 16
"""Number of files or blocks that a process reads at once: a request waits for the network most of its time."""


def is_uri(path: str) -> bool:
    """Return whether a path is the URI of a remote file system.

    Examples:
        >>> is_uri("s3://bucket/cats"), is_uri("/data/cats")
        (True, False)
    """
    return "://" in path


@lru_cache(maxsize=64)
def _opened(uri: str) -> tuple[FileSystem, str]:
    """Return the file system of a URI and the path in it, once per process.

    Raises:
        DatasetNotFound: if no file system has such URIs.
    """
    from pyarrow.fs import FileSystem

    try:
        files, path = FileSystem.from_uri(uri)
    except (OSError, ValueError) as error:
        raise DatasetNotFound(
            f"{uri} cannot be opened ({reason(error)})",
            remedy="give the URI of a bucket, such as s3://bucket/folder",
            code="bucket-unreachable",
        ) from error
    return files, path.rstrip("/")


@dataclass(frozen=True, order=True)
class BucketFolder:
    """A folder in a bucket. It can be pickled; a process that unpickles it opens the bucket by itself.

    Args:
        uri: the URI of the folder.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     bucket = BucketFolder(f"file://{folder}")
        ...     bucket.write("train/cat.txt", b"meow")
        ...     bucket.read("train/cat.txt"), [str(file.relative) for file in bucket.files()]
        (b'meow', ['train/cat.txt'])
    """

    uri: str

    def __str__(self) -> str:
        """Return the URI."""
        return self.uri

    def file(self, name: str) -> BucketFile:
        """Return a file of this folder, by its path relative to the folder; it need not exist."""
        return BucketFile(PurePosixPath(name), self)

    def files(self) -> list[BucketFile]:
        """List the files in this folder and in all folders in it, sorted by path.

        Raises:
            DatasetNotFound: if the folder cannot be listed.
        """
        from pyarrow.fs import FileSelector, FileType

        files, path = _opened(self.uri)
        with self._explained():
            found = files.get_file_info(FileSelector(path, recursive=True, allow_not_found=True))
            if not found and (bucket := self._missing_bucket()):
                raise OSError(f"there is no bucket {bucket}")
        listed = (info for info in found if info.type == FileType.File)
        return sorted(
            BucketFile(PurePosixPath(info.path).relative_to(path), self, info.size or 0, info.mtime_ns or 0)
            for info in listed
        )

    def read(self, name: str, offset: int = 0, size: int | None = None) -> bytes | None:
        """Return the contents of a file, or None if there is no such file.

        Args:
            name: path of the file, relative to the folder.
            offset: position of the first byte, if there is a `size`.
            size: number of bytes; there are fewer at the end of the file. None for the whole file.

        Raises:
            DatasetNotFound: if the bucket cannot be read.
        """
        files, path = _opened(self.uri)
        try:
            with self._explained():
                if size is None:
                    with files.open_input_stream(f"{path}/{name}") as stream:
                        return bytes(stream.read())
                with files.open_input_file(f"{path}/{name}") as file:
                    return bytes(file.read_at(size, offset))
        except DatasetNotFound:  # also a FileNotFoundError, but about the whole bucket
            raise
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file. On an object store, it appears whole or not at all.

        Raises:
            OSError: if the bucket cannot be written.
        """
        files, path = _opened(self.uri)
        target = PurePosixPath(path, name)
        files.create_dir(str(target.parent), recursive=True)
        with files.open_output_stream(str(target)) as stream:
            stream.write(content)

    def remove(self, name: str) -> None:
        """Remove a file, if it exists.

        Raises:
            OSError: if the bucket cannot be written.
        """
        files, path = _opened(self.uri)
        with suppress(FileNotFoundError):
            files.delete_file(f"{path}/{name}")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn an error of the bucket into DatasetNotFound, which names the bucket.

        A missing file stays FileNotFoundError, unless the whole bucket is missing.
        """
        try:
            yield
        except DatasetNotFound:
            raise
        except FileNotFoundError as error:
            bucket = ""
            with suppress(OSError):  # some credentials may read files, but not ask about the bucket
                bucket = self._missing_bucket()
            if bucket:
                raise self._unreadable(OSError(f"there is no bucket {bucket}")) from error
            raise
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from error

    def _missing_bucket(self) -> str:
        """Return the name of the bucket if it does not exist, which pyarrow reports like a missing file; else ""."""
        from pyarrow.fs import FileType

        files, path = _opened(self.uri)
        bucket = path.partition("/")[0]
        return bucket if bucket and files.get_file_info(bucket).type == FileType.NotFound else ""

    def _unreadable(self, error: Exception) -> DatasetNotFound:
        return DatasetNotFound(
            f"{self.uri} cannot be read ({reason(error)})",
            remedy="check the URI, your credentials and the network",
            code="bucket-unreachable",
        )


@dataclass(frozen=True, order=True)
class BucketFile:
    """A file in a bucket, with those methods and attributes of `pathlib.Path` that the readers of images use.

    Args:
        relative: the path of the file relative to `folder`.
        folder: the folder; the file can be in a folder inside it.
        size: the size of the file in bytes, or 0 if it is not known.
        changed_ns: the time of its last change in nanoseconds since 1970, or 0 if it is not known.

    Examples:
        >>> file = BucketFolder("s3://bucket/pets").file("train/cats/tom.PNG")
        >>> file.suffix, file.relative.parts[1], str(file)
        ('.PNG', 'cats', 's3://bucket/pets/train/cats/tom.PNG')
    """

    relative: PurePosixPath
    folder: BucketFolder
    size: int = field(default=0, compare=False)
    changed_ns: int = field(default=0, compare=False)

    def __str__(self) -> str:
        """Return the URI, without the options of the folder's URI."""
        return f"{self.folder.uri.partition('?')[0].rstrip('/')}/{self.relative}"

    @property
    def name(self) -> str:
        """The name of the file, which is the last part of its path."""
        return self.relative.name

    @property
    def suffix(self) -> str:
        """The extension of the file name, with its dot; empty if there is none."""
        return self.relative.suffix

    def seekable(self) -> Any:
        """Open the file with pyarrow, as a seekable file that reads only the requested bytes from the bucket.

        Raises:
            OSError: if there is no such file, or the bucket cannot be read.
        """
        files, path = _opened(self.folder.uri)
        return files.open_input_file(f"{path}/{self.relative}")

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """Read the whole file, and return its contents as a binary file in memory.

        Raises:
            DatasetCorrupt: if there is no such file any more.
            DatasetNotFound: if the bucket cannot be read.
        """
        content = self.folder.read(str(self.relative))
        if content is None:
            raise gone(self)
        return io.BytesIO(content)


def gone(file: object) -> DatasetCorrupt:
    """Return the error about a file that was there when its folder was listed.

    Examples:
        >>> gone("a.png").code
        'file-gone'
    """
    return DatasetCorrupt(f"{file} is gone", remedy="leave the files in place while they are read", code="file-gone")


def fetched(files: Sequence[Path | BucketFile]) -> Iterable[ImageFile]:
    """Return image files ready to be decoded, in the order of `files`.

    Args:
        files: the files. Those on this machine's disk are returned as they are; several threads read those in buckets
            into memory.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     bucket = BucketFolder(f"file://{folder}")
        ...     bucket.write("a.png", b"not really")
        ...     [image.open("rb").read() for image in fetched([bucket.file("a.png")])]
        [b'not really']
    """
    if not any(isinstance(file, BucketFile) for file in files):
        return [file for file in files if isinstance(file, Path)]
    return threads().map(lambda file: in_memory(file) if isinstance(file, BucketFile) else file, files)


def stamp_of(file: Path | BucketFile) -> tuple[int, int]:
    """Return the size of a file in bytes and the time of its last change in ns, or zeros if there is no such file.

    A file in a bucket is not looked up; its stamp is as it was listed.

    Examples:
        >>> stamp_of(Path("/no/such/file")), stamp_of(BucketFolder("s3://bucket/pets").file("tom.png"))
        ((0, 0), (0, 0))
    """
    if isinstance(file, BucketFile):
        return file.size, file.changed_ns
    try:
        found = file.stat()
    except OSError:  # which reading the file raises again
        return 0, 0
    return found.st_size, found.st_mtime_ns


def in_threads(function: Callable[[BucketFile], Result], files: Iterable[BucketFile]) -> Generator[Result, None, None]:
    """Call a function for each of many files in several threads, and yield the results in the order of the files.

    Args:
        function: a function of one file. If it raises an error, the error is raised in place of the result.
        files: any number of files, of which only a few times `THREADS` are worked on ahead of the result that is
            yielded, so that the others take no memory.

    Examples:
        >>> folder = BucketFolder("s3://bucket/pets")
        >>> list(in_threads(lambda file: file.suffix, [folder.file("tom.png"), folder.file("rex.jpg")]))
        ['.png', '.jpg']
    """
    ahead: deque[Future[Result]] = deque()
    try:
        for file in files:
            ahead.append(threads().submit(function, file))
            if len(ahead) == 4 * THREADS:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        for future in ahead:
            future.cancel()


def in_memory(file: BucketFile) -> EncodedImage:
    """Read an image file in a bucket, which is then decoded from memory.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     bucket = BucketFolder(f"file://{folder}")
        ...     bucket.write("a.png", b"not really")
        ...     in_memory(bucket.file("a.png")).content
        b'not really'
    """
    return EncodedImage(str(file), file.open("rb").read())


@lru_cache(maxsize=1)
def threads() -> ThreadPoolExecutor:
    """Return the threads of this process that read from buckets.

    Examples:
        >>> threads().submit(len, "abc").result()
        3
    """
    return ThreadPoolExecutor(THREADS, thread_name_prefix="bucket")
