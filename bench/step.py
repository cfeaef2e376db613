"""What a SLAVC training step costs at the paper's size, against the released procedure: `make bench`. Prints numbers and ratios, asserts nothing.

In one process, on the same frames (224 px) and spectrograms (257 x 276), step by step in turn: the released procedure re-stated in our words
(torchvision's networks in their usual memory layout, similarities of all pairs by einsum, momentum networks moved tensor by tensor, Adam
tensor after tensor where PyTorch does so by itself), and the training step of this package in fp32, in bf16, and (on CUDA, or with --compile) compiled. The medians of the rounds are compared, and their
share of the machine's own matrix peak (a large product in the same precision) is printed, which bounds what any step could reach. Peak memory is of each alone, in a process of its own.

    python bench/step.py --batch 8 --threads 2
"""

import argparse
import copy
import os
import platform
import re
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18

from slavc.model.distributed import connect
from slavc.train.training import build_method, make_optimiser, precision

os.environ.setdefault(
    "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
)  # as `slavc stage train` does
OPTIONS = dict(optimiser="adam", rate=1e-4, trunk_rate=1e-4, weight_decay=1e-4)


class Released(nn.Module):
    """The released model, re-stated: two encoders with two projections each, and their momentum copies."""

    def __init__(self, dim=512):
        super().__init__()
        image, sound = resnet18(), resnet18()
        sound.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
        for net in (image, sound):
            net.avgpool = net.fc = nn.Identity()
        self.image, self.sound = image, sound
        self.image1, self.image2 = nn.Conv2d(512, dim, 1), nn.Conv2d(512, dim, 1)
        self.sound1, self.sound2 = nn.Linear(512, dim), nn.Linear(512, dim)
        own = list(self.children())
        self.momentum = nn.ModuleList(
            copy.deepcopy(part) for part in own
        ).requires_grad_(False)
        self.own = own  # a plain list: seen once by parameters()

    def features(self, nets, frame, spec):
        image, sound, image1, image2, sound1, sound2 = nets
        V = F.dropout(image(frame).unflatten(1, (512, 7, 7)), 0.9)
        a = sound(spec).unflatten(1, (512, 9, 9)).flatten(2).amax(2)
        return [
            F.normalize(x, dim=1) for x in (image1(V), sound1(a), image2(V), sound2(a))
        ]

    def pairs(self, image_avc, sound_avc, image_loc, sound_loc, temperature=0.03):
        where = torch.einsum("nchw,mc->nmhw", image_loc, sound_loc) / temperature
        whether = torch.einsum("nchw,mc->nmhw", image_avc, sound_avc) / temperature
        joint = where.flatten(2).softmax(2).view_as(where) * whether.softmax(1)
        logits = joint.sum((2, 3)).clamp(min=1e-30).log()
        return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))

    def loss(self, frame, spec):
        i1, s1, i2, s2 = self.features(self.own, frame, spec)
        with torch.no_grad():
            j1, t1, j2, t2 = self.features(self.momentum, frame, spec)
        return self.pairs(j1, s1, j2, s2) + self.pairs(i1, t1, i2, t2)

    @torch.no_grad()
    def move(self, m=0.999):
        for net, target in zip(self.own, self.momentum):
            for new, old in zip(net.parameters(), target.parameters()):
                old.data = old.data * m + new.data * (1 - m)


def released_step(frame, spec):
    torch.manual_seed(0)
    model = Released().to(frame.device).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4, weight_decay=1e-4)

    def step():
        loss = model.loss(frame, spec)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        model.move()
        return loss.item()

    return step


def our_step(frame, spec, kind, compiled=False):
    torch.manual_seed(0)
    device = frame.device.type
    method, _ = build_method(
        "slavc",
        dict(dim=512, temperature=0.03, visual_dropout=0.9, momentum=0.999),
        dict(preset="resnet18", map_stride=32, frozen_stages=0),
    )
    method.to(device, memory_format=torch.channels_last).train()
    options = OPTIONS | dict(device=device, precision=kind, fused=True)
    optimiser, loss_of = make_optimiser(method, options), connect(method, device)
    if compiled:
        loss_of = torch.compile(loss_of)
    batch = dict(
        frame=frame.contiguous(memory_format=torch.channels_last),
        spec=spec,
        index=torch.arange(len(frame), device=device),
    )

    def step():
        torch.use_deterministic_algorithms(True, warn_only=True)  # as in training
        optimiser.zero_grad()
        with precision(options):
            loss = loss_of(batch)
        loss.backward()
        optimiser.step()
        method.after_step()
        torch.use_deterministic_algorithms(False)
        return loss.item()

    return step


def flops(batch):
    """Multiply-adds times two of a step: forward of both pairs, and twice the forward for the gradients of the online pair."""
    image, sound = 1.814e9, 1.814e9 * (257 * 276) / (224 * 224)
    return 2 * batch * (image + sound) * (2 + 2)


def matrix_peak(device, dtype):
    """Operations a second of a large matrix product: what the machine gives at best."""
    side, rounds = (8192, 10) if device == "cuda" else (4096, 3)
    a = torch.randn(side, side, device=device, dtype=dtype)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    for k in range(rounds + 2):
        if k == 2:
            wait()
            start = time.perf_counter()
        a @ a
    wait()
    return rounds * 2 * side**3 / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cuda = torch.cuda.is_available()
    parser.add_argument("--batch", type=int, default=128 if cuda else 8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=cuda
    )
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.utils.deterministic.fill_uninitialized_memory = False
    device = "cuda" if cuda else "cpu"
    torch.manual_seed(1)
    frame, spec = (
        torch.randn(chosen.batch, 3, 224, 224, device=device),
        torch.randn(chosen.batch, 1, 257, 276, device=device),
    )
    rows = {
        "released procedure, fp32": lambda: released_step(frame, spec),
        "slavc, fp32": lambda: our_step(frame, spec, "fp32"),
        "slavc, bf16": lambda: our_step(frame, spec, "bf16"),
    }
    if chosen.compile:
        rows |= {"slavc, bf16, compiled": lambda: our_step(frame, spec, "bf16", True)}
    if chosen.memory_of:
        step = rows[chosen.memory_of]()
        step(), step()
        most = (
            int(re.search(r"VmHWM:\s*(\d+) kB", open("/proc/self/status").read())[1])
            / 1024
        )  # getrusage would count the process that started this one
        print(round(torch.cuda.max_memory_allocated() / 2**20 if cuda else most))
        return
    steps = {name: make() for name, make in rows.items()}
    times = {name: [] for name in steps}
    for round_ in range(chosen.rounds + 1):  # the first warms up
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name] += [time.perf_counter() - start] if round_ else []
    base = statistics.median(times["released procedure, fp32"])
    print(
        f"training step of SLAVC, batch {chosen.batch}, {torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine()}, {chosen.threads} threads, torch {torch.__version__}"
    )
    peaks = {
        kind: matrix_peak(device, dtype)
        for kind, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    }
    for name, own in times.items():
        middle = statistics.median(own)
        share = (
            flops(chosen.batch) / middle / peaks["bf16" if "bf16" in name else "fp32"]
        )
        print(
            f"  {name:26s} {1000 * middle:8.0f} ms ({1000 * min(own):.0f} to {1000 * max(own):.0f}), {chosen.batch / middle:7.1f} clips/s, ratio {base / middle:.2f}, {flops(chosen.batch) / middle / 1e12:.3f} Tflop/s, {100 * share:.0f} % of the matrix peak"
        )
    print(
        f"matrix peak, measured: fp32 {peaks['fp32'] / 1e12:.3f}, bf16 {peaks['bf16'] / 1e12:.3f} Tflop/s"
    )
    del steps, step
    command = [
        sys.executable,
        __file__,
        "--batch",
        str(chosen.batch),
        "--threads",
        str(chosen.threads),
        "--compile" if chosen.compile else "--no-compile",
        "--memory-of",
    ]
    memory = {
        name: subprocess.run(
            [*command, name], check=True, stdout=subprocess.PIPE, text=True
        ).stdout.strip()
        for name in rows
    }
    print(
        "peak memory: " + ", ".join(f"{name} {own} MiB" for name, own in memory.items())
    )


if __name__ == "__main__":
    main()
