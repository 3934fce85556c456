"""CPU quotas of control groups, from made folders of both versions."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hyperpq.utils.cgroups import cpu_quota

# The mounts of a machine beside those of control groups.
OTHERS = (
    "22 28 0:21 / /proc rw,nosuid - proc proc rw\n"
    "28 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n"
)
V2 = "30 23 0:26 {top} {point} rw,nosuid shared:4 master:1 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "33 31 0:30 {top} {point} rw,nosuid - cgroup cgroup rw,{controllers}\n"


@pytest.fixture
def machine(tmp_path):
    """Makes a root with /proc/self/cgroup, /proc/self/mountinfo and files of groups."""

    def make(cgroup, mounts, files):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(cgroup)
        (tmp_path / "proc/self/mountinfo").write_text(OTHERS + mounts)
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


def v2(group, files, top="/", point="/sys/fs/cgroup"):
    mounts = V2.format(top=top, point=point.replace(" ", "\\040"))
    return f"0::{group}\n", mounts, {f"{point[1:]}/{name}": text for name, text in files.items()}


def v1(group, files, top="/", point="/sys/fs/cgroup/cpu,cpuacct", controllers="cpu,cpuacct"):
    cgroup = f"12:memory:/elsewhere\n4:{controllers}:{group}\n1:name=systemd:/x\n0::/unified\n"
    mounts = V1.format(top="/", point="/sys/fs/cgroup/memory", controllers="memory")
    mounts += V1.format(top=top, point=point, controllers=controllers)
    out = {}
    for name, (quota, period) in files.items():
        folder = f"{point[1:]}/{name}"
        out |= {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": period}
    return cgroup, mounts, out


CASES = {
    # Version 2: the group of the process, or one above it.
    "v2": (v2("/a/b", {"a/b/cpu.max": "200000 100000\n"}), 2),
    "v2, rounded up": (v2("/a", {"a/cpu.max": "150001 100000\n"}), 2),
    "v2, less than a core": (v2("/a", {"a/cpu.max": "1000 100000\n"}), 1),
    "v2, another period": (v2("/a", {"a/cpu.max": "30000 10000\n"}), 3),
    "v2, max": (v2("/a", {"a/cpu.max": "max 100000\n"}), None),
    "v2, set above": (v2("/a/b/c", {"a/cpu.max": "300000 100000\n", "a/b/c/cpu.max": "max 1"}), 3),
    "v2, the smallest": (
        v2("/a/b", {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "700000 100000\n"}),
        2,
    ),
    "v2, beside it": (v2("/a/b", {"a/other/cpu.max": "100000 100000\n"}), None),
    "v2, a namespace of its own": (v2("/", {"cpu.max": "400000 100000\n"}), 4),
    "v2, the mount is the group": (
        v2("/docker/abc", {"cpu.max": "200000 100000\n"}, top="/docker/abc"),
        2,
    ),
    "v2, a group below the mount": (
        v2("/docker/abc/sub", {"sub/cpu.max": "100000 100000\n"}, top="/docker/abc"),
        1,
    ),
    "v2, a mount beside the group": (
        v2("/docker/abc", {"cpu.max": "500000 100000\n"}, top="/docker/other"),
        5,
    ),
    "v2, above the namespace": (v2("/../../x", {"cpu.max": "500000 100000\n"}, top="/../.."), 5),
    "v2, a mount with a space": (
        v2("/a", {"a/cpu.max": "200000 100000\n"}, point="/sys/fs/control groups"),
        2,
    ),
    # Version 1: two files in a hierarchy of its own.
    "v1": (v1("/docker/abc", {"docker/abc": ("250000\n", "100000\n")}), 3),
    "v1, none": (v1("/a", {"a": ("-1\n", "100000\n")}), None),
    "v1, set above": (v1("/a/b", {"a/b": ("-1", "100000"), "a": ("400000", "100000")}), 4),
    "v1, the mount is the group": (
        v1("/docker/abc", {".": ("100000\n", "100000\n")}, top="/docker/abc"),
        1,
    ),
    "v1, cpu alone": (
        v1("/a", {"a": ("200000", "100000")}, point="/cg/cpu", controllers="cpu"),
        2,
    ),
    # Contents that no kernel writes, and files that are not there.
    "empty": (v2("/a", {"a/cpu.max": ""}), None),
    "words": (v2("/a", {"a/cpu.max": "many few\n"}), None),
    "one word": (v2("/a", {"a/cpu.max": "100000\n"}), None),
    "no period": (v2("/a", {"a/cpu.max": "100000 0\n"}), None),
    "negative": (v2("/a", {"a/cpu.max": "-100000 100000\n"}), None),
    "v1, no period": (v1("/a", {"a": ("100000", "0")}), None),
    "no mount": (("0::/a\n", "", {"sys/fs/cgroup/a/cpu.max": "100000 100000"}), None),
    "no group": (("", v2("/a", {})[1], {"sys/fs/cgroup/a/cpu.max": "100000 100000"}), None),
    "torn lines": (
        ("0\n:\n::\nx:y\n", "1 2\n - \n - cgroup2\n30 - cgroup2 cgroup2 rw\n", {}),
        None,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_quota_of_a_container(machine, case):
    """A container with one core of 64 looked like one with all of them."""
    parts, cores = CASES[case]
    assert cpu_quota(machine(*parts)) == cores


def test_both_versions_at_once(machine):
    cgroup, mounts, files = v1("/a", {"a": ("300000", "100000")})
    unified = v2("/unified", {"unified/cpu.max": "200000 100000"}, point="/sys/fs/cgroup/unified")
    assert cpu_quota(machine(cgroup, mounts + unified[1], files | unified[2])) == 2


def test_what_cannot_be_read_sets_no_limit(machine, tmp_path):
    assert cpu_quota(tmp_path / "nothing") is None
    root = machine(*v2("/a", {"a/cpu.max": "100000 100000\n"}))
    (root / "sys/fs/cgroup/a/cpu.max").unlink()
    (root / "sys/fs/cgroup/a/cpu.max").mkdir()
    assert cpu_quota(root) is None
    (root / "proc/self/mountinfo").write_bytes(b"\xff\xfe\0 \n" + os.urandom(200))
    (root / "proc/self/cgroup").write_bytes(b"0::/\xff\0\n")
    assert cpu_quota(root) is None


def test_unreadable_files_set_no_limit(machine):
    made = machine(*v2("/a", {"a/cpu.max": "100000 100000\n"}))
    program = (
        "import os, sys, pathlib\n"
        "from hyperpq.utils.cgroups import cpu_quota\n"
        "if os.geteuid() == 0: os.seteuid(65534)\n"
        "print(cpu_quota(pathlib.Path(sys.argv[1])))\n"
    )
    # Temporary folders of pytest are closed to other users.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        root = shutil.copytree(made, Path(folder) / "root")
        root.chmod(0o755)
        for mode, found in ((0o644, "1\n"), (0, "None\n")):
            (root / "sys/fs/cgroup/a/cpu.max").chmod(mode)
            done = subprocess.run(
                [sys.executable, "-c", program, root], capture_output=True, text=True, check=True
            )
            assert done.stdout == found


def test_this_process_has_a_number_or_none():
    quota = cpu_quota()
    assert quota is None or quota >= 1
