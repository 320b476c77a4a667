"""Makes talkative libraries short: their errors one line to quote, their log nothing."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

_LONGEST = 240


def reason_of(error: BaseException) -> str:
    """Return the kind of an error and the first line of its text that says something."""
    lines = (line.strip() for line in str(error).splitlines())
    text = next((line for line in lines if line), "")
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + "..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep log lines, warnings and prints back while the block runs; what matters comes as an exception."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
