"""Notices branches on data whose error forward catches: torch.export then traces the handler of the error only."""

from collections.abc import Callable, Mapping
from typing import Any

from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.overrides import TorchFunctionMode


class GuardErrorObserver(TorchFunctionMode):
    """Notices the errors that torch raises in a trace where forward converts a tensor to a bool or a number."""

    def __init__(self) -> None:
        super().__init__()
        self.has_error = False
        """Forward branched on a tensor, or read a number from one, since the mode was entered."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call the function."""
        try:
            return func(*args, **(kwargs or {}))
        except GuardOnDataDependentSymNode:
            self.has_error = True
            raise
