"""A server in another process, with a network that needs no weights; run as a script by tests.

    python server_tools.py INDEX '{"limits": {"queue": 4}}' SECONDS

prints the address of the server. SECONDS is how long the network takes for a batch.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx2

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
TESTS = Path(__file__).parents[1]


class Running:
    """A server in another process."""

    def __init__(self, process, url):
        self.process, self.url = process, url
        host, _, port = url.rpartition("/")[2].rpartition(":")
        self.address = host, int(port)

    def http(self, **options):
        return httpx2.Client(base_url=self.url, trust_env=False, timeout=60, **options)

    def stop(self, number=signal.SIGTERM):
        """Send a signal; the exit code and what was written to stderr."""
        self.process.send_signal(number)
        error = self.process.communicate(timeout=60)[1]
        return self.process.returncode, error.decode()


@contextmanager
def started(*command, **options):
    """A server from the command that starts it, whose first line ends with its address."""
    process = subprocess.Popen(
        list(map(os.fspath, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )
    try:
        line = process.stdout.readline().decode()
        assert "http://" in line, line + process.communicate(timeout=60)[1].decode()
        yield Running(process, line.split()[-1])
    finally:
        process.kill()
        process.communicate()


def serving(index, network_seconds=0.0, **settings):
    """A server with the network `Grid`, and with settings as of `ServerSettings`."""
    script = [sys.executable, __file__, index, json.dumps(settings), str(network_seconds)]
    path = os.pathsep.join(map(str, (TESTS / "images", *sys.path)))
    return started(*script, env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"})


def content(seed, format="PNG", size=(32, 24)):
    """The bytes of an image."""
    from image_tools import image

    file = io.BytesIO()
    image(seed, size).save(file, format)
    return file.getvalue()


def install_grid(monkeypatch=None, seconds=0.0):
    """Let indexes load `Grid`; returns all that are loaded."""
    from image_tools import Grid

    import hyperpq.backbones

    loaded = []

    class Slow(Grid):
        def _features(self, pixels):
            time.sleep(seconds)
            return super()._features(pixels)

    def load(*args, **options):
        loaded.append(Slow())
        return loaded[-1]

    if monkeypatch is None:
        hyperpq.backbones.load_backbone = load
    else:
        monkeypatch.setattr(hyperpq.backbones, "load_backbone", load)
    return loaded


def name_written_files():
    """From now on stderr has the name of each file that is opened for writing."""

    def hook(event, args):
        if event == "open" and isinstance(args[2], int) and args[2] & _WRITING:
            os.write(2, f"written: {args[0]!r}\n".encode())

    sys.addaudithook(hook)


def main():
    from hyperpq.server import Limits, ServedIndex, ServerSettings
    from hyperpq.server.runner import serve

    install_grid(seconds=float(sys.argv[3]))
    given = json.loads(sys.argv[2])
    limits = Limits(**given.pop("limits", {}))
    settings = ServerSettings(port=0, limits=limits, **given)
    name_written_files()
    served = ServedIndex(sys.argv[1], device="cpu", max_megapixels=limits.megapixels)
    serve(served, settings, lambda url: print(url, flush=True))


if __name__ == "__main__":
    main()
