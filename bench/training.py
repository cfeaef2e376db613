"""Two processes with a thread each against one with two threads, for a training step: `make bench`. Prints numbers, asserts nothing.

Networks, sizes and settings are those of params.yaml; frames and sounds are noise, the weights random.
"""
import subprocess
import sys
import time

import torch

from slavc.params import load_params
from slavc.training import Inputs, build_method, make_optimiser

STEPS = 40


def milliseconds(key: str, threads: int) -> float:
    """Wall-clock ms a clip of one process: input, loss, gradients, optimiser, hook."""
    params = load_params("params.yaml")
    entry, world, options = params["methods"][key], params["world"], params["train"] | params["methods"][key]["train"]
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    method, lower = build_method(entry["module"], entry["hyper"], params["encoders"])
    inputs = Inputs(world["frame"], world["rate"], params["audio"], "cpu", lower)
    method.to(memory_format=torch.channels_last).train()
    optimiser, batch = make_optimiser(method, options), options["batch"]
    frames = torch.randint(0, 256, (batch, world["frame"], world["frame"], 3), dtype=torch.uint8)
    waves = 0.1 * torch.randn(batch, int(world["rate"] * world["seconds"]))
    for step in range(STEPS + 5):
        if step == 5:                                           # warm
            start = time.perf_counter()
        loss = method.loss(inputs(frames, waves))["total"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        getattr(method, "after_step", lambda: None)()
    return 1e3 * (time.perf_counter() - start) / STEPS / batch


def together(key: str, processes: int, threads: int) -> float:
    """ms a clip of several such processes side by side, all their clips counted."""
    running = [subprocess.Popen([sys.executable, __file__, key, str(threads)], stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    return max(float(process.communicate()[0]) for process in running) / processes


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(milliseconds(sys.argv[1], int(sys.argv[2])))
    else:
        for key in load_params("params.yaml")["methods"]:
            one, two = together(key, 1, 2), together(key, 2, 1)
            print(f"training step of {key}: one process with two threads {one:.2f} ms a clip, two with one each {two:.2f}; ratio {one / two:.2f}")
