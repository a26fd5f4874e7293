"""Images that wait are decided together: a batch of eight costs a network what three cost alone."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from levelhead.data.entries import Array

AT_ONCE = 16
Reply = dict[str, Any]
Replies = Callable[[Sequence[str], Sequence[Array]], list[Reply]]


@dataclass(eq=False)
class Together:
    """Takes images one by one and hands those that wait to `replies`, at most `AT_ONCE`.

    One thread works: two would share the same cores.
    """

    replies: Replies
    thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "network"))
    _waiting: deque[tuple[str, Array, asyncio.Future[Reply]]] = field(default_factory=deque)
    _working: asyncio.Task[None] | None = None

    async def put(self, name: str, image: Array) -> Reply:
        """The reply to one image [S,S,C]."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()
        self._waiting.append((name, image, future))
        if self._working is None:
            self._working = loop.create_task(self._work())
        return await future

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                n = min(AT_ONCE, len(self._waiting))
                part = [self._waiting.popleft() for _ in range(n)]
                part = [entry for entry in part if not entry[2].done()]  # nobody waits any more
                if not part:
                    continue
                names, images, futures = zip(*part, strict=True)
                try:
                    rows = await loop.run_in_executor(self.thread, self.replies, names, images)
                except Exception as error:
                    for future in futures:
                        if not future.done():
                            future.set_exception(error)
                    continue
                for future, row in zip(futures, rows, strict=True):
                    if not future.done():
                        future.set_result(row)
        finally:
            self._working = None
