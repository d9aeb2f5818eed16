"""Ask DeepSeek from a notebook, know what it costs, and lose nothing when the money ends.

%load_ext deepseek_magic

%%deepseek
Why is the sky blue?
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import DeepSeekError, InsufficientBalance, OverLimit
from .wire import Answer, Balance
from .words import set_language

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from .recognise import is_insufficient_balance
    from .sandbox import Sandbox
    from .session import Session

__version__ = "0.1.0"
__all__ = [
    "Answer",
    "Balance",
    "DeepSeekError",
    "InsufficientBalance",
    "OverLimit",
    "Sandbox",
    "Session",
    "is_insufficient_balance",
    "set_language",
]

_LATER = {"Sandbox": "sandbox", "Session": "session", "is_insufficient_balance": "recognise"}


def __getattr__(name: str) -> Any:
    """Load what is not needed for `%load_ext` when it is asked for."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_LATER[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Make `%%deepseek` and `%deepseek` known (`%load_ext deepseek_magic`)."""
    from .magics import load

    load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take everything back (`%unload_ext deepseek_magic`)."""
    from .magics import unload

    unload(shell)
