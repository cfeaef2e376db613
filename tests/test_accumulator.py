"""The accumulator: batch by batch and process by process gives what scoring at once gives, exactly."""

import os
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slavc.data.test_sets import TestSet
from slavc.score.accumulator import LocalizationMetrics
from slavc.score.predictions import array_predictions, evaluate_predictions, with_mask
from slavc.score.protocols import PROTOCOLS

torch.set_num_threads(1)


def world(n=10, seed=0):
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 120, (n, 2))
    boxes = {
        f"v{i}": np.array([[x, y, x + rng.integers(5, 100), y + rng.integers(5, 100)]])
        for i, (x, y) in enumerate(corner)
    }
    rows = [(v, v, "positive", "c") for v in boxes] + [
        (v, "silence", ("easy", "hard", "real")[i % 3], "c")
        for i, v in enumerate(boxes)
    ]
    maps = rng.normal(0, 0.4, (2 * n, 7, 7)).astype(np.float32)
    return (
        pd.DataFrame(rows, columns=["video", "audio", "kind", "category"]),
        boxes,
        maps,
    )


PAIRS, BOXES, MAPS = world()
N = len(PAIRS)


def fresh(protocol="released", pairs=PAIRS, **kw):
    return LocalizationMetrics(pairs, BOXES, (-1, 1), protocol, **kw)


def feed(metrics, rows, maps=MAPS):
    metrics.update(PAIRS["video"].iloc[rows], PAIRS["audio"].iloc[rows], maps[rows])
    return metrics


def at_once(protocol="released", ious=(0.5, 0.75), done={}):
    if (protocol, ious) not in done:
        done[protocol, ious] = evaluate_predictions(
            array_predictions(PAIRS["video"], PAIRS["audio"], MAPS, (-1, 1)),
            TestSet(PAIRS, BOXES, "vggss"),
            protocol,
            ious,
        )
    return done[protocol, ious]


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    order=st.permutations(range(N)),
    cuts=st.lists(st.integers(0, N), max_size=6),
    repeats=st.lists(st.integers(0, N - 1), max_size=6),
    protocol=st.sampled_from(
        ["released", "paper", with_mask("released", pred_thr=0.5)]
    ),
    workers=st.integers(1, 4),
)
def test_any_split_gives_the_same(order, cuts, repeats, protocol, workers):
    """Any order, any batches, any repetitions, any processes, merged in any way: the same to the last bit."""
    batches = np.split(np.array([*order, *repeats]), sorted(cuts))
    parts = [fresh(protocol) for _ in range(workers)]
    for n, batch in enumerate(batches):
        feed(parts[n % workers], batch)
    merged = fresh(
        protocol, PAIRS.iloc[order]
    )  # its list of pairs in another order, too
    for part in parts:
        merged.merge(pickle.loads(pickle.dumps(part.state())))
    wanted, clips = at_once(protocol)
    assert merged.compute() == wanted and len(merged) == N
    pd.testing.assert_frame_equal(merged.clips(), clips, check_exact=True)
    assert parts[0].merge(merged).compute() == wanted  # a whole one into a part


def test_tensors_other_types_and_gradients():
    half = torch.tensor(MAPS).half()
    results = []
    for maps in (
        half,
        half.float().requires_grad_(),
        half.float().numpy(),
        half.double(),
        half.float().numpy()[::-1][::-1],
    ):
        metrics = fresh()
        metrics.update(list(PAIRS["video"]), tuple(PAIRS["audio"]), maps)
        results.append(metrics.compute())
    assert all(r == results[0] for r in results)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda():
    metrics = fresh(tolerance=1e-3)
    for device in ("cpu", "cuda"):
        metrics.update(
            PAIRS["video"], PAIRS["audio"], torch.tensor(MAPS, device=device)
        )
    assert metrics.compute()["n"] == N


def test_nothing_scored_and_parts():
    metrics = fresh()
    metrics.update([], [], np.zeros((0, 7, 7)))
    for allow in (False, True):
        with pytest.raises(ValueError, match=f"{N} of {N} clips have no score"):
            metrics.compute(allow_missing=allow)
    feed(metrics, [0, 1, 12])
    with pytest.raises(
        ValueError,
        match=f"{N - 3} of {N} clips have no score yet: .* and {N - 13} more",
    ):
        metrics.compute()
    part = metrics.compute(allow_missing=True)
    keep = PAIRS.iloc[[0, 1, 12]]
    source = array_predictions(keep["video"], keep["audio"], MAPS[[0, 1, 12]], (-1, 1))
    assert (
        part
        == evaluate_predictions(
            source, TestSet(PAIRS, BOXES, "vggss"), allow_missing=True
        )[0]
    )
    metrics.reset()
    assert len(metrics) == 0


def test_a_contradiction_is_an_error_wherever_it_comes_from():
    other = MAPS.copy()
    other[3] += 0.01
    with pytest.raises(ValueError, match=r"1 clips were scored twice .*\(v3, v3\)"):
        feed(feed(fresh(), [3, 4]), [3, 4], other)
    with pytest.raises(ValueError, match="scored twice"):
        feed(fresh(), [3]).merge(feed(fresh(), [3], other))
    with pytest.raises(ValueError, match="scored twice"):
        fresh().update(["v3", "v3"], ["v3", "v3"], np.stack([MAPS[3], other[3]]))
    same = fresh()
    same.update(["v3", "v3"], ["v3", "v3"], MAPS[[3, 3]])
    assert len(same) == 1
    turned = MAPS.copy()
    turned[3] = turned[3, ::-1, ::-1]  # as confident as before, somewhere else
    with pytest.raises(ValueError, match="scored twice"):
        feed(feed(fresh("paper"), [3]), [3], turned)


def test_a_tolerance_forgets_small_differences_in_any_order():
    noisy = MAPS + np.random.default_rng(0).normal(0, 1e-6, MAPS.shape).astype(
        np.float32
    )
    results = []
    for first, second in ((MAPS, noisy), (noisy, MAPS)):
        one, two = (
            feed(fresh(tolerance=1e-3), np.arange(N), first),
            feed(fresh(tolerance=1e-3), np.arange(N), second),
        )
        results += [one.merge(two).compute(), two.merge(one).compute()]
    assert all(r == results[0] for r in results)
    with pytest.raises(ValueError, match="tolerance such as 1e-4"):
        feed(feed(fresh(), np.arange(N), MAPS), np.arange(N), noisy)


@pytest.mark.parametrize(
    "change",
    [
        dict(protocol="paper"),
        dict(protocol=replace(PROTOCOLS["released"], level=0.4)),
        dict(map_range=(-1, 2)),
        dict(kind="flickr"),
        dict(pairs=PAIRS[1:]),
        dict(pairs=PAIRS.assign(kind=PAIRS["kind"].replace("easy", "hard"))),
        dict(boxes=BOXES | {"v0": np.array([[0, 0, 9, 9]])}),
    ],
    ids=lambda change: next(iter(change)),
)
def test_states_of_something_else_do_not_merge(change):
    other = LocalizationMetrics(
        **(dict(pairs=PAIRS, boxes=BOXES, map_range=(-1, 1)) | change)
    )
    for what in (other, other.state()):
        with pytest.raises(ValueError, match="cannot merge"):
            fresh().merge(what)
    fresh().merge(LocalizationMetrics(PAIRS[::-1], BOXES, (-1, 1)))


def test_bad_input():
    metrics = fresh()
    for ids, maps, text in (
        (
            (["v0"], ["v1"]),
            MAPS[:1],
            r"1 predictions .* not in the test set: \(v0, v1\)",
        ),
        (
            (["v0"], ["v0"]),
            MAPS[:1] * np.inf,
            r"1 predictions .* not finite: \(v0, v0\)",
        ),
        ((["v0"], ["v0"]), MAPS[:2], "one map per pair"),
        ((["v0"], ["v0"]), MAPS[0], "one map per pair"),
    ):
        with pytest.raises(ValueError, match=text):
            metrics.update(*ids, maps)
    with pytest.raises(ValueError, match="1 ids of videos and 2 of audios"):
        metrics.update(["v0"], ["v0", "v1"], MAPS[:2])
    assert len(metrics) == 0
    with pytest.raises(ValueError, match="twice"):
        fresh(pairs=pd.concat([PAIRS, PAIRS[:1]]))
    with pytest.raises(ValueError, match="1 positives have no boxes: v3"):
        LocalizationMetrics(
            PAIRS, {k: v for k, v in BOXES.items() if k != "v3"}, (-1, 1)
        )
    for wrong in (
        dict(map_range=(1, -1)),
        dict(map_range=(-1, 1), protocol="official"),
        dict(map_range=(-1, 1), kind="music"),
    ):
        with pytest.raises(ValueError):
            LocalizationMetrics(PAIRS, BOXES, **wrong)


def test_only_a_row_per_clip_is_kept():
    import tracemalloc

    n = 2000
    pairs = pd.DataFrame(
        {"video": [f"v{i}" for i in range(n)], "audio": "a", "kind": "easy"}
    )
    metrics = LocalizationMetrics(pairs, {}, (-1, 1), "paper")
    tracemalloc.start()
    for start in range(0, n, 50):
        metrics.update(
            pairs["video"][start : start + 50],
            pairs["audio"][start : start + 50],
            np.zeros((50, 56, 56), np.float32),
        )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (
        len(metrics) == n
        and peak < 8e6 < n * 56 * 56 * 4
        and len(pickle.dumps(metrics.state())) < 70 * n
    )


def worker(rank, folder):
    """One of two processes: the padded share of a distributed sampler, then everybody's states."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    rows = np.arange(N - 1)[::-1]  # 19 clips: one is repeated to make 20
    sampler = torch.utils.data.DistributedSampler(
        rows, num_replicas=2, rank=rank, shuffle=True, seed=3
    )
    pairs = PAIRS.iloc[: N - 1]
    metrics = fresh(
        pairs=pairs.sample(frac=1, random_state=rank)
    )  # as in the release, each has an order of its own
    for batch in torch.utils.data.DataLoader(
        rows.copy(), sampler=sampler, batch_size=3
    ):
        feed(metrics, batch.numpy())
    scored = len(metrics)
    states = [None, None]
    torch.distributed.all_gather_object(states, metrics.state())
    for state in states:
        metrics.merge(state)
    torch.save([scored, metrics.compute()], os.path.join(folder, f"{rank}.pt"))
    torch.distributed.destroy_process_group()


def test_two_processes(tmp_path):
    if not torch.distributed.is_available():
        pytest.skip("this build of torch has no torch.distributed")
    torch.multiprocessing.spawn(worker, (str(tmp_path),), nprocs=2)
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert [scored for scored, _ in results] == [10, 10]  # 20 scores for 19 clips
    pairs = PAIRS.iloc[: N - 1]
    wanted, _ = evaluate_predictions(
        array_predictions(pairs["video"], pairs["audio"], MAPS[: N - 1], (-1, 1)),
        TestSet(pairs, BOXES, "vggss"),
    )
    assert results[0][1] == results[1][1] == wanted
