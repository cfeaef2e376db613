"""What a training step costs on cached features, and what the training loop adds to it: `make bench`. Prints numbers and ratios, asserts nothing.

In one process with one thread, method by method and in turn: an epoch of `training.fit` on features (loading, schedule, hooks, state on disk), and a plain PyTorch loop over the same
tensors, resident in memory: the method's loss, backward, the same optimiser. The ratio says what the loop costs. Features are random: no time depends on them.

    python bench/features.py --clips 1024 --rounds 3
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from slavc.model.features import CachedInputs, FeatureClips
from slavc.train.params import load_params
from slavc.train.training import build_method, epoch_batches, fit, make_optimiser

PARAMS = load_params(Path(__file__).parents[1] / "params.yaml")


def features(folder, clips):
    rng = np.random.default_rng(0)
    folder.mkdir()
    for name, array in (
        ("visual", rng.normal(size=(clips, 2, 7, 7, 128)).astype(np.float16)),
        ("sound", rng.normal(size=(clips, 32, 25)).astype(np.float32)),
        ("objectness", rng.random((clips, 7, 7), np.float32)),
    ):
        np.save(folder / f"{name}.npy", array)
    (folder / "features.json").write_text(
        json.dumps(dict(ids=[str(i) for i in range(clips)], rate=8000))
    )
    return FeatureClips(folder)


def made(key):
    entry = PARAMS["methods"][key]
    torch.manual_seed(0)
    return build_method(
        entry["module"], entry["hyper"], PARAMS["encoders"] | entry["encoders"]
    )[0]


def plain(method, batches, options):
    """Seconds of one epoch over tensors in memory."""
    optimiser = make_optimiser(method, options)
    method.train()
    start = time.process_time()
    for batch in batches:
        optimiser.zero_grad()
        method.loss(batch)["total"].backward()
        optimiser.step()
        getattr(method, "after_step", lambda: None)()
    return time.process_time() - start


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--methods",
        nargs="*",
        default=[
            "slavc",
            "ezvsl",
            "lvs",
            "attention10k",
            "avobject-static",
            "fnac",
            "marginnce",
        ],
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    options = PARAMS["train"] | PARAMS["machine"] | dict(epochs=1)
    inputs = CachedInputs(7, 8000, PARAMS["audio"])
    print(
        f"{args.clips} clips, batch {options['batch']}, one thread, medians of {args.rounds}; CPU milliseconds a clip"
    )
    print(f"{'':18s}{'fit':>8s}{'plain':>8s}{'ratio':>8s}")
    with tempfile.TemporaryDirectory() as tmp:
        clips = features(Path(tmp, "train"), args.clips)
        batches = [
            inputs(*batch[:3])
            for batch in epoch_batches(clips, 7, 0, 0, options["batch"], 0, 0)
        ]
        seen = len(batches) * options["batch"]
        for key in args.methods:
            ours, theirs = [], []
            for turn in range(args.rounds + 1):  # the first warms up
                method = made(key)
                start = time.process_time()
                fit(
                    method,
                    clips,
                    inputs,
                    options,
                    0,
                    Path(tmp, f"{key}-{turn}"),
                    "mark",
                    progress=False,
                )
                ours.append(time.process_time() - start)
                theirs.append(plain(made(key), batches, options))
            a, b = (
                1e3 * statistics.median(times[1:]) / seen for times in (ours, theirs)
            )
            print(f"{key:18s}{a:8.2f}{b:8.2f}{a / b:8.2f}", flush=True)


if __name__ == "__main__":
    main()
