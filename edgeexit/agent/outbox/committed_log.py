"""Reads the write-ahead log of the outbox beyond the first damaged page, where SQLite stops.

The format is that of https://www.sqlite.org/fileformat2.html#walformat. The checksum of a frame covers all frames
before it, so SQLite ignores everything behind a flipped bit. The rows of the outbox have checksums of their own.
"""

import errno
import struct
from collections import Counter
from pathlib import Path
from typing import Final, NamedTuple

from edgeexit.files import read_limited

PAGE_BYTES: Final = 4096
_MAX_BYTES: Final = 256 * 1024 * 1024
_HEADER: Final = struct.Struct(">4I2I2I")  # magic, version, page size, number of checkpoints, salts, checksums
_FRAME: Final = struct.Struct(">2I2I2I")  # page number, pages after a commit or 0, salts, checksums
_FRAME_BYTES: Final = _FRAME.size + PAGE_BYTES

Salt = tuple[int, int]
"""Two numbers that all frames since the last restart of the log have; older frames may follow them in the file."""


class CommittedLog(NamedTuple):
    """What a write-ahead log holds, whether its checksums are right or not."""

    frames: int
    """Number of frames up to the last one that commits a transaction."""
    pages: tuple[tuple[int, bytes], ...]
    """Number and content of the pages in them, in the order in which they were written."""

    def apply(self, path: Path) -> None:
        """Write the pages into a copy of the database."""
        with path.open("r+b") as file:
            limit = file.seek(0, 2) // PAGE_BYTES + self.frames
            for number, page in self.pages:
                if 0 < number <= limit:  # else the number itself is damaged
                    file.seek((number - 1) * PAGE_BYTES)
                    file.write(page)


def read_log(path: Path) -> CommittedLog:
    """Read a write-ahead log; one that does not exist, or is larger than any outbox needs, counts as empty.

    Raises OSError if it is not a regular file, or cannot be read.
    """
    try:
        content = read_limited(path, max_bytes=_MAX_BYTES)
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.EFBIG}:
            raise
        content = b""
    starts = range(_HEADER.size, len(content) - _FRAME_BYTES + 1, _FRAME_BYTES)
    heads = [_FRAME.unpack_from(content, start) for start in starts]
    if not heads:
        return CommittedLog(0, ())
    salts: list[Salt] = [_HEADER.unpack_from(content)[4:6], *(head[2:4] for head in heads[:2])]
    salt = Counter(salts).most_common(1)[0][0]  # one of them may be damaged
    commits = [place for place, head in enumerate(heads) if head[2:4] == salt and head[1]]
    frames = commits[-1] + 1 if commits else 0
    pages = tuple(
        (head[0], content[start + _FRAME.size : start + _FRAME_BYTES])
        for head, start in zip(heads[:frames], starts, strict=False)
    )
    return CommittedLog(frames, pages)
