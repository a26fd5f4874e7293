"""Serving: a socket, a warm network, and uvicorn."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from levelhead.deploy.decider import decider_of
from levelhead.errors import LevelheadError
from levelhead.files import reading
from levelhead.machine import tune_malloc
from levelhead.runs import Run
from levelhead.serving.application import Limits, Service, application
from levelhead.serving.guard import LOOPBACK
from levelhead.serving.neighbours import neighbours_of

if TYPE_CHECKING:
    import asyncio

CONNECTIONS = 256
"""Connections at a time; more are told to come later."""
SHORTEST = 16
"""Characters that a token has at least."""


def serve(
    source: Run | str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: str | Path | None = None,
    limits: Limits | None = None,
    device: str = "auto",
    ready: Callable[[str], None] = lambda address: None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Decide images that are sent to an address, until Ctrl-C; see `application`.

    `source`: a finished run, or an exported .onnx file. On another host than loopback a token is
    asked for: the line in `token_file`, else one that is drawn. `ready` is called with the page's
    address once requests are answered, `progress` while features of training images are made that
    the cache no longer has. Raises LevelheadError where the libraries are missing, the
    port is in use, or `source` is none.
    """
    uvicorn = _uvicorn()
    limits = limits or Limits()
    _check(limits)
    token = None if token_file is None else _token(token_file)
    if token is None and host not in LOOPBACK:
        token = secrets.token_urlsafe(16)
    with closing(_bound(host, port)) as listening:
        tune_malloc()
        decider = decider_of(source, device=device)
        neighbours = None if decider.run is None else neighbours_of(decider.run, progress)
        service = Service(decider, limits, neighbours)
        service.warm()
        config = uvicorn.Config(
            application(service, token),
            http=_patient(limits.seconds),
            ws="none",
            lifespan="off",
            access_log=False,
            log_level="critical",
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=3,
        )
        ready(_address(host, listening.getsockname()[1], token))
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])


def _uvicorn() -> Any:
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise LevelheadError(
            f"{error.name}: not installed, and serve needs it; pip install 'levelhead[serve]'"
        ) from None
    return uvicorn


def _check(limits: Limits) -> None:
    """Raise LevelheadError for limits that let nothing through."""
    for flag, value, least in (
        ("--max-mb", limits.megabytes, 0.001),
        ("--max-megapixels", limits.megapixels, 0.0001),
        ("--rate", limits.rate, 0),
        ("--timeout", limits.seconds, 0.1),
    ):
        if not least <= value < 1e9:
            raise LevelheadError(f"{flag} {value:g}: must be at least {least:g}")


def _token(path: str | Path) -> str:
    """The line in a file. Raises LevelheadError for one that is easily guessed."""
    with reading(path, "give a file that holds one line, the token"):
        token = Path(path).read_text(encoding="ascii").strip()
    if len(token) < SHORTEST or not token.replace("-", "").replace("_", "").isalnum():
        raise LevelheadError(
            f"--token-file {path}: holds no token; write one line of {SHORTEST} or more letters, "
            "digits, - and _"
        )
    return token


def _bound(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises LevelheadError."""
    if not 0 <= port < 1 << 16:
        raise LevelheadError(f"--port {port}: must be from 0 (any that is free) to 65535")
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=kind, backlog=CONNECTIONS)
    except OSError as error:
        fix = "give another --port, or 0 for a free one"
        if isinstance(error, socket.gaierror) or "assign" in str(error.strerror):
            fix = "give --host an address of this machine, such as 0.0.0.0"
        raise LevelheadError(
            f"{host} port {port}: cannot be listened at ({error.strerror}); {fix}"
        ) from None


def _address(host: str, port: int, token: str | None) -> str:
    """What to type into a browser."""
    name = host
    if host in ("0.0.0.0", "::"):  # every address of the machine: the one to the outside
        name = "localhost"
        with (
            suppress(OSError),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside,
        ):
            outside.connect(("192.0.2.1", 9))  # of no machine; nothing is sent
            name = outside.getsockname()[0]
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/" + ("" if token is None else f"?token={token}")


def _patient(seconds: float) -> Any:
    """uvicorn's protocol, which ends a connection whose request does not begin in time."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Patient(H11Protocol):
        patience: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            # asyncio does this for sockets of its own making alone; without, head and body of an
            # answer are 40 ms apart (Nagle's algorithm, delayed acknowledgements).
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self.stop_waiting()
            elif self.patience is None:
                self.wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self.stop_waiting()
            super().connection_lost(exc)

        def wait(self) -> None:
            self.patience = self.loop.call_later(seconds, self.give_up)

        def stop_waiting(self) -> None:
            if self.patience is not None:
                self.patience.cancel()
                self.patience = None

        def give_up(self) -> None:
            self.patience = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return Patient
