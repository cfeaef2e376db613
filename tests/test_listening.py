"""Does it listen: the exchange of sounds, the drop of LocAcc and its interval, and the same from anyone's maps."""

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from slavc.cli import app
from slavc.data.boxes import to_grid
from slavc.data.pairing import other_sounds
from slavc.data.test_sets import TestSet
from slavc.score.controls import CenterPrior
from slavc.score.effects import draws, seed_noise
from slavc.score.listening import (
    evaluate_other_sounds,
    listening,
    listening_text,
    two_sounds,
)
from slavc.score.predictions import array_predictions, evaluate_predictions
from slavc.score.protocols import score_clips


def positives(categories):
    ids = [f"v{i:02}" for i in range(len(categories))]
    return pd.DataFrame(
        {
            "video": ids,
            "audio": [f"a{i:02}" for i in range(len(categories))],
            "kind": "positive",
            "category": list(categories),
        }
    )


def allowed(pairs):
    """May frame i hear sound j: bool (N, N), straight from the definition."""
    category = pairs["category"].tolist()
    return np.array(
        [
            [i != j and (c != d or c == "") for j, d in enumerate(category)]
            for i, c in enumerate(category)
        ]
    )


def most_used(pairs):
    """How often the busiest sound must serve at least, by trying every assignment."""
    may = allowed(pairs)
    choices = [np.flatnonzero(row) for row in may]
    return min(max(np.bincount(choice)) for choice in itertools.product(*choices))


# ---- the exchange -----------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(["dog", "bell", "car", "", "unknown:v00"]),
        min_size=2,
        max_size=30,
    ),
    st.integers(0, 10**6),
    st.randoms(),
)
def test_every_frame_hears_another_clip_of_another_category(categories, seed, random):
    pairs = positives(categories)
    groups = len(set(categories) - {""}) + categories.count("")
    if groups < 2:
        with pytest.raises(ValueError, match="at least two categories"):
            other_sounds(pairs, seed)
        return
    found = other_sounds(pairs, seed)
    assert (
        found.columns.tolist() == ["video", "audio"]
        and found["video"].tolist() == pairs["video"].tolist()
    )
    may = allowed(pairs)
    heard = found["audio"].str[1:].astype(int).to_numpy()
    assert all(may[i, j] for i, j in enumerate(heard))
    n, m = (
        len(categories),
        max((categories.count(c) for c in set(categories) - {""}), default=1),
    )
    assert np.bincount(heard).max() == (1 if 2 * m <= n else math.ceil(m / (n - m)))
    order = random.sample(range(n), n)
    pd.testing.assert_frame_equal(other_sounds(pairs.iloc[order], seed), found)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_no_exchange_is_fairer(n):
    for categories in itertools.product(["dog", "bell", ""], repeat=n):
        if len(set(categories)) > 1 or not categories[0]:
            pairs = positives(categories)
            assert other_sounds(pairs, 3)["audio"].value_counts().max() == most_used(
                pairs
            ), categories


@pytest.mark.parametrize(
    "sizes", [(1, 1), (5, 5), (5, 3, 2), (4, 4, 4), (3, 2, 2, 1), (7, 1, 1), (9, 5)]
)
def test_the_exchange_is_right_before_it_is_shuffled(sizes, monkeypatch):
    monkeypatch.setattr("slavc.data.pairing.ROUNDS", 0)
    pairs = positives([f"c{k}" for k, size in enumerate(sizes) for _ in range(size)])
    for seed in range(5):
        heard = other_sounds(pairs, seed)["audio"].str[1:].astype(int)
        assert allowed(pairs)[np.arange(len(pairs)), heard].all()
        assert np.bincount(heard).max() == max(
            1, math.ceil(max(sizes) / (sum(sizes) - max(sizes)))
        )


def test_the_shuffle_reaches_every_exchange():
    pairs = positives(["dog", "dog", "bell", "car"])
    found = {tuple(other_sounds(pairs, seed)["audio"]) for seed in range(200)}
    wanted = {
        tuple(f"a{j:02}" for j in order)
        for order in itertools.permutations(range(4))
        if all(allowed(pairs)[i, j] for i, j in enumerate(order))
    }
    assert found == wanted and len(wanted) == 4


def test_negatives_do_not_count_and_ids_are_kept():
    pairs = positives(["dog", "bell", "car"])
    more = pd.concat(
        [
            pairs,
            pairs.assign(audio=pairs["audio"][::-1].to_numpy(), kind="easy"),
            pairs.assign(video="x" + pairs["video"], kind="real"),
        ]
    )
    pd.testing.assert_frame_equal(other_sounds(more), other_sounds(pairs))
    for nothing in (None, np.nan, ""):  # none of these is a category
        assert (
            other_sounds(pairs.assign(category=nothing))["audio"] != pairs["audio"]
        ).all()


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda p: p.drop(columns="category"), "column 'category' is missing"),
        (lambda p: p.assign(kind="real"), "there is none"),
        (lambda p: p.assign(category="dog"), "all 4 are 'dog'"),
        (lambda p: p.assign(video="v"), "column 'video'.*there twice: v"),
        (
            lambda p: p.assign(audio=["a", "a", "b", "c"]),
            "column 'audio'.*there twice: a",
        ),
        (lambda p: p.iloc[:1], "at least two categories"),
    ],
)
def test_what_cannot_be_exchanged(change, said):
    with pytest.raises(ValueError, match=said):
        other_sounds(change(positives(["dog", "bell", "car", ""])))


# ---- the measure ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world():
    """Sixty frames whose boxes half a frame can hit, in three categories, and another sound for each."""
    rng = np.random.default_rng(0)
    pairs = positives([("dog", "bell", "car")[i % 3] for i in range(60)])
    boxes = {
        v: to_grid(
            [np.r_[c := rng.uniform(0.02, 0.35, 2), c + rng.uniform(0.55, 0.63, 2)]]
        )
        for v in pairs["video"]
    }
    return pairs, boxes, other_sounds(pairs, 5)


def towards(boxes, video, sign):
    """Maps [N, 224, 224] in -1..1 that rise towards the box (sign 1) or away from it (-1)."""
    at, maps = np.arange(224) + 0.5, []
    for v, s in zip(video, sign):
        x0, y0, x1, y1 = boxes[v][0]
        away = np.maximum(
            abs(at - (x0 + x1) / 2) / (x1 - x0),
            abs(at - (y0 + y1) / 2)[:, None] / (y1 - y0),
        )  # 1/2 at the box's edge
        maps.append(-s * away / away.max())
    return np.stack(maps).astype(np.float32)


def oracle(world, pairs):
    """Marks the box if it hears the frame's own sound, and whatever is not the box if not."""
    right = (
        pairs["audio"].to_numpy()
        == pairs["video"]
        .map(dict(zip(world[0]["video"], world[0]["audio"])))
        .to_numpy()
    )
    return towards(world[1], pairs["video"], np.where(right, 1.0, -1.0))


def tables(world, localize, map_range=(-1, 1), protocol="paper"):
    pairs, boxes, swapped = world
    return [
        score_clips(localize(p), map_range, p, boxes, protocol)
        for p in (pairs, swapped.assign(kind="positive"))
    ]


@pytest.mark.parametrize("protocol", ["paper", "released", "strict"])
def test_the_center_prior_loses_nothing_and_the_oracle_everything(world, protocol):
    prior = CenterPrior()
    row = listening(
        *tables(
            world,
            lambda p: prior.localize(torch.zeros(len(p), 1), None),
            prior.range,
            protocol,
        ),
        protocol,
    ).iloc[0]
    assert (
        row["own"] == row["other"] > 0
        and row["drop"]
        == row["low"]
        == row["high"]
        == row["lost"]
        == row["gained"]
        == 0
    )
    row = listening(
        *tables(world, lambda p: oracle(world, p), (-1, 1), protocol), protocol
    ).iloc[0]
    assert (
        row["own"] == row["drop"] == row["low"] == row["high"] == row["lost"] == 100
        and row["other"] == row["gained"] == 0
    )


def scored(world, hit_own, hit_other):
    """Tables with given hits (bools)."""
    own, other = tables(world, lambda p: np.zeros((len(p), 1, 1)))
    return own.assign(ciou=np.where(hit_own, 0.6, 0.2)), other.assign(
        ciou=np.where(hit_other, 0.6, 0.2)
    )


def test_numbers_and_interval_follow_the_definition(world):
    rng = np.random.default_rng(1)
    had, kept = rng.random(60) < 0.6, rng.random(60) < 0.3
    row = listening(*scored(world, had, kept), resamples=400, seed=9).iloc[0]
    assert row["own"] == pytest.approx(100 * had.mean()) and row[
        "other"
    ] == pytest.approx(100 * kept.mean())
    assert row["lost"] == pytest.approx(100 * (had & ~kept).mean()) and row[
        "gained"
    ] == pytest.approx(100 * (kept & ~had).mean())
    assert (
        row["drop"]
        == pytest.approx(row["own"] - row["other"])
        == pytest.approx(row["lost"] - row["gained"])
    )
    drawn = (
        100 * draws(60, 400, 9) @ (had.astype(int) - kept) / 60
    )  # both maps of a frame in one draw
    np.testing.assert_allclose(
        [row["low"], row["high"]], np.quantile(drawn, [0.025, 0.975])
    )
    assert (
        math.isnan(row["own_sd"])
        and row["seeds"] == 1
        and row["n"] == 60
        and row["share"] == 100
    )


def test_the_bar_is_the_protocols(world):
    own, other = scored(world, np.ones(60, bool), np.zeros(60, bool))
    own = own.assign(ciou=0.5)
    assert (
        listening(own, other, "paper")["own"][0] == 0
        and listening(own, other, "released")["own"][0] == 100
    )
    assert (
        listening(own, other, "paper", iou=0.45)["own"][0] == 100
        and listening(own, other, "paper", iou=0.1)["drop"][0] == 0
    )


def test_seeds_are_averaged_and_widen_the_interval(world):
    rng = np.random.default_rng(2)
    sides = [
        (rng.random(60) < p, rng.random(60) < q)
        for p, q in ((0.5, 0.4), (0.7, 0.3), (0.8, 0.5))
    ]
    pairs = [scored(world, *side) for side in sides]
    row = listening(
        [own for own, _ in pairs], [other for _, other in pairs], resamples=300
    ).iloc[0]
    own, other = (100 * np.array([side[k].mean() for side in sides]) for k in (0, 1))
    assert (
        row["seeds"] == 3
        and row["own"] == pytest.approx(own.mean())
        and row["other"] == pytest.approx(other.mean())
    )
    assert row["own_sd"] == pytest.approx(own.std(ddof=1)) and row[
        "other_sd"
    ] == pytest.approx(other.std(ddof=1))
    drawn = (
        100 * draws(60, 300) @ np.mean([a.astype(int) - b for a, b in sides], 0) / 60
    )
    noise = seed_noise(own, other, paired=True)
    for end, sign, value in zip(
        np.quantile(drawn, [0.025, 0.975]), (-1, 1), (row["low"], row["high"])
    ):
        assert value == pytest.approx(
            row["drop"] + sign * math.hypot(row["drop"] - end, noise)
        )


def test_it_does_not_depend_on_the_order_and_negatives_do_not_count(world):
    rng = np.random.default_rng(3)
    own, other = scored(world, rng.random(60) < 0.6, rng.random(60) < 0.3)
    before = listening(own, other, several=["v01", "v07"])
    more = pd.concat(
        [own, own.assign(audio="elsewhere", kind="easy", ciou=1.0)]
    ).sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(
        listening(more, other[::-1], several={"v07", "v01"}), before
    )
    pd.testing.assert_frame_equal(
        listening(own.astype({"video": "string", "audio": "category"}), other),
        before[:1],
    )


def test_frames_with_several_things(world):
    had, kept = np.ones(60, bool), np.arange(60) >= 20  # only the first twenty are lost
    own, other = scored(world, had, kept)
    found = listening(own, other, several=own["video"][:20]).set_index("frames")
    assert found["n"].tolist() == [60, 20, 40] and found["share"].round(1).tolist() == [
        100,
        33.3,
        66.7,
    ]
    assert found["drop"].tolist() == pytest.approx([100 / 3, 100, 0])
    nobody = listening(own, other, several=[]).set_index("frames")
    assert (
        nobody.loc["several", "n"] == 0
        and math.isnan(nobody.loc["several", "drop"])
        and nobody.loc["single", "n"] == 60
    )


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda own, other: (own, own), "other: 60 frames have their own sound: v00"),
        (
            lambda own, other: (own, other[1:]),
            "other: 1 frames that own has are missing: v00",
        ),
        (
            lambda own, other: (own[:-1], other),
            "own: 1 frames that other has are missing: v59",
        ),
        (
            lambda own, other: (own, other.assign(kind="easy")),
            "other: there is no positive",
        ),
        (
            lambda own, other: (own, other.assign(area=1.0)),
            "60 frames have not the same area",
        ),
        (
            lambda own, other: (own, other.drop(columns="ciou")),
            "other: column 'ciou' is missing",
        ),
        (
            lambda own, other: (pd.concat([own, own]), other),
            "own: 60 frames are there twice",
        ),
        (lambda own, other: ([own, own], [other]), "own has 2 seeds and other 1"),
        (lambda own, other: ([], []), "own has 0 seeds"),
        (
            lambda own, other: (
                [own, own],
                [other, other.assign(audio=other["audio"][::-1].to_numpy())],
            ),
            "other, seed 2: not the pairs",
        ),
    ],
)
def test_what_does_not_fit_together(world, change, said):
    with pytest.raises(ValueError, match=said):
        listening(
            *change(*scored(world, np.ones(60, bool), np.ones(60, bool))), resamples=5
        )
    with pytest.raises(
        ValueError, match="several: 1 ids are not frames of the maps: zebra"
    ):
        listening(
            *scored(world, np.ones(60, bool), np.ones(60, bool)),
            several=["zebra", "v00"],
        )


def test_the_picture_has_both_maps_on_one_scale():
    import matplotlib.pyplot as plt

    maps = np.stack([np.eye(4), 3 - np.eye(4)])
    figure = two_sounds(np.zeros((8, 8, 3), np.uint8), maps, [[0, 0, 112, 112]])
    images = [ax.images[0] for ax in figure.axes]
    assert (
        len(images) == 3
        and images[1].get_clim() == images[2].get_clim()
        and len(figure.axes[1].patches) == 1
    )
    flat = two_sounds(
        np.zeros((8, 8, 3), np.uint8), np.zeros((2, 3, 3)), []
    )  # flat maps have no outline
    assert [len(ax.collections) for ax in (*figure.axes, *flat.axes)] == [
        0,
        1,
        1,
        0,
        0,
        0,
    ]
    plt.close(figure), plt.close(flat)


# ---- from anyone's maps -----------------------------------------------------------------------------------


def as_predictions(pairs, maps, map_range=(-1, 1)):
    return array_predictions(pairs["video"], pairs["audio"], maps, map_range)


def test_maps_from_a_file_give_what_listening_gives(world):
    pairs, boxes, swapped = world
    maps = np.random.default_rng(4).normal(size=(120, 3, 3))
    bench = TestSet(pairs, boxes, "vggss")
    for protocol in ("paper", "released"):
        clips = evaluate_predictions(as_predictions(pairs, maps[:60]), bench, protocol)[
            1
        ]
        found = evaluate_other_sounds(
            as_predictions(swapped[::-1], maps[60:][::-1]),
            bench,
            clips,
            protocol,
            several=["v03"],
            resamples=50,
        )
        own, other = (
            score_clips(m, (-1, 1), p, boxes, protocol)
            for m, p in (
                (maps[:60], pairs),
                (maps[60:], swapped.assign(kind="positive")),
            )
        )
        wanted = listening(own, other, protocol, several=["v03"], resamples=50)
        assert wanted["lost"][0] > 0
        for row, line in zip(found["rows"], wanted.to_dict("records"), strict=True):
            assert row == {k: pytest.approx(line[k]) for k in row}
    assert (
        found["expected"] == 60
        and found["missing"] == 0
        and "PARTIAL" not in listening_text(found)
    )
    json.dumps(
        evaluate_other_sounds(
            as_predictions(swapped, maps[60:]),
            bench,
            clips,
            "released",
            several=[],
            resamples=5,
        ),
        allow_nan=False,
    )


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda p: p[1:], "field 'video': 1 positives have no map: v00"),
        (
            lambda p: pd.concat([p, p[:1]]),
            "field 'video': 1 frames are there twice: v00",
        ),
        (
            lambda p: p.assign(video=["zebra", *p["video"][1:]]),
            "field 'video': 1 are not positives of the test set: zebra",
        ),
        (
            lambda p: p.assign(audio=["a00", *p["audio"][1:]]),
            r"field 'audio': 1 pairs have their frame's own sound: \(v00, a00\)",
        ),
        (
            lambda p: p.assign(audio=["a03", *p["audio"][1:]]),
            r"field 'audio': 1 pairs have a sound of the frame's own category: \(v00, a03\)",
        ),
        (
            lambda p: p.assign(audio=["noise", *p["audio"][1:]]),
            r"field 'audio': 1 pairs have a sound that is no positive's: \(v00, noise\)",
        ),
    ],
)
def test_what_a_file_lacks_is_named(world, change, said):
    pairs, boxes, swapped = world
    bench = TestSet(pairs, boxes, "vggss")
    clips = evaluate_predictions(as_predictions(pairs, np.zeros((60, 1, 1))), bench)[1]
    wrong = change(swapped)
    with pytest.raises(ValueError, match=f"arrays: .*{said}.*slavc other-sounds"):
        evaluate_other_sounds(
            as_predictions(wrong, np.zeros((len(wrong), 1, 1))), bench, clips
        )


def test_without_categories_any_other_clip_will_do(world):
    pairs, boxes, _ = world
    pairs = pairs.assign(category="")
    bench, swapped = TestSet(pairs, boxes, "flickr"), other_sounds(pairs)
    clips = evaluate_predictions(as_predictions(pairs, np.zeros((60, 1, 1))), bench)[1]
    assert (
        evaluate_other_sounds(
            as_predictions(swapped, np.zeros((60, 1, 1))), bench, clips, resamples=5
        )["rows"][0]["drop"]
        == 0
    )


# ---- the commands -----------------------------------------------------------------------------------------


def slavc(*arguments, ok=True):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert (result.exit_code == 0) == ok, result.output
    assert (
        ok
        or result.exit_code == 1
        and "Traceback" not in result.output
        and result.output.startswith("error: ")
    ), result.output
    return result.output


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A test set as files, the pairs that the command writes, and the oracle's maps of both."""
    folder, rng = tmp_path_factory.mktemp("listening"), np.random.default_rng(0)
    ids = [f"clip{i:07d}_{i:06d}" for i in range(40)]
    corners = [
        np.r_[c := rng.uniform(0.02, 0.35, 2), c + rng.uniform(0.55, 0.63, 2)].round(4)
        for _ in ids
    ]
    (folder / "vggss.json").write_text(
        json.dumps(
            [
                dict(file=i, **{"class": "abc"[n % 3]}, bbox=[c.tolist()])
                for n, (i, c) in enumerate(zip(ids, corners))
            ]
        )
    )
    (folder / "vggss_test.csv").write_text("\n".join(ids))
    truth = ["--boxes", folder / "vggss.json", "--positives", folder / "vggss_test.csv"]
    said = slavc("other-sounds", *truth, "--out", folder / "other.csv")
    assert "40 frames with another clip's sound, each sound once" in said
    swapped, grid = (
        pd.read_csv(folder / "other.csv"),
        {i: to_grid([c]) for i, c in zip(ids, corners)},
    )
    for name, pairs in (
        ("own", pd.DataFrame({"video": ids, "audio": ids})),
        ("other", swapped),
    ):
        maps = towards(
            grid, pairs["video"], np.where(pairs["video"] == pairs["audio"], 1.0, -1.0)
        )
        save(folder / f"{name}.npz", pairs, maps)
    return folder, truth, swapped


def save(path, pairs, maps, map_range=(-1.0, 1.0)):
    np.savez_compressed(
        path,
        video=pairs["video"].to_numpy(str),
        audio=pairs["audio"].to_numpy(str),
        map=maps,
        range=np.array(map_range),
    )


def test_the_commands(files, tmp_path):
    folder, truth, swapped = files
    (tmp_path / "several.txt").write_text("\n".join(swapped["video"][:10]))
    said = slavc(
        "evaluate",
        folder / "own.npz",
        *truth,
        "--protocol",
        "paper",
        "--other-sound",
        folder / "other.npz",
        "--several",
        tmp_path / "several.txt",
        "--intervals",
        20,
        "--out",
        tmp_path / "m.json",
    )
    found = json.loads((tmp_path / "m.json").read_text())["listening"]
    assert [row["frames"] for row in found["rows"]] == [
        "all",
        "several",
        "single",
    ] and [row["n"] for row in found["rows"]] == [40, 10, 30]
    assert all(
        row["own"] == row["drop"] == row["low"] == 100 and row["other"] == 0
        for row in found["rows"]
    )
    assert (
        found["resamples"] == 20
        and found["iou"] == 50
        and "LocAcc@50 with another clip's sound" in said
        and "20 draws of the frames" in said
    )
    plain = slavc(
        "evaluate",
        folder / "own.npz",
        *truth,
        "--protocol",
        "paper",
        "--out",
        tmp_path / "plain.json",
    )
    without = json.loads((tmp_path / "plain.json").read_text())
    assert "another" not in plain and "listening" not in without
    assert (
        without["metrics"] == json.loads((tmp_path / "m.json").read_text())["metrics"]
    )
    again = slavc("other-sounds", *truth, "--out", tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (
        folder / "other.csv"
    ).read_bytes() and "once" in again
    slavc("other-sounds", *truth, "--seed", 1, "--out", tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() != (folder / "other.csv").read_bytes()


def test_errors_of_the_commands(files, tmp_path):
    folder, truth, swapped = files
    ask = lambda *more, ok=False: slavc(
        "evaluate", folder / "own.npz", *truth, "--protocol", "paper", *more, ok=ok
    )
    said = ask("--other-sound", folder / "own.npz")
    assert (
        "own.npz" in said
        and "field 'audio': 40 pairs have their frame's own sound" in said
        and "slavc other-sounds" in said
    )
    save(tmp_path / "part.npz", swapped[:-1], np.zeros((39, 2, 2)))
    said = ask("--other-sound", tmp_path / "part.npz")
    assert "part.npz" in said and "1 positives have no map: clip0000039_000039" in said
    said = ask(
        "--other-sound",
        tmp_path / "part.npz",
        "--allow-missing",
        "--intervals",
        5,
        ok=True,
    )
    assert "PARTIAL: 1 of 40 frames have no map with both sounds" in said
    (tmp_path / "last.txt").write_text("\n".join(swapped["video"][-2:]))
    ask(
        "--other-sound",
        tmp_path / "part.npz",
        "--allow-missing",
        "--several",
        tmp_path / "last.txt",
        "--out",
        tmp_path / "m.json",
        ok=True,
    )
    assert [
        row["n"]
        for row in json.loads((tmp_path / "m.json").read_text())["listening"]["rows"]
    ] == [39, 1, 38]
    save(tmp_path / "range.npz", swapped, np.zeros((40, 2, 2)), (0.0, 1.0))
    assert "range.npz: field 'range' is (0.0, 1.0), but (-1.0, 1.0)" in ask(
        "--other-sound", tmp_path / "range.npz"
    )
    assert "nowhere.npz" in ask("--other-sound", tmp_path / "nowhere.npz")
    (tmp_path / "several.txt").write_text("zebra\n")
    assert "several.txt: 1 ids are not positives" in ask(
        "--other-sound", folder / "other.npz", "--several", tmp_path / "several.txt"
    )
    assert "--several is for --other-sound" in ask(
        "--several", tmp_path / "several.txt"
    )
    one = tmp_path / "one.csv"
    one.write_text("clip0000000_000000\nclip0000003_000003\n")  # both of class a
    assert "at least two categories" in slavc(
        "other-sounds",
        "--boxes",
        folder / "vggss.json",
        "--positives",
        one,
        "--out",
        tmp_path / "x.csv",
        ok=False,
    )
    assert not (tmp_path / "x.csv").exists()
