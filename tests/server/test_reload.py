"""A new snapshot is shown without a restart, and no search is lost meanwhile."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from image_tools import build, fill
from server_tools import content, serving

from hyperpq import HiHPQIndex, ImageIndex
from hyperpq.errors import HyperPQError, InvalidInputError
from hyperpq.server import ServedIndex, service


def of_vectors(path, n, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, 16)).astype("float32")
    index = HiHPQIndex(16, M=4, features="float32", device="cpu")
    index.train(x, epochs=1)
    index.add(x)
    index.save(path, overwrite=True)
    return x


def test_a_new_snapshot_is_shown(copy, networks):
    served = ServedIndex(copy / "index", device="cpu")
    before = served.current
    assert not served.reload()
    fill(copy / "p", 3, start=50)
    ImageIndex.open(copy / "index", device="cpu").update()
    assert served.current.index.ntotal == 20
    assert served.reload()
    assert served.current is before
    assert served.current.index.ntotal == 23


def test_another_index_takes_the_place(copy, networks):
    served = ServedIndex(copy / "index", device="cpu")
    before = served.current
    fill(copy / "p", 5, start=50)
    build([copy / "p"], copy / "index", overwrite=True, bits=16)
    assert served.reload()
    assert served.current is not before
    assert (before.index.ntotal, served.current.index.ntotal) == (20, 25)
    # A search that began before is answered from what it began with.
    assert len(before.reader.query(like=3, k=30)[0].results) == 20


def test_an_index_of_another_kind_does_not(copy, networks):
    served = ServedIndex(copy / "index", device="cpu")
    shutil.rmtree(copy / "index")
    of_vectors(copy / "index", 200)
    with pytest.raises(InvalidInputError, match="start it again"):
        served.reload()
    assert served.current.index.ntotal == 20


@pytest.mark.parametrize("harm", ["gone", "torn", "empty"])
def test_what_cannot_be_opened_leaves_the_former_index(copy, networks, harm):
    served = ServedIndex(copy / "index", device="cpu")
    if harm == "gone":
        shutil.move(copy / "index", copy / "aside")
    else:
        shutil.copytree(copy / "index", copy / "aside")
        (copy / "index/manifest.json").write_bytes(b"{" if harm == "torn" else b"")
    with pytest.raises(HyperPQError):
        served.reload()
    assert len(served.current.reader.query(like=3, k=30)[0].results) == 20
    shutil.rmtree(copy / "index", ignore_errors=True)
    shutil.move(copy / "aside", copy / "index")
    served.reload()
    assert served.current.index.ntotal == 20


def test_the_server_looks_for_changes(copy, networks, monkeypatch):
    """It says once that an attempt failed, and goes on."""
    monkeypatch.setattr(service, "_RELOAD_SECONDS", 0.01)
    warned = threading.Event()
    monkeypatch.setattr(service.log, "warning", lambda *args: warned.set())
    from hyperpq.server import ServerSettings

    async def main():
        shown = service.Service(ServedIndex(copy / "index", device="cpu"), ServerSettings())

        async def until(done):
            while not done():
                await asyncio.sleep(0.01)

        async with shown.running(None):
            await until(lambda: shown.is_ready)
            shutil.move(copy / "index", copy / "aside")
            await until(warned.is_set)
            shutil.move(copy / "aside", copy / "index")
            fill(copy / "p", 3, start=50)
            await asyncio.to_thread(ImageIndex.open(copy / "index", device="cpu").update)
            await until(lambda: shown.facts().rows == 23)
        assert not shown.is_ready
        text = shown.metrics.text().decode()
        assert 'hyperpq_reloads_total{outcome="failed"} 1.0' in text
        assert "hyperpq_index_rows 23.0" in text

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.slow
def test_no_search_is_lost_while_the_index_changes(tmp_path):
    """Additions, removals, another codec and another index, one after the other, under load."""
    path = tmp_path / "index"
    x = of_vectors(path, 300)
    stop = threading.Event()

    def search(http, counts):
        while not stop.is_set():
            body = {"vector": x[len(counts) % 300].tolist(), "k": 3}
            answer = http.post("/search", json=body)
            counts.append(answer.status_code)
            assert len(answer.json()["results"]) == 3
        return counts

    with (
        serving(path) as running,
        running.http() as http,
        ThreadPoolExecutor(4) as pool,
    ):
        clients = [pool.submit(search, http, []) for _ in range(4)]
        try:
            index = HiHPQIndex.load(path, device="cpu")
            for n in range(3):
                index.add(x[:10] + n)
                index.remove_ids(np.arange(n * 3, n * 3 + 3))
                time.sleep(0.2)
            index.retrain(epochs=1)
            snapshot = index.collection.snapshot
            while http.get("/index").json()["snapshot"] < snapshot:
                time.sleep(0.05)
            assert http.get("/index").json()["rows"] == 300 + 3 * 7
            of_vectors(path, 400, seed=1)
            while http.get("/index").json()["rows"] != 400:
                time.sleep(0.05)
        finally:
            stop.set()
        statuses = [status for client in clients for status in client.result()]
        assert len(statuses) > 20
        assert set(statuses) == {200}
        assert running.stop() == (0, "")


def test_an_image_index_is_updated_under_load(copy):
    stop = threading.Event()

    def search(http, n=0):
        while not stop.is_set():
            answer = http.post("/search", files={"image": ("a.png", content(n % 20))})
            assert answer.status_code == 200, answer.text
            assert http.get(f"/thumbnails/{n % 20}").status_code == 200
            n += 1
        return n

    with (
        serving(copy / "index") as running,
        running.http() as http,
        ThreadPoolExecutor(3) as pool,
    ):
        clients = [pool.submit(search, http) for _ in range(3)]
        try:
            fill(copy / "p", 5, start=50)
            build([copy / "p"], copy / "index")
            while http.get("/index").json()["rows"] != 25:
                time.sleep(0.05)
        finally:
            stop.set()
        assert min(client.result() for client in clients) > 0
        [found] = http.post("/search", files={"image": ("a", content(52))}, data={"k": "1"}).json()[
            "results"
        ]
        assert found["path"].endswith("052.png")
