"""What the page of the quality benchmark says first, from rows with known figures."""

from __future__ import annotations

from benchmarks.published import SetRecord
from benchmarks.quality_findings import findings, summary
from benchmarks.quality_page import plotted
from benchmarks.quality_rows import DEPTHS, MEASURES, Row, summarize


def record(name, more=0):
    return SetRecord(name, f"{name}-lite0", 100, 4, 10, 90, 80, more, 0, {})


def row(name, bits, value, seeds=3, **others):
    variant = name.partition(" ")[2] or "raw"
    mean = dict.fromkeys((*MEASURES, "bytes"), value) | others
    return Row(name, variant, bits, seeds, mean, dict.fromkeys(mean, 0.0))


EXACT = row("exact raw", 0, 0.55, recall10=1.0)


def rows(ours, refined=None):
    """A set whose best baseline has .5 at 32 and 64 bits, except for a precision@10 of .7."""
    found = [EXACT]
    for bits in (32, 64):
        found += [row("hyperpq default", bits, ours), row("pq", bits, 0.5, precision10=0.7)]
        found += [row("itq", bits, 0.4), row("sdc", bits, 0.3), row("mecoq", bits, 0.2)]
        if refined:
            found.append(row("hyperpq default, refined", bits, refined))
    return found


def test_each_depth_is_said_to_win_or_to_lose():
    text = findings([(record("A"), rows(0.6, 0.8)), (record("B"), rows(0.4))])
    long, ten, recall, refined = text.removesuffix(".").split(". ")
    assert (
        "are ahead of every baseline at 32 and 64 bits on A and behind the best baseline in at "
        "least one of the two at 32 and 64 bits on B: mAP@100 at 64 bits is .600 on A and .400 on "
        "B, against .500 and .500 of the best baseline and .550 and .550 of exact search"
    ) in long
    # A loses by precision@10, too.
    assert "they are behind the best baseline in at least one of the two" in ten
    assert "at 32 and 64 bits on A and B: mAP@10" in ten
    assert "more than every baseline at 32 and 64 bits on A and fewer than the best" in recall
    assert "exact search" not in recall
    # Only A was refined.
    assert "64 bits on A have a precision@10 of .800 (codes alone .600, exact search" in refined


def test_the_other_objectives_are_named_with_their_number_of_seeds():
    for seeds, said in ((3, "balanced have"), (1, "balanced (1 seed or more) have")):
        more = [row("hyperpq balanced", 64, 0.62, recall10=0.3)]
        more.append(row("hyperpq fidelity", 64, 0.5, seeds, recall10=0.7))
        assert findings([(record("A"), rows(0.6) + more)]).endswith(
            f"On A, 64 bits of the objective {said} a recall@10 of .300 at an mAP@1000 of .620 "
            "(default recipe .600), and those of the objective fidelity a recall@10 of .700 at an "
            "mAP@1000 of .500."
        )


def test_sets_that_others_train_or_that_lack_baselines_are_not_compared():
    bare = [EXACT, row("hyperpq default", 64, 0.6)]
    sets = [(record("A", more=5), rows(0.6)), (record("B"), bare)]
    assert findings(sets) == "No data set was measured with the default recipe and with baselines."
    assert summary(sets) == ""


def test_the_summary_has_the_best_baseline_of_each_figure():
    lines = summary([(record("A"), rows(0.6, 0.8))]).splitlines()
    assert lines[2:] == [
        "| A: hyperpq default |" + " .600 .600 |" * 5,
        "| A: hyperpq default, refined |" + " .800 .800 |" * 5,
        "| A: best baseline | .700 .700 |" + " .500 .500 |" * 4,
        "| A: exact search |" + " .550 |" * 4 + " 1.000 |",
    ]


def test_a_figure_shows_the_best_baselines_that_learn_and_that_do_not():
    assert plotted(rows(0.6, 0.8)) == [
        "hyperpq default",
        "hyperpq default, refined",
        "pq",
        "itq",
        "sdc",
    ]


def test_runs_that_name_only_the_k_of_the_protocol_have_that_depth():
    costs = {"train_seconds": 1.0, "encode_seconds": 1.0, "bytes": 2, "map": 0.5, "map10": 0.6}
    run = {"method": "pq", "variant": "raw", "bits": 16, "seed": 0} | costs
    (found,) = summarize([run], top=1000)
    assert {m: found.mean[m] for m in DEPTHS if m in found.mean} == {"map10": 0.6, "map1000": 0.5}
