"""Refuses every address but this machine's own, in this process.

Its folder is on the PYTHONPATH of whatever the tests start, and Python loads
it by its name. A refusal is an error at once, and a line in the file that the
environment names, so that a program which swallows the error still fails its test.
"""

from __future__ import annotations

import os
import socket
import sys
from ipaddress import ip_address
from typing import Any

RECORD = "DEEPSEEK_MAGIC_TEST_REFUSED"
TO_ADDRESS = {"socket.connect", "socket.sendto", "socket.sendmsg"}
LOOK_UPS = {"socket.getaddrinfo", "socket.gethostbyname"}


class OutsideHost(RuntimeError):
    """A test tried to reach something that is not on this machine."""


def refuse_outside_hosts() -> None:
    """From now on connect to loopback only. There is no way back."""
    sys.addaudithook(_check)


def _check(event: str, arguments: tuple[Any, ...]) -> None:
    if event in TO_ADDRESS:
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # a socket file has no host
    elif event in LOOK_UPS:
        host = arguments[0]
    else:
        return
    if not _is_ours(host):
        text = f"{event} of {host!r}, which is not on this machine"
        _record(text)
        raise OutsideHost(text)


def _is_ours(host: object) -> bool:
    """Tell loopback, this machine's name and the absence of a host from all others."""
    name = host.decode(errors="replace") if isinstance(host, bytes) else host
    if not isinstance(name, str):
        return True  # None stands for this machine; netlink sockets have numbers
    if name in {"", "localhost", socket.gethostname(), "::", "0.0.0.0"}:  # noqa: S104  never bound
        return True
    try:
        return ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return name.endswith(".localhost")


def _record(text: str) -> None:
    if path := os.environ.get(RECORD):
        with open(path, "a", encoding="utf-8") as file:  # noqa: PTH123  pathlib is slow to load
            file.write(f"pid {os.getpid()}: {text}\n")


if __name__ == "sitecustomize":
    refuse_outside_hosts()
