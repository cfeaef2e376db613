"""The commands a researcher types: official files in, Table 1 out; maps in, metrics out; errors in one message."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from slavc.cli import app

METADATA = Path(__file__).resolve().parents[2] / "shared" / "metadata"
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
needs_metadata = pytest.mark.skipif(
    not METADATA.is_dir(), reason=f"the official metadata are not at {METADATA}"
)


def slavc(*arguments, ok=True):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert (result.exit_code == 0) == ok, result.output
    assert ok or result.exit_code == 1 and "Traceback" not in result.output, (
        result.output
    )
    return result.output


@needs_metadata
def test_table_1_of_extended_vggss(tmp_path):
    said = slavc(
        "benchmark",
        "vggss",
        "--metadata",
        METADATA,
        "--train-list",
        METADATA / "vggss_144k.txt",
        "--out",
        tmp_path / "counts.json",
    )
    assert json.loads((tmp_path / "counts.json").read_text()) == TABLE1
    assert (
        "Center Prior 34.16 %" in said
        and "whole image 21.95 %" in said
        and "3709 of 5158" in said
        and "boxes without area: 18" in said
        and "50 %: 50.5" in said
    )


@needs_metadata
def test_table_1_of_extended_flickr_says_what_it_cannot_know(tmp_path):
    said = slavc(
        "benchmark", "flickr", "--metadata", METADATA, "--out", tmp_path / "counts.json"
    )
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert counts["Total Pos"] == counts["Total Neg"] == 250 and counts["Total"] == 500
    assert (
        all(
            counts[k] is None
            for k in ("Real Neg", "Easy Neg", "Hard Neg", "Small", "Huge")
        )
        and "note:" in said
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Forty positives of two classes, as many negatives, and two methods' maps: one that looks at the box and one that guesses."""
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    ids, entries = [f"clip{i:07d}_{i:06d}" for i in range(40)], []
    corners = [
        np.r_[c := rng.uniform(0, 0.3, 2), c + rng.uniform(0.3, 0.65, 2)].round(4)
        for _ in ids
    ]
    entries = [
        dict(file=i, **{"class": "ab"[n % 2]}, bbox=[c.tolist()])
        for n, (i, c) in enumerate(zip(ids, corners))
    ]
    (folder / "vggss.json").write_text(json.dumps(entries))
    (folder / "vggss_test.csv").write_text("\r\n".join(ids))
    negatives = [(v, ids[(n + 3) % 40]) for n, v in enumerate(ids)]
    (folder / "vggss_test_plus_silent.csv").write_text(
        "video,audio,label\r\n"
        + "\r\n".join(f"{v},{a},non-sounding" for v, a in negatives)
    )
    pairs = [(i, i) for i in ids] + negatives
    cell = (np.arange(7) + 0.5) / 7
    good = []
    for n, (video, audio) in enumerate(pairs):
        x0, y0, x1, y1 = corners[ids.index(video)]
        inside = (
            (cell[:, None] > y0)
            & (cell[:, None] < y1)
            & (cell[None] > x0)
            & (cell[None] < x1)
        )
        good.append(
            inside * (0.6 if video == audio else 0.2) + rng.normal(0, 0.05, (7, 7))
        )
    video, audio = (np.array(x) for x in zip(*pairs))
    np.savez(
        folder / "good.npz",
        video=video,
        audio=audio,
        map=np.array(good, np.float32),
        range=np.array([-1.0, 1.0]),
    )
    np.savez(
        folder / "guess.npz",
        video=video,
        audio=audio,
        map=rng.normal(0, 0.2, (80, 7, 7)).astype(np.float32),
        range=np.array([-1.0, 1.0]),
    )
    return folder


def truth(folder):
    return [
        "--boxes",
        folder / "vggss.json",
        "--positives",
        folder / "vggss_test.csv",
        "--negatives",
        folder / "vggss_test_plus_silent.csv",
    ]


def test_evaluate_and_compare(files, tmp_path):
    for name in ("good", "guess"):
        said = slavc(
            "evaluate",
            files / f"{name}.npz",
            *truth(files),
            "--protocol",
            "paper",
            "--out",
            tmp_path / f"{name}.json",
            "--per-clip",
            tmp_path / f"{name}.csv",
            "--per-class",
            tmp_path / "classes.csv",
            "--presence",
            tmp_path / "presence.json",
            "--intervals",
            50,
        )
        assert "protocol paper, 80 clips" in said
    metrics = json.loads((tmp_path / "good.json").read_text())
    assert metrics["n"] == 80 and {
        f"{s}@{b}"
        for s in (
            "all",
            "visible",
            "small",
            "medium",
            "large",
            "huge",
            "real",
            "easy",
            "hard",
        )
        for b in (50, 75)
    } == set(metrics["metrics"])
    low, high = metrics["intervals"]["all@50"]["LocAcc"]
    assert (
        low <= metrics["metrics"]["all@50"]["LocAcc"] <= high
        and metrics["metrics"]["real@50"]["AP"] is None
    )
    assert (
        metrics["protocol"]["confidence"] == "max" and metrics["protocol"]["hit"] == ">"
    )
    clips = pd.read_csv(tmp_path / "good.csv", keep_default_na=False)
    assert len(clips) == 80 and {
        "video",
        "audio",
        "kind",
        "size",
        "confidence",
        "ciou",
        "area",
        "protocol",
    } <= set(clips)
    assert (
        set(pd.read_csv(tmp_path / "classes.csv").category) == {"a", "b"}
        and json.loads((tmp_path / "presence.json").read_text())["presence AUC"] > 0.5
    )
    assert {
        k: json.loads((tmp_path / "presence.json").read_text())[k]
        for k in ("alpha", "confidence", "protocol")
    } == dict(alpha=None, confidence="max", protocol="paper")
    said = slavc(
        "compare",
        tmp_path / "good.csv",
        tmp_path / "guess.csv",
        "--protocol",
        "paper",
        "--resamples",
        100,
        "--out",
        tmp_path / "difference.csv",
    )
    table = pd.read_csv(tmp_path / "difference.csv").set_index(["subset", "metric"])
    assert table.loc[("all", "LocAcc"), "low"] > 0 and "LocAcc" in said
    direct = slavc(
        "compare",
        files / "good.npz",
        files / "guess.npz",
        *truth(files),
        "--resamples",
        100,
        "--out",
        tmp_path / "direct.csv",
    )
    np.testing.assert_allclose(
        pd.read_csv(tmp_path / "direct.csv").difference.dropna(),
        pd.read_csv(tmp_path / "difference.csv").difference.dropna(),
        atol=1e-6,
    )
    assert "other_side" in direct
    assert "written under protocol paper" in slavc(
        "compare",
        tmp_path / "good.csv",
        tmp_path / "guess.csv",
        "--protocol",
        "released",
        ok=False,
    )


def test_missing_predictions_are_listed(files, tmp_path):
    with np.load(files / "good.npz") as f:
        np.savez(
            tmp_path / "part.npz",
            **{k: (f[k] if k == "range" else f[k][:-2]) for k in f},
        )
    said = slavc("evaluate", tmp_path / "part.npz", *truth(files), ok=False)
    assert "part.npz" in said and "2 missing" in said and "clip0000039_000039" in said
    said = slavc(
        "evaluate",
        tmp_path / "part.npz",
        *truth(files),
        "--allow-missing",
        "--out",
        tmp_path / "m.json",
    )
    assert (
        "PARTIAL: 78 of 80" in said
        and json.loads((tmp_path / "m.json").read_text())["missing"]["missing"] == 2
    )


def test_negative_sounds_for_a_test_set(files, tmp_path):
    said = slavc(
        "negatives",
        files / "vggss_test.csv",
        "--boxes",
        files / "vggss.json",
        "--out",
        tmp_path / "pairs.csv",
    )
    pairs = pd.read_csv(tmp_path / "pairs.csv")
    assert (
        pairs.kind.value_counts().to_dict()
        == {"silence": 40, "noise": 40, "off-screen": 40}
        and "40 silence" in said
    )
    assert "category" in slavc(
        "negatives", files / "vggss_test.csv", "--out", tmp_path / "p.csv", ok=False
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["benchmark", "vggs", "--metadata", "."],
            "dataset must be 'vggss' or 'flickr'",
        ),
        (["benchmark", "vggss", "--metadata", "nowhere"], "nowhere"),
        (
            ["evaluate", "none.npz", "--boxes", "x.json", "--positives", "y.csv"],
            "y.csv",
        ),
    ],
)
def test_errors_are_one_message(arguments, message):
    said = slavc(*arguments, ok=False)
    assert said.startswith("error: ") and message in said


def test_help_states_the_difference_of_the_protocols():
    said = slavc("evaluate", "--help")
    for rule in ("confidence", "hit", "thresholds", "AP", "strict"):
        assert rule in said
