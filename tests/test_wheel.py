"""The built wheel, alone in a clean environment, does the main job."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def run(*command, **options):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The files of the checkout that are or would be committed, nothing that builds left."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    copy = tmp_path_factory.mktemp("source")
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    """Built without network: the build's own needs are those of this environment."""
    out = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "-w", out)
    run(sys.executable, "-m", "pip", "wheel", *options, source)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A new environment with the wheel; its dependencies are those installed here."""
    place = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", "--without-pip", place)
    python = place / "bin/python"
    own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    run(
        sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel
    )
    # After the environment's own folder, and as plain paths: their .pth files, of which one may
    # lead to this checkout, aren't read.
    (own / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return place / "bin"


def required_by(name, seen):
    """Names of the distributions that one requires without any extra, itself among them."""
    if name not in seen:
        seen.add(name)
        for line in importlib.metadata.requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                required_by(canonicalize_name(requirement.name), seen)
    return seen


@pytest.fixture(scope="module")
def slim(wheel, tmp_path_factory):
    """A new environment with the wheel and what it requires, and nothing for learning."""
    place = tmp_path_factory.mktemp("slim")
    run(sys.executable, "-m", "venv", "--without-pip", place)
    python = place / "bin/python"
    own = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    options = ("install", "--no-deps", "--no-index", wheel)
    run(sys.executable, "-m", "pip", "--python", python, *options)
    (metadata,) = own.glob("hyperpq-*.dist-info/METADATA")
    lines = re.findall("^Requires-Dist: (.*)$", metadata.read_text(), re.M)
    names = set()
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            required_by(canonicalize_name(requirement.name), names)
    for name in names:
        found = importlib.metadata.distribution(name)
        # Folders and modules at the top, and libraries such as numpy.libs beside them.
        for top in {path.parts[0] for path in found.files if path.parts[0] not in ("..", "bin")}:
            if top != "__pycache__" and not (own / top).exists():
                (own / top).symlink_to(found.locate_file(top))
    return place / "bin"


def test_without_extras_an_index_is_searched_and_changed(environment, slim, tmp_path):
    """With nothing installed but what the wheel requires."""
    run(environment / "hyperpq", "draw", "photos", "-n", "12", "--size", "48", cwd=tmp_path)
    run(environment / "hyperpq", "build", "photos", "--epochs", "1", cwd=tmp_path)
    script = "import torch"
    assert subprocess.run([slim / "python", "-c", script], cwd=tmp_path).returncode == 1
    photo = next((tmp_path / "photos").rglob("*.jpg"))
    env = {**os.environ, "HYPERPQ_CACHE": str(tmp_path / "cache")}
    query = ("query", photo, "-k", "1", "--format", "paths")
    assert run(slim / "hyperpq", *query, cwd=tmp_path, env=env) == f"{photo}\n"
    shutil.copyfile(photo, tmp_path / "photos/another.jpg")
    updated = run(slim / "hyperpq", "update", "--no-relearn", cwd=tmp_path, env=env)
    assert re.search("^added +1$", updated, re.M)
    assert "pip install 'hyperpq[train]'" in run(slim / "hyperpq", "info", cwd=tmp_path, env=env)
    build = [slim / "hyperpq", "build", "photos", "--index", "new"]
    done = subprocess.run(build, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith("install it with `pip install 'hyperpq[train]'`.\n")


def test_the_wheel_holds_one_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"hyperpq"}
    for name in ("cli/main.py", "datasets/decode.py", "codec/hihpq.py", "store/shard.py"):
        assert f"hyperpq/{name}" in names
    # Public names of packages are read from their stubs.
    for stub in (ROOT / "hyperpq").rglob("__init__.pyi"):
        assert str(stub.relative_to(ROOT)) in names
    assert "hyperpq/py.typed" in names
    assert any(name.endswith("/LICENSE") for name in names)
    for compiled in ("hyperpq/scan/_native.", "hyperpq/utils/_native."):
        assert any(name.startswith(compiled) for name in names if name.endswith(".so"))
    for package in (ROOT / "hyperpq").rglob("__init__.py"):
        assert str(package.relative_to(ROOT)) in names


def test_the_environment_uses_the_wheel(environment, tmp_path):
    where = (
        "import hyperpq, hyperpq.cli, hyperpq.datasets as d; print(hyperpq.__file__, d.__file__)"
    )
    for path in run(environment / "python", "-c", where, cwd=tmp_path).split():
        assert Path(path).is_relative_to(environment.parent)
    for name in ("cli", "datasets"):
        program = f"import {name}"
        done = subprocess.run([environment / "python", "-c", program], cwd=tmp_path)
        assert done.returncode == 1


def test_the_main_job(environment, tmp_path):
    from hyperpq import __version__

    hyperpq = environment / "hyperpq"
    assert run(hyperpq, "--version", cwd=tmp_path) == f"hyperpq, version {__version__}\n"
    run(hyperpq, "draw", "photos", "-n", "12", "--size", "48", cwd=tmp_path)
    build = ("build", "--images", "photos", "--index", "index", "--epochs", "1")
    run(environment / "python", "-m", "hyperpq", *build, cwd=tmp_path)
    (tmp_path / "elsewhere").mkdir()
    photo = next((tmp_path / "photos").rglob("*.jpg"))
    env = {**os.environ, "HYPERPQ_INDEX": str(tmp_path / "index")}
    query = ("query", photo, "-k", "1", "--format", "paths")
    assert run(hyperpq, *query, cwd=tmp_path / "elsewhere", env=env) == f"{photo}\n"
    text = run(hyperpq, "info", cwd=tmp_path / "elsewhere", env=env)
    assert __version__ in text
