"""DeepSeek's empty balance is known whatever client met it, and nothing else is taken for it."""

from __future__ import annotations

import asyncio
import enum
import io
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest

from deepseek_magic.errors import InsufficientBalance, OverLimit, TooManyRequests
from deepseek_magic.recognise import is_insufficient_balance

ERROR = {
    "message": "Insufficient Balance",
    "type": "unknown_error",
    "param": None,
    "code": "invalid_request_error",
}
BODY = json.dumps({"error": ERROR}, separators=(",", ":"))
LIMITED = (
    "Too many requests. Your current concurrency is 26, which exceeds your concurrency limit of 25 "
    "based on your remaining balance. Please top up your balance to restore your concurrency."
)
CHAT = "https://api.deepseek.com/chat/completions"
SHOP = "https://shop.example.com/v1/orders"
ROUTER = "https://openrouter.ai/api/v1/chat/completions"
OPENAI_LINE = "Error code: 402 - Insufficient Balance"


# --- Real clients, a real server ---------------------------------------------------------------


class Refusal(BaseHTTPRequestHandler):
    """Answer every request with the server's status, headers and body."""

    server: Refusals

    def do_POST(self) -> None:
        """Send the refusal."""
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(self.server.status)
        for name, value in self.server.extra.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """Write nothing."""


class Refusals(ThreadingHTTPServer):
    """A server on a free loopback port that refuses everything."""

    def __init__(self, status: int, body: str, extra: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), Refusal)
        self.status, self.body = status, body.encode()
        self.extra = {"content-type": "application/json"} | extra

    @property
    def url(self) -> str:
        """The address to ask."""
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def refusing(status: int = 402, body: str = BODY, **extra: str) -> Iterator[str]:
    headers = {name.replace("_", "-"): value for name, value in extra.items()}
    with Refusals(status, body, headers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.url
        finally:
            server.shutdown()
            thread.join()


def ask_openai(url: str, **more: Any) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(api_key="k", base_url=url, max_retries=0) as client:
        for _ in client.chat.completions.create(model="m", messages=[], **more):
            pass


async def ask_openai_later(url: str) -> None:
    openai = pytest.importorskip("openai")
    async with openai.AsyncOpenAI(api_key="k", base_url=url, max_retries=0) as client:
        await client.chat.completions.create(model="m", messages=[])


def ask_httpx(url: str, library: str = "httpx") -> None:
    pytest.importorskip(library).post(url).raise_for_status()


def ask_requests(url: str, *, stream: bool = False) -> None:
    with pytest.importorskip("requests").post(url, stream=stream) as response:
        response.raise_for_status()


def ask_urllib(url: str) -> None:
    from urllib.request import urlopen

    urlopen(url, data=b"{}")  # noqa: S310  # the address is the test's own


async def ask_aiohttp(url: str) -> None:
    aiohttp = pytest.importorskip("aiohttp")
    async with aiohttp.ClientSession() as session, session.post(url) as response:
        response.raise_for_status()


def ask_tenaciously(url: str) -> None:
    tenacity = pytest.importorskip("tenacity")
    tenacity.retry(stop=tenacity.stop_after_attempt(2))(ask_httpx)(url)


def ask_by_hand(url: str) -> None:
    response = pytest.importorskip("requests").post(url)
    if response.status_code != HTTPStatus.OK:
        raise Exception(  # noqa: TRY002  # the way it is done
            f"API request failed: {response.status_code} - {response.text}"
        )


def ask_and_assert(url: str) -> None:
    response = pytest.importorskip("httpx").post(url)
    assert response.is_success, response.text


def ask_in_a_group(url: str) -> None:
    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(ask_openai_later(url))
            group.create_task(asyncio.sleep(0))

    asyncio.run(both())


def now(later: Callable[[str], Awaitable[None]]) -> Callable[[str], None]:
    def ask(url: str) -> None:
        async def run() -> None:
            await later(url)

        asyncio.run(run())

    return ask


CLIENTS: dict[str, Callable[[str], None]] = {
    "openai": ask_openai,
    "openai, streaming": lambda url: ask_openai(url, stream=True),
    "openai, async": now(ask_openai_later),
    "httpx": ask_httpx,
    "httpx2": lambda url: ask_httpx(url, "httpx2"),
    "requests": ask_requests,
    "requests, by hand": ask_by_hand,
    "httpx, asserted": ask_and_assert,
    "tenacity": ask_tenaciously,
    "a task group": ask_in_a_group,
}
HEADERS_ONLY: dict[str, Callable[[str], None]] = {
    "urllib": ask_urllib,
    "aiohttp": now(ask_aiohttp),
    "requests, unread": lambda url: ask_requests(url, stream=True),
}


def caught(ask: Callable[[str], None], url: str) -> BaseException:
    try:
        ask(url)
    except pytest.skip.Exception:  # a client that is not installed
        raise
    except BaseException as error:  # noqa: BLE001  # any
        return error
    pytest.fail("nothing was raised")


@pytest.mark.parametrize("client", CLIENTS)
def test_real_clients_at_a_relay(client: str) -> None:
    """A local relay that hands on DeepSeek's body is DeepSeek, with every client that reads it."""
    with refusing() as url:
        error = caught(CLIENTS[client], url)

    assert is_insufficient_balance(error)


@pytest.mark.parametrize("client", HEADERS_ONLY)
def test_real_clients_that_leave_the_body(client: str) -> None:
    """Where the body was not read, DeepSeek's own header speaks, and without it nothing does."""
    with refusing(x_ds_trace_id="0af1") as url:
        error = caught(HEADERS_ONLY[client], url)
    with refusing() as url:
        bare = caught(HEADERS_ONLY[client], url)

    assert is_insufficient_balance(error)
    assert not is_insufficient_balance(bare)
    close(error, bare)


def close(*errors: BaseException) -> None:
    for error in errors:
        if callable(done := getattr(error, "close", None)):
            done()


@pytest.mark.parametrize("client", CLIENTS | HEADERS_ONLY)
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (402, '{"detail":"payment required"}'),
        (402, '{"error":"Insufficient Balance"}'),
        (402, '{"error":{"message":"Insufficient Balance","type":"billing","code":"no_money"}}'),
        (401, json.dumps({"error": ERROR | {"message": "Authentication Fails"}})),
        (429, json.dumps({"error": ERROR | {"message": "Rate limit reached for TPM"}})),
        (429, '{"error":{"message":"quota","type":"insufficient_quota"}}'),
        (500, "<html>502 402</html>"),
    ],
)
def test_real_clients_with_other_failures(client: str, status: int, body: str) -> None:
    """Other services' 402, wrong keys, plain 429 and broken servers are not the empty balance."""
    with refusing(status, body) as url:
        error = caught((CLIENTS | HEADERS_ONLY)[client], url)

    assert not is_insufficient_balance(error)
    close(error)


@pytest.mark.parametrize("client", CLIENTS)
def test_the_limit_by_balance(client: str) -> None:
    """The 429 that is due to the remaining balance counts."""
    body = {"error": ERROR | {"message": LIMITED, "type": "rate_limit_error"}}
    with refusing(429, json.dumps(body)) as url:
        error = caught(CLIENTS[client], url)

    assert is_insufficient_balance(error)


def test_an_error_inside_the_stream() -> None:
    """An error event without any status counts like the refusal itself."""
    with refusing(200, f"data: {BODY}\n\n", content_type="text/event-stream") as url:
        error = caught(lambda url: ask_openai(url, stream=True), url)

    assert not hasattr(error, "status_code")
    assert is_insufficient_balance(error)


def test_an_unread_stream_stays_unread() -> None:
    """Looking at an exception leaves its one-time body to the user."""
    import urllib.error

    requests = pytest.importorskip("requests")
    with refusing() as url:
        streamed = requests.post(url, stream=True)
        error = caught(lambda _: streamed.raise_for_status(), url)
        old = caught(ask_urllib, url)

        is_insufficient_balance(error)
        is_insufficient_balance(old)

        assert streamed.text == BODY
        assert isinstance(old, urllib.error.HTTPError)
        assert old.read().decode() == BODY
        old.close()


@pytest.mark.parametrize("library", ["httpx", "httpx2", "openai"])
@pytest.mark.parametrize(
    ("url", "body", "expected"),
    [
        ("https://api.deepseek.com/v1", BODY, True),
        ("https://api.deepseek.com/v1", "", True),
        ("https://api.deepseek.com/v1", "<html>", True),
        ("https://api.openai.com/v1", BODY, False),
        ("https://openrouter.ai/api/v1", '{"error":{"message":"Insufficient credits"}}', False),
        ("https://api.siliconflow.cn/deepseek", '{"error":{"message":"no balance"}}', False),
        ("https://api.deepseek.com.evil.example/v1", BODY, False),
    ],
)
def test_real_clients_by_host(library: str, url: str, body: str, *, expected: bool) -> None:
    """Whom a client asked tells DeepSeek's refusal from another company's."""
    carrier = pytest.importorskip("httpx2" if library == "openai" else library)
    transport = carrier.MockTransport(lambda _: carrier.Response(402, text=body))
    with carrier.Client(transport=transport) as client:
        if library == "openai":
            openai = pytest.importorskip("openai")
            asked = openai.OpenAI(api_key="k", base_url=url, http_client=client)
            error = caught(lambda _: asked.chat.completions.create(model="m", messages=[]), url)
        else:
            error = caught(lambda url: client.post(url).raise_for_status(), url)

    assert is_insufficient_balance(error) is expected


# --- Hand-made exceptions ----------------------------------------------------------------------


def made(name: str = "APIError", *args: Any, module: str = "client", **fields: Any) -> Exception:
    """Make an exception of a new class *name* with *args* and *fields*."""
    error: Exception = type(name, (Exception,), {"__module__": module})(*args)
    vars(error).update(fields)
    return error


def response(status: int, url: str, body: str | None = None) -> SimpleNamespace:
    content = False if body is None else body.encode()
    return SimpleNamespace(status_code=status, url=url, _content=content, headers={})


def http_error(url: str, body: str | None = None, status: int = 402, **more: Any) -> Exception:
    text = f"{status} Client Error: Payment Required for url: {url}"
    return made("HTTPError", text, response=response(status, url, body), **more)


def wrapping(outer: BaseException, inner: BaseException, how: str = "__cause__") -> BaseException:
    setattr(outer, how, inner)
    return outer


def litellm(provider: str, body: str, status: int = 402) -> Exception:
    text = f"litellm.BadRequestError: {provider.capitalize()}Exception - {body}"
    invented = response(status, "https://api.openai.com/v1", "")
    return made(
        "BadRequestError", text, module="litellm.exceptions", message=text, status_code=status,
        llm_provider=provider, model="deepseek-chat", response=invented,
        request=SimpleNamespace(url="https://api.openai.com/v1"),
    )  # fmt: skip


def openrouter(raw: str, **metadata: Any) -> Exception:
    body = {"message": "Provider returned error", "code": 402, "metadata": {"raw": raw, **metadata}}
    return made(
        "APIStatusError", f"Error code: 402 - {body}", module="openai", body=body, status_code=402,
        response=response(402, ROUTER, json.dumps({"error": body})),
        request=SimpleNamespace(url=ROUTER),
    )  # fmt: skip


def future(error: Exception) -> Future[None]:
    ended: Future[None] = Future()
    ended.set_exception(error)
    return ended


def text(words: str, kind: type[BaseException] = RuntimeError) -> BaseException:
    return kind(words)


class Slotted(Exception):
    """An exception without a dictionary."""

    __slots__ = ("_body", "_status")

    def __init__(self) -> None:
        super().__init__("it failed")
        self._status, self._body = 402, BODY


class PaymentRequired(Exception):
    """A class that stands for one status."""

    status_code = HTTPStatus.PAYMENT_REQUIRED
    url = CHAT


class OnlySays(Exception):
    """An exception that keeps nothing, and tells it when asked."""

    def __str__(self) -> str:
        return f"API request failed: 402 - {BODY}"


class Behind(Exception):
    """What it knows stands in properties, as in many clients."""

    def __init__(self) -> None:
        super().__init__("it failed")
        self._response = response(402, CHAT)

    @property
    def response(self) -> Any:
        """What was answered."""
        return self._response


ESCAPED = json.dumps({"error": {"message": f"deepseek: {BODY}", "code": "402"}})


class Kept:
    """A response that hands out what it keeps only when asked."""

    def __init__(self, url: str, payload: Any = None, status: int = 402) -> None:
        self.status_code, self.url, self._payload = status, url, payload

    def json(self) -> Any:
        """Give what was answered."""
        return self._payload


class AskedProvider(enum.Enum):
    """Who answers, as litellm has it."""

    DEEPSEEK = "deepseek"


def failed_task(error: Exception) -> asyncio.Future[None]:
    loop = asyncio.new_event_loop()
    ended = loop.create_future()
    ended.set_exception(error)
    ended.exception()  # else asyncio complains that nobody looked at it
    loop.close()
    return ended


# What real clients raised, asked at a server that answers as DeepSeek does.
AS_RAISED: dict[str, BaseException] = {
    "anthropic 2.12": made(
        "PaymentRequiredError",
        f"Error code: 402 - {{'error': {ERROR}}}",
        module="anthropic",
        status_code=402,
        body={"error": ERROR},
        response=response(402, "http://127.0.0.1:8765/anthropic/v1/messages"),
    ),
    "pydantic-ai 2.31, fallback": ExceptionGroup(
        "All models from FallbackModel failed",
        [made("ModelHTTPError", status_code=402, model_name="deepseek-chat", body=ERROR)],
    ),
    "litellm 1.106, all fallbacks": made(
        "APIConnectionError",
        f"litellm.APIConnectionError: litellm.BadRequestError: DeepseekException - {BODY}. "
        "All fallback attempts failed. Enable verbose logging with `litellm.set_verbose=True`.",
        module="litellm.exceptions",
        status_code=500,
        llm_provider="",
        model="",
    ),
    "litellm 1.106, router": made(
        "BadRequestError",
        f"litellm.BadRequestError: DeepseekException - {BODY}. Received Model Group=a\n"
        "Available Model Group Fallbacks=None",
        module="litellm.exceptions",
        status_code=402,
        llm_provider="deepseek",
    ),
    "dspy 3.4": wrapping(
        made("LMBillingError", "[deepseek/deepseek-chat]", module="dspy.utils.exceptions"),
        litellm("deepseek", BODY),
    ),
    "instructor 1.17": made(
        "InstructorRetryException",
        f"Error code: 402 - {{'error': {ERROR}}}",
        module="instructor.v2.core.errors",
        n_attempts=2,
        create_kwargs={"messages": []},
    ),
    "instructor 1.9": text(
        '<failed_attempts>\n<generation number="1">\n<exception>\n    Error code: 402 - '
        f"{{'error': {ERROR}}}\n</exception>\n</generation>\n</failed_attempts>\n"
    ),
    "haystack 3.4": text(
        "The following component failed to run:\nComponent name: 'llm'\n"
        f"Component type: 'OpenAIChatGenerator'\nError: Error code: 402 - {{'error': {ERROR}}}"
    ),
    "agno 3.1": made(
        "ModelProviderError", ERROR["message"], status_code=402, model_id="deepseek-chat",
        message=ERROR["message"], model_name="DeepSeek", __cause__=http_error(CHAT),
    ),
    "smolagents 1.26": wrapping(
        made("AgentGenerationError", f"Error in generating model output:\n{OPENAI_LINE}"),
        made("APIStatusError", OPENAI_LINE, status_code=402, body=ERROR),
    ),
    "boto3 1.44": made(
        "ClientError",
        "An error occurred (402) when calling the InvokeModel operation: ",
        module="botocore.exceptions",
        response={
            "Error": {"Code": "402", "Message": ""},
            "ResponseMetadata": {
                "HTTPStatusCode": 402,
                "HTTPHeaders": {"content-type": "application/json", "x-ds-trace-id": "0af1"},
            },
        },
    ),
    "azure-ai-inference 1.0": made(
        "HttpResponseError",
        "(invalid_request_error) Insufficient Balance",
        status_code=402,
        reason="Payment Required",
        response=SimpleNamespace(
            status_code=402,
            request=SimpleNamespace(url=CHAT),
            internal_response=response(402, CHAT),
        ),
    ),
    "tornado 6.6": made(
        "HTTPClientError",
        code=402,
        message="Payment Required",
        response=SimpleNamespace(code=402, effective_url=CHAT, buffer=io.BytesIO(BODY.encode())),
    ),
    "tornado 6.6, relay": made(
        "HTTPClientError",
        code=402,
        response=SimpleNamespace(
            code=402, effective_url="http://127.0.0.1:1/", buffer=io.BytesIO(BODY.encode())
        ),
    ),
    "urllib3 2.8, exhausted": made(
        "MaxRetryError",
        "HTTPSConnectionPool(host='api.deepseek.com', port=443): Max retries exceeded with url: "
        "/chat/completions (Caused by ResponseError('too many 402 error responses'))",
        url="/chat/completions",
    ),
    "deepseek 1.0": text(f"HTTP Error 402: {BODY}", Exception),
    "ipyparallel": made(
        "RemoteError", "APIStatusError", OPENAI_LINE, ename="APIStatusError", evalue=OPENAI_LINE
    ),
    "papermill 2.7": made(
        "PapermillExecutionError",
        evalue=OPENAI_LINE,
        traceback=[f"\x1b[0;31mAPIStatusError\x1b[0m: {OPENAI_LINE}\x1b[0m"],
    ),
    "a child's standard error": made(
        "CalledProcessError",
        1,
        stderr=f"Traceback (most recent call last):\n  …\nopenai.APIStatusError: {OPENAI_LINE}\n",
    ),
}  # fmt: skip

POSITIVE: dict[str, BaseException] = AS_RAISED | {
    "ours": InsufficientBalance("The balance is empty."),
    "ours, loaded twice": made("InsufficientBalance", "x", module="deepseek_magic.errors"),
    "deepseek.errors": made(
        "InsufficientBalanceError", "Account balance too low", module="deepseek.errors"
    ),
    "class named so": made("DeepSeekInsufficientBalanceError", "x"),
    "subclass": type("Mine", (type(made("InsufficientBalanceError", module="deepseek")),), {})("x"),
    "requests, unread": http_error(CHAT),
    "requests, /v1": http_error("https://api.deepseek.com/v1/chat/completions"),
    "port, case, final dot": http_error("https://API.DeepSeek.com.:443/beta/completions"),
    "anthropic": http_error(
        "https://api.deepseek.com/anthropic/v1/messages",
        '{"type":"error","error":{"type":"billing_error","message":"Insufficient Balance"}}',
        module="anthropic",
    ),
    "company relay": http_error("http://llm.internal:4000/v1", BODY),
    "relay in the network": http_error("https://relay.example.org/v1", BODY),
    "relay named deepseek": http_error("http://deepseek-relay:8080/v1", BODY),
    "cloudflare": http_error("https://gateway.ai.cloudflare.com/v1/a/b/deepseek/chat", BODY),
    "urllib": made("HTTPError", code=402, msg="Payment Required", url=CHAT, module="urllib.error"),
    "aiohttp": made(
        "ClientResponseError",
        status=402,
        message="Payment Required",
        request_info=SimpleNamespace(real_url=CHAT),
    ),
    "urllib3": made(
        "MaxRetryError",
        "HTTPSConnectionPool(host='api.deepseek.com', port=443): Max retries exceeded with url: "
        "/chat/completions (Caused by ResponseError('too many 402 error responses'))",
    ),
    "in the stream": made(
        "APIError",
        "Insufficient Balance",
        body="Insufficient Balance",
        request=SimpleNamespace(url=CHAT),
    ),
    "in the stream, relay": made(
        "APIError",
        "Insufficient Balance",
        body=ERROR,
        request=SimpleNamespace(url="http://127.0.0.1:1/v1"),
    ),
    "in Chinese": made("APIError", "账户余额不足", request=SimpleNamespace(url=CHAT)),
    "in Chinese, text": text("DeepSeek API 余额不足,请充值"),
    "429 by balance": made(
        "RateLimitError", f"Error code: 429 - {LIMITED}", status_code=429, llm_provider="deepseek"
    ),
    "429 by balance, text": text(f"RateLimitError: {LIMITED}"),
    "pydantic-ai": made(
        "ModelHTTPError",
        f"status_code: 402, model_name: deepseek-chat, body: {ERROR}",
        status_code=402,
        model_name="deepseek-chat",
        body=ERROR,
    ),
    "litellm": litellm("deepseek", BODY),
    "litellm, rewritten": litellm("deepseek", "Insufficient Balance", 400),
    "litellm, text": text(f"litellm.APIError: DeepseekException - {BODY}"),
    "litellm, as openai": litellm("openai", BODY),
    "litellm, only context": wrapping(
        made("BadRequestError", "?", llm_provider="openai"), http_error(CHAT), "__context__"
    ),
    "litellm proxy": http_error("http://localhost:4000/chat/completions", ESCAPED, 400),
    "provider field": made("LLMError", "Insufficient Balance", provider="DeepSeek"),
    "provider field, status": made("LLMError", "refused", provider_name="deepseek", status=402),
    "class as provider": made("DeepSeekAPIError", 402, "Insufficient Balance"),
    "portkey": http_error(
        "https://api.portkey.ai/v1/chat/completions",
        '{"error":{"message":"deepseek error: Insufficient Balance"},"provider":"deepseek"}',
    ),
    "gateway, own key": openrouter(BODY, provider_name="DeepSeek", is_byok=True),
    "gateway, own key, text": text(
        f'OpenRouter said 402: {{"raw":{json.dumps(BODY)},'
        '"provider_name":"DeepSeek","is_byok":true}'
    ),
    "text, documented": text(f"API request failed: 402 - {BODY}", Exception),
    "text, body alone": text(BODY, ValueError),
    "text, Python's form": text(f"Error code: 402 - {{'error': {ERROR}}}"),
    "text, openai's line": text(f"summary failed: {OPENAI_LINE}"),
    "text, cut": text(f"HTTP Error 402: {BODY[:78]}"),
    "text, cut in the code": text(BODY[:90]),
    "text, in HTML": text(f"<pre>{BODY}</pre>".replace('"', "&quot;")),
    "text, escaped twice": text(json.dumps(json.dumps({"upstream": BODY}))),
    "text, bytes": text(str(BODY.encode())),
    "text, httpx": text(
        f"Client error '402 Payment Required' for url '{CHAT}'\nFor more: https://x.y"
    ),
    "text, host": text("POST api.deepseek.com/chat/completions answered 402"),
    "text, name": text("DeepSeek API error: Insufficient Balance"),
    "text at a far end": text("x" * 1_000_000 + BODY),
    "bytes": made("E", BODY.encode()),
    "dict": made("E", {"status": 502, "error": ERROR}),
    "nested dict": made("E", {"a": [{"b": {"error": ERROR}}]}),
    "details": made("E", "failed", details={"error": ERROR}),
    "raw": made("E", "failed", raw=BODY.encode()),
    "http_body": made("E", "failed", http_body=BODY, http_status=402),
    "error object": made("E", "failed", error=SimpleNamespace(**ERROR)),
    "own fields": made(
        "E", "failed", message=ERROR["message"], type=ERROR["type"], code=ERROR["code"]
    ),
    "boto": made("ClientError", "failed", response={"status": 402, "url": CHAT}),
    "mock response": made("E", "x", response=Mock(status_code=402, url=CHAT)),
    "magic mock response": made("E", "x", response=MagicMock(status_code=402, text=BODY)),
    "slots": Slotted(),
    "class fields": PaymentRequired("no"),
    "own str": OnlySays(),
    "behind properties": Behind(),
    "curl": made("CalledProcessError", 22, output=BODY.encode()),
    "note": made("E", "row 7", __notes__=[f"API request failed: 402 - {BODY}"]),
    "remote traceback": wrapping(
        made("E", "it failed"),
        made(
            "_RemoteTraceback",
            tb=f'"""\nTraceback (most recent call last):\n  ...\nopenai.E: {OPENAI_LINE}\n"""',
        ),
    ),
    "ray": made(
        "RayTaskError", "ray::ask() (pid=7)\n" + "  File x\n" * 200 + f"openai.E: {OPENAI_LINE}"
    ),
    "cause": wrapping(RuntimeError("summary failed"), http_error(CHAT)),
    "traceback with many files": text(
        "  File litellm/llms/groq/chat.py\n" * 100 + f"openai.APIStatusError: {OPENAI_LINE}"
    ),
    "named, after a proxy": wrapping(
        text(f"POST {CHAT} answered 402"), made("ProxyError", host="proxy.example.org")
    ),
    "cause of a KeyError": wrapping(KeyError("summary"), http_error(CHAT)),
    "response in an argument": Exception("failed", Kept(CHAT)),
    "response by another name": made("E", "failed", answered=Kept(CHAT)),
    "response with .json()": made(
        "E", "failed", response=Kept("http://localhost:1", {"error": ERROR})
    ),
    "response as text": made("E", "failed", response=BODY),
    "response as bytes": made("E", "failed", http_response=BODY.encode()),
    "response as a pair": made("E", "failed", response=(402, BODY)),
    "request as text": made("E", "failed", request=CHAT, status=402),
    "response as dict": made("E", response={"status": 402, "body": {"error": ERROR}}),
    "arguments": Exception(402, "Insufficient Balance", CHAT),
    "arguments, object": Exception(402, ERROR),
    "task": made("E", "failed", task=failed_task(http_error(CHAT))),
    "task in a set": Exception("failed", {failed_task(http_error(CHAT))}),
    "enumerated provider": made(
        "E", "Insufficient Balance", llm_provider=AskedProvider.DEEPSEEK, status_code=402
    ),
    "vendor": made("E", "Insufficient Balance", vendor="deepseek-official", status=402),
    "file in memory": made("HTTPError", code=402, fp=io.BytesIO(BODY.encode()), url="http://a:1"),
    "memory": made("E", body=memoryview(BODY.encode())),
    "arrow": text(f"POST {CHAT} -> 402"),
    "brackets": text(f"[402] {CHAT}"),
    "logfmt": text(f"status=402 url={CHAT}"),
    "logfmt, provider": text("provider=deepseek status=402 message=Insufficient Balance"),
    "call failed": text("Call to DeepSeek failed (402): Insufficient Balance"),
    "class in text": text("deepseek.APIError: Insufficient Balance (402)"),
    "request id": text(f"{OPENAI_LINE} (request id: 0af1)"),
    "coloured": text(f"\x1b[0;31mAPIStatusError\x1b[0m: {OPENAI_LINE}\x1b[0m"),
    "in Chinese, status": text("DeepSeek 调用失败: 402 余额不足"),
    "in Chinese, message": text("调用DeepSeek接口失败，错误码402：Insufficient Balance"),
    "header in text": text("402 Payment Required, headers: {'x-ds-trace-id': '0af1'}"),
    "pydeepseek": made("InsufficientBalance", "x", module="pydeepseek.errors"),
    "rewritten by litellm": text(
        'litellm.BadRequestError: DeepseekException - {"type":"error","error":'
        '{"type":"invalid_request_error","message":"Insufficient Balance"}}'
    ),
    "context": wrapping(RuntimeError("summary failed"), http_error(CHAT), "__context__"),
    "context of a ValueError": wrapping(ValueError("no label"), http_error(CHAT), "__context__"),
    "group": ExceptionGroup("rows", [ValueError("x"), ExceptionGroup("", [http_error(CHAT)])]),
    "base group": BaseExceptionGroup("rows", [KeyboardInterrupt(), http_error(CHAT)]),
    "argument": made("ConnectionError", http_error(CHAT)),
    "original_exception": made("E", "x", original_exception=http_error(CHAT)),
    "tenacity": made("RetryError", last_attempt=future(http_error(CHAT))),
    "instructor": made(
        "InstructorRetryException",
        "3 attempts",
        failed_attempts=[SimpleNamespace(attempt_number=1, exception=http_error(CHAT))],
    ),
    "errors in a list": made("E", errors=[ValueError(), http_error(CHAT)]),
    "errors by row": made("E", errors={"7": http_error(CHAT)}),
    "one of two gateways": ExceptionGroup(
        "", [openrouter("Insufficient credits"), http_error("http://localhost:1", BODY)]
    ),
    "after another gateway": wrapping(
        http_error("http://localhost:1", BODY), openrouter("Insufficient credits"), "__context__"
    ),
}

NEGATIVE: dict[str, object] = {
    "nothing": None,
    "a text": BODY,
    "a class": InsufficientBalance,
    "a mock": Mock(),
    "a mock of one": Mock(spec=InsufficientBalance("x")),
    "our class, loaded twice": made("OutOfMoney", "x", module="deepseek_magic.errors"),
    "ours, other": OverLimit("Insufficient Balance for 402 rows"),
    "ours, plain 429": TooManyRequests("DeepSeek API error: too many requests", status=429),
    "wrong key": made(
        "AuthenticationError",
        "Error code: 401 - Authentication Fails, Your api key: ****… is invalid",
        status_code=401,
        response=response(401, CHAT),
        code="invalid_request_error",
        type="authentication_error",
    ),
    "too many requests": http_error(CHAT, "{}", 429),
    "refused, quoting": made(
        "BadRequestError",
        "Error code: 400 - Failed to deserialize: messages[0]: 'Insufficient Balance'",
        status_code=400,
        response=response(400, CHAT),
    ),
    "quota": made(
        "RateLimitError",
        "Error code: 429 - You exceeded your current quota",
        status_code=429,
        code="insufficient_quota",
        type="insufficient_quota",
        response=response(429, "https://api.openai.com/v1/chat/completions"),
    ),
    "shop": http_error(SHOP, '{"detail":"payment required"}'),
    "shop, same words": http_error(SHOP, '{"error":{"message":"Insufficient Balance"}}'),
    "shop, wrapped": wrapping(RuntimeError(f"buying failed: {OPENAI_LINE}"), http_error(SHOP)),
    "words": text("Insufficient Balance"),
    "words, user's": text("transfer refused: insufficient balance"),
    "words, class": made("InsufficientBalance", "Insufficient Balance", module="__main__"),
    "words, wallet": made("InsufficientBalanceError", "too low", module="wallet.errors"),
    "number": text("402", ValueError),
    "status alone": made("E", "refused", status_code=402),
    "key": text("Insufficient Balance", KeyError),
    "pandas": text("Length of values (402) does not match length of index (400)", ValueError),
    "rows": text("DeepSeek API returned 402 rows, 400 expected", ValueError),
    "rows of a page": text("402 rows read from https://api.deepseek.com/models", ValueError),
    "exit": SystemExit(402),
    "good answer that speaks of it": made(
        "ParseError", "no JSON", response=response(200, CHAT, json.dumps({"choices": [BODY]}))
    ),
    "prompt that speaks of it": made("E", "failed", messages=[{"content": BODY}], prompt=BODY),
    "request that speaks of it": made("E", request=SimpleNamespace(url=SHOP, content=BODY)),
    "model name": made("E", "Insufficient balance", status_code=402, model="deepseek-chat"),
    "model and provider alike": made("E", "Insufficient balance", code=402, model="deepseek"),
    "evil host": http_error("https://api.deepseek.com.evil.example/chat", BODY),
    "like host": http_error("https://notdeepseek.com/chat/completions", BODY),
    "like host, hyphen": http_error("https://my-deepseek.com/chat/completions"),
    "userinfo": http_error("https://api.deepseek.com@evil.example/chat"),
    "backslash": http_error("https://evil.example\\@api.deepseek.com/chat"),
    "path": http_error("https://shop.example.com/api.deepseek.com/v1"),
    "query": http_error("https://shop.example.com/?of=https://api.deepseek.com/v1"),
    "fragment": http_error("https://shop.example.com/#@api.deepseek.com"),
    "query, text": text(
        "402 Client Error: Payment Required for url: https://x.org/?u=api.deepseek.com"
    ),
    "body names deepseek": http_error(SHOP, '{"url":"https://api.deepseek.com","status":402}'),
    "openrouter": openrouter("Insufficient credits"),
    "openrouter, deepseek": openrouter("Insufficient credits", provider_name="DeepSeek"),
    "openrouter, its own key": openrouter(BODY, provider_name="DeepSeek", is_byok=False),
    "openrouter, no word of a key": openrouter(BODY, provider_name="DeepSeek"),
    "openrouter, another's key": openrouter(BODY, provider_name="Novita", is_byok=True),
    "openrouter, own words": openrouter(
        "Insufficient credits", provider_name="DeepSeek", is_byok=True
    ),
    "openrouter, text": text("OpenRouter: 402 Insufficient Balance for deepseek/deepseek-chat"),
    "openrouter, repeated": wrapping(text(f"402 - {BODY}"), openrouter(BODY), "__cause__"),
    "a gateway's body, text": text(
        f'402: {{"raw":{json.dumps(BODY)},"provider_name":"DeepSeek","is_byok":false}}'
    ),
    "a gateway's body, text, no word of a key": text(
        f'402: {{"raw":{json.dumps(BODY)},"provider_name":"DeepSeek"}}'
    ),
    "openrouter by litellm": litellm("openrouter", '{"error":{"message":"Insufficient Balance"}}'),
    "siliconflow": http_error(
        "https://api.siliconflow.cn/v1/deepseek", '{"message":"Insufficient balance"}', 403
    ),
    "together": made(
        "APIStatusError",
        OPENAI_LINE,
        status_code=402,
        response=response(402, "https://api.together.xyz/v1/deepseek-ai", BODY),
    ),
    "openai's line, another body": made(
        "APIStatusError", OPENAI_LINE, status_code=402, body=ERROR | {"type": "billing"}
    ),
    "key while handling": wrapping(KeyError("x"), http_error(CHAT), "__context__"),
    "name while handling": wrapping(NameError("x"), http_error(CHAT), "__context__"),
    "interrupt while handling": wrapping(KeyboardInterrupt(), http_error(CHAT), "__context__"),
    "cancelled while handling": wrapping(asyncio.CancelledError(), http_error(CHAT), "__context__"),
    "in Chinese, a reseller": text("硅基流动 DeepSeek 余额不足"),
    "reseller's quota": text(
        "Error code: 403 - {'error': {'message': '用户额度不足', 'type': 'new_api_error'}}"
    ),
    "bedrock": made(
        "ClientError",
        "An error occurred (402) when calling the InvokeModel operation: deepseek.r1-v1:0",
        response={"Error": {"Code": "402"}, "ResponseMetadata": {"HTTPStatusCode": 402}},
    ),
    "azure": http_error("https://mine.services.ai.azure.com/models/deepseek", BODY),
    "tokens": text("DeepSeek answered with 402 tokens"),
    "time": text("DeepSeek API timeout after 402 ms"),
    "money left": text("DeepSeek: slow down; remaining balance 402 CNY"),
    "prose": text("DeepSeek reply: Insufficient Balance is a term of banking"),
    "documentation": text("see https://api-docs.deepseek.com for error 402 handling"),
    "exchange": made("InsufficientFunds", "402", module="ccxt.base.errors"),
    "an earlier answer": made(
        "E", status=402, url=SHOP, history=[SimpleNamespace(url=CHAT, status=200)]
    ),
    "a good answer at hand": Exception("no label", Kept(CHAT, {"choices": [BODY]}, 200)),
    "wrong key, /anthropic": http_error(
        "https://api.deepseek.com/anthropic/v1/messages", '{"error":{"message":"no"}}', 401
    ),
    "busy": http_error(CHAT, json.dumps({"error": ERROR | {"message": "too busy"}}), 503),
    "router, cooling down": made(
        "RouterRateLimitError", "No deployments available for selected model", status_code=429
    ),
    "group of others": BaseExceptionGroup("402", [http_error(SHOP), text("Insufficient Balance")]),
}


@pytest.mark.parametrize("name", POSITIVE)
def test_forms_of_the_empty_balance(name: str) -> None:
    """Every form in which a client keeps, wraps or drops the evidence is recognised."""
    assert is_insufficient_balance(POSITIVE[name])


@pytest.mark.parametrize("name", NEGATIVE)
def test_near_misses(name: str) -> None:
    """What looks alike, and what is another company's failure, is not."""
    assert not is_insufficient_balance(NEGATIVE[name])


@pytest.mark.parametrize("name", POSITIVE)
def test_reraised_by_the_user(name: str) -> None:
    """What a user raises from it, plainly or hiding it, is the empty balance too."""

    def reraise() -> None:
        try:
            raise POSITIVE[name]  # noqa: TRY301  # somewhere it must be raised
        except BaseException:  # noqa: BLE001  # any
            raise RuntimeError("the summary failed") from None

    kept = POSITIVE[name].__context__, POSITIVE[name].__cause__
    with pytest.raises(RuntimeError) as raised:
        reraise()

    assert is_insufficient_balance(raised.value)
    assert (POSITIVE[name].__context__, POSITIVE[name].__cause__) == kept


# --- Hostile, long, branched and looping -------------------------------------------------------


class Boom(BaseException):
    """Nothing that a careful reader would catch."""


class Hostile(Exception):
    """Counts what is asked of it, and fails at all of it."""

    asked = 0
    failure: BaseException = Boom("no")

    def _fail(self) -> Any:
        type(self).asked += 1
        raise self.failure

    status_code = property(_fail)
    response = property(_fail)
    body = property(_fail)
    message = property(_fail)
    __cause__ = property(_fail)
    __context__ = property(_fail)
    args = property(_fail)
    __class__ = property(_fail)

    def __getattr__(self, name: str) -> Any:
        return self._fail()

    def __getattribute__(self, name: str) -> Any:
        if name in {"_fail", "failure"}:
            return object.__getattribute__(self, name)
        return object.__getattribute__(self, "_fail")()

    def __str__(self) -> str:
        return str(self._fail())

    __repr__ = __str__
    __eq__ = __bool__ = __len__ = __iter__ = __hash__ = _fail  # type: ignore[assignment]


def test_no_attribute_is_asked() -> None:
    """An exception whose every attribute fails, or would act, is asked for its text alone."""
    Hostile.asked = 0

    assert not is_insufficient_balance(Hostile("x"))
    assert Hostile.asked == 1


def test_beyond_a_hostile_exception() -> None:
    """What a hostile exception wraps is found all the same."""
    outer = Hostile("x")
    vars(BaseException)["__cause__"].__set__(outer, http_error(CHAT))

    assert is_insufficient_balance(outer)
    assert is_insufficient_balance(ExceptionGroup("", [Hostile("x"), http_error(CHAT)]))
    assert is_insufficient_balance(made("E", http_error(CHAT), hostile=Hostile("x")))


@pytest.mark.parametrize(
    "failure",
    [KeyboardInterrupt(), SystemExit(1), GeneratorExit(), MemoryError(), RecursionError()],
)
def test_hostile_failures_stay_inside(
    failure: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a foreign object raises is swallowed."""
    monkeypatch.setattr(Hostile, "failure", failure)

    assert not is_insufficient_balance(Hostile("x"))


def test_a_stream_is_not_touched() -> None:
    """Iterators and files on an exception are neither read nor advanced."""
    pieces = iter([BODY])

    class File:
        def read(self) -> bytes:
            pytest.fail("it was read")

        __iter__ = read

    error = made(
        "E", pieces, body=pieces, response=SimpleNamespace(content=File(), status_code=402)
    )

    assert not is_insufficient_balance(error)
    assert next(pieces) == BODY


def chain(length: int, end: BaseException) -> BaseException:
    for number in range(length):
        end = wrapping(RuntimeError(f"step {number}"), end)
    return end


def test_long_chains() -> None:
    """A chain far longer than Python's stack is followed to its end."""
    assert is_insufficient_balance(chain(100_000, http_error(CHAT)))
    assert not is_insufficient_balance(chain(100_000, ValueError("x")))


def test_wide_groups() -> None:
    """A group of thousands of failed rows is looked through."""
    rows: list[Exception] = [ValueError(f"row {n}") for n in range(5_000)]

    assert is_insufficient_balance(ExceptionGroup("rows", [*rows, http_error(CHAT)]))
    assert not is_insufficient_balance(ExceptionGroup("rows", rows))


def test_deep_and_endless_data() -> None:
    """Data that holds itself, and bodies beyond all measure, are cut and not followed."""
    endless: dict[str, Any] = {"error": []}
    endless["error"] = [endless] * 50
    huge = made("E", {str(n): "{" * 100_000 for n in range(1_000)}, 10**5_000, [endless] * 1_000)

    assert not is_insufficient_balance(huge)
    assert is_insufficient_balance(wrapping(huge, http_error(CHAT)))


def test_nothing_is_changed() -> None:
    """An exception and what hangs on it are the same afterwards."""
    error = http_error(CHAT, BODY)
    before = (dict(vars(error)), error.args, dict(vars(vars(error)["response"])))

    is_insufficient_balance(error)

    assert (dict(vars(error)), error.args, dict(vars(vars(error)["response"]))) == before
