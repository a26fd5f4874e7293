"""Who may ask, and how often: host names, other sites, token, rate; and headers of every answer."""

from __future__ import annotations

import hmac
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

from levelhead.serving.tally import Tally

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "levelhead"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
UNKNOWN = (
    "no token, or a wrong one; open the address that levelhead serve printed, or send the header "
    "Authorization: Bearer TOKEN"
)
ADDRESSES = 10_000
"""Clients whose rates are remembered."""


@dataclass
class Rate:
    """At most `per_second` requests a second of an address over time, twice as many at once.

    0: no limit. (A token bucket.)
    """

    per_second: float
    _left: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def wait(self, address: str, now: float) -> float:
        """Seconds until this address may ask; 0: it may, and has."""
        if not self.per_second:
            return 0.0
        most = max(1.0, 2 * self.per_second)
        left, before = self._left.pop(address, (most, now))
        left = min(most, left + (now - before) * self.per_second)
        self._left[address] = (left - (left >= 1), now)
        while len(self._left) > ADDRESSES:
            self._left.popitem(last=False)
        return 0.0 if left >= 1 else (1 - left) / self.per_second


class Guard:
    """Stands before an application (ASGI); what it refuses never gets there.

    `token`: None where none is asked for, and then only loopback names are answered, so that no
    other site can reach the server under a name of its own (DNS rebinding).
    """

    def __init__(self, app: App, *, token: str | None, rate: float, tally: Tally) -> None:
        self.app, self.token, self.tally = app, token, tally
        self.rate = Rate(rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        start, status = time.perf_counter(), 500
        headers = {
            name.decode("latin-1"): text.decode("latin-1") for name, text in scope["headers"]
        }
        cookie = self._by_link(scope)

        async def sent(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                more = [*HEADERS]
                if cookie is not None and status < 400:
                    rules = "HttpOnly; SameSite=Strict; Path=/"
                    more.append((b"set-cookie", f"{COOKIE}={cookie}; {rules}".encode()))
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        refusal = self._refusal(scope, headers)
        if refusal is None:
            await self.app(scope, receive, sent)
        else:
            from starlette.responses import JSONResponse

            code, words, wait = refusal
            more = {"retry-after": f"{max(1, round(wait))}"} if wait else {}
            answer = JSONResponse({"error": words}, code, {"connection": "close", **more})
            await answer(scope, receive, sent)
        self.tally.requests[status] += 1
        if scope["path"] == "/predict" and status == 200:
            self.tally.seconds.append(time.perf_counter() - start)

    def _by_link(self, scope: Scope) -> str | None:
        """The right token in the address of the page: the browser keeps it as a cookie."""
        if self.token is None or scope["path"] != "/":
            return None
        (link,) = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[:1]
        return self.token if _same(link, self.token) else None

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str, float] | None:
        """Status, words and seconds to wait for a request that is refused, or None."""
        if scope["path"] == "/health":
            return None
        if self.token is None and _name(headers.get("host", "")) not in LOOPBACK:
            return 421, "this server answers on loopback names alone, such as localhost", 0
        if headers.get("sec-fetch-site") == "cross-site" and scope["method"] != "GET":
            return 403, "another site's page may not ask; open this server's own", 0
        if self.token is not None and not self._known(scope, headers):
            return 401, UNKNOWN, 0
        client = scope.get("client") or ("", 0)
        if scope["path"] == "/predict" and (wait := self.rate.wait(client[0], time.monotonic())):
            return 429, f"more than {self.rate.per_second:g} requests a second; wait", wait
        return None

    def _known(self, scope: Scope, headers: dict[str, str]) -> bool:
        assert self.token is not None
        if self._by_link(scope) is not None:
            return True
        kind, _, text = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and _same(text.strip(), self.token):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and _same(cookie.value, self.token)


def _same(a: str, b: str) -> bool:
    """Whether two texts are equal, in a time that tells nothing."""
    return hmac.compare_digest(a.encode("utf-8", "surrogateescape"), b.encode())


def _name(host: str) -> str:
    """The name in a Host header, without the port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""
