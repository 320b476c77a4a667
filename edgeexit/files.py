"""Writes files so that they survive a power cut, reads regular files only, and computes digests."""

import contextlib
import ctypes
import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

_READ_SIZE = 1 << 20
_GIT_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}
_AT_FDCWD = -100  # <fcntl.h>
_RENAME_EXCHANGE = 2  # <linux/fs.h>
_NOT_SUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP})
"""Errors of a file system that does not have an operation, as opposed to one that fails."""


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex, read in chunks. Raises OSError if the file cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_READ_SIZE):
            digest.update(chunk)
    return digest.hexdigest()


def is_git_lfs_pointer(path: Path) -> bool:
    """Return True if a file contains only the reference to a file that Git LFS has not fetched. Raises OSError."""
    with path.open("rb") as file:
        return file.read(len(_GIT_LFS_POINTER)) == _GIT_LFS_POINTER


def open_regular(path: Path, *, dir_fd: int | None = None) -> int:
    """Open a regular file for reading and return its descriptor, which programs started later do not inherit.

    Anything else is refused before it is opened: a link in the last component of `path` is not followed, and a FIFO or
    a device neither blocks nor notices. With `dir_fd`, a relative path is relative to this open folder. Raises OSError;
    its `strerror` says what the file is.
    """
    _require_regular(path, os.stat(path, dir_fd=dir_fd, follow_symlinks=False).st_mode)
    # The file may have been replaced since. O_NONBLOCK: opening a FIFO does not wait for its writer.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    descriptor = os.open(path, flags, dir_fd=dir_fd)
    try:
        _require_regular(path, os.fstat(descriptor).st_mode)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def read_regular(path: Path, *, size: int) -> Iterator[bytes]:
    """Yield the content of a regular file of exactly `size` bytes in chunks, read from one descriptor.

    Raises OSError if the file is not regular (see `open_regular`), has another size, or changes its size meanwhile; its
    `strerror` says which.
    """
    descriptor = open_regular(path)
    try:
        yield from read_descriptor(descriptor, size=size)
    finally:
        os.close(descriptor)


def read_descriptor(descriptor: int, *, size: int) -> Iterator[bytes]:
    """Yield the content of an open file of exactly `size` bytes. Raises OSError, as `read_regular` does."""
    if (found := os.fstat(descriptor).st_size) != size:
        raise OSError(errno.EINVAL, f"it has {found:,} bytes instead of {size:,}")
    left = size
    while chunk := os.read(descriptor, min(_READ_SIZE, left + 1)):
        left -= len(chunk)
        if left < 0:
            break
        yield chunk
    if left != 0:
        raise OSError(errno.EINVAL, "it changed its size while it was read")


def read_limited(path: Path, *, max_bytes: int) -> bytes:
    """Return the content of a regular file of at most `max_bytes` bytes.

    Raises OSError if the file is not regular (see `open_regular`), is larger, or changes its size meanwhile; its
    `strerror` says which.
    """
    descriptor = open_regular(path)
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        if size > max_bytes:
            raise OSError(errno.EFBIG, f"it is larger than the {max_bytes:,} bytes allowed", str(path))
        content = file.read(size + 1)
    if len(content) != size:
        raise OSError(errno.EINVAL, "it changed its size while it was read", str(path))
    return content


def _require_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "a special file")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))


def write_atomic(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write `content` to `path` atomically: after a crash, `path` is the complete old file or the complete new one.

    Writes a temporary file in the same folder, then calls fsync, rename, and fsync on the folder. Raises OSError (e.g.
    disk full, no permission), which names `path`; the temporary file is removed. A file system without modes (vfat)
    gives the file the mode of its mount.
    """
    try:
        _write_and_rename(path, content, mode)
    except OSError as error:  # it may name the temporary file, or no file
        raise OSError(error.errno, error.strerror, str(path)) from error
    fsync_folder(path.parent)


def _write_and_rename(path: Path, content: bytes, mode: int) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            _set_mode(file.fileno(), mode)
            _fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the cause
            temporary.unlink(missing_ok=True)
        raise


def _set_mode(descriptor: int, mode: int) -> None:
    try:
        os.fchmod(descriptor, mode)
    except OSError as error:  # vfat: EPERM; the file has mode 0600 or that of the mount
        if error.errno != errno.EPERM and error.errno not in _NOT_SUPPORTED:
            raise


def _fsync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network and FUSE file systems cannot flush folders
        if error.errno not in _NOT_SUPPORTED:
            raise


def exchange(first: Path, second: Path) -> bool:
    """Atomically exchange two paths of one file system. Return False if it fails, e.g. without renameat2 in libc."""
    try:
        rename = ctypes.CDLL(None).renameat2  # Linux, with glibc 2.28 or newer
    except (AttributeError, OSError):
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0)


def fsync_file(file: Path) -> None:
    """Flush the content of an existing file to disk. Raises OSError if it fails."""
    handle = os.open(file, os.O_RDONLY)
    try:
        _fsync(handle)
    finally:
        os.close(handle)


def fsync_folder(folder: Path) -> None:
    """Flush the entries of a folder to disk, e.g. after a rename. Raises OSError if it fails."""
    fsync_file(folder)
