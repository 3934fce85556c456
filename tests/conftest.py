"""What all tests share: one thread a library, a hypothesis profile, drawn images, S3."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Tests are small and cores few: on busy cores two OpenMP threads wait for each other by spinning,
# which made the same tests ten times slower. Read when torch or faiss is first imported.
os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or "1"

# Lines of progress depend on how busy the machine is, and tests compare stderr.
os.environ.setdefault("HYPERPQ_PROGRESS", "none")

# Otherwise builds would choose by the speed of the machine.
os.environ.setdefault("HYPERPQ_PRECISION", "float32")

_NUMBERS = itertools.count()

# No deadline: the machine may be busy. In CI the examples are the same in every run.
settings.register_profile(
    "hyperpq",
    deadline=None,
    max_examples=40,
    derandomize=bool(os.environ.get("CI")),
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("hyperpq")


def pytest_collection_modifyitems(items):
    """Files with slow tests come first, so that at the end no process waits for a long one."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture
def waiting_refused():
    """Makes a context in which an operation of PyTorch that waits for a GPU raises an error."""
    import torch

    @contextlib.contextmanager
    def refused():
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return refused


@pytest.fixture(scope="module")
def browser():
    """Chromium. Not for longer: while playwright runs, the process can run no other event loop."""
    from browsing import chromium

    with chromium() as found:
        yield found


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """Folder with 72 drawn images of 48 pixels, two of each species; not to be changed."""
    from hyperpq.datasets.drawn import draw_dataset

    folder = tmp_path_factory.mktemp("drawn")
    draw_dataset(folder, 72, size=48)
    return folder


@pytest.fixture(scope="module")
def s3_server():
    """A server of S3 on a free port; its address."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server, monkeypatch, tmp_path):
    """A new bucket, and an environment in which AWS's libraries find the server."""
    import boto3
    import s3fs

    variables = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "HYPERPQ_CACHE": str(tmp_path / "cache"),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    # Its objects are kept by their arguments, which the environment is not among.
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"bucket-{next(_NUMBERS)}"
    boto3.client("s3").create_bucket(Bucket=name)
    yield name
    s3fs.S3FileSystem.clear_instance_cache()
