"""Whether loaders keep a training fed at the paper's size: `make bench`. Prints numbers and a ratio, asserts nothing.

`training.fit` itself trains SLAVC as `profiles/paper` does (224 px, batch 128, bf16, its loaders; on a CPU a batch of 8 and one loader) from packed clips:
raw frames of 246 x 437 px and 3 s of 16-bit sound, each read and cropped in another process, brought to the device, normalised and turned into spectrograms there.
Its time a step is compared with that of the same step on one batch that is there already (a few after every epoch), and with how fast the batches come when nobody trains.
The clips have just been written, so they come from memory; a disk must give the MB/s that are printed.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from step import our_step

from slavc.data.clips import Pack
from slavc.train.params import load_params
from slavc.train.training import Inputs, build_method, epoch_batches, fit

os.environ.setdefault(
    "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
)  # as `slavc stage train` does
HEIGHT, WIDTH, RATE, SECONDS = 246, 437, 22050, 3
WARM = (
    20 if torch.cuda.is_available() else 4
)  # steps of an epoch that are not counted: the loaders start


def write_clips(folder, count):
    "A pack of noise."
    rng = np.random.default_rng(0)
    folder.mkdir()
    frames = np.lib.format.open_memmap(
        folder / "frames.npy", "w+", np.uint8, (count, HEIGHT, WIDTH, 3)
    )
    waves = np.lib.format.open_memmap(
        folder / "waves.npy", "w+", np.int16, (count, RATE * SECONDS)
    )
    for i in range(count):
        frames[i] = np.frombuffer(rng.bytes(frames[i].nbytes), np.uint8).reshape(
            frames[i].shape
        )
        waves[i] = np.frombuffer(rng.bytes(waves[i].nbytes), np.int16) // 8
    (folder / "pack.json").write_text(
        json.dumps(dict(rate=RATE, ids=[str(i) for i in range(count)]))
    )
    return Pack(folder)


def middle(times):
    "Median of the differences, the first of every epoch left out."
    return statistics.median(
        b - a for epoch in times for a, b in zip(epoch[WARM:], epoch[WARM + 1 :])
    )


def main():
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=8192 if cuda else 128)
    chosen = parser.parse_args()
    params = load_params(Path(__file__).parents[1] / "profiles/paper.yaml")
    options = params["methods"]["slavc"]["train"] | params["machine"] | dict(epochs=3)
    options |= (
        dict(loaders=min(options["loaders"], os.cpu_count()))
        if cuda
        else dict(device="cpu", batch=8, loaders=1)
    )
    torch.use_deterministic_algorithms(True, warn_only=True)  # as in training
    torch.utils.deterministic.fill_uninitialized_memory = False
    with tempfile.TemporaryDirectory() as name:
        clips = write_clips(Path(name) / "clips", chosen.clips)
        inputs = Inputs(
            params["world"]["frame"], RATE, params["audio"], options["device"]
        )
        alone = []
        for frames, waves, index, flips in epoch_batches(
            clips, inputs.size, 0, 0, options["batch"], 0, options["loaders"], cuda
        ):
            alone.append(time.perf_counter())
        ready = inputs(frames, waves, index, None, flips)
        method, _ = build_method(
            "slavc",
            params["methods"]["slavc"]["hyper"],
            params["encoders"] | dict(visual_weights=None),
        )
        times, own, move = [[]], [], method.after_step
        step = our_step(
            ready["frame"], ready["spec"], options["precision"], options["compile"]
        )
        method.after_step = lambda: (move(), times[-1].append(time.perf_counter()))

        def after_epoch(epoch):  # in turn: a machine's speed comes and goes
            times.append([])
            own.append([(step(), time.perf_counter())[1] for _ in range(WARM + 12)])

        fit(
            method,
            clips,
            inputs,
            options,
            0,
            Path(name) / "state.safetensors",
            "",
            after_epoch,
            progress=False,
        )
    batch, fitted, resident, reading = (
        options["batch"],
        middle(times),
        middle(own),
        (alone[-1] - alone[0]) / (len(alone) - 1),
    )
    size = batch * (HEIGHT * WIDTH * 3 + 2 * RATE * SECONDS) / 1e6
    print(
        f"SLAVC, batch {batch}, {options['precision']}, loaders: {options['loaders']}, {torch.get_num_threads()} threads on {os.cpu_count()} processors, {torch.cuda.get_device_name() if cuda else 'no GPU'}"
    )
    print(
        f"  step on a batch that is there   {1000 * resident:8.1f} ms, {batch / resident:7.0f} clips/s"
    )
    print(
        f"  step of training.fit            {1000 * fitted:8.1f} ms, {batch / fitted:7.0f} clips/s: {100 * resident / fitted:.0f} % of the step's own speed, reading {size / fitted:.0f} MB/s"
    )
    print(
        f"  batches when nobody trains      {1000 * reading:8.1f} ms, {batch / reading:7.0f} clips/s: {resident / reading:.1f} times as many as the step uses"
    )


if __name__ == "__main__":
    main()
