"""Throughput and latency of a server with one client and with many.

    python -m benchmarks.serve --work DIR [--rows 1000000] [--clients 64] [--seconds 60]

`hyperpq serve` runs on an index of vectors in a process of its own, and clients send searches, each
its next one when the last is answered. One client and many take turns. What is measured: answers
that are no errors, requests a second, the median and the 99th percentile of the time of a request,
how many searches share a scan, and the memory of the server over time. The clients are one process
that does little but send and receive; it needs a share of the same cores, which it reports.

``DIR`` keeps the index for the next time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe_machine
from benchmarks.options import count
from benchmarks.pages import markdown_table
from benchmarks.process import own_memory
from benchmarks.provenance import current_commit
from hyperpq import HiHPQIndex

D, M, K = 64, 8, 10
# Vectors that are drawn and added at a time, and those that train.
ADDED_AT_ONCE, TRAINED = 100_000, 20_000
QUERIES = 1000
COUNTED = ("hyperpq_batch_queries_sum", "hyperpq_batch_queries_count", "process_cpu_seconds_total")
# Rounds in which one client and many take turns.
ROUNDS = 3


@dataclass
class Measured:
    """What clients have seen.

    Attributes
    ----------
    seconds : list of float
        Time of each request.
    errors : int
        Answers that are none, or not what was asked for.
    wall : float
        Seconds in all.
    server, own : float
        Seconds of the processor that the server and the clients took.
    """

    seconds: list[float] = field(default_factory=list)
    errors: int = 0
    wall: float = 0.0
    server: float = 0.0
    own: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.seconds) / self.wall if self.wall else 0.0


def make_index(path: Path, rows: int) -> None:
    """An index of vectors around 1,000 centres, unless it is there."""
    if path.exists():
        return
    rng = np.random.default_rng(0)
    index = HiHPQIndex(D, M, device="cpu")
    index.train(draw(rng, TRAINED), epochs=1)
    for start in range(0, rows, ADDED_AT_ONCE):
        index.add(draw(rng, min(ADDED_AT_ONCE, rows - start)))
    index.save(path)


def draw(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    """Vectors (n, D) around 1,000 centres, which are the same in each call."""
    centres = np.random.default_rng(2).normal(size=(1000, D)).astype(np.float32)
    noise = rng.normal(scale=0.5, size=(n, D)).astype(np.float32)
    return centres[rng.integers(0, len(centres), n)] + noise


def requests(port: int) -> list[bytes]:
    """Searches as bytes, so that a client has nothing to make."""
    x = draw(np.random.default_rng(1), QUERIES)
    made = []
    for vector in x:
        numbers = [float(f"{value:.6g}") for value in vector.tolist()]
        body = json.dumps({"vector": numbers, "k": K}).encode()
        head = (
            f"POST /search HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        made.append(head.encode() + body)
    return made


class Client(asyncio.Protocol):
    """Sends the next search when the last is answered."""

    def __init__(self, made: list[bytes], first: int, seen: Measured) -> None:
        self._made, self._next, self._seen = made, first, seen
        self._answer, self._sent, self._done = b"", 0.0, False
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The first search is sent."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._send()

    def data_received(self, data: bytes) -> None:
        """A part of an answer has come."""
        self._answer += data
        head, end, body = self._answer.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        if len(body) < length:
            return
        self._seen.seconds.append(time.perf_counter() - self._sent)
        if not head.startswith(b"HTTP/1.1 200") or body.count(b'"rank"') != K:
            self._seen.errors += 1
        if self._done:
            self._transport.close()
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed, by this client or by the server."""
        if not self._done:
            self._seen.errors += 1
        if not self.closed.done():
            self.closed.set_result(None)

    def stop(self) -> None:
        """Send nothing more."""
        self._done = True

    def _send(self) -> None:
        self._answer, self._sent = b"", time.perf_counter()
        self._transport.write(self._made[self._next % len(self._made)])
        self._next += 1


async def drive(made: list[bytes], port: int, clients: int, seconds: float) -> Measured:
    """Let clients search for some seconds."""
    loop, seen = asyncio.get_running_loop(), Measured()
    start = time.perf_counter()
    protocols = []
    for number in range(clients):
        _, protocol = await loop.create_connection(
            partial(Client, made, number * 17, seen), "127.0.0.1", port
        )
        protocols.append(protocol)
    await asyncio.sleep(seconds)
    for protocol in protocols:
        protocol.stop()
    await asyncio.wait_for(asyncio.gather(*(p.closed for p in protocols)), 60)
    seen.wall = time.perf_counter() - start
    return seen


def metric(url: str, name: str) -> float:
    """A number of the server."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, flags=re.MULTILINE)
    return float(found.group(1)) if found else 0.0


def measure(work: Path, rows: int, clients: int, seconds: float) -> str:
    """The table of one run."""
    path = work / f"index-{rows}"
    work.mkdir(parents=True, exist_ok=True)
    make_index(path, rows)
    command = [sys.executable, "-m", "hyperpq", "serve", "--index", str(path), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().split()[-1]
        port = int(url.rpartition(":")[2])
        made = requests(port)
        asyncio.run(drive(made, port, 1, 1.0))
        # An allocator that grows to what the load needs has done so.
        asyncio.run(drive(made, port, clients, 2.0))
        memory = [own_memory(server.pid)]
        one, many = Measured(), Measured()
        shared, scans = 0.0, 0.0
        for _ in range(ROUNDS):
            for seen, number in ((one, 1), (many, clients)):
                before, spent = [metric(url, name) for name in COUNTED], time.process_time()
                part = asyncio.run(drive(made, port, number, seconds / ROUNDS / 2))
                seen.own += time.process_time() - spent
                after = [metric(url, name) for name in COUNTED]
                seen.server += after[2] - before[2]
                seen.seconds += part.seconds
                seen.errors += part.errors
                seen.wall += part.wall
                if seen is many:
                    shared, scans = shared + after[0] - before[0], scans + after[1] - before[1]
                memory.append(own_memory(server.pid))
    finally:
        server.terminate()
        server.wait(60)
    table = markdown_table(
        [
            [
                *("clients", "requests/s", "median ms", "p99 ms", "requests", "errors"),
                *("processor of the server, µs a request", "of the clients"),
            ],
            *(
                [
                    str(number),
                    f"{seen.rate:,.0f}",
                    f"{1e3 * np.median(seen.seconds):.1f}",
                    f"{1e3 * np.quantile(seen.seconds, 0.99):.1f}",
                    f"{len(seen.seconds):,}",
                    str(seen.errors),
                    f"{1e6 * seen.server / len(seen.seconds):.0f}",
                    f"{1e6 * seen.own / len(seen.seconds):.0f}",
                ]
                for number, seen in ((1, one), (clients, many))
            ),
        ]
    )
    mib = " ".join(f"{value / 2**20:.0f}" for value in memory)
    return (
        f"{describe_machine()}, commit {current_commit()}\n\n{table}\n"
        f"{many.rate / one.rate:.1f} times the requests of one client; "
        f"{shared / max(scans, 1):.1f} searches a scan. Memory of the server in MiB, in turn: "
        f"{mib}.\n"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for the index")
    parser.add_argument("--rows", type=count, default=1_000_000, help="rows of the index")
    parser.add_argument("--clients", type=count, default=64, help="clients at once")
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds in all")
    args = parser.parse_args()
    print(measure(args.work, args.rows, args.clients, args.seconds))


if __name__ == "__main__":
    main()
