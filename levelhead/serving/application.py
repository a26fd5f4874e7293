"""The endpoints: a page, POST /predict, /health, /metrics, thumbnails of training images.

Nothing that is sent is kept: an image is decided and forgotten. Needs the extra `serve`.
"""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from levelhead.data.decode import Broken, header, pixels
from levelhead.data.entries import Array
from levelhead.deploy.decider import Decider
from levelhead.deploy.predict import Predicted
from levelhead.machine import version
from levelhead.report.page import page
from levelhead.serving.guard import App, Guard
from levelhead.serving.neighbours import Neighbours
from levelhead.serving.tally import Tally
from levelhead.serving.together import Together

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

SIMILAR = 4
"""Training images shown beside an answer."""
LONGEST = 65_535
"""Pixels of a side: what a JPEG can have. Longer ones are no photos, and slow to resize."""
CURL = "curl --data-binary @photo.jpg"


@dataclass(frozen=True)
class Limits:
    """What one request may take."""

    megabytes: float = 20
    megapixels: float = 50
    rate: float = 50  # requests a second of an address; 0: any
    seconds: float = 20  # for a request to arrive, and for its answer
    waiting: int = 64  # images at a time

    @property
    def bytes(self) -> int:
        """Of one image."""
        return round(self.megabytes * 1e6)


class Refused(Exception):
    """A request that gets no answer: status, and one line that says why."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status, self.words = status, words


@dataclass(frozen=True, eq=False)
class Service:
    """What answers requests."""

    decider: Decider
    limits: Limits = field(default_factory=Limits)
    neighbours: Neighbours | None = None
    tally: Tally = field(default_factory=Tally)
    decoding: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(os.cpu_count() or 1, "decoding")
    )

    @cached_property
    def together(self) -> Together:
        """Where decoded images wait for the network."""
        return Together(self.replies)

    def warm(self) -> None:
        """Decide something, so that the first request waits for nothing."""
        size, channels = self.decider.size, self.decider.channels
        blank = np.zeros((1, size, size, channels), np.uint8)
        for _ in range(3):
            self.together.thread.submit(self.decider.decide, blank).result()

    def image(self, data: bytes) -> Array:
        """An encoded image as the network takes it. Raises Refused."""
        try:
            _, width, height = header(io.BytesIO(data))
            most = self.limits.megapixels
            if width * height > most * 1e6 or max(width, height) > LONGEST:
                raise Refused(
                    413,
                    f"{width} x {height} pixels: at most {most:g} million, and a side of "
                    f"{LONGEST:,}; send a smaller image",
                )
            return self.decider.fit(pixels(data, self.decider.bits))
        except Broken as error:
            raise Refused(400, f"{error}; send a JPEG, PNG or WebP") from None
        except MemoryError:
            raise Refused(413, "too large for this machine's memory; send a smaller one") from None

    async def answer(self, data: bytes, name: str) -> dict[str, Any]:
        """What is said of an encoded image. Raises Refused."""
        tally, loop = self.tally, asyncio.get_running_loop()
        if tally.waiting >= self.limits.waiting:
            raise Refused(503, f"{tally.waiting} images wait already; send it again in a second")
        tally.waiting += 1
        try:
            async with asyncio.timeout(self.limits.seconds):
                image = await loop.run_in_executor(self.decoding, self.image, data)
                reply = await self.together.put(name, image)
        except TimeoutError:
            raise Refused(503, "no answer in time; send it again later") from None
        finally:
            tally.waiting -= 1
        tally.decisions[reply["kind"]] += 1
        return reply

    def replies(self, names: Sequence[str], images: Sequence[Array]) -> list[dict[str, Any]]:
        """Rows as `levelhead predict --json` has them, each with `similar` images."""
        answers, features = self.decider.decide(np.stack(images))
        rows = Predicted(tuple(names), answers, ()).to_json()["predictions"]
        return [
            {"schema": 1, **row, "similar": self.similar(None if features is None else features[i])}
            for i, row in enumerate(rows)
        ]

    def similar(self, features: Tensor | None) -> list[dict[str, Any]]:
        """The training images most like one of these features [D], where both are known."""
        if self.neighbours is None or features is None:
            return []
        return [
            {
                "id": one.id,
                "class": one.name,
                "cosine": round(one.cosine, 4),
                "image": f"training/{one.index}",
            }
            for one in self.neighbours.nearest(features, SIMILAR)
        ]

    def about(self) -> dict[str, Any]:
        """What the page needs to know."""
        decider, limits = self.decider, self.limits
        return {
            "class_names": list(decider.policy.class_names),
            "promises": list(decider.policy.promises),
            "bytes": limits.bytes,
            "megabytes": limits.megabytes,
            "similar": self.neighbours is not None,
        }


def application(service: Service, token: str | None = None) -> App:
    """The service as an ASGI application, behind its guard."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse
    from starlette.responses import Response as Plain
    from starlette.routing import Route

    decider = service.decider
    about = service.about()
    content = page(
        "serve", title=decider.source, found={}, command="", about=about, stamp=decider.stamp
    )

    async def index(request: Request) -> Response:
        return HTMLResponse(content)

    async def predict(request: Request) -> Response:
        name = request.query_params.get("name", "image")[:300]
        try:
            data = await _body(request, service.limits)
            return JSONResponse(await service.answer(data, name))
        except Refused as refused:
            return _error(refused.status, refused.words)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "levelhead": version(), "model": decider.model[:16]})

    async def metrics(request: Request) -> Response:
        return PlainTextResponse(service.tally.text())

    async def training(request: Request) -> Response:
        try:
            if service.neighbours is None:
                raise IndexError
            jpeg = service.neighbours.jpeg(request.path_params["index"])
        except IndexError:
            return _error(404, "no such training image")
        return Plain(jpeg, media_type="image/jpeg")

    async def icon(request: Request) -> Response:
        return Plain(status_code=204)

    async def unknown(request: Request, error: Exception) -> Response:
        code = error.status_code if isinstance(error, HTTPException) else 500
        words = {404: "no such page; there are /, /predict, /health and /metrics",
                 405: f"/predict takes POST, the others GET; for example {CURL}"}  # fmt: skip
        return _error(code, words.get(code, "refused"))

    async def failed(request: Request, error: Exception) -> Response:
        return _error(500, "something went wrong here; the server goes on")

    routes = [
        Route("/", index),
        Route("/predict", predict, methods=["POST"]),
        Route("/favicon.ico", icon),
        Route("/health", health),
        Route("/metrics", metrics),
        Route("/training/{index:int}", training),
    ]
    handlers: dict[Any, Callable[..., Any]] = {HTTPException: unknown, 500: failed}
    inside = Starlette(routes=routes, exception_handlers=handlers)
    return Guard(inside, token=token, rate=service.limits.rate, tally=service.tally)


def _error(status: int, words: str) -> Response:
    """One line as JSON; where more of the request may come, the connection ends."""
    from starlette.responses import JSONResponse

    more = {"connection": "close"} if status in (408, 413, 503) else {}
    more |= {"retry-after": "1"} if status == 503 else {}
    return JSONResponse({"error": words}, status, more)


async def _body(request: Request, limits: Limits) -> bytes:
    """The bytes that were sent. Raises Refused."""
    kind = request.headers.get("content-type", "")
    if kind.startswith("multipart/"):
        raise Refused(415, f"a form; send the file itself: {CURL}")
    declared = request.headers.get("content-length", "")
    large = Refused(413, f"more than {limits.megabytes:g} MB; send a smaller image")
    if declared.isdigit() and int(declared) > 4 * limits.bytes:
        raise large
    content = bytearray()
    try:
        async with asyncio.timeout(limits.seconds):
            # What is a little too large is read to its end: some clients listen only then.
            size = 0
            async for chunk in request.stream():
                size += len(chunk)
                if size > 4 * limits.bytes:
                    raise large
                if size <= limits.bytes:
                    content += chunk
    except TimeoutError:
        raise Refused(408, f"not sent within {limits.seconds:g} s; send it again") from None
    except Exception as error:
        if type(error).__name__ != "ClientDisconnect":
            raise
        raise Refused(400, "the connection ended early; send it again") from None
    if size > limits.bytes:
        raise large
    if not content:
        raise Refused(400, f"nothing was sent; for example {CURL}")
    return bytes(content)
