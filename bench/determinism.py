"""Whether a training by the settings of `profiles/paper` gives the same bits again, and when it is stopped and goes on. For a GPU; prints, asserts nothing.

Every method trains three times with one seed on 768 clips of noise for two epochs; the third time it is stopped at the end of the second epoch, before its state is saved, and goes on
from that of the first. On a CPU: 24 clips in float32, a batch of 8.

    python bench/determinism.py slavc ssltie      only these
"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from feeding import RATE, write_clips

from slavc.train.params import load_params
from slavc.train.training import Inputs, build_method, fit

os.environ.setdefault(
    "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
)  # as `slavc stage train` does
SMALL = dict(neighbours=20, clusters=10, classes=10)  # for so few clips


class Stop(Exception):
    pass


def stop_in_second(epoch):
    if epoch == 1:
        raise Stop


def train(params, key, clips, state, after_epoch=None):
    "Weights and losses of a method that begins, or goes on from `state`."
    entry, cuda = params["methods"][key], torch.cuda.is_available()
    options = entry["train"] | params["machine"] | dict(epochs=2, loaders=4)
    if not cuda:
        options |= dict(device="cpu", precision="fp32", batch=8, loaders=0)
    hyper = {name: SMALL.get(name, value) for name, value in entry["hyper"].items()} | (
        dict(classes=SMALL["classes"]) if entry["module"] == "coarsetofine" else {}
    )
    torch.manual_seed(0)
    method, lower = build_method(
        entry["module"], hyper, entry["encoders"] | dict(visual_weights=None)
    )
    losses = fit(
        method,
        clips,
        Inputs(
            params["world"]["frame"], RATE, params["audio"], options["device"], lower
        ),
        options,
        0,
        state,
        "",
        after_epoch,
        progress=False,
    )
    return {name: value.cpu() for name, value in method.state_dict().items()}, losses


def main():
    params = load_params(Path(__file__).parents[1] / "profiles/paper.yaml")
    torch.use_deterministic_algorithms(True, warn_only=True)  # as in training
    with tempfile.TemporaryDirectory() as name:
        clips = write_clips(
            Path(name) / "clips", 768 if torch.cuda.is_available() else 24
        )
        for key in sys.argv[1:] or params["methods"]:
            weights, losses = train(params, key, clips, Path(name) / f"{key}-once")
            again = train(params, key, clips, Path(name) / f"{key}-twice")[0]
            try:
                train(params, key, clips, Path(name) / f"{key}-stopped", stop_in_second)
            except Stop:
                continued = train(params, key, clips, Path(name) / f"{key}-stopped")[0]
            same = [
                "the same bits"
                if all(torch.equal(weights[k], other[k]) for k in weights)
                else "DIFFERS"
                for other in (again, continued)
            ]
            print(
                f"{key:16s} second run {same[0]}, continued run {same[1]}; losses {np.round(losses, 4)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
