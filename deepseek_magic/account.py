"""Whose account a notebook asks: the user's own, or the simulated one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol, cast

from .errors import DeepSeekError
from .session import Session, now
from .top_up import TOP_UP

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from decimal import Decimal

    from IPython.core.interactiveshell import InteractiveShell

    from .ledger import Keep
    from .sandbox import Sandbox
    from .wire import Balance, Key


class Keeping(Protocol):
    """What an account reads of the notebook's settings."""

    @property
    def keep(self) -> str:
        """What the ledger may keep."""


class Account:
    """The session of *shell*; *leaving* is called before it changes to another one.

    *clock* gives the time to each session.
    """

    def __init__(
        self,
        shell: InteractiveShell,
        settings: Keeping,
        leaving: Callable[[], None],
        clock: Callable[[], datetime] = now,
    ) -> None:
        self.sandbox: Sandbox | None = None
        self._shell = shell
        self._settings = settings
        self._leaving = leaving
        self._clock = clock
        self._key: Key | None = None
        self._session: Session | None = None
        self._own: Session | None = None

    @property
    def top_up_url(self) -> str:
        """The page where the account is topped up."""
        return self.sandbox.top_up_url if self.sandbox else TOP_UP

    @property
    def session(self) -> Session:
        """The session that questions go through; made on first use."""
        if self._session is None:
            self._session = self._new_session(self._key)
        return self._session

    def sign_in(self, key: Key) -> Balance:
        """Use *key* from now on, if the API accepts it; give what the account holds."""
        session = self._new_session(key)
        try:
            balance = session.balance()
        except DeepSeekError:
            session.close()
            raise
        self.sandbox_off()
        self.renew()
        self._key, self._session = key, session
        return balance

    def renew(self) -> None:
        """Let the own session be made anew, with the settings of now, on its next use."""
        if self.sandbox is not None:
            self._own, stale = None, self._own
        else:
            self._leaving()
            self._session, stale = None, self._session
        if stale is not None:
            stale.close()

    def sandbox_on(self, balance: Decimal, currency: str) -> Sandbox:
        """Switch to a simulated account; the own session waits until `sandbox_off`."""
        from .sandbox import Sandbox

        self.sandbox_off()
        self._leaving()
        self._own = self._session
        # Shown to the millionth, so that the cost of one question can be seen; the API rounds.
        self.sandbox = Sandbox(balance=balance, currency=currency, decimals=6)
        self.sandbox.start()
        self._session = Session(
            api_key=self.sandbox.api_key,
            base_url=self.sandbox.base_url,
            ledger=":memory:",
            notebook=_notebook(self._shell),
            clock=self._clock,
        )
        return self.sandbox

    def sandbox_off(self) -> None:
        """Go back to the own account; without a sandbox nothing happens."""
        if self.sandbox is None:
            return
        self._leaving()
        self.session.close()
        self.sandbox.close()
        self.sandbox, self._session, self._own = None, self._own, None

    def _new_session(self, key: Key | None) -> Session:
        return Session(
            api_key=key,
            keep=cast("Keep", self._settings.keep),
            notebook=_notebook(self._shell),
            clock=self._clock,
        )

    def close(self) -> None:
        """Close the sandbox and the session."""
        self.sandbox_off()
        self.renew()


def _notebook(shell: InteractiveShell) -> str | None:
    """Give the path of the notebook, as Jupyter's server or VS Code tell it."""
    path = os.environ.get("JPY_SESSION_NAME") or shell.user_ns.get("__vsc_ipynb_file__")
    return path if isinstance(path, str) else None
