"""The presence decision against slow references: pairs, loops over thresholds, max-min formulas."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit
from test_bootstrap import table

from slavc.data.boxes import size_group
from slavc.score.calibration import (
    MAPS,
    best_threshold,
    calibration_error,
    draw_reliability,
    draw_threshold,
    f1_at,
    halves,
    honest_threshold,
    isotonic,
    logistic,
    per_class,
    presence_auc,
    presence_probability,
    presence_report,
    recording,
    reliability,
    shared_sounds,
)
from slavc.score.metrics import accept_all_f1
from slavc.score.protocols import PROTOCOLS, named_protocol, summarise

LISTS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0]), st.booleans()),
    min_size=1,
    max_size=25,
)


def split(pairs):
    return np.array([c for c, _ in pairs]), np.array([p for _, p in pairs])


# ---- ranking ----------------------------------------------------------------------------------------------


def slow_auc(confidence, present):
    wins = [
        (c > d) + (c == d) / 2
        for c, p in zip(confidence, present)
        if p
        for d, q in zip(confidence, present)
        if not q
    ]
    return sum(wins) / len(wins) if wins else math.nan


@settings(max_examples=100, deadline=None)
@given(LISTS)
def test_auc_counts_pairs(pairs):
    confidence, present = split(pairs)
    found, wanted = presence_auc(confidence, present), slow_auc(confidence, present)
    assert (
        math.isnan(wanted)
        and math.isnan(found)
        or found == pytest.approx(wanted, abs=1e-12)
    )
    if not math.isnan(wanted):
        assert presence_auc(np.exp(3 * confidence) - 7, present) == found
        assert presence_auc(confidence[::-1], present[::-1]) == pytest.approx(
            found, abs=1e-12
        )
        assert presence_auc(-confidence, present) == pytest.approx(1 - found, abs=1e-12)


# ---- reliability ------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(LISTS, st.integers(1, 12))
def test_bins_hold_every_clip_once(pairs, bins):
    confidence, present = split(pairs)
    curve = reliability(confidence, present, bins)
    assert curve["clips"].sum() == len(pairs) and 1 <= len(curve) <= bins
    assert (
        curve["low"].to_numpy()[1:] > curve["high"].to_numpy()[:-1]
    ).all()  # ties never part
    for row in curve.itertuples():
        inside = [(c, p) for c, p in pairs if row.low <= c <= row.high]
        assert len(inside) == row.clips
        assert row.confidence == pytest.approx(
            np.mean([c for c, _ in inside])
        ) and row.present == pytest.approx(np.mean([p for _, p in inside]))
    error = sum(
        abs(row.confidence - row.present) * row.clips for row in curve.itertuples()
    ) / len(pairs)
    assert calibration_error(confidence, present, bins) == pytest.approx(
        error, abs=1e-12
    )
    order = np.random.default_rng(0).permutation(len(pairs))
    pd.testing.assert_frame_equal(
        curve, reliability(confidence[order], present[order], bins)
    )
    louder = reliability(np.exp(confidence), present, bins)
    assert (
        louder["clips"].tolist() == curve["clips"].tolist()
        and louder["present"].tolist() == curve["present"].tolist()
    )


@pytest.mark.parametrize("n, bins", [(10, 10), (100, 10), (103, 10), (7, 3), (3, 10)])
def test_bins_are_of_equal_count_without_ties(n, bins):
    confidence = np.random.default_rng(n).permutation(n) / n
    clips = reliability(confidence, confidence > 0.5, bins)["clips"]
    assert len(clips) == min(n, bins) and clips.max() - clips.min() <= 1


def test_a_true_probability_is_calibrated():
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    present = rng.random(20_000) < p
    assert calibration_error(p, present) < 0.02
    assert (
        calibration_error(p**3, present) > 0.1
        and calibration_error(1 - p, present) > 0.4
    )
    assert calibration_error(np.full(20_000, present.mean()), present) == pytest.approx(
        0, abs=1e-12
    )


# ---- maps to probabilities --------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(LISTS)
def test_isotonic_is_the_max_min_formula(pairs):
    """value(i) = max over j <= i of min over k >= i of the mean of blocks j..k (Robertson, Wright and Dykstra)."""
    confidence, present = split(pairs)
    knots = sorted(set(confidence.tolist()))
    fitted = isotonic(confidence, present)
    mean = {
        (j, k): np.mean([p for c, p in pairs if knots[j] <= c <= knots[k]])
        for j in range(len(knots))
        for k in range(j, len(knots))
    }
    wanted = [
        max(min(mean[j, k] for k in range(i, len(knots))) for j in range(i + 1))
        for i in range(len(knots))
    ]
    np.testing.assert_allclose(fitted(knots), wanted, atol=1e-12)
    assert (np.diff(fitted(np.linspace(-1, 2, 50))) >= 0).all()
    assert fitted(confidence).mean() == pytest.approx(present.mean())
    order = np.random.default_rng(0).permutation(len(pairs))
    np.testing.assert_array_equal(
        isotonic(confidence[order], present[order])(knots), fitted(knots)
    )
    np.testing.assert_array_equal(
        isotonic(np.exp(confidence), present)(np.exp(knots)), fitted(knots)
    )


@pytest.mark.parametrize(
    "case", ["usual", "separable", "constant", "positives", "one", "far", "tiny"]
)
def test_logistic_maximises_the_likelihood(case):
    rng = np.random.default_rng(0)
    c = rng.normal(size=200)
    present = rng.random(200) < expit(2 * c - 1)
    if case == "separable":
        present = c > 0.3
    elif case == "constant":
        c[:] = 0.7
    elif case == "positives":
        present[:] = True
    elif case == "one":
        c, present = c[:1], present[:1]
    elif case == "far":
        c = np.append(c, 1e4)
        present = np.append(present, False)
    elif case == "tiny":
        c = 0.5 + 1e-7 * c
    positives, n = present.sum(), len(present)
    target = np.where(
        present, (positives + 1) / (positives + 2), 1 / (n - positives + 2)
    )
    fitted = logistic(c, present)(c)
    z = (c - c.mean()) / (c.std() or 1)

    def loss(theta):
        return np.sum(
            np.logaddexp(0, z * theta[0] + theta[1])
            - target * (z * theta[0] + theta[1])
        )

    best = min(
        (
            minimize(
                loss,
                start,
                method="Nelder-Mead",
                options={
                    "xatol": 1e-10,
                    "fatol": 1e-13,
                    "maxiter": 20_000,
                    "maxfev": 20_000,
                },
            ).fun
            for start in ([0, 0], [3, 0], [-3, 1])
        )
    )
    ours = -np.sum(target * np.log(fitted) + (1 - target) * np.log1p(-fitted))
    assert ((0 < fitted) & (fitted < 1)).all() and ours <= best + 1e-6


def test_probabilities_come_from_the_other_half():
    clips = table(200, 0, 1)
    for how in MAPS:
        found = presence_probability(clips, how, seed=4)
        first = halves(clips, 4)
        present = (clips["kind"] == "positive").to_numpy()
        for rows in (first, ~first):
            wanted = MAPS[how](clips["confidence"][~rows], present[~rows])(
                clips["confidence"][rows]
            )
            np.testing.assert_array_equal(found[rows], wanted)
        turned = clips.assign(
            kind=np.where(first & present, "easy", clips["kind"])
        )  # own answers have no influence
        np.testing.assert_array_equal(
            presence_probability(turned, how, seed=4)[first], found[first]
        )
        order = np.random.default_rng(0).permutation(200)
        np.testing.assert_allclose(
            presence_probability(clips.iloc[order], how, seed=4),
            found[order],
            atol=1e-9,
        )
    assert (
        np.isnan(presence_probability(table(1, 0))).all()
        and len(presence_probability(table(0, 0))) == 0
    )


# ---- halves -----------------------------------------------------------------------------------------------


def official(n, seed):
    """Ids as in Extended VGG-SS: positives, real negatives cut from the same recordings, automated negatives."""
    rng = np.random.default_rng(seed)
    tubes = np.array(
        ["".join(rng.choice(list("abcXYZ-_019"), 11)) for _ in range(n)], object
    )
    ids = np.array(
        [f"{t}_{s:06d}" for t, s in zip(tubes, rng.integers(0, 999, n))], object
    )
    real = [
        f"{t}_{s:06d}"
        for t, s in zip(tubes[: n // 10], rng.integers(1000, 2000, n // 10))
    ]
    video = [*ids, *real, *ids[n // 10 :]]
    audio = [*ids, *real, *rng.permutation(ids[n // 10 :])]
    kind = ["positive"] * n + ["real"] * len(real) + ["easy"] * (n - n // 10)
    positive = np.array(kind) == "positive"
    m, area = len(kind), rng.uniform(100, 50000, len(kind))
    table = pd.DataFrame(
        {
            "video": video,
            "audio": audio,
            "kind": kind,
            "size": np.where(positive, size_group(area), ""),
            "area": area,
            "confidence": rng.random(m) + 0.3 * positive,
            "ciou": np.where(positive, rng.random(m), 0),
            "ciou_adaptive": np.where(positive, rng.random(m), np.nan),
            "pointing": np.where(positive, 1.0, np.nan),
        }
    )
    return table[~table.duplicated(["video", "audio"])].reset_index(drop=True)


@pytest.mark.parametrize("seed", range(5))
def test_no_recording_of_a_frame_is_in_both_halves(seed):
    clips = official(60, seed)
    first = halves(clips, seed)
    tubes = clips["video"].str[:11]
    assert not set(tubes[first]) & set(tubes[~first])
    assert abs(tubes[first].nunique() - tubes[~first].nunique()) <= 1
    order = np.random.default_rng(seed).permutation(len(clips))
    np.testing.assert_array_equal(halves(clips.iloc[order], seed), first[order])
    assert any(
        (halves(clips, seed) != halves(clips, other)).any() for other in range(5)
    )
    sounds = [recording(a) for a in clips["audio"]]
    slow = np.mean(
        [
            any(s == t and f != g for t, g in zip(sounds, first))
            for s, f in zip(sounds, first)
        ]
    )
    assert shared_sounds(clips, first) == pytest.approx(slow)


def test_recordings():
    assert recording("--abc_de-12_000030") == "--abc_de-12"
    for name in (
        "3908875350",
        "test-000003",
        "abc_000030",
        "abcdefghijkl_000030",
        "abcdefghijk_0000301",
        "",
    ):
        assert recording(name) == name


# ---- decision ---------------------------------------------------------------------------------------------


def slow_f1(clips, threshold, protocol, iou):
    rules = named_protocol(protocol)
    tp = fp = fn = 0
    for row in clips.itertuples():
        positive = row.kind == "positive"
        right = positive and (row.ciou > iou if rules.hit == ">" else row.ciou >= iou)
        if row.confidence >= threshold:
            tp, fp = tp + right, fp + (not right)
            fn += positive and not right and rules.missed == "hidden or wrong"
        else:
            fn += positive
    return 100 * 2 * tp / (2 * tp + fp + fn)


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
@pytest.mark.parametrize(
    "n, digits", [(1, None), (3, 0), (12, 1), (60, 1), (60, None), (230, 2)]
)
def test_f1_and_its_best_threshold(protocol, n, digits):
    for seed in range(4):
        clips = table(n, seed, digits)
        if not (clips["kind"] == "positive").any():
            assert math.isnan(best_threshold(clips, protocol)) and math.isnan(
                f1_at(clips, 0.5, protocol)
            )
            continue
        for threshold in (-math.inf, 0.3, 0.7, math.inf):
            assert f1_at(clips, threshold, protocol) == pytest.approx(
                slow_f1(clips, threshold, protocol, 0.5), abs=1e-9
            )
        ordered = sorted(clips["confidence"])
        visited = ordered[:: max(1, n // 10)] if protocol == "released" else ordered
        f1 = {t: slow_f1(clips, t, protocol, 0.5) for t in visited}
        chosen = best_threshold(clips, protocol)
        assert chosen in f1 and f1[chosen] == pytest.approx(max(f1.values()), abs=1e-9)
        assert chosen == max(t for t in f1 if f1[t] >= max(f1.values()) - 1e-9)
        assert f1_at(clips, chosen, protocol) == pytest.approx(
            summarise(clips, protocol)["all"]["max-F1"], abs=1e-9
        )


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_honest_thresholds_by_hand(protocol):
    clips = official(40, 1)
    found = honest_threshold(clips, protocol, splits=3, seed=9)
    assert len(found) == 6 and found["tuned"].tolist() == ["first", "second"] * 3
    splits = []
    for number, (one, two) in enumerate(
        zip(found[::2].itertuples(), found[1::2].itertuples())
    ):
        first = halves(
            clips, int(np.random.default_rng(9).integers(2**32, size=3)[number])
        )
        splits.append(tuple(first))
        for row, tune, test in (
            (one, clips[first], clips[~first]),
            (two, clips[~first], clips[first]),
        ):
            values = sorted(set(tune["confidence"]))
            best = max(slow_f1(tune, t, protocol, 0.5) for t in values)
            if protocol != "released":
                assert (
                    row[4] == pytest.approx(best, abs=1e-9) and row[5] <= row[6] + 1e-9
                )
            assert row[4] == pytest.approx(
                slow_f1(tune, row.threshold, protocol, 0.5), abs=1e-9
            )
            assert row[5] == pytest.approx(
                slow_f1(test, row.threshold, protocol, 0.5), abs=1e-9
            )
            assert row[6] == pytest.approx(
                summarise(test, protocol)["all"]["max-F1"], abs=1e-9
            )
            hit = test["ciou"].to_numpy() > 0.5
            positive = (test["kind"] == "positive").to_numpy()
            assert row[7] == pytest.approx(
                100 * accept_all_f1(hit, positive, named_protocol(protocol).missed),
                abs=1e-9,
            )
            assert row[8] == shared_sounds(clips, first)
    assert len(set(splits)) == 3
    pd.testing.assert_frame_equal(
        found,
        honest_threshold(
            clips.sample(frac=1, random_state=0), protocol, splits=3, seed=9
        ),
    )


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 40), st.integers(0, 99), st.sampled_from(list(PROTOCOLS)))
def test_honest_f1_follows_monotone_maps(n, seed, protocol):
    clips = table(n, seed, 1)
    louder = clips.assign(confidence=np.exp(2 * clips["confidence"]) - 3)
    one, two = (honest_threshold(c, protocol, splits=2) for c in (clips, louder))
    pd.testing.assert_frame_equal(
        one.drop(columns="threshold"), two.drop(columns="threshold")
    )
    np.testing.assert_allclose(np.exp(2 * one["threshold"]) - 3, two["threshold"])


def test_knowing_nothing_gains_nothing_and_edges():
    clips = official(100, 3)
    constant = honest_threshold(clips.assign(confidence=0.5), splits=2)
    np.testing.assert_allclose(constant["test F1"], constant["accept-all F1"])
    np.testing.assert_allclose(constant["oracle F1"], constant["accept-all F1"])
    for lost in (clips[clips["kind"] != "positive"], clips[:1], clips[:0]):
        found = honest_threshold(lost, splits=2)
        assert len(found) == 4 and found["test F1"].isna().all()
    with pytest.raises(ValueError, match="splits must be"):
        honest_threshold(clips, splits=0)
    with pytest.raises(ValueError, match="there twice"):
        honest_threshold(pd.concat([clips, clips]))


def test_the_report_is_json_and_holds_the_numbers():
    clips = official(60, 2)
    present = (clips["kind"] == "positive").to_numpy()
    found = json.loads(json.dumps(presence_report(clips, seed=3), allow_nan=False))
    assert found["presence AUC"] == presence_auc(clips["confidence"], present)
    for how in MAPS:
        assert found["calibration error"][how] == calibration_error(
            presence_probability(clips, how, 3), present
        )
    assert sum(row["clips"] for row in found["reliability"]) == len(clips)
    for name, value in found["threshold"].items():
        assert value == pytest.approx(honest_threshold(clips, seed=3)[name].mean())
    for few in (clips[:0], clips[:1], clips[~present]):
        found = json.loads(json.dumps(presence_report(few), allow_nan=False))
        assert found["presence AUC"] is None and found["threshold"]["test F1"] is None


# ---- classes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_classes_are_the_tables_of_their_clips(protocol):
    clips = official(80, 0)
    own = clips["audio"][clips["kind"] != "real"].unique()
    names = np.array([f"c{i}" for i in range(20)])
    category = {
        a: names[hash_]
        for a, hash_ in zip(own, np.random.default_rng(0).integers(0, 20, len(own)))
    }
    lonely = clips["audio"][clips["kind"] == "easy"].iloc[0]
    clips = clips[
        ~((clips["audio"] == lonely) & (clips["kind"] == "positive"))
    ].reset_index(drop=True)
    category[lonely] = "only negatives"
    found = per_class(clips, category, protocol)
    assert set(found["category"]) == set(category.values()) | {"(unknown)"}
    for row in found.to_dict("records"):
        rows = clips[
            [category.get(a, "(unknown)") == row["category"] for a in clips["audio"]]
        ]
        seen = rows["kind"] == "positive"
        assert (row["positives"], row["negatives"]) == (seen.sum(), (~seen).sum())
        wanted = summarise(rows, protocol)["all"]
        for metric in ("AP", "max-F1", "LocAcc"):
            assert (
                math.isnan(row[metric])
                if wanted[metric] is None
                else row[metric] == pytest.approx(wanted[metric], abs=1e-9)
            )
        np.testing.assert_allclose(
            [row["confidence of positives"], row["confidence of negatives"]],
            [rows["confidence"][seen].mean(), rows["confidence"][~seen].mean()],
        )
    defined = found["AP"].dropna()
    assert (np.diff(defined) <= 0).all() and found["AP"].isna().tolist() == [
        False
    ] * len(defined) + [True] * (len(found) - len(defined))
    assert set(found["category"][found["AP"].isna()]) >= {"(unknown)", "only negatives"}
    assert found[["positives", "negatives"]].to_numpy().sum() == len(clips)
    pd.testing.assert_frame_equal(
        found, per_class(clips.sample(frac=1, random_state=1), category, protocol)
    )


def test_classes_edges():
    clips = table(20, 0)
    with pytest.raises(ValueError, match="positives have no category: a"):
        per_class(clips, {})
    assert len(per_class(clips[:0], {})) == 0
    row = per_class(
        clips[clips["kind"] == "positive"][:1], {a: "dog" for a in clips["audio"]}
    ).iloc[0]
    assert (row["category"], row["positives"], row["negatives"]) == (
        "dog",
        1,
        0,
    ) and math.isnan(row["confidence of negatives"])


# ---- errors and pictures ----------------------------------------------------------------------------------


def test_bad_values_are_named():
    for function in (presence_auc, reliability, calibration_error, isotonic, logistic):
        with pytest.raises(ValueError, match=r"must be \[N\] each, got shapes"):
            function([0.1, 0.2], [True])
        with pytest.raises(ValueError, match=r"not finite at positions \[1\]"):
            function([0.1, math.nan], [True, False])
        with pytest.raises(ValueError, match="present must be true or false"):
            function([0.1, 0.2], [2, 0])
    with pytest.raises(ValueError, match="bins must be"):
        reliability([0.1], [1], bins=0)
    with pytest.raises(ValueError, match="probability must be within 0..1"):
        calibration_error([1.2], [1])
    with pytest.raises(ValueError, match="how must be one of isotonic, logistic"):
        presence_probability(table(5, 0), "spline")
    for fit in MAPS.values():
        with pytest.raises(ValueError, match="no clip to fit"):
            fit([], [])
    assert (
        math.isnan(presence_auc([], []))
        and len(reliability([], [])) == 0
        and math.isnan(calibration_error([], []))
    )


def test_pictures_show_the_numbers():
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    clips = official(50, 0)
    present = clips["kind"] == "positive"
    curve = reliability(clips["confidence"], present)
    ax = draw_reliability({"score": curve})
    line = ax.lines[1]
    np.testing.assert_allclose(line.get_xdata(orig=False), curve["confidence"])
    np.testing.assert_allclose(line.get_ydata(orig=False), curve["present"])
    ax = draw_threshold(clips, [0.4, 0.6])
    assert ax.lines[0].get_ydata().max() == pytest.approx(
        summarise(clips)["all"]["max-F1"]
    )
    assert [line.get_xdata()[0] for line in ax.lines[2:]] == [0.4, 0.6]
    plt.close("all")
