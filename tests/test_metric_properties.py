"""What must hold of the metrics for any clips whatever: drawn by hypothesis, judged by slow definitions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slavc.score.metrics import (
    accept_all_f1,
    average_precision,
    chance_ap,
    loc_acc,
    max_f1,
    passes,
    presence_skill,
    sweep,
)

ROW = st.tuples(
    st.integers(-3, 3).map(lambda k: k / 4),
    st.booleans(),
    st.sampled_from([0.0, 0.3, 0.5, 0.75, 1.0]),
)  # confidence (ties), positive, cIoU
CLIPS = st.lists(ROW, min_size=1, max_size=30)
MISSED = st.sampled_from(["hidden", "hidden or wrong"])


def columns(rows):
    confidence, positive, ciou = (np.array(c) for c in zip(*rows))
    return confidence.astype(float), (passes(ciou, 0.5).numpy() & positive), positive


def slow(rows, missed):
    """AP and max-F1 from the definitions of Sec. 4: a loop over every distinct confidence."""
    points, best = [], 0.0
    for threshold in sorted({c for c, _, _ in rows}, reverse=True):
        tp = sum(p and u > 0.5 and c >= threshold for c, p, u in rows)
        shown = sum(c >= threshold for c, _, _ in rows)
        fn = (
            sum(p and c < threshold for c, p, _ in rows)
            if missed == "hidden"
            else sum(p for _, p, _ in rows) - tp
        )
        points.append((tp / shown, tp / (tp + fn) if tp else 0.0))
        best = max(best, 2 * tp / (tp + shown + fn) if tp + shown + fn else 0.0)
    ap = last = 0.0
    for k, (_, recall) in enumerate(points):
        ap += max(p for p, _ in points[k:]) * (recall - last)
        last = recall
    return ap, best


@given(CLIPS, MISSED)
@settings(max_examples=300, deadline=None)
def test_any_clips_against_the_definitions(rows, missed):
    curve = sweep(*columns(rows), missed)
    ap, f1 = slow(rows, missed)
    assert average_precision(curve) == pytest.approx(ap, abs=1e-12) and max_f1(curve)[
        0
    ] == pytest.approx(f1, abs=1e-12)


@given(CLIPS, MISSED, st.randoms())
@settings(deadline=None)
def test_order_and_monotone_confidence_never_matter(rows, missed, random):
    before = sweep(*columns(rows), missed)
    mixed = random.sample([(math.exp(3 * c) - 7, p, u) for c, p, u in rows], len(rows))
    after = sweep(*columns(mixed), missed)
    assert (
        average_precision(before) == average_precision(after)
        and max_f1(before)[0] == max_f1(after)[0]
    )


@given(CLIPS, MISSED)
@settings(deadline=None)
def test_bounds(rows, missed):
    confidence, hit, positive = columns(rows)
    curve = sweep(confidence, hit, positive, missed)
    floor = accept_all_f1(hit, positive, missed)
    assert (
        max_f1(curve)[0] >= floor - 1e-12
    )  # showing everything is one of the thresholds
    assert 0 <= average_precision(curve) <= 1 and 0 <= max_f1(curve)[0] <= 1
    oracle = sweep(
        positive.astype(float), hit, positive, missed
    )  # confidence that knows presence and nothing else
    if positive.any():
        assert average_precision(oracle) == pytest.approx(
            hit.sum()
            / positive.sum()
            * (1 if missed == "hidden" else hit.sum() / positive.sum())
        )


@given(CLIPS, MISSED)
@settings(deadline=None)
def test_a_constant_confidence_is_chance(rows, missed):
    _, hit, positive = columns(rows)
    curve = sweep(np.full(len(rows), 0.25), hit, positive, missed)
    assert average_precision(curve) == pytest.approx(
        chance_ap(hit, positive, missed)
    ) and max_f1(curve)[0] == pytest.approx(accept_all_f1(hit, positive, missed))
    skill = presence_skill(average_precision(curve), hit, positive, missed)
    assert math.isnan(skill) or skill == pytest.approx(0, abs=1e-9)


@given(CLIPS)
@settings(deadline=None)
def test_all_negative_sets_and_single_clips(rows):
    negative = [(c, False, u) for c, _, u in rows]
    curve = sweep(*columns(negative))
    assert (
        average_precision(curve) == 0
        and max_f1(curve)[0] == 0
        and math.isnan(loc_acc([]))
    )
    one = sweep(*columns(rows[:1]))
    assert average_precision(one) == float(columns(rows[:1])[1][0])
