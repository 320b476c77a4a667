"""Runs a function in a forked child process, and fails the test if the child hangs, crashes or raises."""

import os
import signal
import time
import traceback

_LIMIT_S = 20.0


def in_child(check):
    """Fork, run `check` in the child, and assert that it returns in time."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _run(check, reader, writer)
    os.close(writer)
    deadline = time.monotonic() + _LIMIT_S
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(reader)
            raise AssertionError(f"the child still ran after {_LIMIT_S:g} s")
        time.sleep(0.002)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read().decode()
    assert os.waitstatus_to_exitcode(status) == 0, text or f"the child ended with status {status}"


def _run(check, reader, writer):
    os.close(reader)
    try:
        check()
    except BaseException:  # noqa: BLE001 - the parent raises it
        os.write(writer, traceback.format_exc()[-8000:].encode())
        os._exit(1)
    os._exit(0)
