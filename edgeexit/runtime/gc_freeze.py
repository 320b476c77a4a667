"""Excludes existing objects from garbage collection during a measurement."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def gc_frozen() -> Iterator[None]:
    """Within the block, the garbage collector scans only objects that were created in the block.

    A collection of all objects added 15 to 36 ms to the latency of one inference.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
