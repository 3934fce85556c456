"""`hyperpq serve` as a process: how it starts, what it loads, and how it stops."""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from pathlib import Path

import httpx2
import pytest
from server_tools import content, serving, started

from hyperpq.cli.serve import command

ROOT = Path(__file__).parents[2]
TOKEN = "0123456789abcdef0123"

# The command, which at its end says what it has loaded.
PROGRAM = """
import sys
sys.argv = ["hyperpq", *sys.argv[1:]]
from hyperpq.cli.main import run
code = run()
print("loaded:", *sys.modules, file=sys.stderr)
sys.exit(code)
"""


def run(*args, env=None):
    return subprocess.run(
        [sys.executable, "-m", "hyperpq", "serve", *map(os.fspath, args)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **(env or {})},
    )


def test_the_command_serves_and_stops(vectors):
    path, x = vectors
    command = [sys.executable, "-c", PROGRAM, "serve", "--index", path, "--port", "0"]
    with started(*command) as running:
        with running.http() as http:
            while http.get("/readyz").status_code != 200:
                time.sleep(0.05)
            answer = http.post("/search", json={"vector": x[7].tolist(), "k": 1})
            assert answer.json()["results"][0]["id"] == 7
        code, said = running.stop()
    assert code == 0
    message, _, modules = said.partition("loaded:")
    assert message == ""
    loaded = {name.partition(".")[0] for name in modules.split()}
    # A server on a CPU needs none of these; nor does an index of vectors need a network.
    assert loaded & {"torch", "geoopt", "faiss", "scipy", "onnxruntime", "websockets"} == set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_running_searches_are_answered_before_the_end(photos, number):
    """The network is busy when the signal comes; one more search waits."""
    limits = {"batch": 1}
    image = {"image": ("a.png", content(1))}
    with (
        serving(photos / "index", network_seconds=1.0, limits=limits) as running,
        running.http() as http,
        ThreadPoolExecutor(2) as pool,
    ):
        while http.get("/readyz").status_code != 200:
            time.sleep(0.01)
        searches = [pool.submit(http.post, "/search", files=image) for _ in range(2)]
        with running.http() as other:
            while "hyperpq_waiting_queries 1.0" not in other.get("/metrics").text:
                assert not all(search.done() for search in searches)
                time.sleep(0.01)
        assert running.stop(number) == (0, "")
        for search in searches:
            assert search.result().status_code == 200
    with pytest.raises(OSError), socket.create_connection(running.address, timeout=1):
        pass


def test_a_client_that_does_not_end_is_not_waited_for(photos):
    head = "POST /search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with (
        serving(photos / "index", limits={"stop_seconds": 1.0}) as running,
        socket.create_connection(running.address) as connection,
        running.http() as http,
    ):
        connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        while "hyperpq_held_bytes 1.0" not in http.get("/metrics").text:
            time.sleep(0.01)
        assert running.stop()[0] == 0


def test_the_page_is_opened_in_a_browser(vectors, tmp_path):
    """By the program of the desktop, which is given the address."""
    opened = tmp_path / "opened"
    program = tmp_path / "bin" / "xdg-open"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$1" > "{opened}.part"; mv "{opened}.part" "{opened}"\n')
    program.chmod(0o755)
    env = {**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "hyperpq", "serve", "--index", vectors[0], "--port", "0"]
    with started(*command, "--open", env=env) as running:
        while not opened.exists():
            time.sleep(0.01)
        assert opened.read_text().strip() == running.url


def test_nothing_is_written(photos):
    """The file system can be read-only: a form of any size stays in memory."""
    large = content(1, "BMP", (1500, 1000))
    with serving(photos / "index") as running:
        with running.http() as http:
            assert http.post("/search", files={"image": ("a.bmp", large)}).status_code == 200
            assert http.get("/thumbnails/3").status_code == 200
            assert http.get("/images/3").status_code == 200
            assert http.get("/metrics").status_code == 200
        assert running.stop() == (0, "")


def test_the_container_runs_the_server_as_a_user_without_rights():
    lines = (ROOT / "Containerfile").read_text().splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line[:1].isupper()]
    last = max(i for i, (name, _) in enumerate(steps) if name == "FROM")
    final = dict(steps[last:])
    assert int(final["USER"]) > 0
    words = json.loads(final["ENTRYPOINT"])
    assert words[:2] == ["hyperpq", "serve"]
    # Of a copy, as click keeps the option --help that it makes here, outside of the program.
    copy(command).make_context("serve", [*words[2:], "--index", "x"])
    assert "readyz" in final["HEALTHCHECK"]
    [install] = [line for line in lines if "pip install" in line]
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert re.search(r'"\.\[(\w+)\]"', install)[1] in setup["options.extras_require"]
    # What is copied into it has all that the package is made of.
    copied = re.findall(r"^!(\w+)$", (ROOT / ".containerignore").read_text(), flags=re.MULTILINE)
    assert {"hyperpq", "cli", "datasets"} <= set(copied)


def test_what_tests_install_has_what_the_server_needs():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    needed = {*extras["serve"].split("\n"), *extras["client"].split("\n")}
    assert needed <= set(extras["test"].split("\n"))


def test_a_second_server_finds_the_port_taken(vectors):
    path, _ = vectors
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("--index", path, "--port", str(port))
    assert done.returncode == 1
    assert done.stderr.startswith(f"hyperpq: error: http://127.0.0.1:{port} cannot be listened on")
    assert done.stderr.count("\n") == 1


WRONG = [
    (["--host", "0.0.0.0"], 2, "there is no token"),
    (["--host", "no such host"], 2, "host is 'no such host'"),
    (["--token", "short"], 2, "the token has 5 characters"),
    (["--token", ""], 2, "the token has 0 characters"),
    (["--token", TOKEN, "--token-file", "F"], 2, "exclude each other"),
    (["--token-file", "none"], 2, "none cannot be read"),
    (["--index", "none"], 1, "none"),
    (["--port", "70000"], 2, "port"),
    (["--max-k", "0"], 2, "max-k"),
    (["--max-megapixels", "0"], 2, "max-megapixels"),
]


@pytest.mark.parametrize(("args", "code", "said"), WRONG, ids=lambda value: str(value)[:30])
def test_what_is_wrong_is_one_line(vectors, tmp_path, monkeypatch, args, code, said):
    monkeypatch.chdir(tmp_path)
    index = [] if "--index" in args else ["--index", vectors[0]]
    done = run(*index, *args)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_server_without_stdout_answers(vectors):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["-m", "hyperpq", "serve", "--index", os.fspath(vectors[0]), "--port", str(port)]
    shell = ["bash", "-c", 'exec "$@" <&- >&-', "bash", sys.executable, *words]
    process = subprocess.Popen(shell, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        status = None  # while nothing listens; then 503 until the index is open
        while status != 200:
            assert time.monotonic() < deadline and process.poll() is None, status
            time.sleep(0.05)
            with contextlib.suppress(httpx2.ConnectError):
                answer = httpx2.get(f"http://127.0.0.1:{port}/readyz", trust_env=False)
                status = answer.status_code
        process.terminate()
        assert (process.communicate(timeout=60)[1], process.returncode) == (b"", 0)
    finally:
        process.kill()
        process.communicate()


def test_an_address_that_cannot_be_printed_is_one_line(vectors):
    words = ["-m", "hyperpq", "serve", "--index", os.fspath(vectors[0]), "--port", "0"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, *words], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    said = "hyperpq: error: stdout cannot be used: No space left on device.\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_an_index_whose_network_is_another_is_not_served(photos):
    """It was made with `Grid`, which is not what has that name here."""
    done = run("--index", photos / "index", "--port", "0")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("hyperpq: error: ") and done.stderr.count("\n") == 1


def test_the_token_comes_from_a_file_or_the_environment(vectors, tmp_path):
    path, _ = vectors
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    command = [sys.executable, "-m", "hyperpq", "serve", "--index", path, "--port", "0"]
    in_file = [*command, "--token-file", tmp_path / "token"]
    for words, env in ((in_file, {}), (command, {"HYPERPQ_TOKEN": TOKEN})):
        with started(*words, env={**os.environ, **env}) as running, running.http() as http:
            assert http.get("/index").status_code == 401
            headers = {"authorization": f"Bearer {TOKEN}"}
            assert http.get("/index", headers=headers).status_code == 200


def test_without_the_extra_the_command_says_what_to_install(vectors):
    program = "import sys; sys.modules['fastapi'] = None\n" + PROGRAM
    command = [sys.executable, "-c", program, "serve", "--index", os.fspath(vectors[0])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "pip install 'hyperpq[serve]'" in done.stderr.splitlines()[0]


def test_the_package_says_what_to_install():
    program = (
        "import sys; sys.modules['fastapi'] = None; sys.modules['httpx2'] = None\n"
        "from hyperpq.errors import MissingDependencyError\n"
        "from hyperpq import server\n"
        "assert server.ServerSettings().port == 8000\n"
        "for call in (lambda: server.create_app, lambda: server.Client()):\n"
        "    try: call()\n"
        "    except MissingDependencyError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    first, second = done.stdout.splitlines()
    assert "hyperpq[serve]" in first and "hyperpq[client]" in second


def test_memory_of_connections_is_given_back(server):
    """Hundreds of connections that ask nothing are closed, and others are still served."""
    connections = []
    try:
        for _ in range(200):
            connections.append(socket.create_connection(server.address, timeout=20))
        done = threading.Event()

        def ask():
            with server.http() as http:
                assert http.get("/healthz").status_code == 200
            done.set()

        ask()
        assert done.is_set()
        assert connections[0].recv(1) == b""
    finally:
        for connection in connections:
            connection.close()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_the_unit_of_the_page_is_one_of_systemd(tmp_path):
    page = (ROOT / "docs" / "how-to" / "serve.md").read_text()
    [unit] = re.findall(r"```text\n(\[Unit\].*?)```", page, flags=re.DOTALL)
    place = tmp_path / "hyperpq.service"
    place.write_text(unit.replace("/opt/hyperpq/bin/hyperpq", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", place], capture_output=True, text=True
    )
    # What is wrong with a unit is often only warned about, with the status 0.
    assert (done.returncode, done.stderr) == (0, "")
    start = re.search(r"ExecStart=\S+ serve (.*)", unit)[1].split()
    copy(command).make_context("serve", start)
