"""Negative audio: the pairs, the sounds, and the scores against loops written from the definitions."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slavc.data.audio import log_spectrogram, middle, resample
from slavc.data.boxes import gt_map, to_grid
from slavc.data.clips import Clip
from slavc.score.negative_audio import (
    NEGATIVE_KINDS,
    is_negative_sound,
    negative_pairs,
    negative_waveform,
    threshold_clips,
    universal_scores,
    universal_threshold,
    with_negative_audio,
)
from slavc.train.training import Inputs, predict

torch.set_num_threads(1)


# ---- pairs ------------------------------------------------------------------------------------------------

benchmarks = st.dictionaries(
    st.text("abcxyz0189-_", min_size=1, max_size=8).filter(
        lambda v: not is_negative_sound(v)
    ),
    st.sampled_from(["dog", "bell", "car", "sea"]),
    min_size=1,
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(benchmarks, st.integers(0, 5))
def test_pairs_keep_their_promises(categories, seed):
    if len(set(categories.values())) < 2:
        with pytest.raises(ValueError, match="at least two categories"):
            negative_pairs(categories, seed=seed)
        return
    pairs = negative_pairs(categories, seed=seed)
    assert pairs["kind"].value_counts().to_dict() == dict.fromkeys(
        NEGATIVE_KINDS, len(categories)
    )
    assert not pairs.duplicated(["video", "audio"]).any()
    for video, audio, kind in pairs.itertuples(index=False):
        assert video in categories
        if kind == "silence":
            assert audio == "silence"
        elif kind == "noise":
            assert audio.startswith("noise-") and is_negative_sound(audio)
        else:
            assert categories[audio] != categories[video]
    mixed = dict(sorted(categories.items(), key=lambda item: item[0][::-1]))
    assert negative_pairs(mixed, seed=seed).equals(pairs)


def test_pairs_from_any_benchmark():
    categories = {"a": "dog", "b": "bell", "c": "dog"}
    table = pd.DataFrame(
        {
            "video": ["a", "b", "c", "a", "r"],
            "audio": ["a", "b", "c", "b", "r"],
            "kind": ["positive"] * 3 + ["easy", "real"],
            "category": ["dog", "bell", "dog", "dog", "car"],
        }
    )
    pairs = negative_pairs(categories, seed=1)
    assert negative_pairs(table, seed=1).equals(pairs)  # negatives are passed over
    assert negative_pairs(
        {k: (c, np.zeros((1, 4))) for k, c in categories.items()}, seed=1
    ).equals(pairs)
    assert negative_pairs(
        pd.DataFrame({"id": list(categories), "category": list(categories.values())}),
        seed=1,
    ).equals(pairs)
    assert negative_pairs(list(categories), ("silence", "noise"), seed=1).equals(
        pairs[pairs["kind"] != "off-screen"]
    )
    assert (
        not negative_pairs(categories, "noise", seed=2)["audio"]
        .isin(pairs["audio"])
        .any()
    )


def test_off_screen_is_even_over_categories_not_over_clips():
    """Category first, clip second: a category with a hundred clips is heard as often as one with a single clip."""
    categories = (
        {f"big{i}": "big" for i in range(100)}
        | {"small": "small"}
        | {f"own{i}": "own" for i in range(1000)}
    )
    pairs = negative_pairs(categories, "off-screen", seed=0)
    heard = (
        pairs[pairs["video"].str.startswith("own")]["audio"]
        .map(categories)
        .value_counts()
    )
    assert abs(heard["small"] - 500) < 5 * math.sqrt(250) and heard.sum() == 1000


@pytest.mark.parametrize(
    "clips, kinds, what",
    [
        (["a", "a"], "silence", "there twice: a"),
        ([], "silence", "no positive"),
        (["noise-1"], "noise", "reserved"),
        ([1], "noise", "texts"),
        (["a", "b"], ("silence", "hum"), "hum"),
        (["a", "b"], (), "some of"),
        (["a"], ("noise", "noise"), "each once"),
        (["a", "b"], "off-screen", "category of every clip"),
        ({"a": "x", "b": ""}, "off-screen", "not known for b"),
        (pd.DataFrame({"name": ["a"]}), "silence", "'video'"),
        (pd.DataFrame({"video": ["a"], "kind": ["real"]}), "silence", "no positive"),
    ],
)
def test_pairs_say_what_is_wrong(clips, kinds, what):
    with pytest.raises(ValueError, match=what):
        negative_pairs(clips, kinds)


# ---- sounds -----------------------------------------------------------------------------------------------


def test_waveforms():
    assert (
        not negative_waveform("silence", 7).any()
        and negative_waveform("silence", 7).dtype == np.float32
    )
    a, b = (negative_waveform(f"noise-0-{v}", 50_000) for v in "ab")
    assert (
        np.array_equal(a, negative_waveform("noise-0-a", 50_000))
        and a.dtype == np.float32
    )
    assert (
        abs(a.mean()) < 0.02
        and abs(a.std() - 1) < 0.02
        and abs(np.corrcoef(a, b)[0, 1]) < 0.02
    )
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 0.02  # white
    np.testing.assert_allclose(
        negative_waveform("noise-0-a", 50_000, level=0.1), a / 10, rtol=1e-6
    )
    for wrong in (
        ("a", 5),
        ("silence", 0),
        ("noise-1", 5, 0.0),
        ("noise-1", 5, math.nan),
        (None, 5),
    ):
        with pytest.raises(ValueError):
            negative_waveform(*wrong)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "window, hop, rate", [(512, 238, 22050), (256, 320, 8000), (512, 238, 16000)]
)
def test_silence_has_a_finite_spectrogram(dtype, window, hop, rate):
    silence = resample(
        middle(negative_waveform("silence", rate), rate, 3.0), rate, rate
    )
    spec = log_spectrogram(torch.from_numpy(silence)[None].to(dtype), window, hop, rate)
    assert (spec - math.log(1e-7) / 12).abs().max() < 1e-6  # so it is finite as well
    some = torch.zeros(3, 4 * window, dtype=dtype)
    some[1, 2 * window :], some[2, 5] = 1.0, 1.0  # constant, and one click
    assert log_spectrogram(some, window, hop, rate).isfinite().all()


class World:
    ids, rate = ["a", "b"], 8000

    def __len__(self):
        return 2

    def __getitem__(self, i):
        return Clip(
            self.ids[i],
            np.full((8, 8, 3), 100 * i, np.uint8),
            np.full(800, 0.1 * (i + 1), np.float32),
            self.rate,
        )


def test_predict_hears_the_made_sounds():
    pairs = pd.concat(
        [
            pd.DataFrame(
                {"video": ["a", "b"], "audio": ["a", "b"], "kind": "positive"}
            ),
            negative_pairs({"a": "x", "b": "y"}),
        ],
        ignore_index=True,
    )
    world = with_negative_audio(World(), pairs)
    assert (
        world.ids == ["a", "b", "noise-0-a", "noise-0-b", "silence"]
        and len(world) == 5
        and world.rate == 8000
    )
    assert [len(world[i].waveform) for i in range(5)] == [800] * 5 and [
        world[i].id for i in range(5)
    ] == world.ids
    inputs = Inputs(8, 8000, dict(window=256, hop=64, mean=-1.1, std=0.15))
    maps = predict(
        lambda frame, spec: (
            spec.mean((1, 2, 3))[:, None, None]
            + 0 * frame.mean((1, 2, 3))[:, None, None]
        ),
        world,
        pairs,
        inputs,
        batch=3,
    )
    assert np.isfinite(maps).all()
    heard = dict(zip(pairs["audio"], maps[:, 0, 0]))
    assert heard["silence"] < heard["noise-0-a"] != heard["noise-0-b"]
    by_pair = {
        (v, a): m for v, a, m in zip(pairs["video"], pairs["audio"], maps[:, 0, 0])
    }
    assert (
        by_pair["a", "b"] == by_pair["b", "b"]
        and by_pair["a", "silence"] == by_pair["b", "silence"]
    )

    class Clash(World):
        ids = ["a", "silence"]

    with pytest.raises(ValueError, match="reserved"):
        with_negative_audio(Clash(), pairs)


# ---- the slow reference -----------------------------------------------------------------------------------


def slow_enlarged(m, y, x):
    """Linear interpolation at pixel (y, x) of 224 x 224, the corners of map and frame together."""

    def between(p, n):
        at = p * (n - 1) / 223
        low = min(int(at), n - 1)
        return low, min(low + 1, n - 1), at - low

    top, bottom, fy = between(y, m.shape[0])
    left, right, fx = between(x, m.shape[1])
    return (1 - fy) * ((1 - fx) * m[top, left] + fx * m[top, right]) + fy * (
        (1 - fx) * m[bottom, left] + fx * m[bottom, right]
    )


def slow_scores(maps, threshold, pairs, boxes, truth_kind):
    us, areas, shares = [], [], {}
    for m, video, kind in zip(maps, pairs["video"], pairs["kind"]):
        mask = np.array(
            [
                [slow_enlarged(m, y, x) > threshold for x in range(224)]
                for y in range(224)
            ]
        )
        areas.append(mask.sum() / 224**2)
        if kind == "positive":
            gt = gt_map(boxes[video], truth_kind).astype(float)
            inside = sum(gt[y, x] for y in range(224) for x in range(224) if mask[y, x])
            outside = sum(
                1
                for y in range(224)
                for x in range(224)
                if mask[y, x] and gt[y, x] == 0
            )
            whole = gt.sum() + outside
            us.append(inside / whole if whole else 0.0)
        else:
            shares.setdefault(kind, []).append(areas[-1])

    def area_under(passes, values):
        share = [
            sum(passes(v, i / 20) for v in values) / len(values) for i in range(21)
        ]
        return sum((a + b) / 2 / 20 for a, b in zip(share, share[1:]))

    def f(a, b):
        return 2 * a * b / (a + b) if a + b else 0.0

    out = {
        "cIoU": 100 * sum(us) / len(us),
        "LocAcc": 100 * sum(u >= 0.5 for u in us) / len(us),
        "AUC": 100 * area_under(lambda u, bar: u >= bar, us),
    }
    per = {
        k: {
            "pIA": 100 * sum(v) / len(v),
            "AUC_N": 100 * area_under(lambda a, bar: a <= bar, v),
        }
        for k, v in shares.items()
    }
    per["negatives"] = {
        m: sum(per[k][m] for k in shares) / len(shares) for m in ("pIA", "AUC_N")
    }
    for s in per.values():
        s["F"], s["F_AUC"] = f(out["cIoU"], 100 - s["pIA"]), f(out["AUC"], s["AUC_N"])
    return out | per, areas


@pytest.mark.parametrize(
    "seed, size, truth_kind",
    [(0, (7, 7), "vggss"), (1, (3, 5), "flickr"), (2, (1, 4), "vggss")],
)
def test_scores_against_loops(seed, size, truth_kind):
    rng = np.random.default_rng(seed)
    pairs = pd.DataFrame(
        {
            "video": ["a", "b", "c", "a", "b", "a"],
            "audio": ["a", "b", "c", "silence", "silence", "noise-1-a"],
            "kind": ["positive"] * 3 + ["silence"] * 2 + ["noise"],
        }
    )
    boxes = {
        v: to_grid(np.sort(rng.random((2, 2, 2)), axis=1).reshape(2, 4)) for v in "ab"
    } | {"c": np.zeros((0, 4), np.int64)}
    maps = rng.normal(size=(6, *size))
    maps[1] = 2.0  # flat, all selected
    threshold = float(np.quantile(maps, 0.6))
    want, areas = slow_scores(maps, threshold, pairs, boxes, truth_kind)
    clips = threshold_clips(maps, threshold, pairs, boxes, truth_kind, chunk=2)
    np.testing.assert_allclose(clips["area"], areas, atol=1e-12)
    got = universal_scores(clips)
    assert got.keys() == want.keys()
    for name, value in want.items():
        for key, v in value.items() if isinstance(value, dict) else [(None, value)]:
            assert (got[name] if key is None else got[name][key]) == pytest.approx(
                v, abs=1e-9
            )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.floats(-3, 3), st.floats(0.1, 4))
def test_scores_do_not_depend_on_order_chunks_or_the_scale_of_the_maps(
    seed, n, shift, scale
):
    rng = np.random.default_rng(seed)
    pairs = pd.DataFrame(
        {
            "video": [f"v{i}" for i in range(n)] * 2,
            "audio": [f"v{i}" for i in range(n)] + ["silence"] * n,
            "kind": ["positive"] * n + ["silence"] * n,
        }
    )
    boxes = {f"v{i}": to_grid([[0, 0, *rng.uniform(0.2, 1, 2)]]) for i in range(n)}
    maps = rng.integers(0, 4, (2 * n, 3, 3)) + 0.25 * rng.random((2 * n, 1, 1))
    threshold = universal_threshold(maps.max((1, 2)), pairs["kind"])
    clips = threshold_clips(maps, threshold, pairs, boxes)
    assert (
        clips["area"].eq(0) | (clips["maximum"] > threshold)
    ).all()  # nothing at or under the threshold lights up
    assert (clips["area"][n:] > 0).sum() <= n / 4 + 1
    order = rng.permutation(2 * n)
    again = threshold_clips(maps[order], threshold, pairs.iloc[order], boxes, chunk=1)
    pd.testing.assert_frame_equal(again, clips.iloc[order].reset_index(drop=True))
    moved = threshold_clips(
        maps * scale + shift, (threshold + 0.1) * scale + shift, pairs, boxes
    )
    np.testing.assert_allclose(
        moved["area"],
        threshold_clips(maps, threshold + 0.1, pairs, boxes)["area"],
        atol=2 / 224,
    )
    half = threshold_clips(
        torch.from_numpy(maps).float(), threshold + 0.1, pairs, boxes
    )
    np.testing.assert_allclose(
        half["area"],
        threshold_clips(maps, threshold + 0.1, pairs, boxes)["area"],
        atol=2 / 224,
    )


def test_threshold_against_the_definition():
    def quantile(values, q):
        values = sorted(values)
        at = q * (len(values) - 1)
        low = int(at)
        return values[low] + (at - low) * (
            values[min(low + 1, len(values) - 1)] - values[low]
        )

    rng = np.random.default_rng(0)
    for _ in range(50):
        n = int(rng.integers(1, 40))
        maxima, kind = (
            rng.normal(size=n).round(1),
            rng.choice(["positive", "silence", "noise", "off-screen"], n),
        )
        groups = {k: maxima[kind == k].tolist() for k in set(kind) - {"positive"}}
        if not groups:
            with pytest.raises(ValueError, match="no negative"):
                universal_threshold(maxima, kind)
            continue
        q = float(rng.choice([0.0, 0.5, 0.75, 1.0]))
        assert universal_threshold(maxima, kind, q) == pytest.approx(
            max(quantile(v, q) for v in groups.values())
        )
        assert universal_threshold(maxima, kind, q, over="pooled") == pytest.approx(
            quantile(sum(groups.values(), []), q)
        )
        assert universal_threshold(maxima, kind, 1.0) == max(
            max(v) for v in groups.values()
        )


def test_clear_errors():
    pairs = pd.DataFrame(
        {
            "video": ["a", "a"],
            "audio": ["a", "silence"],
            "kind": ["positive", "silence"],
        }
    )
    boxes, maps = {"a": to_grid([[0, 0, 1, 1]])}, np.zeros((2, 2, 2))
    assert threshold_clips(maps, -1, pairs, boxes)["ciou"].tolist() == [1, 0]
    for call, what in [
        (lambda: threshold_clips(maps[:1], 0, pairs, boxes), "one map per pair"),
        (lambda: threshold_clips(maps, math.nan, pairs, boxes), "finite"),
        (
            lambda: threshold_clips(maps * np.inf, 0, pairs, boxes),
            r"not finite: \(a, a\), \(a, silence\)",
        ),
        (lambda: threshold_clips(maps, 0, pairs, {}), "no boxes: a"),
        (lambda: threshold_clips(maps, 0, pairs.iloc[[0, 0]], boxes), "there twice"),
        (lambda: threshold_clips(maps, 0, pairs.drop(columns="kind"), boxes), "'kind'"),
        (lambda: universal_scores(pairs), "'area'"),
        (
            lambda: universal_scores(threshold_clips(maps, 0, pairs, boxes).iloc[:1]),
            "negative clips",
        ),
        (
            lambda: universal_threshold([1.0, math.nan], ["silence"] * 2),
            r"positions \[1\]",
        ),
        (lambda: universal_threshold([1.0], ["silence"] * 2), "shapes"),
        (lambda: universal_threshold([1.0], ["silence"], over="all"), "over"),
    ]:
        with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=what):
            call()
