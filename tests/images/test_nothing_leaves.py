"""Nothing leaves the machine: a build, a query and an open index under two tracers.

One tracer is a library that is compiled here and comes before the C library (Linux, macOS). The
other is strace, where it is installed; it also sees every file that is written.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What a user does, in a process that stays open for longer than ONNX Runtime needs to report.
WORK = """
import subprocess, sys, time
images, index = sys.argv[1:]
command = [sys.executable, "-m", "hyperpq"]
subprocess.run([*command, "build", "--images", images, "--index", index, "-q"], check=True)
query = sorted(__import__("glob").glob(images + "/**/*.jpg", recursive=True))[0]
subprocess.run([*command, "query", query, "--index", index, "-k", "3"], check=True)
from hyperpq import HiHPQIndex, ImageIndex
opened = ImageIndex.open(index)
assert len(opened.query([query], k=3)[0].results) == 3
import numpy as np
vectors = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)
trained = HiHPQIndex(16, M=2)
trained.train(vectors, epochs=1)
trained.add(vectors)
trained.search(vectors[:3], 5)
time.sleep(6)
"""

# ONNX Runtime as nobody should import it: the tracers have to notice.
CONTROL = """
import os, sys, time
import onnxruntime
from hyperpq.backbones import load_backbone
load_backbone("lite0", device="cpu")
deadline = time.monotonic() + 60
while time.monotonic() < deadline and not os.path.getsize(sys.argv[1]):
    time.sleep(0.2)
"""

# Every attempt is one line in a file; it then fails, so that not even the control reaches a host.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void note(const char *what, const char *detail) {
    const char *path = getenv("ATTEMPTS");
    char line[300];
    int file = path ? open(path, O_WRONLY | O_APPEND | O_CLOEXEC) : -1;
    if (file < 0) return;
    int n = snprintf(line, sizeof line, "%s %s\n", what, detail ? detail : "");
    if (write(file, line, n) < 0) abort();
    close(file);
}

static int is_internet(int family) { return family == AF_INET || family == AF_INET6; }

int socket(int family, int kind, int protocol) {
    int (*next)(int, int, int) = (int (*)(int, int, int))dlsym(RTLD_NEXT, "socket");
    if (!is_internet(family)) return next(family, kind, protocol);
    note("socket", family == AF_INET ? "AF_INET" : "AF_INET6");
    errno = EAFNOSUPPORT;
    return -1;
}

int connect(int fd, const struct sockaddr *address, socklen_t length) {
    int (*next)(int, const struct sockaddr *, socklen_t) =
        (int (*)(int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "connect");
    if (!address || !is_internet(address->sa_family)) return next(fd, address, length);
    note("connect", "");
    errno = ENETUNREACH;
    return -1;
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *to,
               socklen_t length) {
    ssize_t (*next)(int, const void *, size_t, int, const struct sockaddr *, socklen_t) =
        (ssize_t (*)(int, const void *, size_t, int, const struct sockaddr *, socklen_t))dlsym(
            RTLD_NEXT, "sendto");
    if (!to || !is_internet(to->sa_family)) return next(fd, data, size, flags, to, length);
    note("sendto", "");
    errno = ENETUNREACH;
    return -1;
}

int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
                struct addrinfo **out) {
    note("getaddrinfo", host);
    return EAI_FAIL;
}

struct hostent *gethostbyname(const char *host) {
    note("gethostbyname", host);
    return NULL;
}
"""


@pytest.fixture
def place(tmp_path):
    """A home, a folder for temporary files and a cache of their own, and a clean environment.

    The variables by which ONNX Runtime knows services of continuous integration are left out: it
    reports nothing there.
    """
    for name in ("home", "tmp", "cache", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "attempts").write_bytes(b"")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "tmp"),
        "HYPERPQ_CACHE": str(tmp_path / "cache"),
        "ATTEMPTS": str(tmp_path / "attempts"),
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return tmp_path, environment


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("needs Linux and a C compiler")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    out = folder / "shim.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(out), str(folder / "shim.c"), "-ldl"]
    subprocess.run(command, check=True)
    return str(out)


def run(code, *arguments, environment, before=(), cwd):
    command = [*before, sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-2000:]


def written_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def sends_usage_data():
    """Whether the ONNX Runtime that is installed reports by default."""
    from importlib.metadata import version

    return tuple(map(int, version("onnxruntime").split(".")[:2])) >= (1, 27)


def test_nothing_leaves_the_machine(place, shim, drawn):
    folder, environment = place
    run(
        WORK,
        drawn,
        folder / "work" / "index",
        environment=environment | {"LD_PRELOAD": shim},
        cwd=folder / "work",
    )
    assert (folder / "attempts").read_text() == ""
    assert written_below(folder / "home") == []
    assert [path.name for path in (folder / "work").iterdir()] == ["index"]
    # The network, and which precision is faster here.
    names = written_below(folder / "cache")
    assert all(name.startswith(("lite0-", "speed-lite0-")) for name in names)


@pytest.mark.skipif(not sends_usage_data(), reason="this ONNX Runtime reports nothing")
def test_the_tracer_notices_what_onnx_runtime_sends_by_default(place, shim):
    """The test above would pass with a tracer that is blind."""
    folder, environment = place
    run(
        CONTROL,
        folder / "attempts",
        environment=environment | {"LD_PRELOAD": shim, "ORT_DISABLE_TELEMETRY": "0"},
        cwd=folder / "work",
    )
    assert (folder / "attempts").read_text() != ""


CHANGES = ("creat", "mkdir", "mkdirat", "rename", "renameat", "renameat2", "link", "linkat")


def changed_paths(line, folder):
    """Paths that a line of ``strace -y`` made or opened for writing."""
    call = re.match(r"\d+ +(\w+)\(", line)
    opens = call is None or call[1] in ("open", "openat")
    if re.search(r"= -1 E", line) or (opens and not re.search("O_WRONLY|O_RDWR|O_CREAT", line)):
        return []
    if call is not None and call[1] not in CHANGES and not opens:
        return []
    named = re.findall(r'(?:<([^<>"]*)>, )?"([^"]*)"', line)
    return [os.path.join(folder, start, name) for start, name in named]


def has_strace():
    strace = shutil.which("strace")
    return strace is not None and (
        subprocess.run([strace, "-o", os.devnull, "true"], capture_output=True).returncode == 0
    )


@pytest.mark.slow
@pytest.mark.skipif(not has_strace(), reason="strace is not installed or not allowed")
def test_no_socket_and_no_file_elsewhere_under_strace(place, drawn):
    folder, environment = place
    calls = ",".join(("network", "open", "openat", *CHANGES))
    trace = folder / "trace"
    run(
        WORK,
        drawn,
        folder / "work" / "index",
        environment=environment,
        before=["strace", "-fyqq", "-s", "4096", "-e", f"trace={calls}", "-o", str(trace)],
        cwd=folder / "work",
    )
    lines = trace.read_text(errors="replace").splitlines()
    assert any("/index" in line for line in lines)
    assert [line for line in lines if re.search(r"AF_INET|resolv\.conf|/resolve/", line)] == []
    allowed = (*(str(folder / name) for name in ("work", "tmp", "cache")), "/dev/")
    changed = [path for line in lines for path in changed_paths(line, folder / "work")]
    assert any(path.endswith("/manifest.json") for path in changed)
    assert [path for path in changed if not path.startswith(allowed)] == []
    assert written_below(folder / "home") == []


def test_a_setting_of_the_user_is_kept():
    code = "from hyperpq.utils.imports import import_onnxruntime as f; f(); import os; "
    code += "print(os.environ['ORT_DISABLE_TELEMETRY'])"
    for given, kept in (({}, "1"), ({"ORT_DISABLE_TELEMETRY": "yes"}, "yes")):
        clean = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
        run_ = subprocess.run(
            [sys.executable, "-c", code], env=clean | given, capture_output=True, text=True
        )
        assert run_.stdout == kept + "\n", run_.stderr


def imports_onnxruntime(source):
    """Lines that import ONNX Runtime, other than for type checkers."""
    tree = ast.parse(source)
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func).rpartition(".")[2]
            names = [str(node.args[0].value)] if re.search("import|need", called) else []
        else:
            continue
        if id(node) not in for_types and any(n.split(".")[0] == "onnxruntime" for n in names):
            yield node.lineno


def test_onnx_runtime_is_imported_in_one_place():
    folders = ("hyperpq", "cli", "datasets", "benchmarks", "tests", "docs")
    found = {
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if any(imports_onnxruntime(path.read_text("utf-8")))
    }
    assert found == {"hyperpq/utils/imports.py"}
