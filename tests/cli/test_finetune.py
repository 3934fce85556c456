"""`hyperpq build --finetune` and `hyperpq finetune` with the embedded network."""

from __future__ import annotations

import inspect
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from hyperpq import HiHPQIndex
from hyperpq.cli import finetune as cli_finetune
from hyperpq.store.manifest import NETWORK_FILE
from hyperpq.training import FinetuneSettings

# The least that can be learned: the network has 224 pixels when it encodes.
SMALL = (
    *("--rounds", "2", "--epochs", "1", "--batch", "4", "--resolution", "32"),
    *("--train-size", "16", "--no-holdout-check"),
)


def test_the_help_says_the_defaults_of_the_settings():
    """So that they are written once more only where a test compares them."""
    settings, hints = FinetuneSettings(), {}
    for param in cli_finetune.command.params:
        if isinstance(param, click.Option) and param.name in settings.to_dict():
            hints[param.name] = inspect.cleandoc(param.help or "")
    for name in ("rounds", "epochs", "seed"):
        assert f"[default: {getattr(settings, name)}]" in hints[name]
    on_gpu, on_cpu = (settings.on_device(device).batch for device in ("cuda:0", "cpu"))
    assert f"[default: {on_gpu} on a GPU, {on_cpu} on a CPU]" in hints["batch"]
    assert settings.resolution is settings.blocks is None
    assert settings.minutes == 0
    assert settings.holdout_check


def tuned_of(path):
    return HiHPQIndex.load(path, device="cpu").view().rows.tuned


@pytest.mark.slow
def test_a_killed_finetuning_is_resumed_and_the_index_answers(hyperpq, copy):
    """Two rounds on 16 images: half a minute on an idle core."""
    index, photo = copy / "hyperpq-index", next((copy / "photos").rglob("*.png"))
    # The index was built at another place, and its images are below that.
    before = tuned_of(index)
    assert before is None
    process = subprocess.Popen(
        [sys.executable, "-m", "hyperpq", "finetune", "--index", index, *SMALL],
        cwd=copy,
        stderr=subprocess.PIPE,
    )
    checkpoint = copy / "hyperpq-index.finetuning/finetune.safetensors"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.stderr.read().decode()
    process.stderr.close()

    done = hyperpq("query", photo, "--index", index, "-n", "1", cwd=copy)
    assert done.returncode == 0
    done = hyperpq("finetune", index, *SMALL, cwd=copy)
    (error,) = done.stderr.decode().splitlines()
    assert "is an interrupted fine-tuning; continue it with --resume" in error
    done = hyperpq("finetune", index, *SMALL, "--resume", cwd=copy, timeout=900)
    assert done.returncode == 0, done.stderr.decode()
    assert "fine-tuned  on 16 images in 2 rounds, of which number 2 is kept" in done.stdout.decode()
    # The first round was not repeated.
    assert b"fine-tuning on the CPU will take" not in done.stderr

    assert tuned_of(index) is not None
    assert hyperpq("verify", "--index", index).returncode == 0
    info = hyperpq("info", "--index", index).stdout.decode()
    assert "on 16 images in 2 rounds, of which number 2 is kept; " in info
    answer = hyperpq("query", photo, "--index", index, "-n", "1", "--json", cwd=copy)
    (found,) = json.loads(answer.stdout)[0]["results"]
    assert Path(found["path"]).name == photo.name
    assert found["similarity"] == 100
    # Further images are encoded by the tuned network, and damage is found.
    shutil.copyfile(photo, copy / "another.png")
    assert hyperpq("add", "another.png", "--index", index, cwd=copy).returncode == 0
    (network,) = index.glob(f"*{NETWORK_FILE}")
    network.write_bytes(network.read_bytes()[:-4] + b"\0\1\2\3")
    done = hyperpq("verify", "--index", index)
    assert (done.returncode, network.name in done.stdout.decode()) == (1, True)
    done = hyperpq("query", photo, "--index", index, cwd=copy)
    (error,) = done.stderr.decode().splitlines()
    assert (done.returncode, f"{network.name}: " in error) == (1, True)
