"""Keeps Ctrl-C out of TensorRT: its calls run on a thread, for only the main thread is ever interrupted.

TensorRT swallows what a callback raises, a KeyboardInterrupt in its logger among them, and a build takes minutes on a
small board, in which the main thread would hear nothing.
"""

import threading
from collections.abc import Callable
from typing import Final, TypeVar

_WAIT_S: Final = 0.1

_Result = TypeVar("_Result")


def run_apart(work: Callable[[threading.Event], _Result]) -> _Result:
    """Run `work` on a thread and return what it returns, or raise what it raises.

    Ctrl-C sets the event that `work` is given, waits until `work` has come to an end, and is raised then.
    """
    stop, done = threading.Event(), threading.Event()
    results: list[_Result] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            results.append(work(stop))
        except BaseException as error:  # noqa: BLE001 - raised again on the other thread
            failures.append(error)
        done.set()

    thread = threading.Thread(target=body, name="edgeexit-engines")
    thread.start()
    interrupted: KeyboardInterrupt | None = None
    while not done.is_set():
        try:
            done.wait(_WAIT_S)  # not thread.join, which in Python 3.11 takes a thread for ended when it is interrupted
        except KeyboardInterrupt as error:  # noqa: PERF203 - ten times a second
            interrupted = error
            stop.set()
    thread.join()
    if interrupted is not None:
        raise interrupted
    if failures:
        raise failures[0]
    return results[0]
