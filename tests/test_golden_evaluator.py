"""Protocol "released" against the released evaluator's own results (../shared/golden), at its tolerances."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from slavc.data.boxes import gt_maps, size_group
from slavc.score.metrics import (
    absolute_mask,
    average_precision,
    ciou,
    loc_acc,
    max_f1,
    passes,
    relative_mask,
    sweep,
    to_score,
    top_quarter,
    upsample,
)
from slavc.score.protocols import (
    PROTOCOLS,
    score_clips,
    subsampled_ap,
    subsampled_f1,
    subset,
    summarise,
)

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"
MAPS = ("av", "obj", "avobj_0.4", "avobj_0.9")
SIZES = ("0.1", "0.3", "0.5", "0.7", "0.9")
PARTS = ("all", "visible", "small", "medium", "large", "huge")
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def arrays():
    if not GOLDEN.exists():
        pytest.skip("reference material ../shared is absent")
    return dict(np.load(GOLDEN / "evaluator.npz"))


@pytest.fixture(scope="module")
def reports():
    if not GOLDEN.exists():
        pytest.skip("reference material ../shared is absent")
    return json.loads((GOLDEN / "evaluator_stats.json").read_text())


def raw_map(arrays, name):
    """The raw 7x7 map of a golden method and its range. Fusing is linear, so it is done at 7x7."""
    tau = float(arrays["tau"])
    av, obj = (arrays["raw_av"], (-1 / tau, 1 / tau)), (arrays["raw_obj"], (0.0, 2.5))
    if not name.startswith("avobj"):
        return {"av": av, "obj": obj}[name]
    alpha = float(name.split("_")[1])
    return (alpha * to_score(*av) + (1 - alpha) * to_score(*obj)).numpy(), (0.0, 1.0)


def truth(arrays):
    """Pairs and boxes of all 24 samples."""
    kind = np.where(arrays["n_boxes"] > 0, "positive", "easy")
    pairs = pd.DataFrame(
        {"video": arrays["name"], "audio": arrays["name"], "kind": kind}
    )
    return pairs, {
        n: b[:k] for n, b, k in zip(arrays["name"], arrays["boxes"], arrays["n_boxes"])
    }


def scored(arrays, name, fmt, protocol, done={}):
    if (name, fmt, protocol) not in done:
        done[name, fmt, protocol] = score_golden(arrays, name, fmt, protocol)
    return done[name, fmt, protocol]


def score_golden(arrays, name, fmt, protocol):
    rows = np.flatnonzero(arrays["fmt"] == fmt)
    pairs, boxes = truth(arrays)
    maps, map_range = raw_map(arrays, name)
    return score_clips(
        maps[rows], map_range, pairs.iloc[rows], boxes, protocol, kind=fmt, chunk=5
    )


def in_group(arrays, name, group, protocol):
    formats = ("flickr", "vggss") if group == "both" else (group,)
    return pd.concat(
        [scored(arrays, name, f, protocol) for f in formats], ignore_index=True
    )


# ---- what lies below the numbers -------------------------------------------------------------------------


def test_ground_truth(arrays):
    for fmt in ("flickr", "vggss"):
        rows = arrays["fmt"] == fmt
        gt = gt_maps(arrays["boxes"][rows], fmt)  # padded with -1, as given
        np.testing.assert_array_equal(gt.sum((1, 2)), arrays["gt_area"][rows])
        np.testing.assert_array_equal(gt.sum(2), arrays["gt_row_sum"][rows])
        np.testing.assert_array_equal(gt.sum(1), arrays["gt_col_sum"][rows])


def test_upsampling(arrays):
    for name in ("av", "obj"):
        up = upsample(arrays[f"raw_{name}"])
        np.testing.assert_allclose(
            up[:, ::8, ::8], arrays[f"up_{name}_grid8"], atol=1e-4, rtol=0
        )
        np.testing.assert_allclose(
            up[arrays["full_index"]], arrays[f"up_{name}_full"], atol=1e-4, rtol=0
        )
    up = upsample(arrays["raw_av"], align_corners=False)
    np.testing.assert_allclose(
        up[:, ::8, ::8], arrays["train_up_av_grid8"], atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("name", MAPS)
def test_scores_masks_and_confidence(arrays, name):
    maps, map_range = raw_map(arrays, name)
    score = to_score(upsample(maps), map_range)
    lo, hi = score.amin((1, 2)), score.amax((1, 2))
    for found, what in (
        (lo, "min"),
        (hi, "max"),
        (score.double().mean((1, 2)), "mean"),
    ):
        np.testing.assert_allclose(
            found, arrays[f"score_{what}__{name}"], atol=1e-5, rtol=0
        )
    np.testing.assert_allclose(
        top_quarter(score), arrays[f"conf__{name}"], atol=1e-5, rtol=0
    )
    gt = torch.cat(
        [gt_maps(arrays["boxes"][arrays["fmt"] == f], f) for f in ("flickr", "vggss")]
    )
    for column, size in enumerate(SIZES):
        mask = relative_mask(score, float(size))
        threshold = torch.where(mask, score, torch.inf).amin((1, 2))
        scaled = torch.where(
            hi > lo, (threshold - lo) / (hi - lo), threshold
        )  # theirs: per-sample min-max
        np.testing.assert_allclose(
            scaled, arrays[f"thr__{name}"][:, column], atol=1e-4, rtol=0
        )
        assert (
            np.abs(mask.sum((1, 2)).numpy() - arrays[f"npix__{name}"][:, column]).max()
            <= 4
        )
        np.testing.assert_allclose(
            ciou(mask, gt), arrays[f"ciou__{name}"][:, column], atol=1e-3, rtol=0
        )
    mask = absolute_mask(score, 0.5)
    assert np.abs(mask.sum((1, 2)).numpy() - arrays[f"npix_abs__{name}"]).max() <= 4
    theirs = arrays[f"ciou_abs__{name}"]
    assert (
        arrays["n_boxes"][np.isnan(theirs)] == 0
    ).all()  # 0/0, nothing selected: ours is 0
    np.testing.assert_allclose(ciou(mask, gt), np.nan_to_num(theirs), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("fmt", ["flickr", "vggss"])
def test_score_clips(arrays, name, fmt):
    rows = arrays["fmt"] == fmt
    for column, size in enumerate(SIZES):
        clips = scored(
            arrays, name, fmt, replace(PROTOCOLS["released"], level=float(size))
        )
        np.testing.assert_allclose(
            clips["confidence"], arrays[f"conf__{name}"][rows], atol=1e-5, rtol=0
        )
        np.testing.assert_allclose(
            clips["ciou"], arrays[f"ciou__{name}"][rows, column], atol=1e-3, rtol=0
        )
        np.testing.assert_array_equal(clips["area"], arrays["gt_area"][rows])
        seen = (clips["kind"] == "positive").to_numpy()
        assert (
            np.abs(
                clips["predicted"][seen] - arrays[f"npix__{name}"][rows, column][seen]
            ).max()
            <= 4
        )
        flat = arrays["kind"][rows] == "flat"
        assert clips["ciou"][flat].tolist() == [0.5] * flat.sum()


# ---- the reports -----------------------------------------------------------------------------------------


def assert_report(clips, protocol, report):
    """Everything that the release reports, and the exact values computed beside it, for one list of clips."""
    theirs, exact = report["finalize_stats"], report.get("exact")
    for iou in (50, 75):
        released = summarise(clips, protocol, iou / 100)
        for hit, suffix in ((">", ""), (">=", "_ge")) if exact else ():
            right = passes(clips["ciou"], iou / 100, hit == ">")
            positive = (clips["kind"] == "positive").to_numpy()
            for part in PARTS:
                rows = subset(clips, part)
                if (wanted := exact.get(f"{part}@{iou}")) is None:
                    assert not rows.any()
                    continue
                curve = sweep(clips["confidence"][rows], right[rows], positive[rows])
                assert average_precision(curve) == pytest.approx(
                    wanted[f"ap_exact{suffix}"], abs=1e-9
                )
                assert max_f1(curve)[0] == pytest.approx(
                    wanted[f"max_f1_exact{suffix}"], abs=1e-9
                )
                if hit == ">":
                    seen = clips["ciou"][rows & positive]
                    assert loc_acc(seen, iou / 100) == pytest.approx(
                        wanted["loc_acc_strict"], abs=1e-9
                    )
        for part in PARTS:
            rows, ours = clips[subset(clips, part)], released[part]
            if theirs[f"Precision-{part}@{iou}"] is None:
                assert len(rows) == 0 and set(ours.values()) == {None}
                continue
            share = (
                rows["kind"] == "positive"
            ).mean()  # theirs counts negatives as wrong
            assert ours["LocAcc"] * share == pytest.approx(
                100 * theirs[f"Precision-{part}@{iou}"], abs=1e-7
            )
            assert ours["AP"] == pytest.approx(
                100 * theirs[f"AP-{part}@{iou}"], abs=1e-7
            )
            # the AUC is a sum over exact counts, the same whatever the bar in the key's name
            assert ours["AUC"] == pytest.approx(
                100 * theirs[f"AUC-{part}@{iou}"], abs=1e-7
            )
            positive = (rows["kind"] == "positive").to_numpy()
            f1 = subsampled_f1(
                rows["confidence"], (rows["ciou"] >= iou / 100) & positive, positive
            )
            wanted = report["f1_at_their_thresholds"][f"{part}@{iou}"]
            np.testing.assert_allclose(f1, wanted, atol=1e-9, rtol=0)
            assert " ".join(f"{100 * v:.1f}" for v in f1) == theirs[f"F1-{part}@{iou}"]
            assert ours["max-F1"] == pytest.approx(100 * f1.max().item(), abs=1e-9)
    positive = (clips["kind"] == "positive").to_numpy()
    loose = (clips["ciou"] >= 0.5).to_numpy() & positive
    assert (clips["ciou"][positive] > 0.5).mean() == pytest.approx(
        report["precision_at_50"], abs=1e-9
    )
    assert subsampled_ap(clips["confidence"], loose, positive) == pytest.approx(
        report["ap_at_50"], abs=1e-9
    )
    assert f1_at(clips, 0.5) == pytest.approx(report["f1_at_50"], abs=1e-9)


def f1_at(clips, threshold):
    """F1 at one confidence, hits >= 0.5: the release's `f1_at_50`."""
    positive, shown = clips["kind"] == "positive", clips["confidence"] >= threshold
    tp = (shown & positive & (clips["ciou"] >= 0.5)).sum()
    total = 2 * tp + (shown.sum() - tp) + (positive & ~shown).sum()
    return 2 * tp / total if total else 0.0


@pytest.mark.parametrize("group", ["flickr", "vggss", "both"])
@pytest.mark.parametrize("name", MAPS)
def test_reports_relative(arrays, reports, group, name):
    for size in SIZES:
        protocol = replace(PROTOCOLS["released"], level=float(size))
        clips = in_group(arrays, name, group, protocol)
        assert_report(clips, protocol, reports["groups"][group]["relative"][size][name])


@pytest.mark.parametrize("group", ["flickr", "vggss", "both"])
@pytest.mark.parametrize("name", MAPS)
def test_reports_absolute(arrays, reports, group, name):
    protocol = replace(PROTOCOLS["released"], mask="absolute")
    clips = in_group(arrays, name, group, protocol)
    assert_report(clips, protocol, reports["groups"][group]["absolute"][name])


@pytest.mark.parametrize("group", ["flickr", "vggss", "both"])
def test_paper_protocol(arrays, reports, group):
    """Section 4 read literally: confidence = maximum of the raw map, hit > bar, every threshold."""
    clips = in_group(arrays, "av", group, "paper")
    report = reports["groups"][group]["relative"]["0.5"]["av"]["exact_conf_is_map_max"]
    for key, wanted in report.items():
        part, iou = key.split("@")
        ours = summarise(clips, "paper", int(iou) / 100)[part]
        loose = summarise(clips, replace(PROTOCOLS["paper"], hit=">="), int(iou) / 100)[
            part
        ]
        assert ours["AP"] == pytest.approx(100 * wanted["ap_exact"], abs=1e-7)
        assert ours["max-F1"] == pytest.approx(100 * wanted["max_f1_exact"], abs=1e-7)
        assert ours["LocAcc"] == pytest.approx(100 * wanted["loc_acc_strict"], abs=1e-7)
        assert loose["AP"] == pytest.approx(100 * wanted["ap_exact_ge"], abs=1e-7)
        assert loose["max-F1"] == pytest.approx(
            100 * wanted["max_f1_exact_ge"], abs=1e-7
        )


@pytest.mark.parametrize("group", ["flickr", "vggss"])
def test_validation_while_training(arrays, reports, group):
    """Theirs: align_corners=False; the 0.5 of its mask is the relative rule's (half of the pixels)."""
    protocol = replace(PROTOCOLS["released"], align_corners=False)
    clips, rows = scored(arrays, "av", group, protocol), arrays["fmt"] == group
    np.testing.assert_allclose(
        clips["confidence"], arrays["train_conf"][rows], atol=1e-5, rtol=0
    )
    np.testing.assert_allclose(
        clips["ciou"], np.nan_to_num(arrays["train_ciou"][rows]), atol=1e-3, rtol=0
    )
    wanted = reports["groups"][group]["train_validate"]
    positive = (clips["kind"] == "positive").to_numpy()
    assert (clips["ciou"][positive] > 0.5).mean() == pytest.approx(
        wanted["precision"], abs=1e-9
    )
    assert summarise(clips, protocol)["all"]["AP"] == pytest.approx(
        100 * wanted["ap"], abs=1e-7
    )
    assert f1_at(clips, 0.5) == pytest.approx(wanted["f1"], abs=1e-9)


def test_lists(arrays, reports):
    for size, report in reports["lists"].items():
        columns = {
            c: arrays[f"lists{size}_{c}"] for c in ("n_boxes", "conf", "ciou", "area")
        }
        positive = columns["n_boxes"] > 0
        clips = pd.DataFrame(
            {
                "video": [f"v{n}" for n in range(len(positive))],
                "audio": "a",
                "kind": np.where(positive, "positive", "easy"),
                "size": np.where(positive, size_group(columns["area"]), ""),
                "confidence": columns["conf"],
                "ciou": columns["ciou"],
                "ciou_adaptive": np.nan,
                "pointing": np.nan,
            }
        )
        assert_report(clips, "released", report)
        for key, wanted in report[
            "exact"
        ].items():  # the release's sum on all distinct confidences
            part, iou = key.split("@")
            rows = clips[subset(clips, part)]
            seen = (rows["kind"] == "positive").to_numpy()
            curve = sweep(
                rows["confidence"], (rows["ciou"] >= int(iou) / 100) & seen, seen
            )
            best = curve.precision.flip(0).cummax(0).values.flip(0)
            area = (best[:-1] * curve.recall.diff()).sum().item()
            assert area == pytest.approx(wanted["ap_left_sum_ge"], abs=1e-9)
