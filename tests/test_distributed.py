"""Two processes do what one does: in double precision the same losses, weights and maps to many digits; killed, another number of processes goes on."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_training import with_

from slavc.data.worlds import prepare
from slavc.model.checkpoints import save_checkpoint
from slavc.model.encoders import build_trunks
from slavc.train import training
from slavc.train.training import read_maps

# In double precision a difference is a mistake: in single precision rounding alone is blown up by every step.
HYPER = dict(
    slavc=dict(dim=16, temperature=0.1, visual_dropout=0.5, momentum=0.9),
    attention10k=dict(dim=16),
    hardpos=dict(neighbours=0),
    dsol=dict(dim=16, clusters=3, stage1=0.5, mixtures=False),
)


SMALL = with_(world=dict(train=64))


def params_for(module, processes=1, **train):
    """One method with random batch order, dropout, trained trunks and synchronised batch norms."""
    machine = {
        key: train.pop(key) for key in ("loaders", "checkpoint_steps") if key in train
    }
    return with_(
        module,
        HYPER[module],
        dict(frozen_stages=0),
        dict(processes=processes) | machine,
        world=dict(train=64),
        **(dict(optimiser="sgd", epochs=2) | train),
    )


def in_double(*arguments):
    """`train_method`, all tensors float64: importable, so that the launcher's processes can run it."""
    build, call, normalise = (
        training.build_method,
        training.Inputs.__call__,
        training.normalise_frames,
    )
    training.build_method = lambda *a: tuple(
        part if part is None else part.double() for part in build(*a)
    )
    training.normalise_frames = lambda frames: normalise(frames).double()
    training.Inputs.__call__ = lambda self, *a: {
        k: v.double() if v.is_floating_point() else v for k, v in call(self, *a).items()
    }
    try:
        return training.train_method(*arguments, False)
    finally:
        training.build_method, training.Inputs.__call__, training.normalise_frames = (
            build,
            call,
            normalise,
        )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    prepare(SMALL, folder / "data")
    save_checkpoint(
        folder / "trunk.safetensors",
        build_trunks("narrow", 16, None)[0].state_dict(),
        {},
    )
    return folder


SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
from test_distributed import in_double, params_for
from slavc.model.distributed import rank_and_size
import torch.distributed as dist
folder, out, jobs = sys.argv[2:5]
for name, module, train in json.loads(jobs):
    history = in_double(params_for(module, **train), module, f"{folder}/data", f"{folder}/trunk.safetensors", f"{out}/{name}")
    if rank_and_size()[0] == 0:
        history.to_csv(f"{out}/{name}.csv", index=False)
if dist.is_initialized():
    dist.destroy_process_group()
"""


def start(folder, out, jobs, processes):
    """The jobs, one after the other, in one process or by torchrun in several."""
    out.mkdir(exist_ok=True)
    (out / "run.py").write_text(SCRIPT)
    launcher = [sys.executable] + (
        ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        if processes > 1
        else []
    )
    return subprocess.Popen(
        [
            *launcher,
            str(out / "run.py"),
            str(Path(__file__).parent),
            str(folder),
            str(out),
            json.dumps(jobs),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | dict(OMP_NUM_THREADS="1"),
    )


def finish(process):
    errors = process.communicate()[1]
    assert process.returncode == 0, errors[-3000:]


JOBS = [(module, module, {}) for module in HYPER] + [
    ("own", "slavc", dict(negatives="own", sync_batchnorm=False))
]


@pytest.fixture(scope="module")
def both(data):
    """Every job by one process and by two."""
    for name, processes in (("one", 1), ("two", 2)):
        finish(start(data, data / name, JOBS, processes))
    return data


def loss(folder, name):
    return np.loadtxt(folder / f"{name}.csv", delimiter=",", skiprows=1)[:, 2]


@pytest.mark.parametrize("module", HYPER)
def test_two_processes_train_what_one_does(both, module):
    np.testing.assert_allclose(
        loss(both / "two", module), loss(both / "one", module), rtol=1e-9
    )
    one, two = (
        load_file(both / n / module / "seed-5.safetensors") for n in ("one", "two")
    )
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-6, atol=1e-9, msg=name)
    pairs, maps = zip(
        *(read_maps(both / n / module / "maps-5.npz")[:2] for n in ("one", "two"))
    )
    assert pairs[0].equals(pairs[1])  # no pair twice, none left out, in order
    np.testing.assert_allclose(maps[1], maps[0], rtol=1e-5, atol=1e-6)


def test_the_released_way_is_another_loss(both):
    """Four negatives fewer: with each process's own the loss is lower, and the switch does something with two processes only."""
    assert (loss(both / "two", "own") < loss(both / "one", "slavc") - 0.3).all()
    np.testing.assert_array_equal(
        loss(both / "one", "own"), loss(both / "one", "slavc")
    )


def test_the_first_process_writes(both):
    """Two processes leave the files of one."""
    files = lambda n: sorted(
        str(p.relative_to(both / n)) for p in (both / n).rglob("*")
    )
    assert files("one") == files("two")


@pytest.mark.parametrize("before, after", [(2, 1), (1, 2)])
def test_killed_another_number_goes_on(both, before, after):
    out = both / f"killed{before}"
    process = start(both, out, JOBS[:1], before)
    for _ in range(2400):
        if (
            list((out / ".state").glob("*/state.safetensors"))
            or process.poll() is not None
        ):
            break
        time.sleep(0.02)
    assert process.poll() is None, "the run ended before it could be killed"
    process.kill()  # of torchrun the launcher alone: its workers must end with it
    process.communicate(timeout=30)  # returns when nobody holds the pipes any more
    assert not (out / "slavc").exists()
    finish(start(both, out, JOBS[:1], after))
    one, again = (
        load_file(both / n / "slavc/seed-5.safetensors") for n in ("one", out.name)
    )
    for name in one:
        torch.testing.assert_close(
            again[name], one[name], rtol=1e-6, atol=1e-9, msg=name
        )


@pytest.mark.parametrize("processes", [2, 0])
def test_processes_in_params_start_them(data, monkeypatch, processes):
    """`processes: 2` is enough, and what the processes say comes back; 0 is one for each GPU, and one where there is none."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    out = data / f"launched{processes}"
    history = training.train_method(
        params_for("slavc", processes, epochs=1),
        "slavc",
        data / "data",
        data / "trunk.safetensors",
        out,
        False,
    )
    assert (
        len(history) == 1
        and np.isfinite(history.loss).all()
        and (out / "maps-5.npz").exists()
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_no_gpu_is_said(data):
    with pytest.raises(
        ValueError,
        match="train.device is cuda, but PyTorch finds no GPU here. Set train.device: cpu",
    ):
        training.train_method(
            params_for("slavc", device="cuda"),
            "slavc",
            data / "data",
            data / "trunk.safetensors",
            data / "none",
            False,
        )


def test_a_process_that_fails_stops_all_and_says_why(data):
    params = params_for("slavc", 2, batch=9)
    with pytest.raises(
        Exception, match="a batch of 9 cannot be divided over 2 processes"
    ):
        training.train_method(
            params,
            "slavc",
            data / "data",
            data / "trunk.safetensors",
            data / "uneven",
            False,
        )
