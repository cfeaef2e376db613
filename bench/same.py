"""Whether two checkouts give the same results: weights and maps of every training, and every table.

    python bench/same.py runs reports ../other/runs ../other/reports        folders of the one, then of the other

Trainings are matched by the names of their folder and file (lvs/seed-0.safetensors), tables by their file name, so the
two may keep them in different places. Prints what differs and by how much; the exit status is 1 if anything does.
"""

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


def found(folders):
    """{name: path} of what is compared in these folders."""
    made = {}
    for folder in map(Path, folders):
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".safetensors", ".npz") and ".state" not in path.parts:
                made[f"{path.parent.name}/{path.name}"] = path
            elif (
                path.name.startswith(
                    (
                        "table",
                        "ledger",
                        "listening",
                        "unheard",
                        "figure",
                        "epochs",
                        "effects",
                        "crossings",
                    )
                )
                and path.suffix == ".csv"
                and "scores" not in path.parts
            ):
                made.setdefault(path.name, path)
    return made


def arrays(path):
    "What a file holds, by name."
    if path.suffix == ".safetensors":
        return load_file(path)
    with np.load(path) as file:
        return {name: file[name] for name in file}


def difference(one, other):
    """What differs between two files, as text; empty where nothing does."""
    if one.read_bytes() == other.read_bytes():
        return ""
    if one.suffix == ".csv":
        lines = list(zip(one.read_text().splitlines(), other.read_text().splitlines()))
        apart = [pair for pair in lines if pair[0] != pair[1]]
        return (
            f"{len(apart)} lines, first {apart[0][0][:80]!r} and {apart[0][1][:80]!r}"
            if apart
            else "one is longer"
        )
    a, b = arrays(one), arrays(other)
    if a.keys() != b.keys():
        return f"holds {sorted(a.keys() ^ b.keys())[:3]} on one side only"
    apart = {
        name: np.abs(a[name].astype(float) - b[name].astype(float)).max(initial=0)
        for name in a
        if a[name].dtype.kind in "fiub"
        and a[name].shape == b[name].shape
        and not np.array_equal(a[name], b[name], equal_nan=a[name].dtype.kind == "f")
    }
    apart |= {
        name: "another shape or text"
        for name in a
        if a[name].shape != b[name].shape
        or a[name].dtype.kind not in "fiub"
        and not np.array_equal(a[name], b[name])
    }
    return ", ".join(
        f"{name} by {value}" for name, value in list(apart.items())[:3]
    )  # empty: only the description differs


def main():
    half = len(sys.argv) // 2 + 1
    one, other = found(sys.argv[1:half]), found(sys.argv[half:])
    alone = sorted(one.keys() ^ other.keys())
    apart = {
        name: said
        for name in sorted(one.keys() & other.keys())
        if (said := difference(one[name], other[name]))
    }
    for name, said in apart.items():
        print(f"{name}: {said}")
    print(
        json.dumps(
            dict(
                compared=len(one.keys() & other.keys()),
                different=len(apart),
                only_on_one_side=alone,
            ),
            indent=1,
        )
    )
    sys.exit(bool(apart))


if __name__ == "__main__":
    main()
