"""A build that was killed at any step continues to the same bytes; an existing index answers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from build_jobs import content, files_of, is_step, job_server

from hyperpq.images.skipped import from_csv
from hyperpq.index.hihpq_index import HiHPQIndex
from hyperpq.store import verify_directory

OPTIONS = {"seed": 3, "bits": 32, "train_size": 60, "epochs": 3, "recipe": "paper"}

# Steps of each stage, early and late: how the step begins, or all of it with $ at its end, and how
# many such steps pass before.
STEPS = {
    "work": ("mkdir /index.building", 0),
    "plan": ("rename /index.building/plan.bin", 0),
    "settings": ("rename /index.building/settings.json", 0),
    "features-first": ("rename /index.building/views/00000.rows.npy", 0),
    "features-half-a-batch": ("rename /index.building/views/00001.views.npy", 0),
    "features-batch": ("rename /index.building/views/00001.json", 0),
    "train-first": ("rename /index.building/checkpoint.safetensors", 0),
    "train-trace": ("rename /index.building/training.jsonl", 2),
    "train-later": ("rename /index.building/checkpoint.safetensors", 2),
    "trained-files": ("rename /index.building/index.saving-hyperpq/index/codec.safetensors", 0),
    "trained-index": ("rename /index.building/index.saving-hyperpq/index/manifest.json", 0),
    "trained-moved": ("rename /index.building/index$", 0),
    "trained-saved": ("rmdir /index.building/index.saving-hyperpq", 0),
    "encode-skipped": ("rename /index.building/skipped/00001.csv", 0),
    "encode-shard": ("rename /index.building/index/shards", 1),
    "encode-manifest": ("rename /index.building/index/manifest.json", 1),
    "encode-last": ("rename /index.building/index/manifest.json", 3),
    "report": ("rename /index.building/index/skipped.csv", 0),
    "finished": ("rename /index.building/finished", 0),
    "replace": ("rename /index$", 0),
    "replaced": ("rename /index.building-done", 0),
    "removal": ("remove plan.bin", 0),
}


@pytest.fixture(scope="module")
def jobs(tally):
    """Run a job of forked_builds.py: its answer, with ``status`` -9 if it was killed."""
    with job_server() as run:

        def counted(root, images, **facts):
            answer = run(root, images, **facts)
            tally["killed"] += answer["status"] == -signal.SIGKILL
            return answer

        yield counted


@pytest.fixture(scope="module")
def images(drawn, tmp_path_factory):
    """24 images with four bad files among them and a whole segment of bad ones."""
    folder = tmp_path_factory.mktemp("images")
    good = [path for path in sorted(drawn.rglob("*")) if path.suffix in (".png", ".jpg")][::3]
    for i, path in enumerate(good):
        shutil.copyfile(path, folder / f"{i:02}{path.suffix}")
    for i in (3, 9, 20, 30):
        (folder / f"{i:02}-bad.jpg").write_bytes(b"no image")
    for i in range(16):
        (folder / f"23-{i:02}-bad.jpg").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def whole(jobs, images, tmp_path_factory):
    """The bytes and steps of an undisturbed build."""
    root = tmp_path_factory.mktemp("whole")
    done = jobs(root, images, **OPTIONS)
    assert done["status"] == 0
    assert done["error"] is None
    return content(root), done["steps"]


def check_same(root, whole):
    """Check that the index is that of the undisturbed build, naming files that differ."""
    found = content(root)
    assert sorted(found) == sorted(whole[0])
    assert [name for name in found if found[name] != whole[0][name]] == []


def test_the_undisturbed_build_is_what_it_should_be(whole, images):
    files, steps = whole
    skipped = from_csv(files["skipped.csv"])
    assert len(skipped) == 20
    assert json.loads(files["manifest.json"])["generation"] >= 6
    assert len(json.loads(files["manifest.json"])["shards"]) >= 2
    for begins, passed in STEPS.values():
        assert sum(is_step(step, begins) for step in steps) > passed, begins


@pytest.mark.sample  # of test_killed_at_every_step_and_resumed
@pytest.mark.parametrize("step", STEPS)
def test_killed_and_resumed(jobs, images, whole, tmp_path, step):
    assert jobs(tmp_path, images, kill=STEPS[step], **OPTIONS)["status"] == -signal.SIGKILL
    done = jobs(tmp_path, images, resume=True, **OPTIONS)
    assert done["error"] is None
    check_same(tmp_path, whole)
    assert verify_directory(tmp_path / "index") == []


def test_images_without_views_are_not_read_again(jobs, images, tmp_path):
    options = OPTIONS | {"recipe": "default", "view_size": 8}
    undisturbed, root = tmp_path / "whole", tmp_path / "killed"
    for folder in (undisturbed, root):
        folder.mkdir()
    done = jobs(undisturbed, images, **options)
    assert done["error"] is None
    step = "rename /index.building/plain/00001.json"
    assert sum(line == step for line in done["steps"]) == 1
    assert jobs(root, images, kill=(step, 0), **options)["status"] == -signal.SIGKILL
    resumed = jobs(root, images, resume=True, **options)
    assert resumed["error"] is None
    assert not any("/views/" in line for line in resumed["steps"] if line.startswith("rename"))
    check_same(root, (content(undisturbed), None))


@pytest.mark.slow
def test_killed_at_every_step_and_resumed(jobs, images, whole, tmp_path):
    for number in range(len(whole[1])):
        root = tmp_path / str(number)
        root.mkdir()
        assert jobs(root, images, kill=number, **OPTIONS)["status"] == -signal.SIGKILL
        assert jobs(root, images, resume=True, **OPTIONS)["error"] is None
        check_same(root, whole)
        assert verify_directory(root / "index") == []


def test_killed_again_and_again(jobs, images, whole, tmp_path):
    for kill in (5, 20, 35, 40, 45, 50):
        killed = jobs(tmp_path, images, kill=kill, resume=True, **OPTIONS)["status"]
        assert killed == -signal.SIGKILL
    assert jobs(tmp_path, images, resume=True, **OPTIONS)["error"] is None
    check_same(tmp_path, whole)


def test_resumed_from_nothing(jobs, images, whole, tmp_path):
    assert jobs(tmp_path, images, resume=True, **OPTIONS)["error"] is None
    check_same(tmp_path, whole)


def test_a_killed_build_is_in_the_way_until_resumed_or_given_up(jobs, images, whole, tmp_path):
    jobs(tmp_path, images, kill=STEPS["train-later"], **{**OPTIONS, "seed": 4})
    before = files_of(tmp_path)
    refused = jobs(tmp_path, images, **OPTIONS)["error"]
    assert refused.startswith("StoreError")
    assert "--resume" in refused
    assert "--overwrite" in refused
    other = jobs(tmp_path, images, resume=True, **OPTIONS)["error"]
    assert "other folders or options" in other
    assert files_of(tmp_path) == before
    assert jobs(tmp_path, images, overwrite=True, **OPTIONS)["error"] is None
    check_same(tmp_path, whole)


def test_giving_up_a_build_is_killed_too(jobs, images, whole, tmp_path):
    """Files of a build that was given up must not become part of the new one."""
    jobs(tmp_path, images, kill=STEPS["encode-manifest"], **{**OPTIONS, "seed": 4})
    state = tmp_path / "state"
    (tmp_path / "index.building").rename(state)
    number = 0
    while True:
        root = tmp_path / str(number)
        shutil.copytree(state, root / "index.building")
        done = jobs(root, images, overwrite=True, kill=number, **OPTIONS)
        resumed = jobs(root, images, resume=True, **OPTIONS)["error"]
        if number:
            assert resumed is None
            check_same(root, whole)
        else:
            # If it is killed before the first step, it still is the build with the other seed.
            assert "other folders or options" in resumed
        assert done["status"] == -signal.SIGKILL
        if (number := number + 5) > 40:
            return


@pytest.fixture
def old(jobs, drawn, tmp_path):
    """The bytes of an index of other images, which the new one replaces."""
    image = next(drawn.rglob("*.jpg"))
    done = jobs(tmp_path, image.parent, seed=1, bits=16)
    assert done["error"] is None
    return files_of(tmp_path / "index")


@pytest.mark.parametrize(
    "step", ["plan", "features-batch", "train-later", "encode-manifest", "finished"]
)
def test_a_killed_overwrite_leaves_the_old_index(jobs, images, whole, tmp_path, old, step):
    again = {**OPTIONS, "overwrite": True}
    assert jobs(tmp_path, images, kill=STEPS[step], **again)["status"] == -signal.SIGKILL
    assert files_of(tmp_path / "index") == old
    query = [str(next(images.glob("00.*")))]
    answer = jobs(tmp_path, images, answer=query)
    assert answer["error"] is None
    assert len(answer["steps"][0]) == 2
    assert jobs(tmp_path, images, resume=True, **again)["error"] is None
    check_same(tmp_path, whole)


@pytest.mark.parametrize(
    "stride",
    [pytest.param(6, marks=pytest.mark.sample), pytest.param(1, marks=pytest.mark.slow)],
)
def test_a_replacement_killed_at_many_steps(jobs, images, whole, tmp_path, old, stride):
    """After the stages of the build, there is always an index that answers, old or new."""
    again = {**OPTIONS, "overwrite": True}
    former = tmp_path / "index"
    query = [str(next(images.glob("00.*")))]
    for number in range(0, 200, stride):
        root = tmp_path / str(number)
        shutil.copytree(former, root / "index")
        if not number:
            jobs(root, images, kill=STEPS["finished"], **again)
            work = tmp_path / "work"
            shutil.copytree(root / "index.building", work)
        else:
            shutil.copytree(work, root / "index.building")
        killed = jobs(root, images, kill=number, resume=True, **again)["status"]
        answer = jobs(root, images, answer=query)
        assert answer["error"] is None, number
        assert len(answer["steps"][0]) in (2, 3)
        assert jobs(root, images, resume=True, **again)["error"] is None
        check_same(root, whole)
        shutil.rmtree(root)
        if not killed:
            break
    assert number > 10


def paths_of(path):
    index = HiHPQIndex.load(path, device="cpu")
    paths = index.collection.view().paths_of(index.ids)
    assert len(paths) == index.ntotal
    return sorted(os.path.basename(path).decode() for path in paths)


@pytest.mark.slow
def test_an_update_killed_at_every_step(jobs, images, tmp_path):
    """After any step, the next build ends with every image once."""
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    late = sorted(folder.glob("[0-9]?.*"))[10:]
    (tmp_path / "late").mkdir()
    for path in late:
        path.rename(tmp_path / "late" / path.name)
    (tmp_path / "first").mkdir()
    assert jobs(tmp_path / "first", folder, **OPTIONS)["error"] is None
    for path in (tmp_path / "late").iterdir():
        path.rename(folder / path.name)
    next(iter(sorted(folder.glob("00.*")))).unlink()
    changed = sorted(folder.glob("01.*"))[0]
    os.utime(changed, (1, 1))
    expected = sorted(path.name for path in folder.glob("[0-9]?.*"))

    number = 0
    while True:
        root = tmp_path / str(number)
        shutil.copytree(tmp_path / "first", root)
        killed = jobs(root, folder, kill=number)["status"]
        between = paths_of(root / "index")
        assert len(set(between)) == len(between)
        assert jobs(root, folder)["error"] is None
        assert paths_of(root / "index") == expected
        assert [p for p in verify_directory(root / "index") if p.kind == "damage"] == []
        if not killed:
            break
        number += 1
    assert number > 8
    assert between == expected


def command(root, images, *options):
    return [
        *(sys.executable, "-m", "hyperpq", "build", "--images", str(images)),
        *("--index", str(root / "index"), "--epochs", "1", "--bits", "16"),
        *options,
    ]


def test_the_command_killed_from_outside(drawn, tmp_path):
    """The real command with the real network is killed during its work."""
    images = next(drawn.iterdir())
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    subprocess.run(command(whole, images), check=True, capture_output=True)
    work = killed / "index.building"
    with subprocess.Popen(command(killed, images), stdout=subprocess.PIPE) as process:
        while not (work / "settings.json").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert work.exists()
    subprocess.run(command(killed, images, "--resume"), check=True, capture_output=True)
    assert content(killed) == content(whole)
