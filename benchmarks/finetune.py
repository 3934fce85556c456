"""Fine-tuning without labels on CIFAR-10, beside the published figures.

    python -m benchmarks.finetune --data CIFAR10 --work FOLDER

Protocols I and II of CIFAR-10, with all test images as queries, as published. A step measures

- ``frozen``: exact search on the features of the network as it came,
- ``round``: exact search after each round, with the score of the acceptance check, so that the
  check can be compared with what it stands for,
- ``tuned``: exact search on the features that were kept,
- ``codes``: codes of 16, 32 and 64 bits of the recipe ``default`` on these, learned again
  (``learned``) or with codebooks alone (``fitted``), and
- ``paper``: the published losses, trained end to end with the network (``hyperbolic`` or ``flat``
  space, with the hierarchy or ``contrast`` alone).

Each result is kept in FOLDER as soon as it is there, with the tuned weights and a checkpoint after
each round: the same command goes on after an interruption. Steps that would begin after
``--budget`` seconds are left to the next call. The fine-tuning part of the page ``gpu.md`` is
written from the published runs.

``--limit N --device cpu`` runs the same steps on N training images, to try the command; nothing is
published then.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.finetune_images import Images
from benchmarks.finetune_options import Options, assignment, parser
from benchmarks.finetune_page import FIELDS, RUNS, FinetuneKey
from benchmarks.gpu_page import write_gpu_page
from benchmarks.machine import describe_machine
from benchmarks.provenance import current_commit
from benchmarks.runlog import Run, RunLog
from hyperpq import scan
from hyperpq.backbones import TunedWeights, load_backbone
from hyperpq.backbones.trainable import TrainableNetwork
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.datasets.augment import AUGMENTATIONS
from hyperpq.datasets.device_views import DeviceViews
from hyperpq.errors import HyperPQError
from hyperpq.evaluation import mean_average_precision
from hyperpq.progress import LineProgress, Progress, RichProgress
from hyperpq.training import FinetuneSettings, finetune, get_recipe, train_codec
from hyperpq.training.finetune_codec import finetune_codec
from hyperpq.training.finetune_features import network_features, plain_squares, rooted
from hyperpq.training.presets import paper_finetuned
from hyperpq.utils.devices import resolve_device

PAPER_VARIANTS: dict[str, dict[str, Any]] = {
    "hyperbolic": {},
    "flat": {"geometry": "euclidean"},
    "hyperbolic, contrast": {"prototype_weight": 0.0, "neighbour_weight": 0.0},
    "flat, contrast": {
        "geometry": "euclidean",
        "prototype_weight": 0.0,
        "neighbour_weight": 0.0,
    },
}
# Queries that are searched at a time.
_QUERIES = 1000


class Measurement:
    """The steps on one protocol with one seed."""

    def __init__(
        self, options: Options, which: str, seed: int, log: RunLog, progress: Progress
    ) -> None:
        self._options, self._which, self._seed = options, which, seed
        self._log, self._progress = log, progress
        self._device = resolve_device(options.device)

    @cached_property
    def images(self) -> Images:
        """Of the protocol; the seed draws the training images of protocol II."""
        options = self._options
        return Images.load(options.data, self._which, options.limit, options.work)

    @cached_property
    def network(self) -> TrainableNetwork:
        """The network, whose weights the steps replace."""
        return load_backbone(self._options.backbone, device=self._device).trainable(self._device)

    def tasks(self, steps: Sequence[str]) -> Iterator[tuple[str, Callable[[], None]]]:
        """Names and functions of the steps that are left."""
        if "frozen" in steps and self._key("frozen") not in self._log:
            yield "frozen", self.frozen
        if "tuned" in steps and self._key("tuned") not in self._log:
            yield "tuned", self.tuned
        if "codes" in steps:
            for variant in ("learned", "fitted"):
                if any(self._key("codes", variant, b) not in self._log for b in self._options.bits):
                    yield f"codes, {variant}", partial(self.codes, variant)
        if "paper" in steps:
            for variant in PAPER_VARIANTS:
                for bits in self._options.bits:
                    if self._key("paper", variant, bits) not in self._log:
                        yield f"paper, {variant}, {bits} bits", partial(self.paper, variant, bits)

    def frozen(self) -> None:
        """Exact search on the features of the network as it came."""
        self._record(self._key("frozen"), self._exact(None))

    def tuned(self) -> None:
        """Fine-tune, with exact search after each round, and keep the weights."""
        settings, measuring = self._options.of(self._which, self._seed), 0.0

        def on_round(record: Any, weights: TunedWeights) -> None:
            nonlocal measuring
            begun = time.perf_counter()
            key = self._key("round", bits=record.round)
            self._record(key, self._exact(weights), score=record.score, loss=record.loss)
            measuring += time.perf_counter() - begun

        begun = time.perf_counter()
        result = finetune(
            self.images.train,
            load_backbone(self._options.backbone, device=self._device),
            settings,
            device=self._device,
            checkpoint=self._file("checkpoint"),
            resume=True,
            progress=self._progress,
            on_round=on_round,
        )
        # Of fine-tuning alone.
        seconds = time.perf_counter() - begun - measuring
        if result.weights is not None:
            self._file("tuned").write_bytes(result.weights.to_bytes())
        facts = {"finetune": result.to_dict(), "seconds": seconds}
        self._record(self._key("tuned"), self._exact(result.weights), **facts)

    def codes(self, variant: str) -> None:
        """Codes of the default recipe on the tuned features."""
        begun = time.perf_counter()
        weights = self._tuned_weights()
        features = self._features(weights)
        recipe = get_recipe("default", max(self._options.bits))
        views = None
        if variant == "fitted":
            recipe = recipe.replace(epochs=0)
        else:
            views = self._views(weights, recipe.views.augmentation, recipe.views.n_views)
        codec = train_codec(
            features[0],
            views,
            M=max(self._options.bits) // 8,
            recipe=recipe,
            seed=self._seed,
            device=self._device,
        )
        seconds = time.perf_counter() - begun
        assert isinstance(codec, HiHPQCodec)
        for bits in self._options.bits:
            one = codec.with_bits(bits, x=features[0], seed=self._seed)
            facts = {"seconds": seconds, "learned": codec.is_learned}
            self._record(self._key("codes", variant, bits), self._searched(one, features), **facts)

    def paper(self, variant: str, bits: int) -> None:
        """Network and codec by the published losses."""
        recipe = paper_finetuned(bits, f"cifar10-{self._which.lower()}")
        recipe = recipe.replace(**PAPER_VARIANTS[variant])
        if self._options.limit:
            recipe = recipe.replace(epochs=self._options.settings.epochs)
        begun = time.perf_counter()
        weights, codec = finetune_codec(
            self.images.train,
            load_backbone(self._options.backbone, device=self._device),
            recipe,
            self._options.of(self._which, self._seed),
            M=bits // 8,
            device=self._device,
            progress=self._progress,
        )
        seconds = time.perf_counter() - begun
        found = self._searched(codec, self._features(weights))
        self._record(self._key("paper", variant, bits), found, seconds=seconds)

    def _tuned_weights(self) -> TunedWeights | None:
        kept = self._log.runs[self._key("tuned")]["finetune"]["kept"]
        file = self._file("tuned")
        return TunedWeights.from_bytes(file.read_bytes(), str(file)) if kept else None

    def _features(self, weights: TunedWeights | None) -> list[NDArray[np.float32]]:
        """Features of training images, queries and database."""
        self.network.load_changes(weights)
        found = []
        for part in (self.images.train, self.images.query, self.images.database):
            with self._progress.phase("features", len(part)) as phase:
                rows = np.arange(len(part))
                make = plain_squares(self.network.size)
                found.append(network_features(self.network, part, rows, phase, make))
        return found

    def _views(
        self, weights: TunedWeights | None, strength: str, n_views: int
    ) -> NDArray[np.float32]:
        """Features (V, n, d) of views of the training images."""
        self.network.load_changes(weights)
        views = DeviceViews(AUGMENTATIONS[strength], self.network.size, self._seed)
        rows, found = np.arange(len(self.images.train)), []
        with self._progress.phase("views", n_views * len(rows)) as phase:
            for number in range(n_views):
                make = partial(_numbered, views, number)
                found.append(network_features(self.network, self.images.train, rows, phase, make))
        return np.stack(found)

    def _exact(self, weights: TunedWeights | None) -> dict[str, float]:
        """Exact search: mAP by the cosine of rooted, centred features."""
        train, query, database = self._features(weights)
        there = torch.from_numpy(rooted(database, train)).to(self._device)
        asked = torch.from_numpy(rooted(query, train)).to(self._device)
        k = min(self.images.protocol.top, len(there))
        found = [
            (part @ there.T).topk(k, dim=1).indices.cpu().numpy() for part in asked.split(_QUERIES)
        ]
        return self._figures(np.concatenate(found))

    def _searched(self, codec: HiHPQCodec, features: list[NDArray[np.float32]]) -> dict[str, float]:
        """Search by codes: mAP."""
        _, query, database = features
        codes = scan.prepare(codec.encode(database))
        k = min(self.images.protocol.top, len(database))
        found = [
            scan.search(codec.tables(query[start : start + _QUERIES]), codes, k)[1]
            for start in range(0, len(query), _QUERIES)
        ]
        return self._figures(np.concatenate(found))

    def _figures(self, found: NDArray[np.int64]) -> dict[str, float]:
        top = self.images.protocol.top
        relevant = self.images.protocol.relevant(slice(None), found)
        return {
            f"mAP@{top}": mean_average_precision(relevant, top),
            "mAP@100": mean_average_precision(relevant, 100),
            "mAP@10": mean_average_precision(relevant, 10),
        }

    def _key(self, step: str, variant: str = "", bits: int = 0) -> FinetuneKey:
        return FinetuneKey(
            f"cifar10-{self._which.lower()}",
            self._options.backbone,
            step,
            variant,
            bits,
            self._seed,
            self._options.limit or 0,
        )

    def _file(self, kind: str) -> Path:
        name = self._options.backbone.replace("/", "_").replace(":", "_")
        limit = f"-{self._options.limit}" if self._options.limit else ""
        folder = self._options.work
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name}-{self._which}-{self._seed}{limit}.{kind}.safetensors"

    def _record(self, key: FinetuneKey, figures: dict[str, float], **facts: Any) -> None:
        device = self._device
        if device != "cpu":
            device = torch.cuda.get_device_name(torch.device(device))
        run: Run = {
            **key._asdict(),
            "figures": figures,
            "queries": len(self.images.query),
            **facts,
            "device": device,
            "machine": describe_machine(),
            "commit": current_commit(),
        }
        self._log.append(run)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        print(", ".join(str(part) for part in key if part != "") + f": {shown}", flush=True)


def _numbered(
    views: DeviceViews, number: int, pixels: torch.Tensor, rows: NDArray[np.int64]
) -> torch.Tensor:
    return views(pixels, rows, number)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is not measured yet, and write the page."""
    options = parser(__doc__.split("\n\n")[0]).parse_args(argv)
    settings = FinetuneSettings().replace(**dict(map(assignment, options.set)))
    wanted = Options(
        options.data,
        options.work,
        options.backbone,
        options.device,
        options.bits,
        options.limit,
        settings,
        options.minutes,
    )
    log, begun = RunLog(options.work / "runs.jsonl", FIELDS), time.monotonic()
    progress = RichProgress() if sys.stderr.isatty() else LineProgress(_to_stderr)
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for which in options.which:
            one = Measurement(wanted, which, seed, log, progress)
            for name, step in one.tasks(options.steps):
                if options.budget and time.monotonic() - begun > options.budget:
                    print(f"{which}, seed {seed}, {name}: left to the next call", flush=True)
                    return
                step()
    whole = [run for run in log.runs.values() if not run["limit"]]
    if whole:
        RunLog(options.out / RUNS, FIELDS).update(whole)
        print(write_gpu_page(options.out))


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except HyperPQError as error:
        raise SystemExit(f"benchmarks.finetune: {error}") from error
