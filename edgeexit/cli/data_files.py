"""Reads the data file of a command, and reports what it leaves out: unread arrays and ignored labels."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeexit.console import notes, printable, warn

if TYPE_CHECKING:
    from edgeexit.bundle.manifest import Manifest
    from edgeexit.datasets import Dataset

_NONE = "none"

IgnoreLabel = Annotated[
    list[str] | None,
    typer.Option(
        metavar="LABEL",
        help="Label of pixels, tokens or samples that do not count (repeatable); none: all count. Default: in "
        "segmentation 255, if the model has at most 255 classes. In segmentation and tagging, -100 never counts.",
    ),
]
"""The option `--ignore-label` of the commands that read labels."""


def parse_ignore_labels(texts: list[str] | None) -> tuple[int, ...] | None:
    """Return the values of `--ignore-label` as `load_dataset` takes them; None: the default of the task.

    Raises ConfigError for text that is neither an integer nor the only value `none`.
    """
    from edgeexit.errors import ConfigError

    if texts is None or texts == [_NONE]:
        return None if texts is None else ()
    if _NONE in texts:
        raise ConfigError(f"--ignore-label {_NONE} means that every label counts; remove the other --ignore-label")
    return tuple(map(_label, texts))


def _label(text: str) -> int:
    from edgeexit.errors import ConfigError

    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(f"--ignore-label '{text}' must be an integer, e.g. 255, or {_NONE}") from error


def read_labelled(path: Path, manifest: "Manifest", ignore_label: list[str] | None) -> "Dataset":
    """Read the samples of a command that uses the labels, and check that they are finite.

    Warnings and the number of ignored labels are printed on standard error. Raises ConfigError and DataError.
    """
    from edgeexit.datasets import check_finite, load_dataset

    dataset = load_dataset(
        path,
        manifest.inputs,
        task=manifest.task,
        classes=manifest.classes,
        ignore_labels=parse_ignore_labels(ignore_label),
    )
    check_finite(dataset.inputs, where=f"data file '{path}'", masks=manifest.masks)
    report_dataset(dataset)
    return dataset


def read_samples(path: Path, manifest: "Manifest") -> "Dataset":
    """Read the samples of a command that uses no labels; warnings are printed. Raises DataError."""
    from edgeexit.datasets import load_dataset

    dataset = load_dataset(path, manifest.inputs, task=manifest.task, read_labels=False)
    report_dataset(dataset)
    return dataset


def report_dataset(dataset: "Dataset") -> None:
    """Print what a data set leaves out."""
    for warning in dataset.warnings:
        warn(warning)
    if dataset.ignored is not None:
        notes.print(printable(dataset.ignored), soft_wrap=True)


def not_finite_warning(wrong: int, samples: int) -> str:
    """Return the warning for samples whose logits are NaN or infinite."""
    return (
        f"{wrong} of {samples} samples have logits of NaN or infinity, so their predictions mean nothing; check their "
        "inputs, e.g. for a row that the attention mask hides entirely"
    )
