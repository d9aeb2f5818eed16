"""Thousands of questions at once to the API; what comes back is read as `client` reads it.

Answers come whole and not streamed: nobody watches them grow, and reading the
events of a stream costs several times as much.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from .client import ALIVE_SECONDS, Client
from .connections import Connections, Lost, NotSent
from .failures import LOOPBACK

if TYPE_CHECKING:
    from .wire import Answer, Request

HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "User-Agent": "deepseek_magic",
}


class AsyncClient:
    """The account of *client*, for one event loop. The API may be silent for *idle* seconds."""

    def __init__(self, client: Client, *, idle: float) -> None:
        self._client = client
        self._idle = idle
        self._connections = Connections(
            client.base_url,
            {**HEADERS, "Authorization": f"Bearer {client.key.reveal()}"},
            idle=idle,
            alive=ALIVE_SECONDS,
            trust_env=client.host not in LOOPBACK,
        )

    async def answer(self, request: Request, wanted: Callable[[], bool]) -> Answer:
        """Send *request* and give its answer; every failure is one of ours.

        *wanted* is asked just before it goes out; `CalledOff` follows a no. Cancelling
        closes the connection; the API may bill the answer all the same.
        """
        body = {**request.body(), "stream": False}
        del body["stream_options"]
        try:
            response = await self._connections.post(
                "/chat/completions", json.dumps(body).encode(), wanted
            )
        except NotSent as error:
            found = self._client.not_sent(error.name, str(error))
        except Lost as error:
            found = self._client.lost(
                error.name, str(error), arrived=error.arrived, idle=self._idle
            )
        else:
            return self._client.read(request, response.status, response.headers, response.body)
        # Raised here, it has no exception with a header, and so no key, as its context.
        raise found

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()
