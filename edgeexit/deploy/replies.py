"""Decode what a device sends: the types are checked, and no text can control the user's terminal."""

from typing import Any, Final, TypeVar, cast

import msgspec

from edgeexit.errors import DeployError

ReplyT = TypeVar("ReplyT")

_MAX_TEXT: Final = 4096
"""Maximum characters of one text; no path is longer."""


class _StepMessage(msgspec.Struct, frozen=True, kw_only=True):
    """What a step sends: its reply, or why it failed."""

    reply: msgspec.Raw = msgspec.Raw(b"null")
    error: str | None = None


def decode_message(line: bytes, reply_type: type[ReplyT], *, step: str) -> ReplyT:
    """Return the reply in the JSON that a step sent, with clean text.

    Fields that `reply_type` does not have are ignored: another version of edgeexit may have written them to
    `release.json`. Raises DeployError if the step failed, or if the JSON is not a reply of this type.
    """
    try:
        message = msgspec.json.decode(line, type=_StepMessage)
        if message.error is not None:
            raise DeployError(f"the device: {clean_text(message.error)}")
        reply = msgspec.json.decode(message.reply, type=reply_type)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise DeployError(
            f"the reply of the step '{step}' on the device is not valid: {clean_text(str(error))}; was the release "
            "deployed by another version of edgeexit?"
        ) from error
    return cast("ReplyT", cleaned(reply))


def clean_text(text: str) -> str:
    """Return text of a device for errors, logs and the terminal: one line without control characters, cut if too long.

    Escape sequences, line breaks and characters that change the direction of the text become U+FFFD.
    """
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:_MAX_TEXT])
    return line if len(text) <= _MAX_TEXT else f"{line[: _MAX_TEXT - 1]}…"


def cleaned(value: Any) -> Any:
    """Return plain data with every text in it cleaned."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {clean_text(key): cleaned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [cleaned(item) for item in value]
    return value
