"""Makes objects that were opened before a fork refuse to work in the child process, instead of hanging or crashing.

A fork copies the memory of a process but only the thread that forks. Locks that other threads hold are never released
in the child, the scheduler's thread is missing, and so are the threads of ONNX Runtime: in the child, running a session
may wait forever, and deleting one crashes the process if it has threads. GPU contexts do not survive a fork either.
"""

import contextlib
import ctypes
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import numpy.typing as npt

from edgeexit.backends.base import StageBackend
from edgeexit.errors import InferenceError

T = TypeVar("T")

_opened: weakref.WeakKeyDictionary[object, Callable[[Any], None]] = weakref.WeakKeyDictionary()


def watch(opened: T, abandon: Callable[[T], None]) -> None:
    """Call `abandon(opened)` in every child process that is forked from now on, until `unwatch`.

    `abandon` makes the child's copy of `opened` refuse all work. It must not wait for a lock that the parent holds.
    """
    _opened[opened] = abandon


def unwatch(opened: object) -> None:
    """Undo `watch`."""
    _opened.pop(opened, None)


def refusal(owner: str, process: int) -> str:
    """Return the error for the use of `owner` in a child of the process that opened it."""
    return (
        f"this {owner} was opened in process {process} and does not survive the fork into process {os.getpid()}; open "
        f"the {owner} in the process that uses it (gunicorn: without --preload; multiprocessing: in the worker)"
    )


def keep_forever(thing: object) -> None:
    """Never delete an object, not even when the process ends, because its destructor may wait or crash."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def fail_future(future: Future[Any], error: Exception) -> None:
    """Set the exception of a parent's unfinished future in the child, without its callbacks.

    The callbacks belong to the parent and may need its locks. Threads of the parent may hold the future's own lock, so
    it is replaced; there is no public function for this.
    """
    future._condition = threading.Condition()  # noqa: SLF001
    future._done_callbacks = []  # type: ignore[attr-defined]  # noqa: SLF001
    with contextlib.suppress(InvalidStateError):  # it was done or cancelled before the fork
        future.set_exception(error)


class ForkedBackend:
    """Replaces the backend of a runner in a child process: it refuses every batch, and closing it does nothing."""

    def __init__(self, backend: StageBackend, reason: str) -> None:
        self.description = backend.description
        self.warnings = tuple(backend.warnings)
        self.max_batch = backend.max_batch
        self._reason = reason
        keep_forever(backend)

    def begin(self, inputs: Mapping[str, npt.NDArray[Any]], *, probabilities: bool) -> NoReturn:  # noqa: ARG002
        """Raise InferenceError."""
        raise InferenceError(self._reason)

    def __enter__(self) -> NoReturn:
        """Raise InferenceError."""
        raise InferenceError(self._reason)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Do nothing: the parent closes the backend."""


def _abandon_all() -> None:
    watched = list(_opened.items())
    _opened.clear()
    for opened, abandon in watched:
        abandon(opened)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
