"""The fine-tuning part of the page of what was measured on a GPU."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.pages import format_mean, format_number, listed, markdown_table, origin, spread_of
from benchmarks.published import COMMITS, at_commit, shared_facts
from benchmarks.runlog import Run, RunLog

RUNS = Path("runs/finetune.jsonl")


class FinetuneKey(NamedTuple):
    """What identifies a run of `benchmarks.finetune`.

    Attributes
    ----------
    protocol, backbone : str
        ``cifar10-i`` or ``cifar10-ii``, and the name of the network.
    step, variant : str
        What was measured, see `benchmarks.finetune`.
    bits : int
        Of a code; of a ``round`` its number; else 0.
    seed, limit : int
        Seed, and number of training images of a trial; 0 for all.
    """

    protocol: str
    backbone: str
    step: str
    variant: str
    bits: int
    seed: int
    limit: int


FIELDS = FinetuneKey._fields
BITS = (16, 32, 64)
# Published mAP@1000 at 16, 32 and 64 bits: HiHPQ as a later paper quotes it, and the best of the
# papers that followed.
PUBLISHED = {
    "cifar10-ii": {
        "HiHPQ, published": (0.633, 0.652, 0.665),
        "best follow-up": (0.635, 0.669, 0.684),
    },
    "cifar10-i": {
        "HiHPQ, published": (0.727, 0.724, 0.705),
        "best follow-up": (0.712, 0.735, 0.720),
    },
}
_TITLES = {"cifar10-ii": "CIFAR-10 II", "cifar10-i": "CIFAR-10 I"}
_NAMES = {"learned": "tuned, `default` learned again", "fitted": "tuned, codebooks alone"}


def finetune_texts(out: Path) -> tuple[str, str, str] | None:
    """What was found, the tables and how they are made; None if nothing is published."""
    runs = list(RunLog(out / RUNS, FIELDS).runs.values())
    if not runs:
        return None
    protocols = [name for name in PUBLISHED if any(run["protocol"] == name for run in runs)]
    parts = []
    for protocol in protocols:
        own = [run for run in runs if run["protocol"] == protocol]
        parts.append(f"**{_TITLES[protocol]}**, mAP@1000:\n\n{_table(protocol, own)}")
        if rounds := _rounds(own):
            parts.append(rounds)
    measured = shared_facts(runs, ("device", "machine", *COMMITS))
    where = "; ".join(f"{device}, {machine}{at_commit(one)}" for device, machine, *one in measured)
    made = (
        f"{origin('finetune', 'fine-tuning-on-a-gpu')} All test images are queries, and the 50,000 "
        "training images are searched. *exact* compares rooted, centred features by their cosine; "
        "features are computed in bfloat16 on a GPU. The published rows fine-tune a VGG16 network "
        f"and are quoted from papers. Measured on {where}."
    )
    return _found(runs, protocols), "\n\n".join(parts), made


def _values(runs: Iterable[Run], step: str, variant: str = "", bits: int = 0) -> list[float]:
    return [
        float(run["figures"]["mAP@1000"])
        for run in runs
        if (run["step"], run["variant"], run["bits"]) == (step, variant, bits)
    ]


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    array = np.array(values)
    return format_mean(float(array.mean()), float(spread_of(array)))


def _table(protocol: str, runs: list[Run]) -> str:
    lines = [["", "exact", *(f"{bits} bits" for bits in BITS), "seeds"]]
    for name, figures in PUBLISHED[protocol].items():
        lines.append([name, "", *map(format_number, figures), ""])
    frozen = _values(runs, "frozen")
    if frozen:
        lines.append(["frozen", _cell(frozen), "", "", "", str(len(frozen))])
    tuned = _values(runs, "tuned")
    for variant, name in _NAMES.items():
        cells = [_values(runs, "codes", variant, bits) for bits in BITS]
        if any(cells):
            lines.append([name, _cell(tuned), *map(_cell, cells), str(max(map(len, cells)))])
    variants = dict.fromkeys(run["variant"] for run in runs if run["step"] == "paper")
    for variant in variants:
        cells = [_values(runs, "paper", variant, bits) for bits in BITS]
        name = f"`paper-finetuned`, {variant}"
        lines.append([name, "", *map(_cell, cells), str(max(map(len, cells)))])
    return markdown_table(lines)


def _rounds(runs: list[Run]) -> str:
    """Exact search after each round beside the score that decides, of the first seed."""
    rounds = [run for run in runs if run["step"] == "round"]
    if not rounds:
        return ""
    seed = min(run["seed"] for run in rounds)
    own = sorted((run for run in rounds if run["seed"] == seed), key=lambda run: run["bits"])
    tuned = next((r for r in runs if r["step"] == "tuned" and r["seed"] == seed), None)
    lines = [["round", "mAP@1000 of exact search", "score without labels"]]
    if tuned is not None:
        first = tuned["finetune"]["rounds"][0]["score"]
        lines.append(["0", _cell(_values(runs, "frozen")), _score(first)])
    for run in own:
        figure = format_number(run["figures"]["mAP@1000"])
        lines.append([str(run["bits"]), figure, _score(run["score"])])
    text = markdown_table(lines)
    if tuned is not None:
        text += f"\n\nKept: round {tuned['finetune']['kept']}. {_duration(runs, tuned)}"
    return text


def _duration(runs: list[Run], tuned: Run) -> str:
    """How long fine-tuning took, and what follows it until there are codes."""
    text = f"Fine-tuning took {tuned['seconds']:.0f} s"
    learned = [r for r in runs if (r["variant"], r["seed"]) == ("learned", tuned["seed"])]
    if not learned:
        return f"{text}."
    after = learned[0]["seconds"]
    return (
        f"{text}, and {after:.0f} s more go by until the codes have been learned, with the "
        f"features of all images and of views: {tuned['seconds'] + after:.0f} s end to end, "
        "without the reading of the files."
    )


def _score(value: float | None) -> str:
    return "" if value is None else format_number(value)


def _found(runs: list[Run], protocols: list[str]) -> str:
    sentences = []
    for protocol in protocols:
        own = [run for run in runs if run["protocol"] == protocol]
        frozen, tuned = _values(own, "frozen"), _values(own, "tuned")
        if frozen and tuned:
            sentences.append(
                f"Fine-tuning without labels takes exact search on {_TITLES[protocol]} from "
                f"{format_number(float(np.mean(frozen)))} to "
                f"{format_number(float(np.mean(tuned)))} mAP@1000."
            )
        codes = [_values(own, "codes", "learned", bits) for bits in BITS]
        if all(codes):
            shown = listed([format_number(float(np.mean(one))) for one in codes])
            sentences.append(f"Codes of 16, 32 and 64 bits of its features have {shown}.")
    return " ".join(sentences)
