"""The audit: its identities against brute force, its verdicts on the paper's tables, and that planted errors are found."""

import math
from decimal import ROUND_HALF_DOWN, ROUND_HALF_UP, Decimal
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slavc.paper.audit import (
    CLAIMS,
    COLUMNS,
    accept_all_of,
    audit,
    audit_figure,
    audit_markdown,
    bounds_verdict,
    control_rows,
    counts_of,
    loc_acc_of,
    oracle_f1_of,
    random_order_ap,
    skill_of,
    subset_noise,
)
from slavc.score.protocols import subsampled_ap

ROOT = Path(__file__).resolve().parents[1]
VGGSS = ROOT.parent / "shared" / "metadata" / "vggss.json"


@pytest.fixture(scope="module")
def reported():
    return pd.read_csv(ROOT / "data" / "reported.csv", dtype={"table": str})


@pytest.fixture(scope="module")
def table(reported):
    return audit(reported)


def flagged(table, check, verdict, *columns):
    rows = table[(table["check"] == check) & (table["verdict"] == verdict)]
    return (
        set(rows[list(columns)].itertuples(index=False, name=None))
        if len(columns) > 1
        else set(rows[columns[0]])
    )


# ---- the identities, by brute force -----------------------------------------------------------------------


def slow_f1s(clips):
    """F1 at every threshold, from the definition: clips are (confidence, hit, positive)."""
    for threshold in {c for c, _, _ in clips}:
        tp = sum(c >= threshold and hit and positive for c, hit, positive in clips)
        fp = sum(
            c >= threshold and not (hit and positive) for c, hit, positive in clips
        )
        fn = sum(c < threshold and positive for c, _, positive in clips)
        yield Fraction(2 * tp, 2 * tp + fp + fn)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 9), st.data())
def test_max_f1_lies_between_its_bounds(p, data):
    hits = data.draw(st.integers(0, p))
    confidence = data.draw(st.lists(st.integers(0, 4), min_size=2 * p, max_size=2 * p))
    clips = [(confidence[i], i < hits, i < p) for i in range(2 * p)]
    best, loc_acc = float(max(slow_f1s(clips))) * 100, 100 * hits / p
    assert accept_all_of(loc_acc) - 1e-9 <= best <= oracle_f1_of(loc_acc) + 1e-9
    everything = [(0, hit, positive) for _, hit, positive in clips]
    presence = [(int(positive), hit, positive) for _, hit, positive in clips]
    assert accept_all_of(loc_acc) == pytest.approx(
        100 * float(max(slow_f1s(everything)))
    )
    assert oracle_f1_of(loc_acc) == pytest.approx(100 * float(max(slow_f1s(presence))))
    assert loc_acc_of(accept_all_of(loc_acc)) == pytest.approx(loc_acc, abs=1e-9)


def prints(count, n, digits):
    """All ways in which a share in percent may be printed."""
    exact = Decimal(100) * count / Decimal(n)
    unit = Decimal(1).scaleb(-digits)
    return {exact.quantize(unit, ROUND_HALF_UP), exact.quantize(unit, ROUND_HALF_DOWN)}


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 400), st.integers(0, 10000), st.integers(1, 2))
def test_counts_of_a_printed_share(n, hundredths, digits):
    value = (
        Decimal(hundredths)
        .scaleb(-2)
        .quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    )
    want = [c for c in range(n + 1) if value in prints(c, n, digits)]
    assert counts_of(float(value), n, 0.5 * 10.0**-digits) == want


def test_every_count_is_found_again():
    for n in (249, 250, 251, 5158):
        for c in range(0, n + 1, 7):
            assert c in counts_of(round(100 * c / n, 2), n)


@pytest.mark.parametrize(
    "hits, positives", [(0, 7), (7, 7), (3, 5), (49, 250), (215, 250), (700, 1001)]
)
def test_random_orders_are_scored_like_the_release(hits, positives):
    draws, n = 5, 2 * positives
    order = np.random.default_rng(3).permuted(
        np.tile(np.arange(n, dtype=np.int32), (draws, 1)), axis=1
    )
    for row, value in zip(order, random_order_ap(hits, positives, draws, seed=3)):
        confidence = np.empty(n)
        confidence[row] = np.arange(n, 0, -1)
        assert value == pytest.approx(
            100
            * subsampled_ap(confidence, np.arange(n) < hits, np.arange(n) < positives),
            abs=1e-9,
        )


def test_subset_noise_is_the_exact_standard_deviation():
    for positives, hits, m in ((6, 2, 3), (7, 5, 2), (8, 3, 8), (9, 4, 1)):
        shares = [
            100 * sum(i < hits for i in drawn) / m
            for drawn in combinations(range(positives), m)
        ]
        sd_l, sd_f = subset_noise(100 * hits / positives, m, positives)
        assert sd_l == pytest.approx(np.std(shares), abs=1e-9)
        step = 1e-4
        slope = (
            accept_all_of(100 * hits / positives + step)
            - accept_all_of(100 * hits / positives - step)
        ) / (2 * step)
        assert sd_f == pytest.approx(sd_l * slope, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize(
    "f1, loc_acc, verdict",
    [
        (24.0, 34.16, "impossible"),
        (38.2, 47.2, "accepts everything"),
        (40.0, 37.79, "consistent"),
        (59.1, 83.6, "consistent"),
        (60.1, 86.0, "accepts everything"),
        (100.0, 90.0, "impossible"),
        (94.7, 90.0, "consistent"),
        (94.8, 90.0, "impossible"),
        (33.3, 40.0, "accepts everything"),
        (33.2, 40.0, "impossible"),
        (33.4, 40.0, "consistent"),
        (0.0, 0.0, "accepts everything"),
    ],
)
def test_rounding_is_granted_and_no_more(f1, loc_acc, verdict):
    assert bounds_verdict(f1, loc_acc) == verdict


# ---- the paper's tables -----------------------------------------------------------------------------------


def test_what_is_found_in_the_papers_tables(table):
    f1, share = "max-F1 above accept-all", "LocAcc is a share of the clips"
    flickr, ss = "Extended Flickr-SoundNet", "Extended VGG-SS"
    assert list(table.columns) == COLUMNS
    assert flagged(table, f1, "impossible", "method", "dataset") == {
        ("Attention10k", flickr),
        ("DSOL", flickr),
    }
    assert flagged(
        table[table["table"] == "3"], f1, "accepts everything", "method", "dataset"
    ) == {
        ("CoarsetoFine", flickr),
        ("CoarsetoFine", ss),
        ("LVS", flickr),
        ("LVS", ss),
        ("DMC", flickr),
        ("DMC", ss),
        ("OGL", flickr),
        ("OGL", ss),
        ("Attention10k", ss),
        ("SLAVC + OGL", flickr),
    }
    assert flagged(
        table[table["table"] != "3"], f1, "accepts everything", "protocol"
    ) == {"no_early_stop|slavc_train=yes|infer=AVC"}
    assert flagged(table, share, "impossible", "method", "reported") == {
        ("Attention10k", 34.16),
        ("Attention10k", 42.26),
    }
    assert flagged(table, share, "suspicious", "method", "reported", "dataset") == {
        ("DSOL", 72.91, "Flickr-SoundNet"),
        ("DSOL", 72.91, flickr),
        ("Attention10k", 18.52, "VGG-SS"),
        ("LVS", 33.36, "VGG-SS"),
    }
    assert flagged(table, "AP above chance", "constant confidence", "method") == {
        "CoarsetoFine"
    }
    assert flagged(
        table[table["table"] == "4d"],
        "AP above chance",
        "no presence signal",
        "protocol",
    ) == {"no_early_stop|slavc_train=yes|infer=AVC"}
    assert flagged(
        table, "early stopping loses nothing", "suspicious", "method", "dataset"
    ) == {("SLAVC", "Flickr-SoundNet"), ("SLAVC", "VGG-SS"), ("SLAVC + OGL", "VGG-SS")}
    repeats = table[
        (table["check"] == "a number printed once") & (table["verdict"] == "suspicious")
    ]
    assert (
        repeats["reported"].tolist() == [34.16]
        and "Center Prior" in repeats["detail"].iloc[0]
    )
    below = "max-F1 of a subset above accept-all"
    assert flagged(table, below, "beyond noise", "method", "reported") == {
        ("LVS", 8.8),
        ("Attention10k", 7.4),
        ("Attention10k", 7.9),
    }
    assert flagged(
        table, "overall max-F1 among its subsets", "suspicious", "method", "dataset"
    ) == {("LVS", ss), ("Attention10k", ss), ("Attention10k", flickr), ("EZ-VSL", ss)}
    text = table[table["check"] == "the text's difference"]
    assert sorted(text["reported"][text["verdict"] != "consistent"]) == [2.0, 5.2, 6.0]
    assert text["derived"][text["verdict"] != "consistent"].round(2).tolist() == [
        7.92,
        7.5,
        5.34,
    ]
    for check, count in (("sum of counts", 12), ("same LocAcc in Tables 2 and 3", 18)):
        assert (
            table["verdict"][table["check"] == check] == "consistent"
        ).sum() == count


def test_table3_against_a_plain_loop(reported, table):
    """Accept-all, chance and skill of every row, written out once more."""
    three = reported[reported["table"] == "3"]
    for (method, dataset), rows in three.groupby(["method", "dataset"]):
        value = dict(zip(rows["metric"], rows["value"]))
        own = table[
            (table["table"] == "3")
            & (table["method"] == method)
            & (table["dataset"] == dataset)
        ].set_index("check")
        positives = 250 if "Flickr" in dataset else 5158
        hits = value["LocAcc"] / 100 * positives
        precision, recall = hits / (2 * positives), 1.0
        assert own.loc["max-F1 above accept-all", "derived"] == pytest.approx(
            100 * 2 * precision * recall / (precision + recall)
        )
        assert own.loc["AP above chance", "derived"] == pytest.approx(100 * precision)
        if value.get("AP"):
            assert (
                f"presence skill {value['AP'] / 100 / precision - 1:.2f};"
                in own.loc["AP above chance", "detail"]
            )


def test_presence_skill_of_the_ablations(reported):
    four = reported[reported["table"].str.startswith("4")].pivot_table(
        "value", "protocol", "metric"
    )
    skill = {
        p.split("|", 1)[1]: round(skill_of(r["AP"], r["LocAcc"]), 2) + 0.0
        for p, r in four.iterrows()
    }
    assert [skill[f"vdrop={v}"] for v in ("0", "0.50", "0.75", "0.90", "0.95")] == [
        0.43,
        0.45,
        0.64,
        0.74,
        0.45,
    ]
    assert [skill[f"adrop={v}"] for v in ("0.50", "0.75", "0.90", "0.95")] == [
        0.28,
        0.40,
        0.70,
        0.43,
    ]
    assert [skill[f"mom={v}"] for v in ("0", "0.9", "0.99", "0.995", "0.999")] == [
        0.54,
        0.58,
        0.45,
        0.70,
        0.74,
    ]
    assert (
        skill["slavc_train=yes|infer=AVC"] == 0
        and skill["slavc_train=yes|infer=AVLoc"] == 0.86
        and skill["slavc_train=no|infer=AVLoc"] == 0.72
    )


def test_the_audit_does_not_depend_on_row_order(reported, table):
    again = audit(reported.sample(frac=1, random_state=0))
    keys = [
        "check",
        "table",
        "dataset",
        "protocol",
        "method",
        "reported",
        "derived",
        "verdict",
    ]

    def sort(t):
        return t[t["check"] != "a number printed once"][keys].sort_values(
            keys, ignore_index=True
        )

    pd.testing.assert_frame_equal(sort(again), sort(table))


@pytest.mark.parametrize(
    "where, value, check, verdict",
    [
        (
            dict(table="1", dataset="VGG-SS", protocol="Small"),
            135,
            "sum of counts",
            "impossible",
        ),
        (
            dict(table="3", method="SLAVC", dataset="Extended VGG-SS", metric="max-F1"),
            31.0,
            "max-F1 above accept-all",
            "impossible",
        ),
        (
            dict(table="3", method="SLAVC", dataset="Extended VGG-SS", metric="max-F1"),
            70.0,
            "max-F1 above accept-all",
            "impossible",
        ),
        (
            dict(table="3", method="SLAVC", dataset="Extended VGG-SS", metric="AP"),
            19.0,
            "AP above chance",
            "no presence signal",
        ),
        (
            dict(table="3", method="SLAVC", dataset="Extended VGG-SS", metric="AP"),
            0.0,
            "AP above chance",
            "constant confidence",
        ),
        (
            dict(
                table="2",
                method="SLAVC",
                dataset="Flickr-SoundNet",
                protocol="early_stop",
            ),
            83.5,
            "LocAcc is a share of the clips",
            "impossible",
        ),
        (
            dict(table="4a", protocol="no_early_stop|vdrop=0", metric="LocAcc"),
            36.44,
            "LocAcc is a share of the clips",
            "suspicious",
        ),
        (
            dict(table="2", method="EZ-VSL", dataset="VGG-SS", protocol="early_stop"),
            31.0,
            "early stopping loses nothing",
            "suspicious",
        ),
        (
            dict(
                table="2", method="EZ-VSL", dataset="VGG-SS", protocol="no_early_stop"
            ),
            31.6,
            "same LocAcc in Tables 2 and 3",
            "impossible",
        ),
        (
            dict(
                table="5",
                method="SLAVC",
                dataset="Extended VGG-SS",
                protocol="no_early_stop|negatives=auto_easy",
            ),
            29.0,
            "max-F1 of a subset above accept-all",
            "beyond noise",
        ),
        (
            dict(
                table="5",
                method="SLAVC",
                dataset="Extended VGG-SS",
                protocol="no_early_stop|negatives=auto_hard",
            ),
            40.2,
            "overall max-F1 among its subsets",
            "suspicious",
        ),
        (
            dict(
                table="3", method="SLAVC + OGL", dataset="Extended VGG-SS", metric="AP"
            ),
            34.56,
            "the text's difference",
            "suspicious",
        ),
    ],
)
def test_a_planted_error_is_found(reported, table, where, value, check, verdict):
    rows = np.logical_and.reduce([reported[c] == v for c, v in where.items()])
    assert rows.sum() == 1
    changed = audit(reported.assign(value=reported["value"].mask(rows, value)))

    def count(t):
        return ((t["check"] == check) & (t["verdict"] == verdict)).sum()

    assert count(changed) > count(table)


def test_a_planted_repeat_is_found(reported):
    rows = (
        (reported["table"] == "2")
        & (reported["method"] == "DMC")
        & (reported["dataset"] == "Flickr-SoundNet")
        & (reported["protocol"] == "no_early_stop")
    )
    changed = audit(
        reported.assign(value=reported["value"].mask(rows, 37.86))
    )  # EZ-VSL + OGL on VGG-SS; not a share of 250
    found = changed[
        (changed["check"] == "a number printed once")
        & (changed["verdict"] == "suspicious")
        & (changed["reported"] == 37.86)
    ]
    assert (
        len(found) == 1 and "DMC" in found["detail"].iloc[0] + found["method"].iloc[0]
    )


def test_claims_can_be_given(reported):
    claim = (
        "a made claim",
        (1.0,),
        ("3", "OGL", "no_early_stop"),
        ("3", "LVS", "no_early_stop"),
        (("Extended VGG-SS", "AP"),),
    )
    rows = audit(reported, claims=(claim,))
    rows = rows[rows["check"] == "the text's difference"]
    assert (
        len(rows) == 1
        and rows["derived"].iloc[0] == pytest.approx(18.73 - 5.15)
        and rows["verdict"].iloc[0] == "suspicious"
    )
    assert len(CLAIMS) == 6


def test_clear_errors(reported, table):
    with pytest.raises(ValueError, match="column 'starred'"):
        audit(reported.drop(columns="starred"))
    with pytest.raises(ValueError, match="table '4d' is missing"):
        audit(reported[reported["table"] != "4d"])
    with pytest.raises(ValueError, match="table '1' is missing.*dtype"):
        audit(
            reported.assign(
                table=reported["table"].map(lambda t: int(t) if t.isdigit() else t)
            )
        )
    with pytest.raises(ValueError, match="no sentence"):
        audit_markdown(table.assign(verdict="odd"))


# ---- the page ---------------------------------------------------------------------------------------------


def test_the_page_names_every_finding(table):
    page = audit_markdown(table)
    findings = page[page.index("## Findings") : page.index("## All verdicts")]
    for name in (
        "Attention10k (Table 3, Flickr: 24.00 against 29.18)",
        "DSOL (Table 3, Flickr: 49.40 against 53.43)",
        "34.16",
        "42.26",
        "72.91",
        "SLAVC + OGL (Table 3, Flickr: 60.10 against 60.14)",
        "mom=0.999: 6.00 against 7.92",
    ):
        assert name in findings
    assert page == audit_markdown(table)  # nothing random, no dates
    before, cells = "", 0
    for line in page.splitlines():
        if line.startswith("|"):
            cells = line.count("|") if not before.startswith("|") else cells
            assert line.count("|") == cells, line  # no cell breaks its table
        before = line


def test_the_figure_marks_the_impossible_rows(reported):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure = audit_figure(reported)
    crosses = [
        len(line.get_xdata())
        for ax in figure.axes
        for line in ax.get_lines()
        if line.get_marker() == "X"
    ]
    plt.close(figure)
    assert crosses == [2, 0]


# ---- from the boxes alone ---------------------------------------------------------------------------------


def test_controls_from_the_official_boxes(reported, table):
    if not VGGSS.exists():
        pytest.skip("reference material ../shared is absent")
    rows = control_rows(VGGSS, reported)
    assert rows["derived"].round(2).tolist() == [34.16, 21.95, 50.54]
    assert rows["detail"].tolist() == [
        "1762 of 5158",
        "1132 of 5158",
        "at most 2607 of 5158 can be right",
    ]
    assert rows["verdict"].tolist() == ["reproduced", "not reported", "not reported"]
    page = audit_markdown(pd.concat([table, rows], ignore_index=True))
    assert "1762 of 5158" in page


def test_controls_on_boxes_that_can_be_counted(tmp_path, reported):
    import json

    boxes = {
        "whole": [0, 0, 1, 1],
        "left": [0, 0, 0.5, 1],
        "dot": [0, 0, 0.1, 0.1],
        "most": [0, 0, 1, 0.9],
        "middle": [0.2, 0.2, 0.8, 0.8],
    }
    path = tmp_path / "vggss.json"
    path.write_text(
        json.dumps(
            [{"file": name, "class": "x", "bbox": [box]} for name, box in boxes.items()]
        )
    )
    rows = control_rows(path, reported).set_index("method")
    assert (
        rows.loc["whole image", "derived"] == 100 * 3 / 5
    )  # whole, left (exactly half), most
    y, x = np.mgrid[:224, :224]
    far = (x - 112) ** 2 + (y - 112) ** 2
    circle = far <= np.sort(far, axis=None)[224 * 224 // 2]
    good = 0
    for x0, y0, x1, y1 in boxes.values():
        box = np.zeros((224, 224), bool)
        box[int(224 * y0) : int(224 * y1), int(224 * x0) : int(224 * x1)] = True
        good += (box & circle).sum() / (box | circle).sum() >= 0.5
    assert (
        rows.loc["Center Prior", "derived"] == 100 * good / 5
        and rows.loc["Center Prior", "verdict"] == "impossible"
    )
    assert (
        rows.loc["any mask of half the frame", "derived"] == 100 * 4 / 5
    )  # all but the dot
    assert math.isnan(control_rows(path)["reported"].iloc[0])
