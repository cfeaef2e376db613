"""The official benchmark files (../shared/metadata): what they hold and what bounds every number."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from slavc.data.benchmark import (
    ceiling,
    extend,
    read_extended,
    read_negatives,
    read_positives,
    table1,
)
from slavc.data.boxes import (
    areas,
    degenerate_boxes,
    gt_maps,
    pad_boxes,
    read_vggss,
    size_group,
    to_grid,
)

torch.set_num_threads(1)
METADATA = Path(__file__).parents[2] / "shared" / "metadata"


@pytest.fixture(scope="module")
def vggss():
    if not METADATA.exists():
        pytest.skip("reference material ../shared is absent")
    return read_vggss(METADATA / "vggss.json")


@pytest.fixture(scope="module")
def vggss_areas(vggss):
    return areas({name: to_grid(boxes) for name, (_, boxes) in vggss.items()})


def test_vggss_loads_whole_and_reports_its_broken_boxes(vggss):
    assert len(vggss) == 5158 and len({c for c, _ in vggss.values()}) == 221
    counts = [len(boxes) for _, boxes in vggss.values()]
    assert sum(counts) == 5941 and max(counts) == 7 and counts.count(1) == 4619
    report = degenerate_boxes(vggss)
    assert (
        report["id"].nunique() == 18
        and (report[["xmax", "ymax"]].min(axis=1) < -1e16).sum() == 12
    )
    assert set(report["id"][report["empty"]]) == {
        "M1P1xla8rg0_000000",
        "MKC9LvRivTM_000030",
    }
    with pytest.raises(ValueError, match="18 clips have a box without area"):
        read_vggss(METADATA / "vggss.json", strict=True)


def test_extended_vggss_is_table_1(vggss, vggss_areas):
    pairs = read_extended(
        METADATA / "vggss_test.csv", METADATA / "vggss_test_plus_silent.csv", vggss
    )
    expected = {
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
    assert table1(pairs, vggss_areas).to_dict() == expected
    assert (
        pairs["kind"][5158:5537] == "real"
    ).all()  # the first rows of the negatives' file
    assert not pairs.duplicated(["video", "audio"]).any()


def test_ceilings(vggss_areas):
    found = [ceiling(vggss_areas.values(), share / 10) for share in range(1, 10)]
    assert [round(100 * f, 1) for f in found] == [
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
    assert round(100 * found[4], 2) == 50.54
    sizes, values = (
        size_group(list(vggss_areas.values())),
        np.array(list(vggss_areas.values())),
    )
    by_size = {
        s: round(100 * ceiling(values[sizes == s], 0.5), 1)
        for s in ("Small", "Medium", "Large")
    }
    assert by_size == {"Small": 0, "Medium": 0, "Large": 64.0}


def test_center_prior_and_whole_image_on_vggss(vggss):
    y, x = np.mgrid[:224, :224]
    circle = (x - 112) ** 2 + (y - 112) ** 2
    mask = circle <= np.sort(circle, axis=None)[224 * 224 // 2]
    assert mask.sum() == 25089
    boxes = pad_boxes([to_grid(b) for _, b in vggss.values()])
    both = torch.tensor(
        np.stack([mask.ravel(), np.ones(mask.size)], 1), dtype=torch.float32
    )  # (50176, 2)
    sums = [gt_maps(part).flatten(1) @ both for part in np.array_split(boxes, 80)]
    inside, area = torch.cat(sums).T.numpy()
    assert (
        (inside / (area + mask.sum() - inside)) >= 0.5
    ).sum() == 1762  # 34.16 %, the paper's number
    assert round(100 * (area / 224**2 >= 0.5).mean(), 2) == 21.95


def test_flickr_kinds_are_not_told():
    if not METADATA.exists():
        pytest.skip("reference material ../shared is absent")
    with pytest.warns(UserWarning, match="unknown"):
        pairs = read_extended(
            METADATA / "flickr_test.csv", METADATA / "flickr_test_plus_silent.csv"
        )
    assert pairs["kind"].value_counts().to_dict() == {"positive": 250, "unknown": 250}
    row = table1(pairs, dict.fromkeys(pairs["video"], 400.0))
    assert [row[k] for k in ("Real Neg", "Easy Neg", "Hard Neg")] == [None] * 3
    assert row["Total Neg"] == 250 and row["Total"] == 500


def test_other_lists():
    if not METADATA.exists():
        pytest.skip("reference material ../shared is absent")
    for name, count in (
        ("vggss_heard_test.csv", 2564),
        ("vggss_unheard_test.csv", 2575),
    ):
        assert len(read_positives(METADATA / name)) == count


def test_an_extension_of_vggss_like_the_official_one(vggss):
    clips = pd.DataFrame(
        {
            "id": list(vggss),
            "category": [c for c, _ in vggss.values()],
            "kind": "positive",
        }
    )
    real = pd.DataFrame(
        {"id": [f"real{n}" for n in range(379)], "category": "dog", "kind": "real"}
    )
    pairs = extend(pd.concat([clips, real]), seed=1)
    counts = pairs["kind"].value_counts().to_dict()
    assert counts == {"positive": 5158, "easy": 3584, "hard": 1195, "real": 379}
    made = pairs[pairs["kind"].isin(["easy", "hard"])]
    assert made["video"].is_unique and (made["video"] != made["audio"]).all()


def world(sizes, real=0):
    rows = [
        (f"{c}{n}", f"class{c}", "positive")
        for c, size in enumerate(sizes)
        for n in range(size)
    ]
    rows += [(f"r{n}", "class0", "real") for n in range(real)]
    return pd.DataFrame(rows, columns=["id", "category", "kind"])


@pytest.mark.parametrize("seed", range(25))
def test_extend_keeps_its_promises_on_random_worlds(seed):
    rng = np.random.default_rng(seed)
    clips = world(rng.integers(1, 6, rng.integers(2, 6)), real=rng.integers(0, 3))
    positives = (clips["kind"] == "positive").sum()
    automated = positives - (clips["kind"] == "real").sum()
    share = rng.choice([0, 0.25, 0.5, 1.0])
    category = clips.set_index("id")["category"]
    sizes = clips[clips["kind"] == "positive"]["category"].value_counts()
    if automated < 0 or round(share * automated) > (sizes * (sizes - 1)).sum():
        with pytest.raises(ValueError):
            extend(clips, seed, share)
        return
    pairs = extend(clips, seed, share)
    kinds = pairs["kind"].value_counts()
    assert len(pairs) == 2 * positives and kinds.get("hard", 0) == round(
        share * automated
    )
    assert not pairs.duplicated(["video", "audio"]).any()
    made = pairs[pairs["kind"].isin(["easy", "hard"])]
    assert (
        (made["video"].map(category) == made["audio"].map(category))
        == (made["kind"] == "hard")
    ).all()
    assert set(made["audio"]) <= set(clips["id"][clips["kind"] == "positive"])
    usable = sizes[sizes > 1].sum()
    if kinds.get("hard", 0) <= usable:
        assert made["video"].is_unique
    pd.testing.assert_frame_equal(
        pairs, extend(clips.sample(frac=1, random_state=seed), seed, share)
    )


def test_extend_errors():
    with pytest.raises(ValueError, match="two categories"):
        extend(world([6]), 0)
    with pytest.raises(ValueError, match="only 0 are possible"):
        extend(world([1] * 8), 0)
    with pytest.raises(ValueError, match="outnumber"):
        extend(world([1, 1], real=3), 0)
    with pytest.raises(ValueError, match="'category' is missing"):
        extend(world([2, 2]).drop(columns="category"), 0)
    with pytest.raises(ValueError, match="there twice: 00"):
        extend(pd.concat([world([2, 2]), world([1])]), 0)
    with pytest.raises(ValueError, match="kind must be"):
        extend(world([2, 2]).assign(kind="silent"), 0)
    with pytest.raises(ValueError, match="category is empty for 00"):
        extend(world([2, 2]).assign(category=[None, "a", "b", "b"]), 0)
    with pytest.raises(ValueError, match="hard_share"):
        extend(world([2, 2]), 0, hard_share=25)


BAD_NEGATIVES = {
    b"": "empty",
    b"video,sound,label\na,b,non-sounding": "column 'audio' is missing",
    b"video,audio,label,x\na,b,non-sounding,1": "header must be",
    b"video,audio,label\na,b": "line 2 has 2 columns",
    b"video,audio,label\na,,non-sounding": "line 2, column 'audio'",
    b"video,audio,label\na,b,loud": "column 'label'",
    b"video,audio,label\na,b,non-sounding\na,b,non-sounding": "there twice",
    b"video,audio,label\n\xff\xfe": "not a readable CSV",
    b'video,audio,label\n"a,b,non': "not a readable CSV",
}
BAD_POSITIVES = {
    b"": "empty",
    b"video,audio,label\na,b,c": "line 1 has 3 columns",
    b"video\na": "line 1, column 1",
    b"a\nb,c": "line 2 has 2 columns",
    b"a\n\nb": "line 2 has 0 columns",
    b"a\na": "there twice: a",
    b"a \nb": "line 1, column 1",
    b"\x00\xff": "not a readable CSV",
}


@pytest.mark.parametrize(
    "read, data, problem",
    [(read_negatives, *c) for c in BAD_NEGATIVES.items()]
    + [(read_positives, *c) for c in BAD_POSITIVES.items()],
)
def test_bad_csv(read, data, problem, tmp_path):
    (tmp_path / "bad.csv").write_bytes(data)
    with pytest.raises(ValueError, match=problem) as caught:
        read(tmp_path / "bad.csv")
    assert "bad.csv" in str(caught.value)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nowhere.csv")


def test_extended_errors(tmp_path):
    (tmp_path / "p.csv").write_text("a\nb\n")
    (tmp_path / "n.csv").write_text("video,audio,label\r\na,b,non-sounding")
    with pytest.raises(ValueError, match="1 clips have no category: b"):
        read_extended(tmp_path / "p.csv", tmp_path / "n.csv", {"a": "cat"})
    (tmp_path / "n.csv").write_text("video,audio,label\r\na,a,non-sounding")
    with pytest.raises(ValueError, match="also positives"), warnings.catch_warnings():
        read_extended(tmp_path / "p.csv", tmp_path / "n.csv")
    pairs = pd.DataFrame({"video": ["a"], "audio": ["a"], "kind": ["positive"]})
    with pytest.raises(ValueError, match="no boxes: a"):
        table1(pairs, {})
    with pytest.raises(ValueError, match="unknown kinds odd"):
        table1(pairs.assign(kind="odd"), {"a": 3})
    with pytest.raises(ValueError, match="empty"):
        ceiling([], 0.5)
