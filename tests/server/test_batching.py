"""Searches that arrive together share a run; what finds no room is told when to come again."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from server_tools import content, serving

from hyperpq.images.image_reader import ImageReader
from hyperpq.server import Limits, ServedIndex, ServerSettings, create_app
from hyperpq.server.batcher import Batcher, BoundedPool, BusyError


class Held:
    """A worker that waits until it is let go, and remembers its batches."""

    def __init__(self):
        self.batches, self.go = [], threading.Event()

    def __call__(self, queries):
        self.batches.append(list(queries))
        assert self.go.wait(30)
        return [ValueError(q) if q == "bad" else q * 2 for q in queries]


def test_what_comes_while_the_worker_is_busy_is_one_batch():
    async def main():
        work = Held()
        batcher = Batcher(work, size=4, limit=100)
        answers = [asyncio.create_task(batcher.submit(0))]
        while not work.batches:
            await asyncio.sleep(0)
        answers += [asyncio.create_task(batcher.submit(n)) for n in range(1, 7)]
        await asyncio.sleep(0)
        assert batcher.waiting == 6
        work.go.set()
        assert await asyncio.gather(*answers) == [0, 2, 4, 6, 8, 10, 12]
        assert work.batches == [[0], [1, 2, 3, 4], [5, 6]]
        await batcher.close()

    asyncio.run(main())


def test_a_query_that_nobody_waits_for_is_left_out():
    async def main():
        work = Held()
        batcher = Batcher(work, size=4, limit=100)
        first = asyncio.create_task(batcher.submit("a"))
        while not work.batches:
            await asyncio.sleep(0)
        gone, kept = (asyncio.create_task(batcher.submit(q)) for q in ("gone", "kept"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        work.go.set()
        assert await asyncio.gather(first, kept) == ["aa", "keptkept"]
        assert work.batches == [["a"], ["kept"]]
        await batcher.close()

    asyncio.run(main())


def test_an_error_is_that_of_one_query_alone():
    def fails(queries):
        if "bad" in queries:
            raise RuntimeError("no")
        return [q.upper() for q in queries]

    async def main(work):
        batcher = Batcher(work, size=8, limit=8)
        tasks = [asyncio.create_task(batcher.submit(q)) for q in ("x", "bad", "y")]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        await batcher.close()
        return found

    for work, kind in ((fails, RuntimeError), (Held(), ValueError)):
        if isinstance(work, Held):
            work.go.set()
        x, bad, y = asyncio.run(main(work))
        assert (len(x), type(bad), len(y)) == (len(y), kind, len(x))


def test_a_full_queue_refuses_and_is_free_again():
    async def main():
        work = Held()
        batcher = Batcher(work, size=1, limit=2)
        tasks = [asyncio.create_task(batcher.submit(1))]
        while not work.batches:
            await asyncio.sleep(0)
        tasks += [asyncio.create_task(batcher.submit(1)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await batcher.submit(1)
        work.go.set()
        await asyncio.gather(*tasks)
        assert await batcher.submit(4) == 8
        await batcher.close()

    asyncio.run(main())


def test_closing_waits_for_the_batch_that_runs():
    async def main():
        work = Held()
        batcher = Batcher(work, size=1, limit=2)
        runs, waits = (asyncio.create_task(batcher.submit(n)) for n in (3, 4))
        while not work.batches:
            await asyncio.sleep(0)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        work.go.set()
        await closing
        assert await runs == 6
        with pytest.raises(asyncio.CancelledError):
            await waits

    asyncio.run(main())


def test_a_pool_has_a_limit():
    async def main():
        pool, go = BoundedPool(1, 2), threading.Event()
        tasks = [asyncio.create_task(pool.run(lambda: go.wait(30))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await pool.run(lambda: None)
        go.set()
        assert await asyncio.gather(*tasks) == [True, True]
        pool.close()

    asyncio.run(main())


def test_concurrent_searches_share_the_network(photos, asked, upload, networks, monkeypatch):
    """The first holds the network until all have come; the others are one batch."""
    index, n = photos / "index", 12
    came, runs = threading.Semaphore(0), []
    features = ImageReader._features

    def held(self, sources, *rest):
        runs.append(len(sources))
        if len(runs) == 1:
            for _ in range(n - 1):
                assert came.acquire(timeout=30)
        return features(self, sources, *rest)

    monkeypatch.setattr(ImageReader, "_features", held)
    app = create_app(ServedIndex(index, device="cpu"))
    submit = Batcher.submit

    def noted(self, *args):
        if runs:
            came.release()
        return submit(self, *args)

    monkeypatch.setattr(Batcher, "submit", noted)

    # The first must be under way before the others come.
    async def in_turn(scope, receive, send):
        if scope["type"] == "http" and scope["headers"] and (b"x-turn", b"1") in scope["headers"]:
            while not runs:
                await asyncio.sleep(0.001)
        await app(scope, receive, send)

    def turn(request, number):
        return *request[:2], request[2] | {"headers": {"x-turn": str(min(number, 1))}}

    requests = [turn(upload(i, k=5), i) for i in range(n)]
    together = [answer.json() for answer in asked(index, *requests, app=in_turn)]
    assert runs == [1, n - 1]
    monkeypatch.undo()
    alone = [asked(index, upload(i, k=5), app=app)[0].json() for i in range(n)]
    assert together == alone


def test_a_full_server_says_when_to_come_again(photos):
    """One search runs, one waits, and the others are refused; all clients are answered."""
    limits = {"queue": 1, "batch": 1, "answer_seconds": 20.0}
    image = {"image": ("a.png", content(1))}
    with (
        serving(photos / "index", network_seconds=0.3, limits=limits) as running,
        running.http() as http,
        ThreadPoolExecutor(12) as pool,
    ):
        answers = list(pool.map(lambda _: http.post("/search", files=image), range(12)))
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses[0] == 200 and statuses[-1] == 503
        assert set(statuses) == {200, 503}
        for answer in answers:
            if answer.status_code == 503:
                assert answer.headers["retry-after"] == "1"
                assert "try again" in answer.json()["detail"]
        refused = statuses.count(503)
        assert f"hyperpq_refused_total {refused:.1f}" in http.get("/metrics").text
        assert http.post("/search", files=image).status_code == 200


def test_a_search_that_takes_too_long_is_given_up(photos, asked, upload, monkeypatch):
    go = threading.Event()
    features = ImageReader._features

    def held(self, *rest):
        assert go.wait(30)
        return features(self, *rest)

    monkeypatch.setattr(ImageReader, "_features", held)
    settings = ServerSettings(limits=Limits(answer_seconds=0.05))
    app = create_app(ServedIndex(photos / "index", device="cpu"), settings)
    try:
        [answer] = asked(photos / "index", upload(1), app=app)
    finally:
        go.set()
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


def test_uploads_in_memory_have_a_limit(photos, asked, upload):
    settings = ServerSettings(limits=Limits(held_bytes=100))
    [answer] = asked(photos / "index", upload(1), settings=settings)
    assert answer.status_code == 503
    assert "in memory" in answer.json()["detail"]
