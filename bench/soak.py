"""Killed at random, the same bytes in the end: `make soak`. Runs prepare, train and evaluate, each killed with SIGKILL at random moments.

    python bench/soak.py                  all three, 20 kills each (about 25 minutes on two cores)
    python bench/soak.py prepare --kills 5

Each target first runs undisturbed. Then it runs in a fresh place and is killed, and with it every process it started (papermill's kernel, which does the work, has a session
of its own), after a random share of that time, again and
again; after the last kill it runs to its end. Every file it leaves must hold the same bytes as the undisturbed run's. Ends with an error if one does not.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import chdir
from pathlib import Path

import numpy as np

from slavc.data.media import write_video
from slavc.plan import profile_folder

ROOT = Path(__file__).resolve().parents[1]
SMOKE = "params.yaml"  # of the folder of profiles/smoke.yaml


def digests(folders):
    return {
        f"{folder.name}/{p.relative_to(folder)}": hashlib.sha256(
            p.read_bytes()
        ).hexdigest()
        for folder in folders
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def family(pid):
    "A process and all that it started, as far as they live."
    below = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (
                    (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                )
            except OSError:
                continue
            if state != "Z":
                below.setdefault(int(parent), []).append(int(entry.name))
    found, ahead = [], [pid]
    while ahead:
        found.append(ahead.pop())
        ahead += below.get(found[-1], [])
    return found


def kill(pid):
    "End a process and all that it started, at once; returns when they are gone."
    members = set()
    while not members >= (now := set(family(pid))):  # stopped ones start no others
        for member in now - members:
            try:
                os.kill(member, signal.SIGSTOP)
            except ProcessLookupError:
                pass
        members |= now
    for member in members:
        try:
            os.kill(member, signal.SIGKILL)
        except ProcessLookupError:
            pass
    alive = lambda p: (
        Path(f"/proc/{p}/stat").exists()
        and Path(f"/proc/{p}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    )
    while any(alive(member) for member in members):
        time.sleep(0.01)


def run(command, cwd, after=None):
    """Run a command, killed after so many seconds with all its processes; whether it came to its end."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | dict(PYTHONPATH=str(cwd)),
    )
    try:
        _, said = process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        kill(process.pid)
        process.communicate()
        return False
    if process.returncode:
        sys.exit(
            f"{' '.join(map(str, command))} ended with {process.returncode}\n{said.decode()[-3000:]}"
        )
    return True


def soak(name, command, cwd, out, kills, clear):
    """command writes the folders `out` in `cwd`; clear: what to delete for a fresh start."""

    def fresh():
        for path in clear:
            shutil.rmtree(path, ignore_errors=True)

    fresh()
    start = time.time()
    run(command, cwd)
    whole, wanted = time.time() - start, digests(out)
    fresh()
    done = early = 0
    draw = random.Random(name)
    while done < kills:
        if run(
            command, cwd, draw.uniform(0.2, 1.0) * min(whole, 40)
        ):  # it came to its end first: again from nothing
            early += 1
            if digests(out) != wanted:
                sys.exit(f"{name}: other bytes after {done} kills")
            fresh()
        else:
            done += 1
    run(command, cwd)
    found = digests(out)
    if found != wanted:
        sys.exit(
            f"{name}: other bytes in {', '.join(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))}"
        )
    print(
        f"{name}: {done} kills, {early + 1} runs to the end, {len(wanted)} files of the same bytes; undisturbed {whole:.0f} s",
        flush=True,
    )


def make_videos(root, count):
    "Videos, and among them what goes wrong: some cut short, a link to nothing, one still loading."
    rng = np.random.default_rng(0)
    for k in range(count):
        picture = np.kron(
            rng.integers(0, 255, (9, 16, 3)), np.ones((40, 40, 1))
        ).astype(np.uint8)
        write_video(
            root / f"{k:011d}_{k:06d}.mp4",
            [picture] * 100,
            10,
            rng.normal(0, 0.1, 441000),
            44100,
        )
        if k % 50 == 7:
            path = root / f"{k:011d}_{k:06d}.mp4"
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (root / f"{3:011d}_000999.mp4").symlink_to("nowhere.mp4")
    (root / f"{4:011d}_000999.mp4.part").touch()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", default=["prepare", "train", "evaluate"])
    parser.add_argument("--kills", type=int, default=20)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if "prepare" in chosen.targets:
            make_videos(place / "videos", 200)
            command = [
                sys.executable,
                "-c",
                "from slavc.cli import app; app()",
                "prepare",
                str(place / "videos"),
                str(place / "out"),
                "--workers",
                "2",
            ]
            soak(
                "prepare", command, ROOT, [place / "out"], chosen.kills, [place / "out"]
            )
        stages = [name for name in ("train", "evaluate") if name in chosen.targets]
        if stages:  # in a copy, so that the results here stay
            copy = place / "slavc"
            shutil.copytree(
                ROOT,
                copy,
                symlinks=True,
                ignore=shutil.ignore_patterns(
                    ".venv", ".git", "runs", "reports", "cache", "tmp", "smoke"
                ),
            )
            with chdir(copy):
                copy = copy / profile_folder("profiles/smoke.yaml")
            stage = lambda *names: [
                sys.executable,
                "-c",
                "from slavc.cli import app; app()",
                "stage",
                names[0],
                SMOKE,
                *names[1:],
            ]
            runs = copy / "runs"
            for names in (("prepare",), ("encode",), ("evaluate", "controls")):
                run(stage(*names), copy)
            if "train" in stages:
                soak(
                    "train",
                    stage("train", "slavc"),
                    copy,
                    [runs / "train/slavc"],
                    chosen.kills,
                    [runs / "train"],
                )
            if "evaluate" in stages:
                run(stage("train", "slavc"), copy)
                made = [runs / "scores/slavc"]
                soak(
                    "evaluate",
                    stage("evaluate", "slavc"),
                    copy,
                    made,
                    chosen.kills,
                    made,
                )


if __name__ == "__main__":
    main()
