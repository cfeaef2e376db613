"""How long scoring takes, and how much memory: `make bench`. Prints numbers and ratios, asserts nothing.

The same synthetic maps are scored twice in the same run. Once by slavc. Once by a plain re-statement, in our own
words, of what the released evaluator does to them clip by clip: bicubic upsampling with torch, fixed affine score, a sort
for the mean of the top quarter, min-max normalisation, a sort for the threshold, cIoU in NumPy, then the sub-sampled
sweeps as loops over clips. The re-statement is timed on a part of the clips and scaled up per clip.

    python bench/evaluation.py              everything (some minutes)
    python bench/evaluation.py --quick      a tenth of the clips
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from slavc.data.boxes import gt_map
from slavc.score.protocols import score_clips, summarise

RANGE = (-1.0, 1.0)
BLOCK = 2048  # clips made and scored at a time where memory is measured


# ---- synthetic clips --------------------------------------------------------------------------------------


def clips_from(start: int, stop: int):
    """Clips start .. stop of an endless list, every second one positive: (maps [n, 7, 7] float32, pairs, boxes)."""
    cell = (np.arange(7, dtype=np.float32) + 0.5) / 7
    maps, rows, boxes = np.empty((stop - start, 7, 7), np.float32), [], {}
    for i in range(start, stop):
        rng = np.random.default_rng([7, i])
        size, peak = rng.uniform(0.2, 0.9, 2), rng.uniform(0, 1, 2)
        corner = rng.uniform(0, 1, 2) * (1 - size)
        at = corner + size / 2 if i % 2 == 0 and rng.random() < 0.7 else peak
        bump = np.exp(
            -((cell - at[0]) ** 2)[None, :] / 0.08
            - ((cell - at[1]) ** 2)[:, None] / 0.08
        )
        maps[i - start] = (
            bump * rng.uniform(0.3, 0.6 + 0.2 * (i % 2 == 0))
            + rng.normal(0, 0.05, (7, 7))
            - 0.2
        )
        kind = (
            "positive" if i % 2 == 0 else ("real", "easy", "easy", "hard")[i // 2 % 4]
        )
        rows.append(
            (f"v{i}", f"v{i}" if kind in ("positive", "real") else f"v{i - 1}", kind)
        )
        if kind == "positive":
            boxes[f"v{i}"] = (224 * np.r_[corner, corner + size]).astype(np.int64)[None]
    return maps, pd.DataFrame(rows, columns=["video", "audio", "kind"]), boxes


# ---- the released procedure, re-stated ---------------------------------------------------------------------


def released_clip(raw, boxes):
    """One clip: (confidence, cIoU, area). raw: tensor [7, 7]; boxes: [k, 4] on the grid, or None for a negative."""
    big = F.interpolate(
        raw[None, None], (224, 224), mode="bicubic", align_corners=True
    )[0, 0].numpy()
    score = (big - RANGE[0]) / (RANGE[1] - RANGE[0])
    confidence = np.sort(score.flatten())[-score.size // 4 :].mean()
    low, high = score.min(), score.max()
    normal = (score - low) / (high - low) if high > low else score
    threshold = np.sort(normal.flatten())[int(normal.size * 0.5)]
    found = np.zeros((224, 224))
    found[normal >= threshold] = 1
    truth = gt_map(boxes if boxes is not None else np.zeros((0, 4), np.int64))
    ciou = np.sum(found * truth) / (np.sum(truth) + np.sum(found * (truth == 0)))
    return float(confidence), float(ciou), float(truth.sum())


def released_counts(clips, threshold, bar):
    """Precision and recall at one threshold, a loop over clips: [(positive, cIoU, confidence)]."""
    tp = fp = fn = 0
    for positive, ciou, confidence in clips:
        if confidence >= threshold:
            if positive and ciou >= bar:
                tp += 1
            else:
                fp += 1
        elif positive:
            fn += 1
    return (tp / (tp + fp) if tp + fp else 1.0), (tp / (tp + fn) if tp + fn else 1.0)


def released_report(positive, ciou, confidence, area):
    """All metrics of the released report: every subset at two bars."""
    report = {}
    bounds = {
        "small": (0, 32**2),
        "medium": (32**2, 96**2),
        "large": (96**2, 144**2),
        "huge": (144**2, 1e9),
    }
    for bar in (0.5, 0.75):
        for name in ("all", "visible", *bounds):
            low, high = bounds.get(name, (0, 1e9))
            keep = [
                i
                for i in range(len(positive))
                if name == "all" or positive[i] and low <= area[i] < high
            ]
            if not keep:
                continue
            clips = [(positive[i], ciou[i], confidence[i]) for i in keep]
            ordered = np.sort([c for _, _, c in clips])
            points = [
                released_counts(clips, t, bar)
                for t in ordered[:-1][:: -max(1, len(clips) // 200)]
            ]
            best = [max(p for p, _ in points[k:]) for k in range(len(points))]
            ap = sum(
                best[k] * (points[k + 1][1] - points[k][1])
                for k in range(len(points) - 1)
            )
            f1 = [
                2 * p * r / (p + r) if p + r else 0.0
                for p, r in (
                    released_counts(clips, t, bar)
                    for t in ordered[:: max(1, len(clips) // 10)]
                )
            ]
            u = np.array([u for p, u, _ in clips if p])
            auc = np.trapezoid([(u >= 0.05 * k).mean() for k in range(21)], dx=0.05)
            report[f"{name}@{100 * bar:.0f}"] = {
                "AP": 100 * ap,
                "max-F1": 100 * max(f1),
                "LocAcc": 100 * (u >= bar).mean(),
                "AUC": 100 * auc,
            }
    return report


# ---- what is measured --------------------------------------------------------------------------------------


def clock() -> float:
    """CPU seconds with one thread, which other jobs on the machine disturb less; else seconds on the wall."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def speed(count: int, part: int):
    """slavc on `count` clips, the re-statement on `part` of them, in turn."""
    maps, pairs, boxes = clips_from(0, count)
    score_clips(maps[:64], RANGE, pairs[:64], boxes, "released")  # warm up
    start = clock()
    table = score_clips(maps, RANGE, pairs, boxes, "released")
    scored = clock()
    ours = {bar: summarise(table, "released", bar) for bar in (0.5, 0.75)}
    done = clock()

    tensors = torch.from_numpy(maps[:part])
    released_clip(tensors[0], boxes["v0"])
    first = clock()
    one = [
        released_clip(raw, boxes.get(video))
        for raw, video in zip(tensors, pairs["video"])
    ]
    clip_time = (clock() - first) / part
    apart = (
        max(abs(a - b) for (a, _, _), b in zip(one, table["confidence"])),
        max(abs(a - b) for (_, a, _), b in zip(one, table["ciou"])),
    )

    # the sweeps need no maps: their input is the table, whole
    lists = [
        (table["kind"] == "positive").tolist(),
        table["ciou"].tolist(),
        table["confidence"].tolist(),
        table["area"].tolist(),
    ]
    first = clock()
    theirs = released_report(*lists)
    sweep_time = clock() - first
    gap = max(
        abs(theirs[f"{s}@{100 * bar:.0f}"][m] - ours[bar][s][m])
        for bar in ours
        for s in ("all", "visible", "medium", "large", "huge")
        for m in ("AP", "max-F1", "LocAcc", "AUC")
        if f"{s}@{100 * bar:.0f}" in theirs
    )
    # the release prints LocAcc of all clips so far after every batch (of one, by default)
    cious = table["ciou"].tolist()
    first = clock()
    for n in np.linspace(1, count, 20).astype(int):
        chosen = [i for i in range(n) if lists[0][i]]
        np.mean(np.array([cious[i] for i in chosen]) > 0.5)
    print_time = (clock() - first) / 20

    maps_ms, sums_ms = 1e3 * (scored - start) / count, 1e3 * (done - scored) / count
    clip_ms, sweep_ms, print_ms = (
        1e3 * clip_time,
        1e3 * sweep_time / count,
        1e3 * print_time,
    )
    ours_ms, theirs_ms = maps_ms + sums_ms, clip_ms + sweep_ms
    what = "of CPU time" if torch.get_num_threads() == 1 else "on the wall"
    print(
        f"threads {torch.get_num_threads()}; {count} clips, half positive, one set of 7 x 7 maps; ms a clip {what}"
    )
    print(
        f"  slavc                maps to clips {maps_ms:.3f} + all metrics at two bars {sums_ms:.3f} = {ours_ms:.3f}"
    )
    print(
        f"  released, re-stated  maps to clips {clip_ms:.3f} (on {part}) + sweeps {sweep_ms:.3f} = {theirs_ms:.3f}; "
        f"and {print_ms:.3f} for the line it prints after every clip"
    )
    print(
        f"  ratio                {theirs_ms / ours_ms:.1f}; with the printed line {(theirs_ms + print_ms) / ours_ms:.1f}; "
        f"maps alone {clip_ms / maps_ms:.1f}, metrics alone {sweep_ms / sums_ms:.1f}"
    )
    print(
        f"  against the 4.1 ms a clip measured for the released script (three sets of maps, 2 cores): {4.1 / (3 * ours_ms):.1f} for three sets, "
        f"{4.1 / ours_ms:.1f} for one"
    )
    print(
        f"  agreement            confidence {apart[0]:.1e}, cIoU {apart[1]:.1e}, metrics {gap:.1e} points"
    )
    return table


def paper_protocol(count: int):
    """The other protocol, which needs no sort for the confidence and no masks for the negatives."""
    maps, pairs, boxes = clips_from(0, count)
    start = clock()
    table = score_clips(maps, RANGE, pairs, boxes, "paper")
    summarise(table, "paper"), summarise(table, "paper", 0.75)
    print(f"  slavc, protocol paper: {1e3 * (clock() - start) / count:.3f}")


def memory(count: int) -> dict:
    """Score `count` clips block by block in this process; its peak in MiB before and after, and the seconds."""
    maps, pairs, boxes = clips_from(0, 64)
    score_clips(maps, RANGE, pairs, boxes, "released")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start, tables = time.perf_counter(), []
    for first in range(0, count, BLOCK):
        maps, pairs, boxes = clips_from(first, min(first + BLOCK, count))
        tables.append(score_clips(maps, RANGE, pairs, boxes, "released"))
    table = pd.concat(tables, ignore_index=True)
    summarise(table, "released")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "clips": count,
        "before": before,
        "peak": peak,
        "seconds": time.perf_counter() - start,
    }


def bootstrap_time(table: pd.DataFrame, resamples: int):
    """1,000 resamples of every metric of every subset, where the package has a bootstrap."""
    try:
        from slavc.score.bootstrap import bootstrap
    except ImportError:
        print("bootstrap: skipped, slavc.score.bootstrap is not there")
        return
    for protocol in ("released", "paper"):
        for what, options in (
            ("all clips", {"subsets": ("all",)}),
            ("every subset", {}),
        ):
            start = time.perf_counter()
            bootstrap(table, protocol, resamples=resamples, **options)
            print(
                f"bootstrap, {resamples} resamples of {len(table)} clips, protocol {protocol}, {what}: {time.perf_counter() - start:.1f} s"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the clips")
    parser.add_argument(
        "--memory", type=int, help=argparse.SUPPRESS
    )  # one measurement, in a process of its own
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(memory(options.memory)))
        return
    scale = 10 if options.quick else 1
    count = 10316 // scale
    table = speed(count, 300)
    paper_protocol(count)
    bootstrap_time(table, 1000 // scale)
    print(
        "peak memory of a process that scores a list block by block (MiB; most of it is Python and torch themselves)"
    )
    for n in (count, 200_000 // scale):
        done = subprocess.run(
            [sys.executable, __file__, "--memory", str(n)],
            capture_output=True,
            text=True,
            check=True,
        )
        m = json.loads(done.stdout)
        print(
            f"  {m['clips']:7d} clips: {m['peak']:.0f}, of which {m['before']:.0f} before the first block "
            f"({m['seconds']:.0f} s with making the maps)"
        )


if __name__ == "__main__":
    main()
