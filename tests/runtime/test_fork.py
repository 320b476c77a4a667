"""A runner that was opened before a fork: the child process refuses it at once, and the parent is not disturbed."""

import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import wait

import msgspec
import numpy as np
import pytest

from edgeexit.backends.onnxruntime.backend import OnnxRuntimeBackend
from edgeexit.errors import InferenceError
from edgeexit.policies.confidence import Confidence
from edgeexit.runtime import Runner, make_backend
from edgeexit.targets import load_target
from tests.bundles import make_bundle, make_samples
from tests.forking import in_child
from tests.runtime.test_scheduler import WatchedBackend

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

EXITS = 3
POLICY = Confidence(temperatures=(1.0,) * EXITS, thresholds=(0.5,) * (EXITS - 1))
REFUSAL = "does not survive the fork into process"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("fork") / "bundle", EXITS)


@pytest.fixture(params=[1, 4], ids=["one thread", "four threads"])
def runner(request, bundle):
    target = load_target(bundle.manifest.target)
    session = msgspec.structs.replace(target.session, threads=request.param)
    backend = OnnxRuntimeBackend(bundle, msgspec.structs.replace(target, session=session), fallback=False)
    with Runner(bundle, backend=backend) as opened:
        opened.infer(make_samples(8), policy=POLICY)
        opened.infer_async(make_samples(8), policy=POLICY).result(10)
        yield opened


def raises_refusal(call):
    with pytest.raises(InferenceError, match=REFUSAL):
        call()


@pytest.mark.parametrize(
    "use",
    [
        lambda runner: runner.infer(make_samples(1), policy=POLICY),
        lambda runner: runner.infer(make_samples(200), policy=POLICY),
        lambda runner: runner.infer_async(make_samples(2), policy=POLICY),
        lambda runner: runner.infer_every_exit(make_samples(2)),
        lambda runner: runner.__enter__(),
    ],
    ids=["infer one", "infer many", "infer_async", "infer_every_exit", "open again"],
)
def test_a_child_refuses_a_runner_of_its_parent(runner, use):
    in_child(lambda: raises_refusal(lambda: use(runner)))
    in_child(lambda: in_child(lambda: raises_refusal(lambda: use(runner))))
    assert len(runner.infer_async(make_samples(4), policy=POLICY).result(10).exits) == 4


def test_the_error_names_the_process_that_opened_the_runner(runner):
    parent = os.getpid()

    def check():
        with pytest.raises(InferenceError, match=f"opened in process {parent} .* into process {os.getpid()}"):
            runner.infer(make_samples(1), policy=POLICY)

    in_child(check)


def test_a_child_closes_and_deletes_the_runner_without_effect_on_the_parent(bundle):
    backend = make_backend(bundle)
    holder = [Runner(bundle, backend=backend).__enter__()]
    holder[0].infer_async(make_samples(8), policy=POLICY).result(10)
    runtime = holder[0].runtime

    def close():
        assert holder[0].runtime == runtime
        assert holder[0].warnings == ()
        holder[0].__exit__(None, None, None)
        raises_refusal(lambda: holder[0].infer_async(make_samples(1), policy=POLICY))
        holder.clear()

    in_child(close)
    assert len(holder[0].infer(make_samples(4), policy=POLICY).exits) == 4
    holder[0].__exit__(None, None, None)


def test_a_child_that_ends_by_itself_does_not_crash_in_the_destructors_of_its_parents_sessions(bundle):
    # Python 3.12 and later warn of every fork of a process with threads.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PARENT, str(bundle.path)]
    done = subprocess.run(command, check=False, timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the child ended with 7\n", "")


PARENT = """
import os, sys
from pathlib import Path
import msgspec
from edgeexit.backends.onnxruntime.backend import OnnxRuntimeBackend
from edgeexit.bundle import Bundle
from edgeexit.runtime import Runner
from edgeexit.targets import load_target

bundle = Bundle.open(Path(sys.argv[1]))
target = load_target(bundle.manifest.target)
target = msgspec.structs.replace(target, session=msgspec.structs.replace(target.session, threads=4))
with Runner(bundle, backend=OnnxRuntimeBackend(bundle, target, fallback=False)) as runner:
    runner.infer_every_exit(bundle.golden().inputs)
    child = os.fork()
    if child == 0:
        sys.exit(7)
    print("the child ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_futures_of_the_parent_fail_in_the_child_and_complete_in_the_parent(bundle):
    backend = WatchedBackend(make_backend(bundle))
    with Runner(bundle, backend=backend) as runner:
        backend.gate.clear()
        futures = [runner.infer_async(make_samples(3), policy=POLICY) for _ in range(5)]
        called = []
        for future in futures:
            future.add_done_callback(lambda _: called.append(os.getpid()))
        cancelled = futures.pop()
        cancelled.cancel()

        def check():
            assert not wait(futures, timeout=10).not_done
            for future in futures:
                raises_refusal(lambda future=future: future.result(10))
            assert cancelled.cancelled()
            assert os.getpid() not in called

        in_child(check)
        backend.gate.set()
        assert all(len(future.result(10).exits) == 3 for future in futures)
    assert called == [os.getpid()] * 5


def test_a_lock_that_a_thread_of_the_parent_holds_does_not_block_the_child(runner):
    future = runner.infer_async(make_samples(1), policy=POLICY)
    release, held = threading.Event(), threading.Event()

    def hold():
        with runner._lock, runner._scheduler._changed, future._condition:
            held.set()
            release.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(30)

    def check():
        raises_refusal(lambda: runner.infer_async(make_samples(1), policy=POLICY))
        raises_refusal(lambda: runner.infer(make_samples(1), policy=POLICY))
        runner.__exit__(None, None, None)

    try:
        in_child(check)
    finally:
        release.set()
        holder.join()


def test_forks_while_threads_infer_neither_hang_the_child_nor_disturb_the_parent(runner):
    stop, failures, expected = threading.Event(), [], runner.infer(make_samples(16), policy=POLICY)

    def work():
        while not stop.is_set():
            results = (
                runner.infer(make_samples(16), policy=POLICY),
                runner.infer_async(make_samples(16), policy=POLICY).result(10),
            )
            failures.extend(one for one in results if not np.allclose(one.outputs, expected.outputs, atol=1e-5))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            in_child(lambda: raises_refusal(lambda: runner.infer_async(make_samples(1), policy=POLICY)))
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    assert not failures


def test_a_child_opens_a_runner_of_its_own_while_the_parent_infers(runner, bundle):
    expected = runner.infer(make_samples(16), policy=POLICY).exits
    stop = threading.Event()

    def work():
        while not stop.is_set():
            runner.infer(make_samples(64), policy=POLICY)

    thread = threading.Thread(target=work)
    thread.start()

    def check():
        with Runner(bundle) as own:
            assert (own.infer(make_samples(16), policy=POLICY).exits == expected).all()
            assert (own.infer_async(make_samples(16), policy=POLICY).result(10).exits == expected).all()

    try:
        for _ in range(20):
            in_child(check)
    finally:
        stop.set()
        thread.join(20)


def test_a_runner_that_was_not_open_at_the_fork_works_in_the_child(bundle):
    runner = Runner(bundle)

    def check():
        with runner:
            assert len(runner.infer(make_samples(4), policy=POLICY).exits) == 4

    in_child(check)
    with Runner(bundle) as closed:
        pass
    in_child(lambda: closed.__enter__().infer(make_samples(1), policy=POLICY))


def test_a_runner_cannot_be_sent_to_a_spawned_process(runner):
    with pytest.raises(TypeError, match="a Runner cannot be sent to another process"):
        pickle.dumps(runner)
