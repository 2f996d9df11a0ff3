"""How fast `mmsearch serve` answers over 10,000 photos, beside the text encoder alone.

    python benchmarks/serve.py [--work FOLDER] [--seconds N] [--rounds N]

Makes its photos and their index on the first run (crops of scikit-image's, kept in the work
folder), serves a copy of the index on a free port of the loopback, and prints requests a second and
latencies of warm queries in words, all distinct, by 1, 8 and 32 clients that ask again as soon as
they have an answer; the same for an answer that needs no search, which is the most that the server
and the clients can do; the rates of `Collection.search` and of the text encoder without a server;
thumbnails a second, made and kept; latencies while thumbnails are made and while a job indexes; and
the memory of the server. Clients are plain sockets in this process. What is compared is measured in
turns, and each figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from photos import LARGE, SMALL, crops
from timing import machine, run, table

import mmsearch

CLIENTS = (1, 8, 32)
BROWSER = 6
"""Connections that a browser opens to one host."""
LARGE_PHOTOS = 100
SMALL_THUMBNAILS = 600
PATIENCE = 60.0
"""Seconds after which a measurement that should be over is given up."""

ADJECTIVES = "red green blue white black small large old new wooden wet dark bright empty".split()  # noqa: SIM905
NOUNS = """
    dog cat bird horse house street river mountain car train boat table chair lamp flower tree child
    woman man bridge garden kitchen window market beach road field forest bicycle cup
""".split()  # noqa: SIM905
VERBS = "standing lying running sitting waiting shining hidden seen moving left".split()  # noqa: SIM905


def queries(seed: int = 0) -> Iterator[str]:
    """Distinct ones, 150,000 of them in random order."""
    every = list(itertools.product(ADJECTIVES, NOUNS, VERBS, NOUNS))
    random.Random(seed).shuffle(every)
    for adjective, noun, verb, place in every:
        yield f"a {adjective} {noun} {verb} near the {place}"


# ---------------------------------------------------------------------- clients


@dataclass(frozen=True)
class Load:
    """What clients got in one measurement: answers a second, and latencies in milliseconds."""

    rate: float
    p50: float
    p99: float


class Address:
    """A server's host and port, and what is asked of it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.host = f"127.0.0.1:{port}"

    def get(self, path: str) -> bytes:
        """The bytes of a request."""
        return f"GET {path} HTTP/1.1\r\nHost: {self.host}\r\n\r\n".encode("ascii")

    def searches(self, words: Iterator[str]) -> Iterator[bytes]:
        return (self.get(f"/api/v1/search?k=20&q={quote(query)}") for query in words)

    async def ask(self, request: bytes) -> Any:
        """The JSON of one answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            status, body = await exchange(reader, writer, request)
        finally:
            writer.close()
        if status >= 300:
            raise RuntimeError(f"{request[:200]!r} was answered by {status}: {body[:500]!r}")
        return json.loads(body)

    async def send(self, method: str, path: str, content: Any = None) -> Any:
        body = b"" if content is None else json.dumps(content).encode("ascii")
        head = f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\nContent-Length: {len(body)}\r\n"
        if body:
            head += "Content-Type: application/json\r\n"
        return await self.ask(f"{head}\r\n".encode("ascii") + body)


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[int, bytes]:
    """The status and the body of an answer."""
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    return int(head[9:12]), await reader.readexactly(length)


async def client(
    address: Address, requests: Iterator[bytes], until: float, times: list[float]
) -> None:
    """Ask again as soon as there is an answer, until a time or the end of the requests."""
    reader, writer = await asyncio.open_connection("127.0.0.1", address.port)
    try:
        for request in requests:
            began = time.perf_counter()
            status, body = await exchange(reader, writer, request)
            now = time.perf_counter()
            if status != 200:
                raise RuntimeError(f"{request[:200]!r} was answered by {status}: {body[:500]!r}")
            times.append(now - began)
            if now >= until:
                return
    finally:
        writer.close()


async def load(address: Address, clients: int, requests: Iterator[bytes], seconds: float) -> Load:
    """What so many clients get, for so long or until the requests are used up."""
    times: list[float] = []
    began = time.perf_counter()
    async with asyncio.timeout(seconds + PATIENCE), asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client(address, requests, began + seconds, times))
    taken = time.perf_counter() - began
    times.sort()
    worst = times[min(len(times) - 1, int(0.99 * len(times)))]
    return Load(len(times) / taken, 1000 * statistics.median(times), 1000 * worst)


def rate_of(
    work: Callable[[str], object], threads: int, words: Iterator[str], seconds: float
) -> float:
    """How many queries a second some threads get through without a server."""
    until = time.perf_counter() + seconds

    def go(some: list[str]) -> int:
        for done, query in enumerate(some, start=1):
            work(query)
            if time.perf_counter() >= until:
                return done
        raise SystemExit("too few queries")

    parts = [list(itertools.islice(words, int(800 * seconds))) for _ in range(threads)]
    began = time.perf_counter()
    until = began + seconds
    with ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(go, parts))
    return done / (time.perf_counter() - began)


# ---------------------------------------------------------------------- the server


@contextmanager
def serving(index: Path, cache: Path) -> Iterator[tuple[Address, int]]:
    """A server of an index, ready; its address and process id."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = Address(port)
    process = subprocess.Popen(
        [sys.executable, "-m", "mmsearch", "serve", "-i", f"{index}/", "--port", str(port)],
        env={**os.environ, "MMSEARCH_CACHE": str(cache)},
    )
    try:
        asyncio.run(until_ready(address, process))
        yield address, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def until_ready(address: Address, process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up and process.poll() is None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", address.port)
            status, _ = await exchange(reader, writer, address.get("/readyz"))
            writer.close()
            if status == 200:
                return
        except OSError:
            pass
        await asyncio.sleep(0.1)
    raise SystemExit("the server does not get ready")


def memory(pid: int) -> dict[str, float]:
    """MiB of a process's memory: now, and at most."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # not Linux
        return {}
    values = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return {name: int(values[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")}


# ---------------------------------------------------------------------- what is measured


def warm_queries(
    address: Address, index: Path, words: Iterator[str], seconds: float, rounds: int
) -> None:
    rates: dict[str, list[float]] = defaultdict(list)
    loads: dict[tuple[str, int], list[Load]] = defaultdict(list)
    cores = min(os.cpu_count() or 1, 8)
    targets = {
        "GET /api/v1/search": address.searches(words),
        "an answer that needs no search": itertools.repeat(address.get("/healthz")),
    }
    with mmsearch.open(index) as library:
        encoder = library.encoder

        def encode(query: str) -> object:
            return encoder.encode("text", [query])

        def search(query: str) -> object:
            return library.search(query, k=20)

        for work in (encode, search):
            work("warm up")
        for _ in range(rounds):
            for threads in (1, cores):
                rates[f"encoder alone, {threads}"].append(rate_of(encode, threads, words, seconds))
                rates[f"search alone, {threads}"].append(rate_of(search, threads, words, seconds))
            for name, requests in targets.items():
                for clients in CLIENTS:
                    got = asyncio.run(load(address, clients, requests, seconds))
                    loads[name, clients].append(got)
    rows = [
        (
            f"the text encoder alone, threads: {threads}",
            f"{middle(rates[f'encoder alone, {threads}']):.0f}",
            "",
            "",
            "",
        )
        for threads in (1, cores)
    ]
    rows += [
        (
            f"Collection.search alone, threads: {threads}",
            f"{middle(rates[f'search alone, {threads}']):.0f}",
            "",
            "",
            "",
        )
        for threads in (1, cores)
    ]
    for (name, clients), several in loads.items():
        one = middle_load(several)
        alone = rates[f"encoder alone, {1 if clients == 1 else cores}"]
        share = middle([got.rate / bare for got, bare in zip(several, alone, strict=True)])
        rows.append((f"{name}, clients: {clients}", *cells(one), f"{share:.2f}"))
    table(
        "Warm queries in words over 10,000 photos, k=20",
        rows,
        ("", "a second", "p50 ms", "p99 ms", "of the encoder"),
    )


def thumbnails(address: Address, library: Path, words: Iterator[str], seconds: float) -> None:
    ids: dict[str, list[int]] = {"large": [], "small": []}
    with mmsearch.open(library) as opened:
        for item in opened.items:
            ids["large" if "/large/" in item.path else "small"].append(item.id)
    ids["small"] = ids["small"][:SMALL_THUMBNAILS]
    rows = []
    for name, of in (("large", "12 megapixels"), ("small", "224 × 224")):
        paths = [address.get(f"/api/v1/items/{one}/thumbnail?size=256") for one in ids[name]]
        made = asyncio.run(load(address, BROWSER, iter(paths), PATIENCE))
        kept = asyncio.run(load(address, BROWSER, itertools.cycle(paths), seconds))
        rows.append((f"of {of}, made", *cells(made)))
        rows.append((f"of {of}, kept", *cells(kept)))
    table(
        f"Thumbnails of 256 pixels, {BROWSER} connections",
        rows,
        ("", "a second", "p50 ms", "p99 ms"),
    )

    async def beside() -> Load:
        paths = [address.get(f"/api/v1/items/{one}/thumbnail?size=1024") for one in ids["large"]]
        making = asyncio.create_task(load(address, BROWSER, iter(paths), PATIENCE))
        seen = await load(address, 1, until_done(address.searches(words), making), seconds)
        await making
        return seen

    idle = asyncio.run(load(address, 1, address.searches(words), seconds))
    busy = asyncio.run(beside())
    table(
        "Queries of 1 client while thumbnails of 1024 pixels are made for a browser",
        [
            ("nothing else", *cells(idle), ""),
            ("thumbnails", *cells(busy), f"{busy.p99 / idle.p99:.1f}"),
        ],
        ("", "a second", "p50 ms", "p99 ms", "p99 ratio"),
    )


def until_done(requests: Iterator[bytes], task: asyncio.Task[Any]) -> Iterator[bytes]:
    return itertools.takewhile(lambda _: not task.done(), requests)


async def while_indexing(
    address: Address, more: Path, words: Iterator[str], seconds: float, rounds: int
) -> None:
    loads: dict[tuple[int, str], list[Load]] = defaultdict(list)
    indexed = 0
    for _ in range(rounds):
        for clients in CLIENTS:
            requests = address.searches(words)
            loads[clients, "idle"].append(await load(address, clients, requests, seconds))
            job = await address.send("POST", "/api/v1/jobs", {"paths": [str(more)]})
            path = f"/api/v1/jobs/{job['id']}"
            while not (job := await address.send("GET", path))["done"]:
                await asyncio.sleep(0.05)
            before = job["done"]
            loads[clients, "busy"].append(await load(address, clients, requests, seconds))
            job = await address.send("GET", path)
            if job["state"] != "running":
                raise SystemExit(f"the job ended during the measurement: {job['error']}")
            indexed += job["done"] - before
            await address.send("DELETE", path)
            while (job := await address.send("GET", path))["state"] == "running":
                await asyncio.sleep(0.05)
    rows = []
    for clients in CLIENTS:
        idle, busy = loads[clients, "idle"], loads[clients, "busy"]
        ratio = middle([one.p99 / other.p99 for one, other in zip(busy, idle, strict=True)])
        rows.append((f"clients: {clients}, no job", *cells(middle_load(idle)), ""))
        rows.append((f"clients: {clients}, indexing", *cells(middle_load(busy)), f"{ratio:.1f}"))
    table(
        "Queries while a job indexes photos of 224 × 224",
        rows,
        ("", "a second", "p50 ms", "p99 ms", "p99 ratio"),
    )
    print(f"  photos indexed meanwhile: {indexed / (rounds * len(CLIENTS) * seconds):.0f} a second")


middle = statistics.median


def middle_load(several: list[Load]) -> Load:
    return Load(
        *(middle([getattr(one, name) for one in several]) for name in ("rate", "p50", "p99"))
    )


def cells(one: Load) -> tuple[str, str, str]:
    return f"{one.rate:.0f}", f"{one.p50:.1f}", f"{one.p99:.1f}"


# ---------------------------------------------------------------------- all of it


def index_folders(index: Path, *folders: Path) -> None:
    run([sys.executable, "-m", "mmsearch", "index", *folders, "-i", f"{index}/", "-q"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, default=Path(".cache/benchmarks"), help="files to keep"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the server, before numpy is imported
    work = given.work.absolute()
    print(machine())
    folders = [crops(work / "small" / str(n), 1000, SMALL, seed=n) for n in range(10)]
    large = crops(work / "large", LARGE_PHOTOS, LARGE, seed=10)
    more = crops(work / "more", 3000, SMALL, seed=11)
    if not (work / "index-10k" / "catalog.db").exists():
        index_folders(work / "index-10k", *folders)
    words = queries()
    with tempfile.TemporaryDirectory(prefix="mmsearch-serve-") as place:
        index = Path(place, "index")
        shutil.copytree(work / "index-10k", index)
        index_folders(index, large)
        with serving(index, Path(place, "cache")) as (address, pid):
            used = {"ready": memory(pid)}
            warm_queries(address, index, words, given.seconds, given.rounds)
            used["after the queries"] = memory(pid)
            thumbnails(address, index, words, given.seconds)
            used["after the thumbnails"] = memory(pid)
            asyncio.run(while_indexing(address, more, words, given.seconds, given.rounds))
            used["after the jobs"] = memory(pid)
    if all(used.values()):
        table(
            "Memory of the server, MiB",
            [(when, f"{one['VmRSS']:.0f}", f"{one['VmHWM']:.0f}") for when, one in used.items()],
            ("", "now", "at most"),
        )


if __name__ == "__main__":
    main()
