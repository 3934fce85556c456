"""Files for people and services around the repository say what the package says."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import yaml

from hyperpq import __version__

ROOT = Path(__file__).parents[2]


def test_cores_are_counted_in_one_place():
    """`os.cpu_count` knows neither the affinity of the process nor the quota of a container."""
    counts = re.compile(r"\b(cpu_count|process_cpu_count|sched_getaffinity|get_nprocs)\b")
    files = [
        str(path.relative_to(ROOT))
        for folder in ("hyperpq", "cli", "datasets", "benchmarks", "docs")
        for path in (ROOT / folder).rglob("*.py")
        if counts.search(path.read_text("utf-8"))
    ]
    assert files == ["hyperpq/utils/devices.py"]


def load(path: str):
    return yaml.safe_load((ROOT / path).read_text("utf-8"))


def test_workflow_runs_the_test_command_on_every_system_and_version():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    supported = re.findall(r":: (3\.\d+)$", setup["metadata"]["classifiers"], flags=re.MULTILINE)
    workflow = load(".github/workflows/ci.yml")
    # YAML 1.1 reads the key `on` as a boolean.
    assert {"push", "pull_request"} <= set(workflow[True])
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == [*supported, "3.14"]
    assert {"ubuntu-latest", "ubuntu-24.04-arm", "macos-latest"} == set(matrix["os"])
    steps = [step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step]
    assert steps[0] == "./run test"
    extras = set(re.search(r"\[(.+)\]", steps[1]).group(1).split(","))
    assert extras <= set(setup["options.extras_require"])


def test_wheels_are_built_for_the_same_systems_and_versions():
    wheels = load(".github/workflows/wheels.yml")["jobs"]["wheels"]
    tests = load(".github/workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"]
    assert wheels["strategy"]["matrix"]["os"] == tests["os"]
    [step] = [s for s in wheels["steps"] if s["uses"].startswith("pypa/cibuildwheel@")]
    built = re.findall(r"cp3(\d+)-\*", step["env"]["CIBW_BUILD"])
    assert [f"3.{minor}" for minor in built] == tests["python"]


def test_issue_forms_are_forms():
    for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        form = load(str(path.relative_to(ROOT)))
        if path.name != "config.yml":
            assert form["name"] and form["description"]
            ids = [field["id"] for field in form["body"] if field["type"] != "markdown"]
            assert len(ids) == len(set(ids)) >= 3


def test_citation_is_of_this_version():
    citation = load("CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == __version__
    assert citation["license"] in (ROOT / "setup.cfg").read_text("utf-8")
    assert citation["references"][0]["doi"] in (ROOT / "README.md").read_text("utf-8")
