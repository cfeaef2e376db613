"""Files of predictions in, metrics out: the release's own numbers through a file, Table 1, every container, and hostile files."""

import io
import json
import pickle
import re
import struct
import tempfile
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slavc.data.benchmark import ceiling
from slavc.data.boxes import areas, best_ciou, gt_map
from slavc.data.test_sets import TestSet, read_test_set
from slavc.score.facts import benchmark_facts, constant_map_ciou, facts_text
from slavc.score.metrics import upsample
from slavc.score.predictions import (
    COLUMNS,
    Predictions,
    array_predictions,
    check_maps,
    evaluate_predictions,
    open_predictions,
    score_predictions,
    strict_variant,
)
from slavc.score.protocols import (
    METRICS,
    SUBSETS,
    Protocol,
    score_clips,
    summarise,
)

torch.set_num_threads(1)
SHARED = Path(__file__).parents[2] / "shared"
METADATA, GOLDEN = SHARED / "metadata", SHARED / "golden"
quick = settings(max_examples=60, deadline=None, derandomize=True)


def need(folder):
    if not folder.exists():
        pytest.skip("reference material ../shared is absent")


def toy(seed=0, n=8, kinds=("real", "easy", "hard"), sides=(7, 7)):
    """A small test set with as many negatives as positives, and raw maps and object maps in its order."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 120, (n, 2))
    boxes = {
        f"v{i}": np.array([[x, y, x + rng.integers(5, 100), y + rng.integers(5, 100)]])
        for i, (x, y) in enumerate(corners)
    }
    rows = [(v, v, "positive", f"class{i % 3}") for i, v in enumerate(boxes)]
    rows += [
        (v, f"v{(i + 1) % n}x", kinds[i % len(kinds)], f"class{i % 3}")
        for i, v in enumerate(boxes)
    ]
    pairs = pd.DataFrame(rows, columns=["video", "audio", "kind", "category"])
    maps = rng.normal(0, 0.4, (2 * n, *sides)).astype(np.float32)
    objects = rng.random((2 * n, *sides)).astype(np.float32) * 2.5
    return TestSet(pairs, boxes, "vggss"), maps, objects


def fields(bench, maps, objects=None):
    """The arrays of a file of predictions."""
    arrays = dict(
        video=bench.pairs["video"].to_numpy(str),
        audio=bench.pairs["audio"].to_numpy(str),
        map=maps,
        range=np.array([-1.0, 1.0]),
    )
    return (
        arrays
        if objects is None
        else arrays | dict(object_map=objects, object_range=np.array([0, 2.5]))
    )


def write(path, arrays, kind):
    """Write the arrays as one of the containers."""
    if kind in ("npz", "packed"):
        (np.savez if kind == "npz" else np.savez_compressed)(
            path.with_suffix(".npz"), **arrays
        )
        return path.with_suffix(".npz")
    if kind == "h5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(path.with_suffix(".h5"), "w") as file:
            for name, values in arrays.items():
                file[name] = (
                    values.astype(object) if values.dtype.kind == "U" else values
                )
        return path.with_suffix(".h5")
    path.mkdir()
    index = pd.DataFrame({"video": arrays["video"], "audio": arrays["audio"]})
    for column, field in (("file", "map"), ("object_file", "object_map")):
        if field in arrays:
            (path / field).mkdir()
            index[column] = [f"{field}/{n}.npy" for n in range(len(index))]
            for name, map_ in zip(index[column], arrays[field]):
                np.save(path / name, map_)
    index.to_csv(path / "index.csv", index=False, lineterminator="\r\n")
    ranges = {
        name: arrays[name].tolist()
        for name in ("range", "object_range")
        if name in arrays
    }
    (path / "range.json").write_text(json.dumps(ranges))
    return path


# ---- against the release ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def golden():
    need(GOLDEN)
    return dict(np.load(GOLDEN / "evaluator.npz")), json.loads(
        (GOLDEN / "evaluator_stats.json").read_text()
    )


def golden_set(arrays, fmt):
    rows = np.flatnonzero(arrays["fmt"] == fmt)
    kind = np.where(arrays["n_boxes"][rows] > 0, "positive", "easy")
    names = arrays["name"][rows]
    boxes = {
        n: b[:k]
        for n, b, k in zip(names, arrays["boxes"][rows], arrays["n_boxes"][rows])
        if k
    }
    return TestSet(
        pd.DataFrame({"video": names, "audio": names, "kind": kind}), boxes, fmt
    ), rows


def golden_file(arrays, rows, name, folder):
    """The maps of a golden method as a file, in an order of its own, and its alpha."""
    tau, rng = float(arrays["tau"]), np.random.default_rng(len(name))
    order = rng.permutation(rows)
    av, obj = (
        (arrays["raw_av"][order], [-1 / tau, 1 / tau]),
        (arrays["raw_obj"][order], [0, 2.5]),
    )
    file = dict(
        zip(("map", "range"), obj if name == "obj" else av),
        video=arrays["name"][order],
        audio=arrays["name"][order],
    )
    if name.startswith("avobj"):
        file |= dict(object_map=obj[0], object_range=obj[1])
    np.savez(folder / "golden.npz", **file)
    return folder / "golden.npz", float(name.split("_")[1]) if name.startswith(
        "avobj"
    ) else None


def assert_golden(metrics, clips, report, arrays, column, rows):
    order = np.argsort(arrays["name"][rows])
    np.testing.assert_array_equal(clips["video"], arrays["name"][rows][order])
    np.testing.assert_allclose(
        clips["ciou"], np.nan_to_num(column[1][rows][order]), atol=1e-3, rtol=0
    )
    np.testing.assert_allclose(
        clips["confidence"], column[0][rows][order], atol=1e-5, rtol=0
    )
    np.testing.assert_array_equal(clips["area"], arrays["gt_area"][rows][order])
    theirs = report["finalize_stats"]
    for part in ("all", "visible", "small", "medium", "large", "huge"):
        for iou in (50, 75):
            ours = metrics["metrics"][f"{part}@{iou}"]
            if theirs[f"AP-{part}@{iou}"] is None:
                assert set(ours.values()) == {None}
                continue
            assert ours["AP"] == pytest.approx(
                100 * theirs[f"AP-{part}@{iou}"], abs=1e-7
            )
            assert ours["AUC"] == pytest.approx(
                100 * theirs[f"AUC-{part}@{iou}"], abs=1e-7
            )
            assert ours["max-F1"] == pytest.approx(
                100 * max(report["f1_at_their_thresholds"][f"{part}@{iou}"]), abs=1e-7
            )
            if part != "all":
                assert ours["LocAcc"] == pytest.approx(
                    100 * theirs[f"Precision-{part}@{iou}"], abs=1e-7
                )


@pytest.mark.parametrize("fmt", ["flickr", "vggss"])
@pytest.mark.parametrize("name", ["av", "obj", "avobj_0.4", "avobj_0.9"])
def test_released_equals_the_release(golden, name, fmt, tmp_path):
    arrays, reports = golden
    bench, rows = golden_set(arrays, fmt)
    path, alpha = golden_file(arrays, rows, name, tmp_path)
    wanted = reports["groups"][fmt]
    for column, size in enumerate(("0.1", "0.3", "0.5", "0.7", "0.9")):
        metrics, clips = evaluate_predictions(
            path, bench, "released", alpha=alpha, pred_size=float(size)
        )
        assert_golden(
            metrics,
            clips,
            wanted["relative"][size][name],
            arrays,
            (arrays[f"conf__{name}"], arrays[f"ciou__{name}"][:, column]),
            rows,
        )
        assert (
            metrics["protocol"]["pred_size"] == float(size)
            and metrics["protocol"].get("alpha") == alpha
        )
        if size == "0.5":
            assert (
                evaluate_predictions(path, bench, alpha=alpha)[0] == metrics
            )  # the defaults are the release's
    metrics, clips = evaluate_predictions(
        path, bench, "released", alpha=alpha, pred_thr=0.5
    )
    assert_golden(
        metrics,
        clips,
        wanted["absolute"][name],
        arrays,
        (arrays[f"conf__{name}"], arrays[f"ciou_abs__{name}"]),
        rows,
    )
    assert (
        metrics["protocol"]["pred_thr"] == 0.5
        and "pred_size" not in metrics["protocol"]
    )


@pytest.mark.parametrize("fmt", ["flickr", "vggss"])
def test_paper_equals_section_4_read_literally(golden, fmt, tmp_path):
    arrays, reports = golden
    bench, rows = golden_set(arrays, fmt)
    metrics, _ = evaluate_predictions(
        golden_file(arrays, rows, "av", tmp_path)[0], bench, "paper"
    )
    wanted = reports["groups"][fmt]["relative"]["0.5"]["av"]["exact_conf_is_map_max"]
    assert len(wanted) > 2
    for key, values in wanted.items():
        ours = metrics["metrics"][key]
        assert ours["AP"] == pytest.approx(100 * values["ap_exact"], abs=1e-7)
        assert ours["max-F1"] == pytest.approx(100 * values["max_f1_exact"], abs=1e-7)


def test_fusing_before_and_after_enlarging_is_the_same():
    bench, maps, objects = toy(3)
    early, _ = score_predictions(
        array_predictions(
            bench.pairs["video"], bench.pairs["audio"], maps, (-1, 1), objects, (0, 2.5)
        ),
        bench,
        "released",
        alpha=0.4,
    )
    late = array_predictions(
        bench.pairs["video"],
        bench.pairs["audio"],
        upsample(maps),
        (-1, 1),
        objects,
        (0, 2.5),
    )
    assert late.shape != late.object_shape
    clips, _ = score_predictions(late, bench, "released", alpha=0.4)
    np.testing.assert_allclose(clips["confidence"], early["confidence"], atol=1e-5)
    np.testing.assert_allclose(clips["ciou"], early["ciou"], atol=1e-3)
    with pytest.raises(ValueError, match="differ in size"):
        score_predictions(late, bench, "paper", alpha=0.4)


# ---- the result ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "protocol",
    ["paper", "released", "strict", Protocol("own", mask="absolute", level=0.4)],
)
def test_metrics_are_those_of_score_clips(protocol):
    bench, maps, _ = toy(1)
    order = np.random.default_rng(0).permutation(len(maps))
    source = array_predictions(
        bench.pairs["video"][order], bench.pairs["audio"][order], maps[order], (-1, 1)
    )
    metrics, clips = evaluate_predictions(source, bench, protocol, ious=(0.3, 0.5))
    assert (
        set(metrics) == {"protocol", "n", "metrics", "strict_protocol", "strict"}
        and metrics["n"] == 16
    )
    wanted = score_clips(maps, (-1, 1), bench.pairs, bench.boxes, protocol)
    strict = strict_variant(protocol)
    assert strict.missed == "hidden or wrong" and strict.thresholds == "every"
    for iou in (30, 50):
        for part, values in summarise(wanted, protocol, iou / 100).items():
            assert metrics["metrics"][f"{part}@{iou}"] == pytest.approx(
                values, nan_ok=True
            )
        for part, values in summarise(wanted, strict, iou / 100).items():
            assert metrics["strict"][f"{part}@{iou}"] == pytest.approx(values)
    assert set(metrics["metrics"]) == {
        f"{part}@{iou}" for part in SUBSETS for iou in (30, 50)
    }
    assert all(set(values) == set(METRICS) for values in metrics["metrics"].values())
    rules = metrics["protocol"]
    assert rules["name"] == (
        protocol if isinstance(protocol, str) else "own"
    ) and rules["range"] == [-1, 1]
    assert list(clips) == list(COLUMNS) and clips["category"].tolist() == [
        f"class{int(v[1:]) % 3}" for v in clips["video"]
    ]
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_strict_recall_by_a_slow_loop():
    bench, maps, _ = toy(2, n=12)
    metrics, clips = evaluate_predictions(
        array_predictions(bench.pairs["video"], bench.pairs["audio"], maps, (-1, 1)),
        bench,
        "paper",
        ious=(0.2,),
    )
    positive = [k == "positive" for k in clips["kind"]]
    points, best = [], 0
    for d in sorted(set(clips["confidence"]), reverse=True):
        shown = [c >= d for c in clips["confidence"]]
        tp = sum(s and p and u > 0.2 for s, p, u in zip(shown, positive, clips["ciou"]))
        points.append((tp / sum(positive), tp / sum(shown)))
        best = max(best, 2 * tp / (sum(shown) + sum(positive)))
    ap = sum(
        (r - before) * max(p for _, p in points[k:])
        for k, ((r, _), before) in enumerate(zip(points, [0] + [r for r, _ in points]))
    )
    assert 0 < ap < 1
    assert metrics["strict"]["all@20"]["AP"] == pytest.approx(100 * ap) and metrics[
        "strict"
    ]["all@20"]["max-F1"] == pytest.approx(100 * best)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    protocol=st.sampled_from(["paper", "released"]),
    rows=st.integers(1, 16),
)
def test_order_never_matters(seed, protocol, rows):
    """Neither that of the file nor that of the test set, to the last bit; nor how many maps are read at a time."""
    bench, maps, objects = toy(seed % 5)
    rng = np.random.default_rng(seed)
    found = []
    for shuffle in (False, True):
        order, other = (
            rng.permutation(len(maps)) if shuffle else np.arange(len(maps))
            for _ in range(2)
        )
        source = array_predictions(
            bench.pairs["video"].iloc[order],
            bench.pairs["audio"].iloc[order],
            maps[order],
            (-1, 1),
            objects[order],
            (0, 2.5),
        )
        if shuffle:
            source = replace(
                source,
                stream=lambda field, n, stream=source.stream: stream(field, rows),
            )
        found.append(
            evaluate_predictions(
                source,
                bench._replace(pairs=bench.pairs.iloc[other]),
                protocol,
                alpha=0.4,
            )
        )
    assert found[0][0] == found[1][0]
    pd.testing.assert_frame_equal(found[0][1], found[1][1], check_exact=True)


@pytest.mark.parametrize("kind", ["npz", "packed", "h5", "folder"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ">f4", np.int16])
def test_containers_agree(kind, dtype, tmp_path):
    bench, maps, objects = toy(4)
    maps = (maps * 100).round().astype(dtype)
    arrays = fields(bench, maps, objects) | {"range": np.array([-200, 200])}
    path = write(tmp_path / "maps", arrays, kind)
    for alpha in (None, 0.3):
        wanted = evaluate_predictions(
            array_predictions(
                arrays["video"],
                arrays["audio"],
                maps.astype(np.float64),
                (-200, 200),
                objects,
                (0, 2.5),
            ),
            bench,
            alpha=alpha,
        )
        found = evaluate_predictions(path, bench, alpha=alpha)
        assert found[0] == wanted[0]
        pd.testing.assert_frame_equal(found[1], wanted[1], check_exact=True)
    opened = open_predictions(path)
    assert (
        isinstance(opened, Predictions)
        and len(opened) == 16
        and opened.shape == opened.object_shape == (7, 7)
    )
    blocks = list(opened.blocks(objects=True, rows=5))
    assert [len(b[2]) for b in blocks] == [5, 5, 5, 1] == [len(b[3]) for b in blocks]
    np.testing.assert_array_equal(np.concatenate([b[3] for b in blocks]), objects)
    assert [v for b in blocks for v in b[0]] == arrays["video"].tolist()


@pytest.mark.parametrize(
    "make",
    [
        torch.tensor,
        lambda m: torch.tensor(m).half().float().requires_grad_(),
        np.ascontiguousarray,
    ],
)
def test_tensors_and_arrays(make):
    """Also with values that need a gradient."""
    bench, maps, _ = toy(5)
    maps = torch.tensor(maps).half().float().numpy()
    found = evaluate_predictions(
        array_predictions(
            bench.pairs["video"], bench.pairs["audio"], make(maps), (-1, 1)
        ),
        bench,
    )[0]
    assert (
        found
        == evaluate_predictions(
            array_predictions(
                bench.pairs["video"], bench.pairs["audio"], maps, (-1, 1)
            ),
            bench,
        )[0]
    )


@pytest.mark.parametrize("dtype", [np.uint16, np.longdouble, ">i4", bool])
def test_arrays_of_other_types(dtype):
    bench, maps, _ = toy(5)
    maps = (maps > 0).astype(dtype)
    found, wanted = (
        evaluate_predictions(
            array_predictions(bench.pairs["video"], bench.pairs["audio"], m, (-1, 1)),
            bench,
        )[0]
        for m in (maps, maps.astype(np.float32))
    )
    assert found == wanted
    with pytest.raises(ValueError, match="numbers"):
        array_predictions(["a"], ["a"], np.full((1, 7, 7), "x"), (-1, 1))
    with pytest.raises(ValueError, match="go together"):
        array_predictions(
            ["a"], ["a"], np.zeros((1, 7, 7)), (-1, 1), np.zeros((1, 7, 7))
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda():
    bench, maps, _ = toy(5)
    here, there = (
        score_predictions(
            array_predictions(
                bench.pairs["video"],
                bench.pairs["audio"],
                torch.tensor(maps, device=d),
                (-1, 1),
            ),
            bench,
        )[0]
        for d in ("cpu", "cuda")
    )
    np.testing.assert_allclose(here["confidence"], there["confidence"], atol=1e-6)
    np.testing.assert_allclose(here["ciou"], there["ciou"], atol=1e-3)


def test_memory_stays_bounded(tmp_path):
    """A packed archive of 200 MB of maps is scored with a small part of that."""
    import tracemalloc

    n = 1000
    names = np.array([f"v{i}" for i in range(n)])
    bench = TestSet(
        pd.DataFrame({"video": names, "audio": names, "kind": "easy"}), {}, "vggss"
    )
    np.savez_compressed(
        tmp_path / "maps.npz",
        video=names,
        audio=names,
        map=np.zeros((n, 224, 224), np.float32),
        range=[0, 1],
    )
    tracemalloc.start()
    metrics, clips = evaluate_predictions(tmp_path / "maps.npz", bench, "paper")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(clips) == n and peak < 80e6


# ---- edges -----------------------------------------------------------------------------------------------


def flat(bench, value=0.0):
    return array_predictions(
        bench.pairs["video"],
        bench.pairs["audio"],
        np.full((len(bench.pairs), 7, 7), value, np.float32),
        (-1, 1),
    )


def one(kind):
    return TestSet(
        pd.DataFrame({"video": ["a"], "audio": ["a"], "kind": [kind]}),
        {"a": np.array([[0, 0, 224, 224]])},
        "vggss",
    )


@pytest.mark.parametrize("protocol", ["paper", "released"])
def test_one_clip(protocol):
    metrics, clips = evaluate_predictions(
        flat(one("positive")), one("positive"), protocol
    )
    row = metrics["metrics"]["all@50"]
    assert (
        row["LocAcc"] == 100
        and row["AP"] == (100 if protocol == "paper" else 0)
        and row["max-F1"] == 100
    )
    assert row["presence skill"] is None and set(
        metrics["metrics"]["small@75"].values()
    ) == {None}
    assert clips["size"].tolist() == ["Huge"] and clips["category"].tolist() == [""]
    metrics, clips = evaluate_predictions(flat(one("real")), one("real"), protocol)
    assert {v for row in metrics["metrics"].values() for v in row.values()} == {
        None
    } and metrics["n"] == 1


def test_all_negative_and_empty_subsets():
    bench, maps, _ = toy(6, kinds=("easy",))
    negative = bench._replace(pairs=bench.pairs[bench.pairs["kind"] != "positive"])
    metrics, clips = evaluate_predictions(flat(negative), negative)
    assert {
        v
        for part in ("metrics", "strict")
        for row in metrics[part].values()
        for v in row.values()
    } == {None}
    assert (clips["ciou"] == 0).all() and clips["pointing"].isna().all()
    metrics, _ = evaluate_predictions(flat(bench), bench)
    assert (
        metrics["metrics"]["real@50"]["AP"] is None
        and metrics["metrics"]["easy@50"]["AP"] is not None
    )


def test_a_constant_confidence_knows_nothing():
    bench, maps, _ = toy(7)
    metrics, _ = evaluate_predictions(flat(bench), bench, "paper", ious=(0.02,))
    row = metrics["metrics"]["all@2"]
    assert row["AP"] == pytest.approx(row["chance AP"]) and row[
        "max-F1"
    ] == pytest.approx(row["accept-all F1"])
    assert row["presence skill"] == pytest.approx(0)


def test_what_does_not_fit_is_listed_at_once():
    bench, maps, _ = toy(8, n=20)
    video, audio = bench.pairs["video"].tolist(), bench.pairs["audio"].tolist()
    maps[3, 2, 2], maps[4, 0, 0] = np.nan, np.inf
    video[0], video[1:3] = "stranger", [video[5]] * 2
    audio[1:3] = [audio[5]] * 2
    with pytest.raises(ValueError) as caught:
        evaluate_predictions(array_predictions(video, audio, maps, (-1, 1)), bench)
    text = str(caught.value)
    assert (
        "1 there twice: (v5, v5)" in text
        and "1 not in the test set: (stranger, v0)" in text
    )
    assert (
        "3 missing: (v0, v0), (v1, v1), (v2, v2)" in text
        and "2 not finite: (v3, v3), (v4, v4)" in text
    )
    with pytest.raises(ValueError, match="twice.*not in.*not finite") as caught:
        evaluate_predictions(
            array_predictions(video, audio, maps, (-1, 1)), bench, allow_missing=True
        )
    assert "missing:" not in str(caught.value)
    with pytest.raises(ValueError, match=r"40 missing: \(v0, v0\), .* and 30 more"):
        evaluate_predictions(
            array_predictions([], [], np.zeros((0, 7, 7)), (-1, 1)), bench
        )
    with pytest.raises(ValueError, match="nothing to score"):
        evaluate_predictions(
            array_predictions([], [], np.zeros((0, 7, 7)), (-1, 1)),
            bench,
            allow_missing=True,
        )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38, -1e31])
def test_every_value_that_is_not_usable_is_found(value):
    maps = np.zeros((3, 7, 7))
    maps[1, 4, 6] = value
    assert check_maps(maps, (-1, 1)).tolist() == [True, False, True]
    assert check_maps(torch.tensor(maps).to(torch.bfloat16), (-1, 1)).tolist() == [
        True,
        False,
        True,
    ]
    assert not check_maps(
        np.ones((1, 7, 7)), (0, 1e-40)
    ).any()  # a range so small that the score is beyond all bounds


def test_a_stated_part_can_be_scored():
    bench, maps, _ = toy(9)
    keep = np.setdiff1d(np.arange(16), [2, 9, 10])
    source = array_predictions(
        bench.pairs["video"][keep], bench.pairs["audio"][keep], maps[keep], (-1, 1)
    )
    metrics, clips = evaluate_predictions(source, bench, allow_missing=True)
    kinds = bench.pairs["kind"][[2, 9, 10]].value_counts().to_dict()
    assert metrics["missing"] == {
        "expected": 16,
        "scored": 13,
        "missing": 3,
        "kinds": kinds,
        "first": sorted(
            map(list, bench.pairs[["video", "audio"]].iloc[[2, 9, 10]].to_numpy())
        ),
    }
    wanted, _ = evaluate_predictions(
        source, bench._replace(pairs=bench.pairs.iloc[keep])
    )
    assert (
        metrics["metrics"] == wanted["metrics"]
        and metrics["n"] == len(clips) == 13
        and "missing" not in wanted
    )
    assert (
        evaluate_predictions(flat(bench), bench, allow_missing=True)[0]["missing"][
            "missing"
        ]
        == 0
    )


@pytest.mark.parametrize(
    "wrong, text",
    [
        (dict(pred_size=1.0), "pred_size must be within"),
        (dict(pred_size=-0.1), "pred_size"),
        (dict(pred_size=0.5, pred_thr=0.5), "one of them"),
        (dict(pred_thr=float("nan")), "finite"),
        (dict(alpha=0.5), "no object_map"),
        (dict(alpha=2.0), "alpha must lie"),
        (dict(alpha=float("nan")), "alpha must lie"),
        (dict(ious=(1.5,)), "ious must"),
        (dict(ious=()), "ious must"),
        (dict(ious=(0.5, 0.5)), "ious must"),
        (dict(protocol="official"), "unknown protocol"),
    ],
)
def test_wrong_options(wrong, text):
    bench, maps, _ = toy(9)
    with pytest.raises(ValueError, match=text):
        evaluate_predictions(flat(bench), bench, **wrong)


# ---- the official files ----------------------------------------------------------------------------------

TABLE1 = {
    "Small": 134,
    "Medium": 1796,
    "Large": 1726,
    "Huge": 1502,
    "Total Pos": 5158,
    "Real Neg": 379,
    "Easy Neg": 3594,
    "Hard Neg": 1185,
    "Total Neg": 5158,
    "Total": 10316,
}


def test_vggss_facts():
    need(METADATA)
    facts = benchmark_facts(
        "vggss",
        METADATA,
        train_lists=[METADATA / f"vggss_{n}.txt" for n in ("144k", "10k", "heard")],
    )
    assert (
        facts["counts"] == TABLE1
        and list(facts["counts"]) == list(TABLE1)
        and json.loads(json.dumps(facts["counts"])) == TABLE1
    )
    assert {k: round(v, 2) for k, v in facts["controls"].items()} == {
        "Center Prior": 34.16,
        "whole image": 21.95,
    }
    assert facts["controls"]["Center Prior"] == 100 * 1762 / 5158
    assert [round(v, 1) for v in facts["ceiling"].values()] == [
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
    assert [(r["clips"], r["positives"]) for r in facts["overlap"]] == [
        (144000, 3709),
        (10000, 238),
        (59468, 0),
    ]
    assert (
        facts["degenerate"]["id"].nunique() == 18
        and facts["degenerate"]["xmax"].min() < -1e16
    )
    assert len(facts["notes"]) == 1 and "M1P1xla8rg0_000000" in facts["notes"][0]
    text = facts_text(facts)
    assert (
        "3709 of 5158 test positives (71.9 %)" in text
        and "Huge 1502" in text
        and "50 %: 50.5" in text
    )


def test_flickr_facts():
    need(METADATA)
    facts = benchmark_facts(
        "flickr", METADATA, train_lists=[METADATA / "flickr_144k.txt"]
    )
    assert facts["counts"] == TABLE1 | dict.fromkeys(
        ("Small", "Medium", "Large", "Huge", "Real Neg", "Easy Neg", "Hard Neg")
    ) | {"Total Pos": 250, "Total Neg": 250, "Total": 500}
    assert (
        facts["ceiling"] is facts["controls"] is None
        and facts["overlap"][0]["positives"] == 20
    )
    assert any("unknown" in note for note in facts["notes"]) and any(
        "sizes" in note for note in facts["notes"]
    )
    assert "Small ?" in facts_text(facts) and "Real Neg ?" in facts_text(facts)


def test_heard_classes_alone():
    need(METADATA)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bench = read_test_set(
            METADATA / "vggss.json", METADATA / "vggss_heard_test.csv"
        )
    assert (
        len(bench.pairs) == 2564 == len(bench.boxes)
        and bench.pairs["category"].nunique() == 110
    )


def xml(boxes):
    rows = "".join(
        f"<bbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bbox>"
        for x0, y0, x1, y1 in boxes
    )
    return f"<annotations><annotator>{rows}</annotator></annotations>"


def flickr_folder(folder):
    (folder / "flickr_test.csv").write_bytes(b"11,0\r\n12,5\r\n13,9")
    (folder / "flickr_test_plus_silent.csv").write_bytes(
        b"video,audio,label\r\n11,12,non-sounding\r\n12,11,non-sounding"
    )
    (folder / "Annotations").mkdir()
    for name, boxes in (
        ("11", [(0, 0, 128, 256)]),
        ("12", [(0, 0, 256, 256)] * 2),
        ("13", []),
    ):
        (folder / "Annotations" / f"{name}.xml").write_text(xml(boxes))


def test_flickr_with_its_boxes(tmp_path):
    flickr_folder(tmp_path)
    facts = benchmark_facts("flickr", tmp_path)
    assert [
        facts["counts"][k] for k in ("Small", "Medium", "Large", "Huge", "Real Neg")
    ] == [1, 0, 1, 1, None]
    assert any(
        "13" in note and "no ground-truth area" in note for note in facts["notes"]
    )
    with pytest.warns(UserWarning) as caught:
        bench = read_test_set(
            tmp_path / "Annotations",
            tmp_path / "flickr_test.csv",
            tmp_path / "flickr_test_plus_silent.csv",
        )
    assert {
        "unknown" in str(w.message) or "no ground-truth area" in str(w.message)
        for w in caught
    } == {True}
    assert (
        bench.kind == "flickr"
        and bench.pairs["kind"].tolist() == ["positive"] * 3 + ["unknown"] * 2
    )
    metrics, clips = evaluate_predictions(flat(bench, 0.1), bench)
    assert clips["area"].tolist() == [
        12544,
        0,
        0,
        50176,
        0,
    ]  # one annotator counts half
    assert metrics["metrics"]["real@50"]["AP"] is None and metrics["protocol"][
        "ground_truth"
    ].startswith("consensus")
    (tmp_path / "Annotations/12.xml").unlink()
    with pytest.raises(ValueError, match="1 positives of .* not annotated: 12"):
        benchmark_facts("flickr", tmp_path)


@pytest.mark.parametrize("kind", ["vggss", "flickr"])
def test_best_ciou_against_the_definition(kind):
    """Weights sorted down, the first p pixels taken: nothing can be better."""
    rng = np.random.default_rng(0)
    boxes = {
        f"v{i}": np.sort(
            rng.integers(0, 225, (rng.integers(0, 4), 2, 2)), axis=1
        ).reshape(-1, 4)
        for i in range(12)
    }
    shares = (0.125, 0.5, 0.75, 1.0)
    found = best_ciou(boxes, kind, shares)
    for row, b in zip(found, boxes.values()):
        weights = np.sort(gt_map(b, kind).astype(float), axis=None)[::-1]
        for value, share in zip(row, shares):
            taken = weights[: round(share * 224**2)]
            slow = taken.sum() / (weights.sum() + (taken == 0).sum())
            assert value == pytest.approx(slow, abs=1e-12)
    if kind == "vggss":
        for k, share in enumerate(shares):
            assert (found[:, k] >= 0.5).mean() == ceiling(areas(boxes).values(), share)


def test_constant_map_is_what_scoring_gives():
    bench, maps, _ = toy(10)
    positives = bench._replace(pairs=bench.pairs[bench.pairs["kind"] == "positive"])
    clips = score_clips(
        np.repeat(maps[:1], 8, 0), (-1, 1), positives.pairs, bench.boxes, "released"
    )
    np.testing.assert_array_equal(
        constant_map_ciou(maps[:1], bench.boxes)[:, 0], clips["ciou"]
    )
    assert constant_map_ciou(maps[:2], {}).shape == (0, 2) and best_ciou({}).shape == (
        0,
        1,
    )


def test_missing_official_files(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match="vggss_test.csv.*vggss_test_plus_silent.csv.*vggss.json",
    ):
        benchmark_facts("vggss", tmp_path)
    with pytest.raises(ValueError, match="dataset must be"):
        benchmark_facts("music", tmp_path)
    (tmp_path / "p.csv").write_text("a\n")
    with pytest.raises(FileNotFoundError, match="nowhere.json"):
        read_test_set(tmp_path / "nowhere.json", tmp_path / "p.csv")
    (tmp_path / "boxes.json").write_text(
        '[{"file": "b", "class": "dog", "bbox": [[0, 0, 1, 1]]}]'
    )
    with pytest.raises(
        ValueError, match="boxes.json: 1 positives of .* are not annotated: a"
    ):
        read_test_set(tmp_path / "boxes.json", tmp_path / "p.csv")


# ---- hostile files ---------------------------------------------------------------------------------------


class Bomb:
    """Unpickling this leaves a trace."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def read_all(path):
    """Open and read to the end; returns the bytes read, or the name of the expected errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            opened = open_predictions(path)
            blocks = list(opened.blocks(objects=opened.object_shape is not None))
        except (ValueError, FileNotFoundError) as error:
            assert type(error) in (ValueError, FileNotFoundError) and str(
                Path(path).name
            ) in str(error), repr(error)
            return str(error)
    assert sum(len(b[2]) for b in blocks) == len(opened) and all(
        b[2].dtype in (np.float32, np.float64) for b in blocks
    )
    return opened


@pytest.mark.parametrize("field", ["video", "map", "range", "object_map"])
def test_pickles_are_never_opened(field, tmp_path):
    bench, maps, objects = toy(0)
    arrays = fields(bench, maps, objects)
    arrays[field] = np.array([Bomb(tmp_path / "trace")] * len(arrays[field]), object)
    np.savez(tmp_path / "bomb.npz", **arrays)
    text = read_all(tmp_path / "bomb.npz")
    assert isinstance(text, str) and field in text and "object" in text
    path = write(tmp_path / "folder", fields(bench, maps), "folder")
    np.save(path / "map/3.npy", np.array([[Bomb(tmp_path / "trace")]], object))
    assert "3.npy" in str(
        pytest.raises(ValueError, lambda: list(open_predictions(path).blocks())).value
    )
    (path / "map/3.npy").write_bytes(pickle.dumps(Bomb(tmp_path / "trace")))
    assert "3.npy" in str(
        pytest.raises(ValueError, lambda: list(open_predictions(path).blocks())).value
    )
    assert not (tmp_path / "trace").exists()


def npy(values):
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asanyarray(values), allow_pickle=False)
    return out.getvalue()


def npy_header(text, version=1):
    """A .npy head with any text in it."""
    head = text.encode("latin1")
    return (
        b"\x93NUMPY"
        + bytes([version, 0])
        + struct.pack("<H" if version == 1 else "<I", len(head))
        + head
    )


GOOD = {
    "video": npy(np.array(["a", "b"])),
    "audio": npy(np.array(["a", "b"])),
    "map": npy(np.zeros((2, 3, 4), np.float32)),
    "range": npy([0.0, 1.0]),
}
HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, %s)}"
BAD = {
    "no member": ({"map": None}, "'map' is missing"),
    "no audio": ({"audio": None}, "'audio' is missing"),
    "half a prior": ({"object_map": GOOD["map"]}, "go together"),
    "epochs": ({"map": npy(np.zeros((1, 2, 3, 4)))}, "one epoch"),
    "flat": ({"map": npy(np.zeros((2, 12)))}, r"\(N, h, w\)"),
    "other count": ({"map": npy(np.zeros((3, 3, 4)))}, "N = 2"),
    "other ids": ({"audio": npy(np.array(["a"]))}, "2 ids and audio 1"),
    "no pixels": ({"map": npy(np.zeros((2, 0, 4)))}, "sides"),
    "complex": ({"map": npy(np.zeros((2, 3, 4), complex))}, "numbers"),
    "text": ({"map": npy(np.full((2, 3, 4), "x"))}, "numbers"),
    "dates": ({"map": npy(np.zeros((2, 3, 4), "M8[s]"))}, "numbers"),
    "records": ({"map": npy(np.zeros((2, 3, 4), [("a", "f4")]))}, "numbers"),
    "fortran": ({"map": npy(np.zeros((2, 3, 4), order="F"))}, "Fortran"),
    "short": ({"map": GOOD["map"][:-1]}, "ends after 0 of 2 maps"),
    "long": ({"map": GOOD["map"] + b"x"}, "more bytes"),
    "short ids": ({"video": GOOD["video"][:-1]}, "fewer bytes"),
    "long ids": ({"video": GOOD["video"] + b"x"}, "more bytes"),
    "matrix of ids": ({"video": npy(np.array([["a", "b"]]))}, "must be"),
    "real ids": ({"video": npy([0.5, 1.5])}, "must be"),
    "range 3": ({"range": npy([0.0, 1, 2])}, "two numbers"),
    "range down": ({"range": npy([1.0, 0])}, "lo < hi"),
    "range nan": ({"range": npy([0, np.nan])}, "lo < hi"),
    "range text": ({"range": npy(np.array(["0", "1"]))}, "two numbers"),
    "range 0-d": ({"range": npy(1.0)}, "two numbers"),
    "huge map": ({"map": npy_header(HUGE % "100000, 100000")}, "sides"),
    "endless map": ({"map": npy_header(HUGE % "4096, 4096")}, "ends after"),
    "negative": ({"map": npy_header(HUGE % "-3, 4")}, "sides"),
    "huge ids": (
        {
            "video": npy_header(
                "{'descr': '<U100', 'fortran_order': False, 'shape': (1000000000,)}"
            )
        },
        "more than",
    ),
    "wide ids": (
        {
            "video": npy_header(
                "{'descr': '<U1000000000', 'fortran_order': False, 'shape': (2,)}"
            )
        },
        "cannot be read",
    ),
    "code": (
        {"map": npy_header("__import__('os').system('touch trace')")},
        "cannot be read",
    ),
    "no dict": ({"map": npy_header("[1, 2]")}, "cannot be read"),
    "deep": ({"map": npy_header("(" * 5000)}, "cannot be read"),
    "long head": ({"map": npy_header(" " * 20000 + "{}", 2)}, "cannot be read"),
    "version": ({"map": npy_header("{}", 9)}, "version"),
    "no npy": ({"map": b"nothing"}, "cannot be read"),
    "empty": ({"map": b""}, "cannot be read"),
    "surrogate": ({"video": npy(np.array(["\ud800", "b"]))}, "cannot be read"),
    "bytes": ({"video": npy(np.array([b"\xff", b"b"]))}, "cannot be read"),
    "no character": (
        {"video": npy(np.array(["ab", "cd"])).replace(b"a\0\0\0", b"\xff\xff\xff\xff")},
        "no text",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_npz(name, tmp_path):
    members, text = BAD[name]
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as archive:
        for field, data in (GOOD | members).items():
            if data is not None:
                archive.writestr(f"{field}.npy", data)
    found = read_all(tmp_path / "bad.npz")
    assert isinstance(found, str)
    assert re.search(text, found), found
    assert not Path("trace").exists() and not (tmp_path / "trace").exists()


def test_npz_with_a_field_twice_or_unused(tmp_path):
    for extra, text in (("map", "twice"), ("remark", None)):
        with (
            zipfile.ZipFile(tmp_path / "more.npz", "w") as archive,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            for field, data in [*GOOD.items(), (extra, GOOD["map"])]:
                archive.writestr(f"{field}.npy", data)
        if text:
            assert text in read_all(tmp_path / "more.npz")
        else:
            with pytest.warns(UserWarning, match="not used: remark"):
                open_predictions(tmp_path / "more.npz")


def test_numbers_and_bytes_as_ids(tmp_path):
    for ids, wanted in (
        (np.array([3908875350, 12]), ["3908875350", "12"]),
        (np.array([b"a", b"b"]), ["a", "b"]),
    ):
        np.savez(
            tmp_path / "ids.npz",
            video=ids,
            audio=ids,
            map=np.zeros((2, 7, 7)),
            range=[0, 1],
        )
        assert open_predictions(tmp_path / "ids.npz").video == wanted


def good_npz(kind):
    bench, maps, objects = toy(0, n=3)
    with tempfile.TemporaryDirectory() as folder:
        return write(
            Path(folder) / "good", fields(bench, maps, objects), kind
        ).read_bytes()


@pytest.mark.parametrize("kind", ["npz", "packed"])
def test_cut_archives(kind, tmp_path):
    data, path = good_npz(kind), tmp_path / "cut.npz"
    for length in [*range(0, len(data), 37), len(data) - 1]:
        path.write_bytes(data[:length])
        assert isinstance(read_all(path), str)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.sampled_from(["npz", "packed"]),
    st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=6
    ),
)
def test_flipped_archives(kind, flips):
    """Any damage is noticed or harmless: the archive's check sums see to the values."""
    data = bytearray(good_npz(kind))
    for place, change in flips:
        data[place % len(data)] ^= change
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flipped.npz"
        path.write_bytes(data)
        found = read_all(path)
        if not isinstance(found, str):
            path.write_bytes(good_npz(kind))
            good = read_all(path)
            for ours, theirs in zip(found.blocks(), good.blocks()):
                np.testing.assert_array_equal(ours[2], theirs[2])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=300), st.sampled_from(["x.npz", "x.h5", "x.txt"]))
def test_random_bytes(data, name):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(data)
        assert isinstance(read_all(Path(folder) / name), str)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.binary(max_size=120)
    | st.text(max_size=120).map(lambda t: t.encode("utf-8", "surrogatepass")),
    st.sampled_from(["index.csv", "range.json", "map/0.npy"]),
)
def test_random_text_in_a_folder(data, name):
    bench, maps, _ = toy(0, n=2)
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "maps", fields(bench, maps), "folder")
        (path / name).write_bytes(data)
        assert isinstance(read_all(path), str)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.dictionaries(
        st.sampled_from(["range", "object_range", "x"]),
        max_size=3,
        values=st.floats()
        | st.text(max_size=3)
        | st.lists(
            st.none() | st.floats() | st.integers() | st.text(max_size=2), max_size=3
        ),
    )
)
def test_random_ranges(ranges):
    bench, maps, _ = toy(0, n=2)
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "maps", fields(bench, maps), "folder")
        (path / "range.json").write_text(json.dumps(ranges))
        found = read_all(path)
        if not isinstance(found, str):
            assert set(ranges) == {"range"} and found.range == tuple(ranges["range"])


BAD_INDEX = {
    "": "header",
    "video,audio\na,b\n": "header",
    "video,audio,file,more\na,b,c,d\n": "header",
    "video,audio,file\n": "names no map",
    "video,audio,file\na,b\n": "line 2 must have 3 values",
    "video,audio,file\na,,map/0.npy\n": "line 2 must have 3 values",
    "video,audio,file\na,b,../../secret.npy\n": "inside the folder",
    "video,audio,file\na,b,/etc/passwd\n": "inside the folder",
    "video,audio,file\na,b,nothing.npy\n": "no such map",
    "video,audio,file\na,b,map\n": "no such map",
    'video,audio,file\n"a': "CSV",
    "video,audio,file\na,b,range.json\n": "cannot be read",
    "video,audio,file\n" + "a" * 200000 + ",b,c\n": "CSV",
    "video,audio,file,object_file\na,b,map/0.npy,map/0.npy\n": "go together",
}


@pytest.mark.parametrize(
    "text", BAD_INDEX, ids=[v + str(n) for n, v in enumerate(BAD_INDEX.values())]
)
def test_bad_index(text, tmp_path):
    bench, maps, _ = toy(0, n=2)
    path = write(tmp_path / "maps", fields(bench, maps), "folder")
    (path / "index.csv").write_text(text)
    found = read_all(path)
    assert isinstance(found, str) and BAD_INDEX[text] in found


def test_bad_folders(tmp_path):
    bench, maps, _ = toy(0, n=2)
    path = write(tmp_path / "maps", fields(bench, maps), "folder")
    np.save(path / "map/2.npy", np.zeros((8, 7)))
    assert "2.npy: all maps must have one shape" in read_all(path)
    np.save(path / "map/2.npy", np.zeros((1, 7, 7)))
    assert "2.npy must be (h, w)" in read_all(path)
    np.save(
        path / "map/2.npy", np.asfortranarray(maps[2])
    )  # two-dimensional Fortran order is no obstacle
    opened = open_predictions(path)
    np.testing.assert_array_equal(np.concatenate([b[2] for b in opened.blocks()]), maps)
    for text in (
        '{"range": [0, 1e999]}',
        '{"range": [1, 1]}',
        '{"range": [0, NaN]}',
        '{"range": [0, 1%s]}' % ("0" * 400),
        "[" * 100000,
        "[0, 1]",
    ):
        (path / "range.json").write_text(text)
        assert "range.json" in read_all(path)
    (path / "range.json").unlink()
    assert "range.json: missing" in read_all(path)
    for name in ("nothing.npz", "nothing.h5", "nothing", "nothing.npy"):
        with pytest.raises(FileNotFoundError, match=name):
            open_predictions(tmp_path / name)
    (tmp_path / "maps.npy").write_bytes(npy(maps))
    assert "predictions are an .npz" in read_all(tmp_path / "maps.npy")
    (tmp_path / "dir.npz").mkdir()
    assert "index.csv: missing" in read_all(tmp_path / "dir.npz")


def test_bad_hdf5(tmp_path):
    h5py = pytest.importorskip("h5py")
    bench, maps, _ = toy(0, n=3)
    arrays, path = fields(bench, maps), tmp_path / "bad.h5"
    write(tmp_path / "other", arrays, "h5")

    def broken(change):
        write(tmp_path / "bad", arrays, "h5")
        with h5py.File(path, "a") as file:
            change(file)
        return read_all(path)

    def put(name, value, **options):
        def change(file):
            del file[name]
            if isinstance(value, (h5py.ExternalLink, h5py.SoftLink)):
                file[name] = value
            else:
                file.create_dataset(name, data=value, **options)

        return change

    assert isinstance(broken(lambda file: None), Predictions)
    assert isinstance(
        broken(put("map", maps, chunks=(1, 7, 7), compression="gzip")), Predictions
    )
    assert "missing" in broken(lambda file: file.__delitem__("map"))
    assert "not a group or a link" in broken(
        put("map", h5py.ExternalLink("other.h5", "/map"))
    )
    assert "not a group or a link" in broken(put("map", h5py.SoftLink("/range")))
    assert "must hold numbers" in broken(put("map", np.zeros((6, 7, 7), complex)))
    assert "N = 6" in broken(put("map", maps[:2]))
    assert "(N, h, w)" in broken(put("map", 1.0))
    assert "'video'" in broken(put("video", np.zeros(6)))
    assert "6 ids and audio 2" in broken(put("audio", ["a", "b"]))
    assert "range" in broken(put("range", [1.0, 0.0]))
    assert "more than" in broken(
        lambda file: (
            file.__delitem__("video"),
            file.create_dataset("video", (10**10,), "S20", chunks=(1000,)),
        )
    )
    assert "chunks" in broken(
        lambda file: (
            file.__delitem__("map"),
            file.create_dataset("map", (6, 4096, 4096), "f4", chunks=(6, 4096, 4096)),
        )
    )
    layout = h5py.VirtualLayout((6, 7, 7), "f4")
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "map", (6, 7, 7))
    assert "not a group or a link" in broken(
        lambda file: (
            file.__delitem__("map"),
            file.create_virtual_dataset("map", layout),
        )
    )
    data = (tmp_path / "other.h5").read_bytes()
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        assert isinstance(read_all(path), str)


BILLION = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "ha">'
    + "".join(
        f'<!ENTITY {chr(99 + n)} "{("&" + chr(98 + n) + ";") * 10}">' for n in range(9)
    )
    + "]><annotations><annotator>&k;</annotator></annotations>"
)


@pytest.mark.parametrize(
    "text",
    [
        BILLION,
        "",
        "<annotations>",
        "<a><b><bbox><xmin>1</xmin></bbox></b></a>",
        xml([(0, 0, "inf", 4)]),
        "<a>" * 50,
        '<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
    ],
)
def test_bad_xml(text, tmp_path):
    flickr_folder(tmp_path)
    (tmp_path / "Annotations/12.xml").write_text(text)
    with pytest.raises(ValueError, match="12.xml"):
        benchmark_facts("flickr", tmp_path)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.binary(max_size=80)
    | st.text(max_size=80).map(lambda t: t.encode("utf-8", "surrogatepass")),
    st.sampled_from(["boxes.json", "test.csv", "silent.csv"]),
)
def test_random_bytes_in_the_test_set(data, name):
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        here = Path(folder)
        (here / "boxes.json").write_text(
            '[{"file": "a", "class": "dog", "bbox": [[0, 0, 1, 1]]}]'
        )
        (here / "test.csv").write_text("a\n")
        (here / "silent.csv").write_text("video,audio,label\nr,r,non-sounding\n")
        (here / name).write_bytes(data)
        try:
            bench = read_test_set(
                here / "boxes.json", here / "test.csv", here / "silent.csv"
            )
        except ValueError as error:
            assert name in str(error) or "boxes.json" in str(error)
        else:
            assert (bench.pairs["kind"] == "positive").sum() == 1


@quick
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "file": st.sampled_from("ab") | st.integers(),
                "class": st.text(max_size=2),
                "bbox": st.lists(
                    st.lists(st.floats() | st.none(), min_size=3, max_size=5),
                    max_size=2,
                ),
            }
        ),
        max_size=2,
    )
)
def test_random_entries_in_vggss(entries):
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        here = Path(folder)
        (here / "boxes.json").write_text(json.dumps(entries))
        (here / "test.csv").write_text("a\n")
        try:
            bench = read_test_set(here / "boxes.json", here / "test.csv")
        except ValueError as error:
            assert "boxes.json" in str(error)
        else:
            assert list(bench.boxes) == ["a"]
