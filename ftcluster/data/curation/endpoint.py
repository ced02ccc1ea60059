"""A model behind an OpenAI-compatible URL: one prompt, one reply; retried, rate-limited, and refused in clear words.

Owns the HTTP. Which prompts are asked, and what is kept of the replies, is ``inversion``'s. The key travels in one
header, redirects are not followed, and no error names it.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ftcluster.errors import EndpointError

if TYPE_CHECKING:
    import httpx2

_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_LARGEST = 4 * 2**20  # bytes of a reply
_LONGEST_PAUSE = 120.0  # seconds that a server can make us wait at a time
_QUOTED = 300  # characters of what a server says that an error quotes


@dataclass(frozen=True)
class Endpoint:
    """Where to ask and how. ``requests_per_minute`` 0: no limit of ours; ``timeout`` seconds cover a whole reply."""

    url: str
    model: str
    key: str = field(default="", repr=False)
    requests_per_minute: float = 60.0
    concurrency: int = 4
    timeout: float = 120.0
    retries: int = 5
    first_pause: float = 1.0  # seconds before the first retry; doubles each time
    max_tokens: int = 0  # of a reply; 0: the server's own limit


class NoReplyError(Exception):
    """This prompt has no usable reply, though the endpoint works; the message says why."""


class Asker:
    """Asks an endpoint; use as an async context manager. Prompts may be asked at the same time."""

    def __init__(self, endpoint: Endpoint, clock: Callable[[], float] = time.monotonic) -> None:
        import httpx2

        self._endpoint, self._clock = endpoint, clock
        headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
        self._client = httpx2.AsyncClient(headers=headers, timeout=endpoint.timeout, follow_redirects=False)
        self._url = _completions(endpoint.url)
        self._next = 0.0  # when the next request may start, by the rate
        self._paused_until = 0.0  # and by what the server said
        self._jitter = random.Random(17)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def ask(self, prompt: str) -> str:
        """The model's reply.

        Raises:
            NoReplyError: it refused this prompt, or said nothing that could be read.
            EndpointError: it refuses all of them, or is not there.
        """
        problem = ""
        for attempt in range(self._endpoint.retries + 1):
            if attempt:
                await asyncio.sleep(
                    self._endpoint.first_pause * 2 ** (attempt - 1) * (0.75 + self._jitter.random() / 2)
                )
            await self._turn()
            try:
                async with asyncio.timeout(self._endpoint.timeout):
                    status, headers, body = await self._post(prompt)
            except TimeoutError:
                problem = f"no reply within {self._endpoint.timeout:g} s"
                continue
            except OSError as error:
                problem = str(error)
                continue
            if status == 200:
                return _reply(body)
            problem = f"status {status}: {_quoted(body)}"
            if status not in _RETRIED:
                raise self._refusal(status, problem)
            self._pause(headers)
        raise EndpointError(
            f"no answer after {self._endpoint.retries + 1} tries: {problem}",
            where=self._url,
            remedy="start again when it works; replies so far are kept",
        )

    async def _post(self, prompt: str) -> tuple[int, httpx2.Headers, bytes]:
        """Status, headers and body; what goes wrong on the way is an OSError."""
        import httpx2

        asked: dict[str, Any] = {"model": self._endpoint.model, "messages": [{"role": "user", "content": prompt}]}
        if self._endpoint.max_tokens:
            asked["max_tokens"] = self._endpoint.max_tokens
        try:
            async with self._client.stream("POST", self._url, json=asked) as response:
                body = b""
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > _LARGEST:
                        raise NoReplyError(f"the reply is larger than {_LARGEST // 2**20} MiB")
                return response.status_code, response.headers, body
        except (httpx2.RequestError, httpx2.StreamError) as error:
            raise OSError(f"{type(error).__name__}: {error}") from error

    async def _turn(self) -> None:
        """Wait until a request may start: requests are spread evenly over the minute."""
        start = max(self._next, self._clock())
        if self._endpoint.requests_per_minute:
            self._next = start + 60 / self._endpoint.requests_per_minute
        while (wait := max(start, self._paused_until) - self._clock()) > 0:
            await asyncio.sleep(wait)

    def _pause(self, headers: httpx2.Headers) -> None:
        """Nobody asks before the server said so."""
        pause = min(_retry_after(headers.get("retry-after", "")), _LONGEST_PAUSE)
        if pause:
            self._paused_until = max(self._paused_until, self._clock() + pause)

    def _refusal(self, status: int, problem: str) -> Exception:
        if status in (400, 413, 422):  # this prompt alone: too long, or against its rules
            return NoReplyError(problem)
        remedies = {
            401: "put your key into the environment variable that --key-variable names",
            403: "check what the key may do",
            404: "check --url, which ends before /chat/completions, and --model",
        }
        return EndpointError(problem, where=self._url, remedy=remedies.get(status, "check --url and --model"))


def _completions(url: str) -> str:
    base = url.rstrip("/")
    return base if base.endswith("/chat/completions") else f"{base}/chat/completions"


def _reply(body: bytes) -> str:
    try:
        said = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise NoReplyError(f"not a chat completion: {_quoted(body)}") from error
    if not isinstance(said, str) or not said.strip():
        raise NoReplyError("the reply is empty")
    return said.strip()


def _quoted(body: bytes) -> str:
    return " ".join(body[:_QUOTED].decode("utf-8", "replace").split()) or "nothing"


def _retry_after(value: str) -> float:
    """Seconds from a Retry-After header, which holds seconds or a date; 0 where it holds neither."""
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
