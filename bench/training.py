"""What a training step costs: `make bench`. Prints numbers and ratios, asserts nothing.

1. Every method of params.yaml against EZ-VSL, step by step in turn in the same process (the fastest round of each counts). Methods with
   stages are timed in their first and in their last epoch.
2. Two processes with a thread each against one process with two threads.

Networks, sizes and settings are those of params.yaml; frames and sounds are noise, the weights random.

    python bench/training.py            both
    python bench/training.py --steps    the first alone
"""

import subprocess
import sys
import time

import numpy as np
import torch

from slavc.data.clips import Clip, TrainClips
from slavc.train.params import load_params
from slavc.train.training import Inputs, build_method, make_optimiser

STEPS, ROUNDS, EPOCHS = 40, 6, 4


def noise(world: dict, count: int) -> list:
    """Clips of noise, as large as those of the world."""
    rng, side = np.random.default_rng(0), int(1.1 * world["frame"])
    return [
        Clip(
            f"n{i}",
            rng.integers(0, 256, (side, side, 3), dtype=np.uint8),
            (0.1 * rng.standard_normal(int(world["rate"] * world["seconds"]))).astype(
                np.float32
            ),
            world["rate"],
        )
        for i in range(count)
    ]


def stepper(key: str, last: bool):
    """A function that makes one training step of a method (input, loss, gradients, optimiser, hook), in its first or last epoch, and the clips of a step."""
    params = load_params("params.yaml")
    entry, world = params["methods"][key], params["world"]
    options, encoders = (
        params[block] | entry[block] for block in ("train", "encoders")
    )
    torch.manual_seed(0)
    method, lower = build_method(entry["module"], entry["hyper"], encoders)
    inputs, clips = (
        Inputs(world["frame"], world["rate"], params["audio"], "cpu", lower),
        noise(world, 128),
    )
    method.to(memory_format=torch.channels_last).train()
    optimiser, batch = make_optimiser(method, options), options["batch"]
    hook = lambda name, *args: getattr(method, name, lambda *_: None)(*args)
    hook("before_fit", clips, inputs, EPOCHS)
    for epoch in range(EPOCHS if last else 1):
        hook("before_epoch", epoch)
    seen = TrainClips(clips, world["frame"], 0)
    frames, waves, _, flips = zip(*(seen[i] for i in range(batch)))
    frames, waves, index, flips = (
        torch.stack(frames),
        torch.stack(waves),
        torch.arange(batch),
        torch.tensor(flips),
    )

    def step():
        optimiser.zero_grad()
        method.loss(
            inputs(frames, waves, index, getattr(method, "views", None), flips)
        )["total"].backward()
        optimiser.step()
        hook("after_step")

    return step, batch


def against_ezvsl():
    """The table of steps: ms a clip, and the ratio to EZ-VSL in the same rounds."""
    torch.set_num_threads(1)
    methods = load_params("params.yaml")["methods"]
    runs = {
        (key, last): stepper(key, last)
        for key in ["ezvsl", *[m for m in methods if m != "ezvsl"]]
        for last in (False, True)
    }
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(ROUNDS + 1):  # the first round warms up
        for name, (step, batch) in runs.items():
            start = time.perf_counter()
            step(), step()
            best[name] = (
                min(best[name], 1e3 * (time.perf_counter() - start) / batch / 2)
                if _
                else best[name]
            )
    base = min(best["ezvsl", False], best["ezvsl", True])
    print(f"training step, one thread, against EZ-VSL's {base:.2f} ms a clip")
    for key in methods:
        first, last = best[key, False] / base, best[key, True] / base
        print(
            f"  {key:16s} {first:.2f}"
            + (f", last epoch {last:.2f}" if abs(last - first) > 0.1 else "")
        )


def milliseconds(key: str, threads: int) -> float:
    """Wall-clock ms a clip of one process."""
    torch.set_num_threads(threads)
    step, batch = stepper(key, False)
    for n in range(STEPS + 5):
        if n == 5:  # warm
            start = time.perf_counter()
        step()
    return 1e3 * (time.perf_counter() - start) / STEPS / batch


def together(key: str, processes: int, threads: int) -> float:
    """ms a clip of several such processes side by side, all their clips counted."""
    running = [
        subprocess.Popen(
            [sys.executable, __file__, key, str(threads)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    return max(float(process.communicate()[0]) for process in running) / processes


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(milliseconds(sys.argv[1], int(sys.argv[2])))
    else:
        against_ezvsl()
        for key in () if "--steps" in sys.argv else ("ezvsl", "slavc"):
            one, two = together(key, 1, 2), together(key, 2, 1)
            print(
                f"training step of {key}: one process with two threads {one:.2f} ms a clip, two with one each {two:.2f}; ratio {one / two:.2f}"
            )
