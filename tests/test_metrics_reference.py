"""Every metric against slow loops written straight from the definitions, on random lists full of ties."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from slavc.data.boxes import gt_map, gt_maps, to_grid
from slavc.score.metrics import (
    accept_all_f1,
    adaptive_mask,
    auc,
    average_precision,
    chance_ap,
    ciou,
    confidence,
    loc_acc,
    max_f1,
    pointing,
    presence_skill,
    relative_mask,
    sweep,
    top_quarter,
    upsample,
)
from slavc.score.protocols import (
    METRICS,
    PROTOCOLS,
    SUBSETS,
    Protocol,
    match_pairs,
    named_protocol,
    score_clips,
    subsampled_ap,
    subsampled_f1,
    subset,
    summarise,
)

torch.set_num_threads(1)


# ---- the slow reference: loops over clips and thresholds --------------------------------------------------


def count(clips, threshold, missed="hidden"):
    tp = fp = fn = 0
    for d, hit, positive in clips:
        if d >= threshold:
            if positive and hit:
                tp += 1
            else:
                fp += 1
                fn += missed == "hidden or wrong" and positive
        elif positive:
            fn += 1
    return tp, fp, fn


def slow_exact(clips, missed):
    """AP and max-F1 over every distinct confidence."""
    points, f1 = [], []
    for threshold in sorted({d for d, _, _ in clips}, reverse=True):
        tp, fp, fn = count(clips, threshold, missed)
        points.append((tp / (tp + fn) if tp else 0.0, tp / (tp + fp)))
        f1.append(2 * tp / (2 * tp + fp + fn))
    area, before = 0.0, 0.0
    for k, (recall, _) in enumerate(points):
        area += (recall - before) * max(p for _, p in points[k:])
        before = recall
    return area, max(f1)


def slow_released(clips):
    """AP and F1 values over the release's sub-sampled thresholds."""
    ordered = sorted(d for d, _, _ in clips)
    n = len(ordered)

    def point(threshold):
        tp, fp, fn = count(clips, threshold)
        return (tp / (tp + fp) if tp + fp else 1.0), (
            tp / (tp + fn) if tp + fn else 1.0
        )

    points = [point(t) for t in ordered[: n - 1][::-1][:: max(1, n // 200)]]
    steps = range(len(points) - 1)
    ap = sum(
        (points[i + 1][1] - points[i][1]) * max(p for p, _ in points[i:]) for i in steps
    )
    f1 = [
        2 * p * r / (p + r) if p + r else 0.0
        for p, r in map(point, ordered[:: max(1, n // 10)])
    ]
    return ap, f1


def random_list(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.choice([1, 2, 3, 5, 17, 60, 230, 420]))
    d = rng.random(n)
    if seed % 2:
        d = d.round(int(rng.integers(0, 3)))  # ties, up to one single value
    positive = rng.random(n) < rng.choice([0.0, 0.3, 0.5, 1.0], p=[0.1, 0.3, 0.4, 0.2])
    hit = positive & (rng.random(n) < rng.choice([0.0, 0.4, 0.8, 1.0]))
    return d, hit, positive, rng


@pytest.mark.parametrize("seed", range(40))
def test_sweeps(seed):
    d, hit, positive, rng = random_list(seed)
    clips = list(zip(d.tolist(), hit.tolist(), positive.tolist()))
    order = rng.permutation(len(d))
    for missed in ("hidden", "hidden or wrong"):
        ap, f1 = slow_exact(clips, missed)
        curve = sweep(d, hit, positive, missed)
        assert curve.threshold.tolist() == sorted(set(d.tolist()), reverse=True)
        assert [tuple(map(int, c)) for c in zip(curve.tp, curve.fp, curve.fn)] == [
            count(clips, t, missed) for t in curve.threshold.tolist()
        ]
        assert average_precision(curve) == pytest.approx(ap, abs=1e-12)
        assert max_f1(curve)[0] == pytest.approx(f1, abs=1e-12)
        tp, fp, fn = count(clips, max_f1(curve)[1], missed)
        assert 2 * tp / (2 * tp + fp + fn) == pytest.approx(f1, abs=1e-12)
        tp, fp, fn = count(clips, -math.inf, missed)
        assert accept_all_f1(hit, positive, missed) == pytest.approx(
            2 * tp / (2 * tp + fp + fn), abs=1e-12
        )
        assert max_f1(curve)[0] >= accept_all_f1(hit, positive, missed) - 1e-12
        again = sweep(
            np.exp(3 * d[order]), hit[order], positive[order], missed
        )  # other order, other scale
        assert all(torch.equal(a, b) for a, b in zip(curve[1:], again[1:]))
        if hit.any() and not positive.all():
            constant = average_precision(sweep(np.zeros(len(d)), hit, positive, missed))
            oracle = average_precision(sweep(positive * 1.0, hit, positive, missed))
            assert constant == pytest.approx(
                chance_ap(hit, positive, missed), abs=1e-12
            )
            assert presence_skill(constant, hit, positive, missed) == pytest.approx(
                0, abs=1e-9
            )
            assert presence_skill(oracle, hit, positive, missed) == pytest.approx(
                1, abs=1e-9
            )
    ap, f1 = slow_released(clips)
    assert subsampled_ap(d, hit, positive) == pytest.approx(ap, abs=1e-12)
    np.testing.assert_allclose(subsampled_f1(d, hit, positive), f1, atol=1e-12)
    assert subsampled_ap(np.ones(len(d)), hit, positive) == 0


def test_localisation_shares():
    rng = np.random.default_rng(0)
    for n in (1, 7, 50):
        u = rng.choice(np.append(rng.random(n), [0, 0.25, 0.5, 1]), n)
        for strict in (True, False):
            over = (lambda v, bar: v > bar) if strict else (lambda v, bar: v >= bar)
            shares = [sum(over(v, i / 20) for v in u) / n for i in range(21)]
            assert loc_acc(u, 0.5, strict) == pytest.approx(shares[10])
            slow = sum((a + b) / 2 * 0.05 for a, b in zip(shares, shares[1:]))
            assert auc(u, strict) == pytest.approx(slow, abs=1e-12)


def test_masks_and_ciou():
    rng = np.random.default_rng(1)
    for kind in ("vggss", "flickr"):
        maps = rng.normal(size=(6, 7, 7)).astype(np.float32)
        maps[0] = 0.3
        maps[1] = np.maximum(maps[1], 0)  # many ties at the bottom
        boxes = [
            np.sort(rng.integers(0, 225, (k, 2, 2)), axis=1).reshape(k, 4)
            for k in (1, 2, 3, 1, 2, 0)
        ]
        score, gt = upsample(maps), gt_maps(boxes, kind)
        flat = score.flatten(1)
        tops = top_quarter(score)
        for n in range(6):
            values = sorted(flat[n].tolist())
            assert tops[n].item() == pytest.approx(
                math.fsum(values[-12544:]) / 12544, abs=1e-6
            )
            truth = gt_map(boxes[n], kind)
            for size in (0.1, 0.5, 0.9):
                mask = (score[n] >= values[int(50176 * size)]).numpy()
                assert torch.equal(
                    relative_mask(score[n : n + 1], size)[0], torch.from_numpy(mask)
                )
                inside, outside = (mask * truth).sum(), (mask & (truth == 0)).sum()
                wanted = inside / (truth.sum() + outside)
                found = ciou(torch.from_numpy(mask)[None], gt[n : n + 1]).item()
                assert found == pytest.approx(wanted, abs=1e-9)
            pixels = int((truth > 0).sum())
            mask = adaptive_mask(score[n : n + 1], [pixels])[0].numpy()
            wanted = (
                (score[n] >= values[50176 - pixels]).numpy()
                if pixels
                else np.zeros_like(mask)
            )
            assert (mask == wanted).all()
            peaks = np.argwhere(score[n].numpy() == values[-1])
            wanted = np.mean([truth[y, x] > 0 for y, x in peaks])
            assert pointing(score[n : n + 1], gt[n : n + 1]).item() == pytest.approx(
                wanted
            )
        assert (
            relative_mask(score[:1]).all() and not adaptive_mask(score[5:], [0]).any()
        )


@pytest.mark.parametrize(
    "shape", [(7, 7), (14, 14), (1, 1), (5, 9), (300, 224), (224, 224)]
)
@pytest.mark.parametrize("corners", [True, False])
def test_upsampling_of_any_shape(shape, corners):
    maps = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    theirs = F.interpolate(
        maps[:, None].double(), (224, 224), mode="bicubic", align_corners=corners
    )[:, 0]
    np.testing.assert_allclose(
        upsample(maps, align_corners=corners), theirs, atol=2e-6, rtol=0
    )


# ---- from maps to numbers ---------------------------------------------------------------------------------


def toy(n=40, seed=0):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 0.6, (n, 2))
    size = rng.uniform(0.05, 0.8, (n, 1))
    fractions = np.concatenate([corner, np.minimum(corner + size, 1)], 1)  # (n, 4)
    boxes = {f"v{i}": to_grid(fractions[i : i + 1]) for i in range(n)}
    kinds = ["positive"] * n + ["easy"] * (n - 10) + ["hard"] * 5 + ["real"] * 5
    own, real = [f"v{i}" for i in range(n)], [f"r{i}" for i in range(5)]
    video, audio = own + own[: n - 5] + real, own + own[1 : n - 4] + real
    maps = rng.normal(size=(2 * n, 7, 7)).astype(np.float32)
    maps[n : n + 5] = maps[
        :5
    ]  # a method that ignores the sound: the same map for a frame, so ties
    maps[7] = maps[8] = 0.25
    return maps, pd.DataFrame({"video": video, "audio": audio, "kind": kinds}), boxes


VARIANTS = [
    *PROTOCOLS.values(),
    replace(PROTOCOLS["released"], mask="absolute", align_corners=False),
    replace(PROTOCOLS["paper"], hit=">=", level=0.7),
]


@pytest.mark.parametrize("protocol", VARIANTS, ids=range(len(VARIANTS)))
def test_order_and_chunks_never_matter(protocol):
    maps, pairs, boxes = toy()
    clips = score_clips(maps, (-4, 4), pairs, boxes, protocol)
    assert (
        clips["confidence"][40:45].to_numpy() == clips["confidence"][:5].to_numpy()
    ).all()  # exact ties
    order = np.random.default_rng(1).permutation(len(pairs))
    other = score_clips(
        torch.from_numpy(maps[order]),
        (-4, 4),
        pairs.iloc[order],
        boxes,
        protocol,
        chunk=7,
    )
    keys = ["video", "audio"]
    pd.testing.assert_frame_equal(
        clips.sort_values(keys, ignore_index=True),
        other.sort_values(keys, ignore_index=True),
        check_exact=True,
    )
    ours, theirs = summarise(clips, protocol), summarise(other, protocol)
    for name in SUBSETS:
        for metric in METRICS:
            assert ours[name][metric] == pytest.approx(theirs[name][metric], abs=1e-9)
    position = match_pairs(
        pairs["video"].iloc[order], pairs["audio"].iloc[order], pairs
    )
    assert (order[position] == np.arange(len(pairs))).all()


def test_summaries_from_the_definitions():
    maps, pairs, boxes = toy(seed=3)
    clips = score_clips(maps, (-4, 4), pairs, boxes, "paper")
    np.testing.assert_allclose(
        clips["confidence"], (maps.max((1, 2)) + 4.0) / 8, atol=1e-6
    )
    np.testing.assert_allclose(
        clips["confidence"], confidence(maps, (-4, 4), "max"), atol=0
    )
    np.testing.assert_allclose(
        score_clips(maps, (-4, 4), pairs, boxes, "released")["confidence"],
        confidence(maps, (-4, 4), "top_quarter"),
        atol=0,
    )
    for iou in (0.3, 0.5):
        for protocol, missed in (("paper", "hidden"), ("strict", "hidden or wrong")):
            found = summarise(clips, protocol, iou)
            for name in SUBSETS:
                rows = clips[subset(clips, name)]
                seen = rows[rows["kind"] == "positive"]
                listed = [
                    (r.confidence, r.ciou > iou, r.kind == "positive")
                    for r in rows.itertuples()
                ]
                if not len(seen):
                    assert set(found[name].values()) == {None}
                    continue
                ap, f1 = slow_exact(listed, missed)
                wanted = {
                    "AP": ap,
                    "max-F1": f1,
                    "LocAcc": (seen["ciou"] > iou).mean(),
                    "adaptive LocAcc": (seen["ciou_adaptive"] > iou).mean(),
                    "pointing": seen["pointing"].mean(),
                }
                for metric, value in wanted.items():
                    assert found[name][metric] == pytest.approx(100 * value), (
                        name,
                        metric,
                    )
    counts = [
        subset(clips, s).sum() for s in ("all", "visible", "real", "easy", "hard")
    ]
    assert counts == [80, 40, 45, 70, 45]
    assert (
        sum(subset(clips, s).sum() for s in ("small", "medium", "large", "huge")) == 40
    )


def test_edges():
    maps, pairs, boxes = toy()
    negatives = score_clips(maps[40:], (-4, 4), pairs[40:], {}, "released")
    assert all(
        v is None
        for row in summarise(negatives, "released").values()
        for v in row.values()
    )
    one = score_clips(maps[:1], (-4, 4), pairs[:1], boxes, "released")
    found = summarise(one, "released")["all"]
    assert found["AP"] == 0 and found["presence skill"] is None
    empty = score_clips(maps[:0], (-4, 4), pairs[:0], boxes)
    assert len(empty) == 0 and summarise(empty)["all"]["AP"] is None
    nothing = score_clips(maps[:1], (-4, 4), pairs[:1], {"v0": np.zeros((0, 4), int)})
    assert (
        nothing["ciou"][0] == 0
        and nothing["size"][0] == "Small"
        and nothing["pointing"][0] == 0
    )


def test_errors_list_what_is_wrong():
    maps, pairs, boxes = toy()
    bad = maps.copy()
    bad[3, 0, 0], bad[41, 2, 2] = np.nan, np.inf
    with pytest.raises(
        ValueError, match=r"2 maps .* not finite: \(v3, v3\), \(v1, v2\)"
    ):
        score_clips(bad, (-4, 4), pairs, boxes)
    with pytest.raises(ValueError, match=r"1 pairs .* there twice: \(v0, v0\)"):
        score_clips(maps[[0, 0]], (-4, 4), pairs.iloc[[0, 0]], boxes)
    with pytest.raises(ValueError, match="40 positives have no boxes: v0, v1"):
        score_clips(maps, (-4, 4), pairs, {})
    with pytest.raises(ValueError, match="N = 80"):
        score_clips(maps[1:], (-4, 4), pairs, boxes)
    with pytest.raises(ValueError, match="map_range"):
        score_clips(maps, (4, -4), pairs, boxes)
    with pytest.raises(ValueError, match="column 'kind' is missing"):
        score_clips(maps, (-4, 4), pairs[["video", "audio"]], boxes)
    with pytest.raises(ValueError, match="kind must be"):
        score_clips(maps, (-4, 4), pairs, boxes, kind="coco")
    with pytest.raises(ValueError, match="unknown protocol 'offical'"):
        named_protocol("offical")
    with pytest.raises(ValueError, match="confidence must be one of"):
        Protocol("mine", confidence="mean")
    v, a = pairs["video"].tolist(), pairs["audio"].tolist()
    with pytest.raises(ValueError, match=r"1 predictions .* missing: \(r4, r4\)"):
        match_pairs(v[:-1], a[:-1], pairs)
    with pytest.raises(
        ValueError, match=r"1 predictions .* not in the benchmark: \(x, y\)"
    ):
        match_pairs([*v, "x"], [*a, "y"], pairs)
    with pytest.raises(ValueError, match=r"1 predictions .* there twice: \(v0, v0\)"):
        match_pairs([*v, "v0"], [*a, "v0"], pairs)
    clips = score_clips(maps, (-4, 4), pairs, boxes)
    with pytest.raises(
        ValueError, match=r"confidence of 1 clips is not finite: \(v0, v0\)"
    ):
        summarise(clips.assign(confidence=np.append(np.nan, clips["confidence"][1:])))
    with pytest.raises(ValueError, match="iou must be"):
        summarise(clips, iou=50)
    with pytest.raises(ValueError, match="not finite at positions"):
        sweep([0.1, np.nan], [True, False], [True, False])
    with pytest.raises(ValueError, match="got shapes"):
        sweep([0.1, 0.2], [True], [True, False])


def test_maps_may_be_read_only_or_halves(tmp_path):
    maps, pairs, boxes = toy()
    np.save(tmp_path / "maps.npy", maps)
    mapped = np.load(tmp_path / "maps.npy", mmap_mode="r")
    pd.testing.assert_frame_equal(
        score_clips(mapped, (-4, 4), pairs, boxes),
        score_clips(maps, (-4, 4), pairs, boxes),
    )
    half = torch.from_numpy(maps).half()
    pd.testing.assert_frame_equal(
        score_clips(half, (-4, 4), pairs, boxes),
        score_clips(half.float(), (-4, 4), pairs, boxes),
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("protocol", VARIANTS, ids=range(len(VARIANTS)))
def test_cuda_equals_cpu(protocol):
    maps, pairs, boxes = toy()
    on_cpu = score_clips(maps, (-4, 4), pairs, boxes, protocol)
    on_gpu = score_clips(torch.from_numpy(maps).cuda(), (-4, 4), pairs, boxes, protocol)
    pd.testing.assert_frame_equal(on_cpu, on_gpu, rtol=0, atol=1e-3)
