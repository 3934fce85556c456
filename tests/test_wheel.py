"""The built wheel, alone in a clean environment, does the main job."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

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
    assert any(name.startswith("hyperpq/scan/_native.") for name in names if name.endswith(".so"))
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
