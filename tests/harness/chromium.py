"""Where the browser is, and how to get one. Runs before anything is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

VARIABLE = "DEEPSEEK_MAGIC_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    # Whatever a page asks for, no name but the machine's own is looked up.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)


def find() -> str | None:
    """Give the path of a Chromium, None when the system has none.

    The environment variable `DEEPSEEK_MAGIC_CHROMIUM` names one that stands elsewhere.
    """
    if named := os.environ.get(VARIABLE):
        return named
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return found or (str(MAC) if MAC.exists() else None)


def install(python: Path) -> None:
    """Get a Chromium: Debian's for root, else the one that Playwright brings."""
    if shutil.which("apt-get") and os.geteuid() == 0:
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        _run(["apt-get", "update", "-q"], quiet)
        _run(["apt-get", "install", "-y", "-q", "chromium"], quiet)
    elif not _playwright_has_one(python):
        _run([str(python), "-m", "playwright", "install", "chromium"], dict(os.environ))
    if find() is None and not _playwright_has_one(python):
        print(
            "There is no Chromium, so the browser tests will fail. Install one with the "
            f"system's package manager, or name one: {VARIABLE}=/path/to/chromium",
            flush=True,
        )


def _playwright_has_one(python: Path) -> bool:
    code = (
        "import pathlib, playwright.sync_api as p\n"
        "with p.sync_playwright() as web:\n"
        "    raise SystemExit(not pathlib.Path(web.chromium.executable_path).exists())"
    )
    return subprocess.run([str(python), "-c", code], check=False).returncode == 0


def _run(command: list[str], environment: dict[str, str]) -> None:
    print(f"$ {' '.join(command)}", flush=True)
    subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False)
