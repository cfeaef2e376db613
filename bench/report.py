"""Runs every benchmark and writes what they print, with the machine, to reports/bench.md, or where there is a GPU to reports/bench-cuda.md: `make bench`.

python bench/report.py step.py input.py      only these
"""

import os
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path

import torch

from slavc.data.files import write_text

SCRIPTS = {
    "step.py": "Training step at the paper's size",
    "input.py": "Input",
    "feeding.py": "Whether the input keeps up",
    "features.py": "Training step on cached features",
    "training.py": "Methods against EZ-VSL, and two processes against two threads",
    "evaluation.py": "Scoring",
}

AIMS = (
    "Aims, met or not: the training step 1.3 times as fast as the released procedure in fp32 and 3 times in bf16 on a CPU with bf16 units, 4 times on a GPU; clips from packed data 20 times as fast as by the "
    "released loader, as they come to a machine whose GPU does the rest."
)
ON_A_GPU = {"determinism.py": "The same bits again"}


def machine() -> str:
    cpu = Path("/proc/cpuinfo").read_text()
    flags = (
        set(cpu.split("flags")[1].split("\n")[0].split()) if "flags" in cpu else set()
    )
    units = [
        name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags
    ]
    model = (
        cpu.split("model name")[1].split(":")[1].split("\n")[0].strip()
        if "model name" in cpu
        else platform.machine()
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return f"{model}, {os.cpu_count()} processors ({', '.join(units)}), {memory:.0f} GiB; GPU: {gpu}; Python {platform.python_version()}, torch {torch.__version__}; {date.today()}"


def main():
    parts = [
        f"# Benchmarks\n\nWritten by `make bench`. Every ratio is taken in one run, on the same data.\n\nMachine: {machine()}.\n\n{AIMS}\n"
    ]
    name = "bench-cuda.md" if torch.cuda.is_available() else "bench.md"
    titles = SCRIPTS | (ON_A_GPU if torch.cuda.is_available() else {})
    for script in sys.argv[1:] or titles:
        done = subprocess.run(
            [sys.executable, Path(__file__).with_name(script)],
            stdout=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            sys.exit(
                f"{script} ended with {done.returncode}; reports/{name} is left as it was."
            )
        print(done.stdout, flush=True)
        parts.append(
            f"## {titles[script]}\n\n`python bench/{script}`\n\n```\n{done.stdout.rstrip()}\n```\n"
        )
    write_text(Path(__file__).parents[1] / "reports" / name, "\n".join(parts))


if __name__ == "__main__":
    main()
