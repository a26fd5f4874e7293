"""`levelhead serve` under load: latency, throughput and memory over many requests.

    python benchmarks/serve.py RUN photos/ [--requests 10000] [--clients 1 4 16]

RUN is a run or an exported .onnx file, photos/ what is sent, in turn. The server is a process of
its own; its clients are threads of this one, on the same cores. "First" is the first request.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from levelhead.data.layouts.folder import image_paths
from levelhead.text import columns


def resident(pid: int) -> float:
    """Megabytes that a process holds."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1e3


def ask(connection: http.client.HTTPConnection, image: bytes) -> float:
    """Seconds that one answer takes."""
    start = time.perf_counter()
    connection.request("POST", "/predict", image)
    reply = connection.getresponse()
    content = json.loads(reply.read())
    assert reply.status == 200, content
    return time.perf_counter() - start


def load(port: int, images: list[bytes], n: int, clients: int) -> tuple[list[float], float]:
    """The time of each of n requests by so many clients at once, and seconds in all."""

    def one(client: int) -> list[float]:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        return [ask(connection, images[i % len(images)]) for i in range(client, n, clients)]

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        times = [t for part in pool.map(one, range(clients)) for t in part]
    return times, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("photos")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    options = parser.parse_args()
    images = [path.read_bytes() for path in image_paths([options.photos])[:500]]
    words = [sys.executable, "-m", "levelhead", "serve", options.source, "--port", "0"]
    start = time.perf_counter()
    server = subprocess.Popen([*words, "--rate", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split(": ")[1]
        print(f"ready after {time.perf_counter() - start:.1f} s")
        port = int(address.split(":")[2].split("/")[0])
        first = ask(http.client.HTTPConnection("127.0.0.1", port), images[0])
        print(f"first answer: {first * 1e3:.0f} ms")
        rows = []
        each = options.requests // len(options.clients)
        for clients in options.clients:
            before = resident(server.pid)
            times, seconds = load(port, images, each, clients)
            middle, late = (np.quantile(times, q) * 1e3 for q in (0.5, 0.99))
            rows.append(
                [
                    f"{clients}", f"{each:,}", f"{middle:.1f}", f"{late:.1f}",
                    f"{each / seconds:.0f}", f"{before:.0f}", f"{resident(server.pid):.0f}",
                ]
            )  # fmt: skip
        header = ["clients", "requests", "p50 ms", "p99 ms", "a second", "MB before", "MB after"]
        print(columns(header, rows))
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
