"""Figures 2 and 3 against slow restatements: every clip counted again, the ceiling by search over boxes, the official ceilings."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slavc.data.benchmark import ceiling
from slavc.data.boxes import areas, read_vggss, to_grid
from slavc.paper.curves import (
    BARS,
    SHARES,
    area_curve,
    balanced_ap,
    by_size,
    ceiling_curve,
    curves,
    mask_pixels,
    reachable,
    threshold_curve,
)
from slavc.score.metrics import average_precision, relative_mask, sweep, upsample
from slavc.score.protocols import PROTOCOLS, score_clips, summarise

METADATA = Path(__file__).parents[2] / "shared" / "metadata"


def world(seed=0, n=60):
    """Blobs near boxes of all sizes, some of them elsewhere: n positives, n easy negatives, confidences that know a little."""
    rng = np.random.default_rng(seed)
    side = rng.integers(20, 220, (n, 2))
    corner = (rng.random((n, 2)) * (224 - side)).astype(int)
    boxes = {
        f"v{i}": np.array([[*corner[i], *(corner[i] + side[i])]]) for i in range(n)
    }
    pairs = pd.DataFrame(
        dict(
            video=[f"v{i}" for i in range(n)] * 2,
            audio=[f"v{i}" for i in range(n)] + [f"v{(i + 1) % n}" for i in range(n)],
            kind=["positive"] * n + ["easy"] * n,
        )
    )
    y, x = (np.mgrid[:7, :7] * 32 + 16)[:, None]
    middle = (
        corner + side / 2 + (rng.random((n, 1)) < 0.3) * rng.uniform(-80, 80, (n, 2))
    )
    blob = np.exp(
        -(
            ((x - middle[:, :1, None]) / side[:, :1, None]) ** 2
            + ((y - middle[:, 1:, None]) / side[:, 1:, None]) ** 2
        )
    )
    return (
        np.concatenate(
            [
                blob * rng.uniform(0.3, 1, (n, 1, 1)),
                blob * rng.uniform(0, 0.8, (n, 1, 1)),
            ]
        ).astype(np.float32),
        pairs,
        boxes,
    )


def slow_ap(confidence, hit, positive, weight, missed):
    """AP by counting at every threshold, negatives weighing `weight`."""
    points = []
    for t in sorted(set(confidence), reverse=True):
        shown = confidence >= t
        tp = (shown & hit).sum()
        fp = (shown & positive & ~hit).sum() + weight * (shown & ~positive).sum()
        fn = (positive & ~shown).sum() + (
            0 if missed == "hidden" else (positive & shown & ~hit).sum()
        )
        points.append((tp / (tp + fn) if tp else 0, tp / (tp + fp)))
    return 100 * sum(
        (r - before) * max(p for _, p in points[i:])
        for i, ((r, _), before) in enumerate(zip(points, [0] + [r for r, _ in points]))
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.booleans(), st.booleans()),
        min_size=1,
        max_size=25,
    ),
    st.sampled_from(["hidden", "hidden or wrong"]),
)
def test_balanced_ap_counts_every_clip(clips, missed):
    confidence, hit, positive = (np.array(column) for column in zip(*clips))
    hit = hit & positive
    if not positive.any():
        assert math.isnan(balanced_ap(confidence, hit, positive, missed))
        return
    weight = positive.sum() / max(1, (~positive).sum())
    assert balanced_ap(confidence, hit, positive, missed) == pytest.approx(
        slow_ap(confidence, hit, positive, weight, missed), abs=1e-9
    )


def test_weights_are_repetition():
    """Twice as many positives as negatives: each negative twice, unweighted, is the same."""
    rng = np.random.default_rng(0)
    positive = np.arange(90) < 60
    confidence, hit = rng.random(90).round(1), (rng.random(90) < 0.5) & positive
    again = np.concatenate([np.arange(90), np.arange(60, 90)])
    assert balanced_ap(confidence, hit, positive) == pytest.approx(
        100 * average_precision(sweep(confidence[again], hit[again], positive[again]))
    )


@pytest.mark.parametrize("share", SHARES)
def test_the_mask_has_the_pixels_the_ceiling_counts_on(share):
    score = upsample(np.random.default_rng(0).random((3, 7, 7)).astype(np.float32))
    assert (relative_mask(score, 1 - share).sum((1, 2)) == mask_pixels(share)).all()


def test_nothing_crosses_the_ceiling():
    """Boxes nested in each other reach the bound exactly; boxes that are not stay below."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        a, b = (
            rng.integers(1, 225, 2),
            rng.integers(1, 225, 2),
        )  # two boxes at the same corner
        inter = np.minimum(a, b).prod()
        iou = inter / (a.prod() + b.prod() - inter)
        bound = min(a.prod(), b.prod()) / max(a.prod(), b.prod())
        assert iou <= bound + 1e-12 and ((a <= b).all() or (a >= b).all()) == bool(
            np.isclose(iou, bound)
        )


@pytest.mark.parametrize("rules", [*PROTOCOLS.values()], ids=lambda r: r.name)
def test_curves_meet_the_tables(rules):
    """Where a curve passes the table's setting it has the table's value; where it cannot, a bound holds."""
    maps, pairs, boxes = world()
    clips, table = (
        score_clips(maps, (0, 1), pairs, boxes, rules),
        curves(maps, (0, 1), pairs, boxes, rules, method="m", seed=0),
    )
    at = table.set_index(["curve", "subset", "metric", "x"]).value
    said = summarise(clips, rules)
    assert 20 < said["all"]["LocAcc"] < 80
    assert (
        at["area", "all", "LocAcc", 0.5]
        == at["iou", "all", "LocAcc", 0.5]
        == pytest.approx(said["all"]["LocAcc"])
    )
    assert at["iou", "all", "LocAcc", 0.75] == pytest.approx(
        summarise(clips, rules, 0.75)["all"]["LocAcc"]
    )
    assert at["threshold", "all", "F1", 0.0] == pytest.approx(
        said["all"]["accept-all F1"]
    )
    for size in ("small", "medium", "large", "huge"):
        if said[size]["LocAcc"] is not None:
            assert at["area", size, "LocAcc", 0.5] == pytest.approx(
                said[size]["LocAcc"]
            )
    if rules.thresholds == "every":
        assert (
            at["iou", "all", "AP", 0.5]
            == at["area", "all", "AP", 0.5]
            == pytest.approx(said["all"]["AP"])
        )
        assert at["threshold"].max() <= said["all"]["max-F1"] + 1e-9
    assert (
        len(table) == 9 * 5 * 2 + 51 + 2 * len(BARS)
        and (table.protocol == rules.name).all()
    )


def test_every_point_of_the_threshold_curve():
    maps, pairs, boxes = world(3)
    clips = score_clips(maps, (0, 1), pairs, boxes).assign(
        confidence=lambda t: t.confidence.round(2)
    )  # with ties
    positive, hit = (
        clips.kind == "positive",
        (clips.ciou > 0.5) & (clips.kind == "positive"),
    )
    assert 0.2 < hit[positive].mean() < 0.8
    for row in threshold_curve(clips, points=11):
        shown = clips.confidence >= np.quantile(
            clips.confidence, row["x"], method="lower"
        )
        tp, fp, fn = (
            (shown & hit).sum(),
            (shown & ~hit).sum(),
            (positive & ~shown).sum(),
        )
        assert row["value"] == pytest.approx(100 * 2 * tp / (2 * tp + fp + fn))


def test_ceiling_is_above_a_method_that_knows_everything():
    """Maps that know the box, and a confidence that knows everything, come near the ceiling and never over it."""
    maps, pairs, boxes = world(5)
    top = (
        pd.DataFrame(ceiling_curve(pairs, boxes))
        .set_index(["subset", "metric", "x"])
        .value
    )
    y, x = np.mgrid[:56, :56] * 4 + 2
    know = np.stack(
        [
            -np.maximum(
                abs(x - (b[0] + b[2]) / 2) / (b[2] - b[0]),
                abs(y - (b[1] + b[3]) / 2) / (b[3] - b[1]),
            )
            for b in (boxes[v][0] for v in pairs.video)
        ]
    ).astype(np.float32)
    for share in (0.2, 0.5, 0.8):
        clips = score_clips(
            know, (-20, 0), pairs, boxes, replace(PROTOCOLS["paper"], level=1 - share)
        )
        hit = (clips.ciou > 0.5).to_numpy()
        confidence = np.where(
            hit, 2, (pairs.kind == "positive") - np.arange(len(pairs)) / len(pairs)
        )
        own = {
            (row["subset"], row["metric"]): row["value"]
            for row in by_size(clips, confidence, hit)
        }
        for (subset, metric), value in own.items():
            assert math.isnan(value) or value <= top[subset, metric, share] + 1e-9
        assert own["all", "LocAcc"] > 0.8 * top["all", "LocAcc", share]


def test_official_ceilings():
    if not METADATA.exists():
        pytest.skip("reference material ../shared is absent")
    size = np.array(
        list(
            areas(
                {
                    name: to_grid(boxes)
                    for name, (_, boxes) in read_vggss(METADATA / "vggss.json").items()
                }
            ).values()
        )
    )
    assert [round(100 * reachable(size, share).mean(), 1) for share in SHARES] == [
        31.6,
        48.5,
        54.9,
        55.2,
        50.5,
        43.3,
        36.3,
        30.7,
        26.1,
    ]
    assert reachable(size, 0.5, strict=False).mean() == pytest.approx(
        ceiling(size, 0.5), abs=2e-4
    )


def test_the_ceiling_knows_the_protocol():
    """Under `strict` a positive in the wrong place stays missed, so the ceiling of AP is that of LocAcc."""
    _, pairs, boxes = world(5)
    top = (
        pd.DataFrame(ceiling_curve(pairs, boxes, "strict"))
        .set_index(["subset", "metric", "x"])
        .value
    )
    for share in (0.2, 0.5, 0.8):
        assert 0 < top["all", "AP", share] == pytest.approx(top["all", "LocAcc", share])


def test_no_positives_and_no_negatives():
    maps, pairs, boxes = world()
    only = pairs[pairs.kind == "positive"]
    rows = (
        pd.DataFrame(area_curve(maps[: len(only)], (0, 1), only, boxes, shares=(0.5,)))
        .set_index(["subset", "metric"])
        .value
    )
    accuracy = summarise(score_clips(maps[: len(only)], (0, 1), only, boxes))["all"]
    assert rows["all", "LocAcc"] == pytest.approx(accuracy["LocAcc"]) and rows[
        "all", "AP"
    ] == pytest.approx(accuracy["AP"])  # no negatives: nothing to weigh
    clips = score_clips(maps, (0, 1), pairs, boxes)
    none = clips[clips.kind != "positive"]
    assert all(
        math.isnan(row["value"])
        for row in by_size(none, none.confidence.to_numpy(), np.zeros(len(none), bool))
    )
    with pytest.raises(ValueError, match="share must be within"):
        area_curve(maps, (0, 1), pairs, boxes, shares=(1.5,))
