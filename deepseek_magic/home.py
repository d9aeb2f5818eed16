"""Where the user's own things are: the ledger, the key."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from .wire import Key

LOG = logging.getLogger("deepseek_magic")


def ledger_path() -> Path:
    """Give the path of the user's ledger; DEEPSEEK_MAGIC_HOME moves its folder."""
    if home := os.environ.get("DEEPSEEK_MAGIC_HOME"):
        return Path(home).expanduser() / "ledger.sqlite"
    from platformdirs import user_data_path

    return user_data_path("deepseek_magic", appauthor=False) / "ledger.sqlite"


def find_key() -> Key | None:
    """Look for a key in DEEPSEEK_API_KEY, then in the system's keyring if there is one."""
    if text := os.environ.get("DEEPSEEK_API_KEY", "").strip():
        return Key(text)
    try:
        import keyring

        stored = keyring.get_password("deepseek_magic", "api_key")
    except Exception as error:  # noqa: BLE001  # no package, no backend, or a locked one
        LOG.debug("no key from the keyring: %s", type(error).__name__)
        return None
    return Key(stored.strip()) if stored else None
