"""Table 4, the ledger and the branches: intervals against restatements, layouts, and what the committed results must hold."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from scipy import stats

from slavc.paper.ablations import (
    DECOMPOSITION,
    LEDGER,
    LETTERS,
    base_of,
    default_settings,
    ledger,
    table4,
    table4d,
)
from slavc.paper.branches import crossings, reading
from slavc.paper.variants import variants
from slavc.score.bootstrap import compare, weighted_metrics
from slavc.score.effects import SHOWN, draws, effect, seed_noise
from slavc.score.protocols import METRICS, summarise
from slavc.train.params import load_params

PAPER = pd.read_csv(ROOT / "data" / "reported.csv", dtype={"table": str})


def scored(seed, shift=0.0, hits=0.6, n=150):
    """Made-up scored clips, half positive; the clips are the same for every seed."""
    test, train = np.random.default_rng(0), np.random.default_rng(1 + seed)
    positive = np.arange(2 * n) < n
    return pd.DataFrame(
        dict(
            video=[f"v{i:04}" for i in range(2 * n)],
            audio=[f"a{i:04}" for i in range(2 * n)],
            kind=np.where(positive, "positive", "easy"),
            size=np.where(positive, "Large", ""),
            area=positive * 16000.0,
            confidence=test.random(2 * n)
            + positive * (0.3 + shift)
            + 0.1 * train.random(2 * n),
            ciou=positive * np.where(train.random(2 * n) < hits, 0.8, 0.1),
            ciou_adaptive=np.where(positive, 0.5, np.nan),
            pointing=np.where(positive, 1.0, np.nan),
            predicted=np.nan,
        )
    )


def test_seed_noise_is_students():
    """Paired: the one-sample t interval of SciPy. Unpaired with as many seeds of the default only: the prediction interval of one more run."""
    a, b = np.array([1.0, 4.0, 2.0, 7.0]), np.array([0.5, 2.0, 2.5, 3.0])
    low, high = stats.ttest_1samp(a - b, 0).confidence_interval(0.95)
    assert seed_noise(a, b, paired=True) == pytest.approx((high - low) / 2)
    rng = np.random.default_rng(0)
    runs = rng.normal(size=(4000, 4))  # three default runs and a changed one, all alike
    inside = [
        abs(r[3] - r[:3].mean()) <= seed_noise(r[3:], r[:3], paired=False) for r in runs
    ]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.01)
    assert math.isnan(seed_noise([1], [2], paired=False))


def test_one_against_one_is_the_paired_bootstrap():
    """With a seed each there is no seed noise, and what is left is `bootstrap.compare` with other draws."""
    a, b = scored(0, shift=-0.2), scored(1)
    mine = {
        row["metric"]: row for row in effect([a], [b], paired=False, resamples=2000)
    }
    theirs = compare(a, b, subsets=("all",), metrics=SHOWN, resamples=2000).set_index(
        "metric"
    )
    for metric in SHOWN:
        assert mine[metric]["difference"] == pytest.approx(theirs.difference[metric])
        assert mine[metric]["from"] == pytest.approx(
            theirs.low[metric], abs=0.15 * (theirs.high[metric] - theirs.low[metric])
        )
        assert mine[metric]["to"] == pytest.approx(
            theirs.high[metric], abs=0.15 * (theirs.high[metric] - theirs.low[metric])
        )


def test_intervals_are_clips_and_seeds_together():
    """Half-widths add as squares: with the same draws, the interval against three seeds is that of the clips alone and the seeds' noise."""
    default, changed = [scored(s) for s in range(3)], [scored(9, hits=0.3)]
    both = effect(changed, default, paired=False)
    weights = draws(len(default[0]), 1000)
    drawn = lambda tables: np.mean(
        [weighted_metrics(t, weights, subsets=("all",))[:, 0] for t in tables], 0
    )
    clips = drawn(changed) - drawn(default)
    for row in both:
        low, high = np.quantile(clips[:, METRICS.index(row["metric"])], [0.025, 0.975])
        noise = seed_noise(
            [summarise(t)["all"][row["metric"]] for t in changed],
            [summarise(t)["all"][row["metric"]] for t in default],
            False,
        )
        assert noise > 0 and row["seeds"] == 1 and math.isnan(row["sd"])
        assert row["difference"] - row["from"] == pytest.approx(
            math.hypot(row["difference"] - low, noise)
        )
        assert row["to"] - row["difference"] == pytest.approx(
            math.hypot(high - row["difference"], noise)
        )
    paired = effect([scored(s, hits=0.3) for s in range(3)], default, paired=True)
    accuracy = {row["metric"]: row for row in paired}["LocAcc"]
    assert accuracy["verdict"] == "lower" and accuracy["seeds"] == 3
    assert accuracy["difference"] == pytest.approx(
        np.mean(
            [
                summarise(scored(s, hits=0.3))["all"]["LocAcc"]
                - summarise(scored(s))["all"]["LocAcc"]
                for s in range(3)
            ]
        )
    )


def test_what_is_undefined_is_not_shown():
    """A seed without a hit has no presence skill: the row says so instead of leaving the seed out."""
    rows = {
        row["metric"]: row
        for row in effect([scored(0, hits=0.0)], [scored(s) for s in range(3)], False)
    }
    assert (
        math.isnan(rows["presence skill"]["from"])
        and rows["presence skill"]["verdict"] == "not shown"
        and rows["LocAcc"]["verdict"] == "lower"
    )


def test_effects_do_not_depend_on_the_order_and_need_the_same_pairs():
    clips = scored(0)
    assert (draws(300, 5) == draws(300, 5)).all() and (
        draws(300, 5).sum(1) == 300
    ).all()
    a, b = (
        effect([t], [scored(1)], False)
        for t in (clips, clips.sample(frac=1, random_state=0))
    )
    assert [r["from"] for r in a] == pytest.approx([r["from"] for r in b])
    for other in (clips[1:], clips.assign(kind="easy")):
        with pytest.raises(ValueError, match="same pairs"):
            effect([clips], [other], False)


def test_the_grid_is_the_papers():
    """Every value of the paper's Table 4 is trained here or is the default row, and nothing but SLAVC's settings changes."""
    params = load_params(ROOT / "params.yaml")
    found, bases = {}, {}
    for name, change in params["ablations"]["grid"].items():
        ((setting, value),) = ((k, v) for k, v in change.items() if k != "of")
        found.setdefault(setting, []).append(value)
        bases[setting] = params["methods"][change["of"]]
    for letter, (setting, key, _, _) in LETTERS.items():
        values = {
            float(v)
            for v in PAPER[PAPER.table == f"4{letter}"].protocol.str.extract(
                rf"{key}=([\d.]+)"
            )[0]
        }
        mine = {v for v in found[setting] if v is not None} | {
            bases[setting]["hyper"].get(setting, 0.0)
        }
        assert values <= mine, setting
    assert (
        bases["visual_dropout"]["regime"] == bases["momentum"]["regime"] == "long"
    )  # these two are about overfitting
    assert None in found["momentum"] and found["factorised"] == [False]
    assert {setting for _, _, setting, _ in LEDGER} - {"confidence", "encoder"} <= set(
        found
    )  # those two are measured without training
    assert {setting for setting, *_ in DECOMPOSITION} - {"branch", ""} <= set(found)
    for entry in variants(params).values():
        assert (
            entry["module"] == "slavc"
            and entry["seeds"] == params["ablations"]["seeds"]
        )


def test_committed_tables_say_what_the_effects_say():
    """The default row is the row of Table 3, seed by seed, and every printed cell comes from effects.csv."""
    folder = ROOT / "reports"
    if not (folder / "effects" / "effects.csv").exists():
        pytest.skip("the default profile has not been run yet: `make repro`")
    found = pd.read_csv(
        folder / "effects" / "effects.csv", dtype={"setting": str, "value": str}
    ).fillna({"setting": "", "value": ""})
    last = json.loads((folder / "metrics.json").read_text())["slavc"]
    for metric in SHOWN:
        row = found[(found.run == "default") & (found.metric == metric)].iloc[0]
        assert (
            row["mean"] == pytest.approx(last[metric], abs=6e-3) and row.difference == 0
        )
    assert (found["from"] <= found.difference + 1e-9).all() and (
        found.difference <= found["to"] + 1e-9
    ).all()
    outside = (found["from"] > 0) | (found["to"] < 0)
    assert (outside == (found.verdict != "not shown")).all()
    crossed = pd.read_csv(folder / "effects" / "crossings.csv")
    same = (
        crossed[crossed["where"] == crossed.whether]
        .groupby(["where", "metric"])
        .value.mean()
    )
    for branch in ("loc", "avc"):
        row = found[(found.run == f"{branch}-momentum") & (found.metric == "AP")].iloc[
            0
        ]
        assert row["mean"] == pytest.approx(same[branch, "AP"], abs=1e-3)
    assert (
        reading(crossed, PAPER).fits.iloc[0]
        in (folder / "ablations/branches.md").read_text()
    )
    params = load_params(ROOT / "params.yaml")
    usual, made = default_settings(params), {}
    for letter, (setting, *_) in LETTERS.items():
        of = base_of(found, setting)
        options = params["methods"][of]["train"]
        steps = (
            (options["clips"] or params["world"]["train"])
            // options["batch"]
            * options["epochs"]
        )
        made[f"table4{letter}"] = table4(
            found, letter, default_settings(params, of)[setting], steps, PAPER
        )
    for name, table in (
        made | {"table4d": table4d(found, PAPER), "ledger": ledger(found, usual)}
    ).items():
        assert (
            table.to_csv(index=False, lineterminator="\n")
            == (folder / f"ablations/{name}.csv").read_text()
        ), name


def test_tables_without_some_rows():
    usual = default_settings(load_params(ROOT / "params.yaml"))
    rows = pd.DataFrame(
        [
            dict(run="default", of="slavc", how="default", setting="", value="", **row)
            for row in effect([scored(0)], [scored(0)], True)
        ]
    )
    for letter in LETTERS:
        table = table4(rows, letter, "0.5", 100, PAPER)
        assert table.iloc[:, 0].str.contains("default here").sum() == 1
    assert (
        len(table4d(rows, PAPER)) == 4
        and (ledger(rows, usual)["changed to"] == "not measured").all()
    )


@pytest.mark.parametrize(
    "change, message",
    [
        ("{of: slavc, temperature: 0.07}", "default row's own value"),
        ("{of: slavc, pool: max, contrast: symmetric}", "change one setting"),
        ("{pool: max}", "must say of which method"),
        ("{of: ezvsl, pool: max}", "whose module is slavc"),
        ("{of: slavc-long, audio_dropout: 0.9}", "write the same `of` in both"),
        ("{of: slavc, weight_decay: small}", "weight_decay is 'small'"),
        ("0.9", "must be a block of names and values"),
    ],
)
def test_bad_rows_of_the_grid_are_named(tmp_path, change, message):
    text = (
        (ROOT / "profiles/smoke.yaml")
        .read_text()
        .replace("../params.yaml", str(ROOT / "params.yaml"))
    )
    (tmp_path / "mine.yaml").write_text(
        text.replace(
            "    one-space: {of: slavc, factorised: false}", f"    my-row: {change}"
        )
    )
    with pytest.raises(ValueError, match="my-row") as caught:
        load_params(tmp_path / "mine.yaml")
    assert message in str(caught.value)


def test_crossing_needs_the_same_clips():
    tables = {branch: {0: scored(k)} for k, branch in enumerate(("both", "loc", "avc"))}
    rows = crossings(tables)
    assert len(rows) == 9 * 4
    for where in ("both", "loc", "avc"):  # LocAcc looks at places only
        assert (
            rows[(rows["where"] == where) & (rows.metric == "LocAcc")].value.nunique()
            == 1
        )
    tables["avc"][0] = tables["avc"][0][1:]
    with pytest.raises(ValueError, match="same clips"):
        crossings(tables)
