"""Bootstrap intervals against really copied rows, and per-clip files against everything that can be wrong with them."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slavc.data.boxes import size_group
from slavc.score import bootstrap as module
from slavc.score.bootstrap import bootstrap, compare, read_clips, weighted_metrics
from slavc.score.protocols import METRICS, PROTOCOLS, SUBSETS, summarise

VARIANTS = [
    *PROTOCOLS.values(),
    replace(PROTOCOLS["paper"], hit=">="),
    replace(PROTOCOLS["released"], hit=">"),
]


def table(n, seed, digits=None, kinds=("positive", "positive", "easy", "hard", "real")):
    """n random clips; few digits make ties in confidence and cIoUs that lie on the bar."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(np.array(kinds, object), n)
    positive = kind == "positive"
    area = np.where(positive, rng.uniform(100, 50000, n), 0.0)
    confidence, ciou, adaptive = (
        rng.random(n) + 0.3 * positive,
        rng.random(n),
        rng.random(n),
    )
    if digits is not None:
        confidence, ciou, adaptive = (
            confidence.round(digits),
            ciou.round(1),
            adaptive.round(1),
        )
    video = np.array([f"v{i // 2}" for i in range(n)], object)
    return pd.DataFrame(
        {
            "video": video,
            "audio": [f"a{i}" for i in range(n)],
            "kind": kind,
            "size": np.where(positive, size_group(area), ""),
            "area": area,
            "confidence": confidence,
            "ciou": np.where(positive, ciou, 0),
            "ciou_adaptive": np.where(positive, adaptive, np.nan),
            "pointing": np.where(positive, rng.choice([0, 0.5, 1], n), np.nan),
            "predicted": np.nan,
        }
    )


def copied(clips, weights):
    """The rows themselves, as often as their weight says, under new names because a pair may be there only once."""
    rows = [
        row | {"audio": f"{row['audio']}#{copy}"}
        for row, w in zip(clips.to_dict("records"), weights)
        for copy in range(int(w))
    ]
    return pd.DataFrame(rows, columns=clips.columns)


def scores(clips, protocol, iou):
    found = summarise(clips, protocol, iou)
    return np.array(
        [
            [math.nan if found[s][m] is None else found[s][m] for m in METRICS]
            for s in SUBSETS
        ]
    )


# ---- weights are copies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", VARIANTS, ids=range(len(VARIANTS)))
@pytest.mark.parametrize(
    "n, digits", [(1, None), (2, 0), (7, 1), (40, 1), (40, None), (450, 2), (450, None)]
)
def test_a_weight_is_a_copied_row(protocol, n, digits):
    clips, rng = table(n, n, digits), np.random.default_rng(n)
    weights = np.stack(
        [rng.multinomial(n, np.full(n, 1 / n)) for _ in range(4)]
        + [np.ones(n, int), rng.integers(0, 2, n), rng.integers(0, 4, n)]
    )
    for iou in (0.3, 0.5):
        fast = weighted_metrics(clips, weights, protocol, iou)
        slow = np.stack([scores(copied(clips, w), protocol, iou) for w in weights])
        np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-8)
        np.testing.assert_allclose(
            fast[4], scores(clips, protocol, iou), rtol=0, atol=1e-8
        )


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_weights_are_copies_whatever_the_table(data):
    n = data.draw(st.integers(1, 12))
    some = st.lists(st.sampled_from([0.0, 0.2, 0.5, 1.0]), min_size=n, max_size=n)
    kind = np.array(
        data.draw(
            st.lists(
                st.sampled_from(["positive", "easy", "real"]), min_size=n, max_size=n
            )
        ),
        object,
    )
    positive = kind == "positive"
    clips = table(n, 0).assign(
        kind=kind,
        size=np.where(positive, "Large", ""),
        confidence=data.draw(some),
        ciou=np.where(positive, data.draw(some), 0),
        ciou_adaptive=np.where(positive, data.draw(some), np.nan),
        pointing=np.where(positive, data.draw(some), np.nan),
    )
    weights = [data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))]
    for protocol in PROTOCOLS:
        slow = scores(copied(clips, weights[0]), protocol, 0.5)
        np.testing.assert_allclose(
            weighted_metrics(clips, weights, protocol)[0], slow, rtol=0, atol=1e-8
        )


def slow_draws(clips, resamples, by, seed):
    """What `bootstrap` promises to draw: rows by (video, audio); per draw as many units as there are, with replacement."""
    clips = clips.sort_values(["video", "audio"], ignore_index=True)
    names = sorted(set(clips[by])) if by != "clip" else list(range(len(clips)))
    of = list(clips[by]) if by != "clip" else names
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        drawn = [names[i] for i in rng.integers(len(names), size=len(names))]
        yield copied(clips, [drawn.count(u) for u in of])


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
@pytest.mark.parametrize("by", ["clip", "video"])
def test_intervals_from_really_drawn_rows(protocol, by, monkeypatch):
    clips = table(30, 5, 1)
    slow = np.stack(
        [scores(rows, protocol, 0.5) for rows in slow_draws(clips, 12, by, seed=3)]
    )
    monkeypatch.setattr(module, "CELLS", 100)  # several blocks
    found = bootstrap(clips, protocol, resamples=12, level=0.8, seed=3, by=by)
    for row in found.itertuples():
        values = slow[:, SUBSETS.index(row.subset), METRICS.index(row.metric)]
        values = sorted(values[~np.isnan(values)].tolist())
        assert row.defined == len(values)
        if not values:
            assert math.isnan(row.low) and math.isnan(row.high)
            continue
        for end, share in (
            (row.low, 0.1),
            (row.high, 0.9),
        ):  # linear between the two order statistics
            place = share * (len(values) - 1)
            lower, upper = values[math.floor(place)], values[math.ceil(place)]
            assert end == pytest.approx(
                lower + (place - math.floor(place)) * (upper - lower), abs=1e-8
            )
    wanted = summarise(clips, protocol)
    for row in found.itertuples():
        value = wanted[row.subset][row.metric]
        assert row.value == value or value is None and math.isnan(row.value)


def test_a_draw_may_lack_what_a_subset_needs():
    clips = table(30, 0, kinds=("positive",)).assign(video=[f"v{i}" for i in range(30)])
    clips.loc[0, ["kind", "size", "ciou", "ciou_adaptive", "pointing"]] = [
        "real",
        "",
        0,
        np.nan,
        np.nan,
    ]
    found = bootstrap(clips, resamples=400, subsets=["all", "real", "hard"]).set_index(
        ["subset", "metric"]
    )["defined"]
    assert found["all", "AP"] == 400 and found["hard", "AP"] == 0
    assert (
        0.5 < found["real", "AP"] / 400 < 0.75
    )  # one clip of 30 is drawn with probability 1 - (29/30)^30 = 0.64


# ---- properties -------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(0, 99),
    st.sampled_from([None, 1]),
    st.sampled_from(list(PROTOCOLS)),
    st.sampled_from(["clip", "video"]),
)
def test_order_blocks_and_monotone_maps_never_matter(n, seed, digits, protocol, by):
    clips = table(n, seed, digits)
    found = bootstrap(clips, protocol, resamples=15, seed=seed, by=by)
    pd.testing.assert_frame_equal(
        found,
        bootstrap(
            clips.sample(frac=1, random_state=seed),
            protocol,
            resamples=15,
            seed=seed,
            by=by,
        ),
    )
    louder = clips.assign(confidence=np.exp(2 * clips["confidence"]) - 3)
    pd.testing.assert_frame_equal(
        found, bootstrap(louder, protocol, resamples=15, seed=seed, by=by)
    )
    before = module.CELLS
    try:
        module.CELLS = 1
        pd.testing.assert_frame_equal(
            found, bootstrap(clips, protocol, resamples=15, seed=seed, by=by)
        )
    finally:
        module.CELLS = before
    assert (found["low"].isna() == (found["defined"] == 0)).all()
    assert not (found["low"] > found["high"]).any()


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(0, 99), st.sampled_from(list(PROTOCOLS)))
def test_a_method_against_itself_and_swapped(n, seed, protocol):
    a, b = table(n, seed, 1), table(n, seed, 1)
    rng = np.random.default_rng(seed)
    b["confidence"] = b["confidence"] + rng.normal(0, 0.3, n)
    itself = compare(a, a.sample(frac=1, random_state=1), protocol, resamples=10)
    defined = itself["defined"] > 0
    assert (itself.loc[defined, ["low", "high"]] == 0).all(axis=None) and (
        itself.loc[defined, "other_side"] == 1
    ).all()
    assert (itself["difference"].dropna() == 0).all() and itself.loc[
        ~defined, ["low", "high", "other_side"]
    ].isna().all(axis=None)
    ab, ba = (compare(*pair, protocol, resamples=10) for pair in ((a, b), (b, a)))
    np.testing.assert_allclose(ab["difference"], -ba["difference"], atol=1e-9)
    np.testing.assert_allclose(ab["low"], -ba["high"], atol=1e-9)
    pd.testing.assert_series_equal(ab["other_side"], ba["other_side"])


def test_the_difference_is_paired():
    """Both on the same draws: the interval is that of slow draws whose scores are subtracted."""
    a, b = table(30, 7, 1), table(30, 7, 1)
    b["confidence"] = b["confidence"].to_numpy()[::-1].copy()
    slow = [
        [scores(rows, "paper", 0.5)[0] for rows in slow_draws(t, 9, "clip", 2)]
        for t in (a, b)
    ]
    differences = np.subtract(*slow)
    found = compare(
        a, b.sample(frac=1, random_state=0), subsets=["all"], resamples=9, seed=2
    )
    for m, row in enumerate(found.itertuples()):
        values = differences[:, m]
        np.testing.assert_allclose(
            [row.low, row.high],
            np.quantile(values[~np.isnan(values)], [0.025, 0.975]),
            atol=1e-8,
        )
        assert row.difference == pytest.approx(row.value_a - row.value_b, abs=1e-12)
        if row.metric not in (
            "AP",
            "max-F1",
            "presence skill",
        ):  # the same masks: exactly nothing, not rounding
            assert row.difference == row.low == row.high == 0 and row.other_side == 1
        if row.difference:
            assert row.other_side == pytest.approx(
                np.mean(np.sign(row.difference) * values <= 0)
            )


def test_many_clips_the_interval_is_around_the_truth():
    """A population with LocAcc 60 %: the interval has the width of the binomial, and holds the value and (nearly always) the truth."""
    held = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        clips = table(1000, seed, kinds=("positive",)).assign(
            ciou=np.where(rng.random(1000) < 0.6, 0.9, 0.1)
        )
        row = bootstrap(
            clips, subsets=["visible"], metrics=["LocAcc"], resamples=200, seed=seed
        ).iloc[0]
        assert row.low < row.value < row.high
        assert row.high - row.low == pytest.approx(
            100 * 2 * 1.96 * math.sqrt(0.6 * 0.4 / 1000), rel=0.25
        )
        held += row.low <= 60 <= row.high
    assert (
        34 <= held <= 40
    )  # 40 draws of 0.95: fewer than 34 has probability 0.003; the seeds are fixed


def test_clusters_of_copies_count_once():
    """Every clip four times over, copies drawn together: exactly the draws of the clips themselves."""
    once = table(25, 3).assign(video=[f"v{i:02d}" for i in range(25)])
    four = pd.concat(
        [once.assign(audio=[f"{a}-{k}" for a in once["audio"]]) for k in range(4)]
    )
    narrow, same, truth = (
        bootstrap(four, resamples=300),
        bootstrap(four, resamples=300, by="video"),
        bootstrap(once, resamples=300),
    )
    np.testing.assert_allclose(same[["low", "high"]], truth[["low", "high"]], atol=1e-8)
    at = (truth["subset"] == "all") & (truth["metric"] == "LocAcc")
    assert (narrow["high"] - narrow["low"])[at].item() < 0.7 * (
        same["high"] - same["low"]
    )[at].item()


def test_edges():
    for clips in (table(6, 0, kinds=("easy", "real")), table(0, 0)):
        for protocol in PROTOCOLS:
            found = bootstrap(clips, protocol, resamples=5)
            assert (
                len(found) == 81
                and found[["value", "low", "high"]].isna().all(axis=None)
                and (found["defined"] == 0).all()
            )
            assert (
                compare(clips, clips, protocol, resamples=5)[
                    ["difference", "low", "other_side"]
                ]
                .isna()
                .all(axis=None)
            )
    one = bootstrap(
        table(1, 0, kinds=("positive",)), "released", resamples=5
    ).set_index(["subset", "metric"])
    assert one.loc[("all", "AP"), ["value", "low", "high", "defined"]].tolist() == [
        0,
        0,
        0,
        5,
    ]
    assert one.loc[("all", "presence skill"), "defined"] == 0
    few = bootstrap(
        table(9, 0), metrics=["LocAcc"], subsets=["visible", "all"], resamples=3
    )
    assert few[["subset", "metric"]].to_numpy().tolist() == [
        ["visible", "LocAcc"],
        ["all", "LocAcc"],
    ]


def test_memory_stays_bounded():
    import tracemalloc

    clips = table(20_000, 0)
    tracemalloc.start()
    bootstrap(clips, subsets=["all"], resamples=60)
    few = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    bootstrap(clips, subsets=["all"], resamples=240)
    many = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert many < 300 * 2**20 and many < 1.2 * few + 2**20


def test_errors_say_what_is_wrong():
    clips = table(10, 0)
    for more, text in (
        ({"subsets": ["tiny"]}, "subsets must be a list from all, visible"),
        ({"subsets": "all"}, "subsets must be a list"),
        ({"metrics": ["mAP"]}, "metrics must be a list from AP"),
        ({"resamples": 0}, "resamples must be"),
        ({"level": 95}, "level must be a fraction"),
        ({"by": "recording"}, "by must be 'clip' or a column"),
        ({"iou": 50}, "iou must be"),
        ({"protocol": "offical"}, "unknown protocol"),
    ):
        with pytest.raises(ValueError, match=text):
            bootstrap(clips, **more)
        with pytest.raises(ValueError, match=text):
            compare(clips, clips, **more)
    seen = clips["kind"] == "positive"
    with pytest.raises(
        ValueError, match=f"pointing of {seen.sum()} positives is not finite"
    ):
        bootstrap(clips.assign(pointing=np.nan))
    with pytest.raises(ValueError, match="there twice"):
        bootstrap(pd.concat([clips, clips[:1]]))
    with pytest.raises(
        ValueError, match=r"1 clips \(video, audio\) are only in A: \(v0, a0\)"
    ):
        compare(clips, clips[1:])
    with pytest.raises(ValueError, match=r"only in B: \(v0, a0\)"):
        compare(clips[1:], clips)
    with pytest.raises(ValueError, match="kind of 1 clips is not the same in A and B"):
        compare(
            clips,
            clips.assign(
                kind=clips["kind"].where(clips.index != clips.index[~seen][0], "other")
            ),
        )
    with pytest.raises(ValueError, match="size of 1 clips is not the same"):
        first = clips.index[seen][0]
        compare(
            clips,
            clips.assign(
                size=clips["size"].where(
                    clips.index != first,
                    "Small" if clips["size"][first] != "Small" else "Huge",
                )
            ),
        )
    for weights, text in (
        ([1] * 10, r"weights must be \[B, N\]"),
        ([[1] * 9], "N = 10"),
        ([[0.5] * 10], "whole numbers"),
        ([[-1] * 10], "whole numbers"),
        ([[np.nan] * 10], "whole numbers"),
    ):
        with pytest.raises(ValueError, match=text):
            weighted_metrics(clips, weights)


# ---- per-clip files ---------------------------------------------------------------------------------------


def test_a_file_comes_back_as_it_was(tmp_path):
    clips = table(40, 1).assign(predicted=25088.0, category="people eating, chewing")
    clips.loc[0, "video"], clips.loc[1, "video"] = "3908875350", '-xY_9 a"b'
    clips.to_csv(tmp_path / "clips.csv", index=False)
    back = read_clips(tmp_path / "clips.csv")
    pd.testing.assert_frame_equal(back, clips, check_dtype=False, check_exact=True)
    assert all(isinstance(v, str) for v in back["video"])
    pd.testing.assert_frame_equal(
        bootstrap(back, resamples=5), bootstrap(clips, resamples=5)
    )
    text = (tmp_path / "clips.csv").read_bytes()
    (tmp_path / "windows.csv").write_bytes(
        b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n")
    )
    pd.testing.assert_frame_equal(read_clips(tmp_path / "windows.csv"), back)
    clips[:0].to_csv(tmp_path / "none.csv", index=False)
    assert (
        len(read_clips(tmp_path / "none.csv")) == 0
        and bootstrap(read_clips(tmp_path / "none.csv"), resamples=2)["value"]
        .isna()
        .all()
    )


HEADER = "video,audio,kind,size,area,confidence,ciou,ciou_adaptive,pointing,predicted"
GOOD = "v,v,positive,Huge,30000,0.5,0.7,0.7,1,25088"


@pytest.mark.parametrize(
    "text, problem",
    [
        ("", "column 'video' is missing"),
        (
            HEADER.replace("ciou,", "iou,"),
            "column 'ciou' is missing; the header is 'video,audio,kind",
        ),
        (HEADER + ",area\n", "column 'area' is there twice"),
        (
            f"{HEADER}\n{GOOD}\n{GOOD}\n",
            r"line 3: \(v, v\) is there already, in line 2",
        ),
        (f"{HEADER}\n{GOOD},7\n", "line 2 has 11 columns, the header 10"),
        (f"{HEADER}\n{GOOD}\n\n", "line 3 has 0 columns"),
        (
            f"{HEADER}\n{GOOD.replace('0.5', 'nan')}\n",
            "line 2, column 'confidence' must be finite, got 'nan'",
        ),
        (
            f"{HEADER}\n{GOOD.replace('0.5', 'inf')}\n",
            "column 'confidence' must be finite",
        ),
        (
            f"{HEADER}\n{GOOD.replace('0.5', '')}\n",
            "column 'confidence' must be a number, got ''",
        ),
        (
            f"{HEADER}\n{GOOD.replace('0.7,0.7', '70,0.7')}\n",
            "column 'ciou' must be within 0..1, got '70'",
        ),
        (
            f"{HEADER}\n{GOOD.replace('0.7,0.7', '0.7,')}\n",
            "column 'ciou_adaptive' must be a number",
        ),
        (f"{HEADER}\n{GOOD.replace('30000', '-3')}\n", "column 'area' must be >= 0"),
        (
            f"{HEADER}\n{GOOD.replace('Huge', 'huge')}\n",
            "column 'size' must be Small, Medium, Large, Huge; got 'huge'",
        ),
        (
            f"{HEADER}\n{GOOD.replace('positive', 'easy')}\n",
            "column 'size' must be empty for a negative; got 'Huge'",
        ),
        (
            f"{HEADER}\n{GOOD.replace('positive', 'Positive')}\n",
            "column 'kind' must be 'positive'",
        ),
        (
            f"{HEADER}\n{GOOD.replace('v,v', 'v, v')}\n",
            "column 'audio' is empty or padded",
        ),
        (
            f"{HEADER}\n{GOOD.replace('v,v', ',v')}\n",
            "column 'video' is empty or padded",
        ),
        (f'{HEADER}\n"{GOOD}\n', "not a readable CSV file|has 1 columns"),
    ],
)
def test_a_broken_file_is_named(tmp_path, text, problem):
    path = tmp_path / "clips.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=problem) as error:
        read_clips(path)
    assert str(path) in str(error.value)


def test_what_is_no_csv(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.csv: there is no such file"):
        read_clips(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="is a folder"):
        read_clips(tmp_path)
    np.savez(tmp_path / "maps.npz", map=np.zeros(3))
    with pytest.raises(ValueError, match="maps.npz: not a readable CSV file"):
        read_clips(tmp_path / "maps.npz")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_files_end_in_one_clear_error(tmp_path_factory, data):
    """Cut, overwritten or shuffled bytes: a table that can be scored, or a ValueError with the file's name."""
    raw = bytearray(table(4, 2, 2).to_csv(index=False).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=6))
        raw = raw or bytearray(b"\0")
    path = tmp_path_factory.mktemp("fuzz") / "clips.csv"
    path.write_bytes(bytes(raw))
    try:
        clips = read_clips(path)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert np.isfinite(clips[["confidence", "ciou"]]).all(axis=None)
        bootstrap(clips, resamples=2, subsets=["all"])
