"""`silence_libraries` suppresses the log records, warnings and prints of the libraries, and nothing else."""

import logging
import sys
import threading
import warnings

import pytest

from edgeexit.compiler.library_output import silence_libraries


@pytest.fixture
def records():
    """Collect the messages of all log records that reach the root logger's handlers."""
    messages = []

    class Collector(logging.Handler):
        def emit(self, record):
            messages.append(record.getMessage())

    handler = Collector()
    logging.root.addHandler(handler)
    yield messages
    logging.root.removeHandler(handler)


@pytest.fixture
def library_logger():
    logger = logging.getLogger("onnxscript.edgeexit_test")
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.setLevel(logging.NOTSET)


def test_only_the_loggers_of_the_libraries_are_silent(records, library_logger):
    with silence_libraries():
        library_logger.error("from a library")
        logging.getLogger("onnxscript.edgeexit_test.created_inside").error("from a new logger of a library")
        logging.getLogger("users.application").warning("from the application")
        assert logging.root.manager.disable == logging.NOTSET
    library_logger.debug("after the block")
    assert records == ["from the application", "after the block"]
    assert library_logger.level == logging.DEBUG


def test_records_that_onnx_runtime_writes_to_the_root_logger_are_dropped(records):
    code = compile(
        "import logging\nlogging.warning('from the quantiser')", "/lib/onnxruntime/quantization/x.py", "exec"
    )
    with silence_libraries():
        exec(code)  # noqa: S102 - code whose file is in the library
        logging.warning("from the application")  # noqa: LOG015 - the root logger is under test
    assert records == ["from the application"]


def test_levels_are_restored_after_an_error(library_logger):
    with pytest.raises(ValueError, match="inside"), silence_libraries():
        raise ValueError("inside")
    assert library_logger.level == logging.DEBUG


def test_warnings_and_prints_of_the_thread_are_dropped(capsys):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with silence_libraries():
            sys.stdout.write("inside\n")
            warnings.warn("inside", stacklevel=1)
        sys.stdout.write("outside\n")
        warnings.warn("outside", stacklevel=1)
    assert capsys.readouterr().out == "outside\n"
    assert [str(warning.message) for warning in caught] == ["outside"]


def test_prints_of_other_threads_still_appear(capsys):
    with silence_libraries():
        thread = threading.Thread(target=print, args=("from another thread",))
        thread.start()
        thread.join()
    assert capsys.readouterr().out == "from another thread\n"


def test_after_overlapping_blocks_in_two_threads_everything_is_restored(library_logger, capsys):
    stdout = sys.stdout
    first_is_open, second_is_open, first_is_closed = (threading.Event() for _ in range(3))

    def first():
        with silence_libraries():
            first_is_open.set()
            second_is_open.wait(timeout=10)
        first_is_closed.set()

    thread = threading.Thread(target=first)
    thread.start()
    first_is_open.wait(timeout=10)
    with silence_libraries():
        second_is_open.set()
        first_is_closed.wait(timeout=10)
        sys.stdout.write("inside\n")
        assert not library_logger.isEnabledFor(logging.CRITICAL)
    thread.join()
    assert sys.stdout is stdout
    assert library_logger.level == logging.DEBUG
    sys.stdout.write("outside\n")
    assert capsys.readouterr().out == "outside\n"


def test_blocks_may_be_nested(library_logger):
    with silence_libraries():
        with silence_libraries():
            pass
        assert not library_logger.isEnabledFor(logging.CRITICAL)
    assert library_logger.isEnabledFor(logging.DEBUG)
