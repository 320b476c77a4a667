"""Suppresses the log records, warnings and prints of torch, onnx, onnxscript and ONNX Runtime."""

import contextlib
import logging
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, TextIO, cast

_LIBRARIES: Final = ("onnx", "onnx_ir", "onnxruntime", "onnxscript", "torch")
_PREFIXES: Final = tuple(f"{library}." for library in _LIBRARIES)
_ABOVE_ALL: Final = logging.CRITICAL + 1

_lock = threading.Lock()
_blocks: Counter[int] = Counter()
"""Thread identifier -> number of `silence_libraries` blocks that the thread is in."""
_installed = contextlib.ExitStack()


@contextlib.contextmanager
def silence_libraries() -> Iterator[None]:
    """Suppress the log records, warnings and prints of the libraries while the block runs, but not their exceptions.

    Loggers of other packages and prints of other threads are not affected. Warnings of all packages, and log records of
    the libraries, are suppressed in all threads. Blocks may be nested and may run in several threads at once: the first
    block installs the suppression, and the last one removes it.
    """
    thread = threading.get_ident()
    with _lock:
        if not _blocks:
            _installed.enter_context(_suppress())
        _blocks[thread] += 1
    try:
        yield
    finally:
        with _lock:
            _blocks[thread] -= 1
            if not _blocks[thread]:
                del _blocks[thread]
            if not _blocks:
                _installed.close()


class _ThreadFilteredStream:
    """A text stream that drops the text of threads that are inside a `silence_libraries` block."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() in _blocks else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _suppress() -> Iterator[None]:
    with (
        _quiet_loggers(),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(cast("TextIO", _ThreadFilteredStream(sys.stdout))),
        contextlib.redirect_stderr(cast("TextIO", _ThreadFilteredStream(sys.stderr))),
    ):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _quiet_loggers() -> Iterator[None]:
    """Raise the level of every logger of the libraries; loggers created meanwhile inherit it."""
    names = {*_LIBRARIES, *(name for name in tuple(logging.root.manager.loggerDict) if name.startswith(_PREFIXES))}
    levels = {logger: logger.level for logger in map(logging.getLogger, sorted(names))}
    logging.root.addFilter(_is_not_onnxruntime)
    for logger in levels:
        logger.setLevel(_ABOVE_ALL)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
        logging.root.removeFilter(_is_not_onnxruntime)


def _is_not_onnxruntime(record: logging.LogRecord) -> bool:
    """Return False for a record that ONNX Runtime's quantiser logs on the root logger."""
    return "onnxruntime" not in record.pathname
