"""Runs TensorRT on a second thread, so that Ctrl-C works during a build.

Python raises KeyboardInterrupt on the main thread only. If TensorRT ran on it, the exception would be raised in one of
its callbacks, such as the logger, and TensorRT ignores exceptions in callbacks. Ctrl-C would then have no effect until
the build ends, which takes minutes on a small board.
"""

import threading
from collections.abc import Callable
from typing import Final, TypeVar

_WAIT_S: Final = 0.1

_Result = TypeVar("_Result")


def run_on_thread(work: Callable[[threading.Event], _Result]) -> _Result:
    """Run `work` on a thread and return its result, or raise its exception.

    Ctrl-C sets the event that `work` receives. KeyboardInterrupt is raised after `work` has ended.
    """
    stop, done = threading.Event(), threading.Event()
    results: list[_Result] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            results.append(work(stop))
        except BaseException as error:  # noqa: BLE001 - raised again on the calling thread
            failures.append(error)
        done.set()

    thread = threading.Thread(target=body, name="edgeexit-engines")
    thread.start()
    interrupted: KeyboardInterrupt | None = None
    while not done.is_set():
        try:
            done.wait(_WAIT_S)  # not thread.join: when interrupted, it marks the thread as ended (Python 3.11)
        except KeyboardInterrupt as error:  # noqa: PERF203 - ten times a second
            interrupted = error
            stop.set()
    thread.join()
    if interrupted is not None:
        raise interrupted
    if failures:
        raise failures[0]
    return results[0]
