"""Training survives being killed, and refuses what it cannot trust."""

import os
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FORKS, alone
from safetensors.torch import load_file

from slavc.data.clips import Pack
from slavc.data.worlds import prepare
from slavc.model.checkpoints import load_checkpoint, save_checkpoint
from slavc.model.encoders import build_trunks
from slavc.train.training import load_method, read_maps, train_method

TRAIN = dict(
    optimiser="adam",
    epochs=3,
    clips=0,
    every=1,
    batch=8,
    rate=1e-3,
    trunk_rate=1e-4,
    weight_decay=0.0,
    schedule="cosine",
    warmup=4,
    threads=1,
    device="cpu",
    precision="fp32",
    compile=False,
    fused=False,
    negatives="all",
    sync_batchnorm=True,
)
ENCODERS = dict(
    preset="narrow",
    map_stride=16,
    audio_stride=32,
    visual_weights="trunk",
    frozen_stages=2,
    resolution=0,
    channels=0,
    adapter="none",
    cache=False,
    views=1,
)
HYPER = dict(dim=32, temperature=0.1, visual_dropout=0.5, momentum=0.9)


def with_(
    module="slavc", hyper=HYPER, encoders={}, machine={}, seeds=(5,), world={}, **train
):
    """Params of one small training, with these changes."""
    trunks = ENCODERS | encoders
    return dict(
        machine=dict(workers=1, processes=1, loaders=0, checkpoint_steps=3) | machine,
        world=dict(
            name="procedural",
            seed=3,
            frame=56,
            rate=8000,
            train=96,
            positives=10,
            sounding=4,
            silent_things=4,
            seconds=1.0,
        )
        | world,
        audio=dict(window=128, hop=128, mels=0, mean=-1.1, std=0.15),
        encoders=trunks,
        methods={
            module: dict(
                module=module,
                seeds=list(seeds),
                train=TRAIN | train,
                hyper=hyper,
                encoders=trunks,
            )
        },
    )


PARAMS = with_()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    prepare(PARAMS, folder / "data")
    save_checkpoint(
        folder / "trunk.safetensors",
        build_trunks("narrow", 16, None)[0].state_dict(),
        {},
    )
    train_method(
        PARAMS,
        "slavc",
        folder / "data",
        folder / "trunk.safetensors",
        folder / "whole",
        progress=False,
    )
    return folder


def train_in_a_process(folder, out):
    process = FORKS.Process(
        target=train_method,
        args=(
            PARAMS,
            "slavc",
            folder / "data",
            folder / "trunk.safetensors",
            out,
            False,
        ),
    )
    process.start()
    return process


def test_kill_9_changes_no_bit(prepared):
    """Killed twice, each time as soon as new state is on disk; the weights and maps are those of the undisturbed run."""
    out = prepared / "again" / "killed"
    seen = None
    for _ in range(2):
        process = train_in_a_process(prepared, out)
        for _ in range(1200):
            states = list((prepared / "again" / ".state").glob("*/state.safetensors"))
            stamp = states[0].stat().st_mtime_ns if states else None
            if stamp not in (None, seen) or process.exitcode is not None:
                break
            time.sleep(0.05)
        assert process.exitcode is None, "the run ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        seen = stamp
    assert not (out / "seed-5.safetensors").exists()
    again = train_in_a_process(prepared, out)
    again.join()
    assert again.exitcode == 0
    whole, again = (
        load_file(f / "seed-5.safetensors") for f in (prepared / "whole", out)
    )
    assert all(torch.equal(whole[k], again[k]) for k in whole)
    np.testing.assert_array_equal(
        read_maps(prepared / "whole" / "maps-5.npz")[1],
        read_maps(out / "maps-5.npz")[1],
    )


def test_a_run_goes_on_with_other_loaders(prepared, tmp_path):
    """How many processes load clips and how often the state is written are no part of the configuration; the batch is."""

    def mark(machine={}, **train):
        params = with_(machine=machine, epochs=1, **train)
        train_method(
            params,
            "slavc",
            prepared / "data",
            prepared / "trunk.safetensors",
            tmp_path / "out",
            progress=False,
        )
        return load_checkpoint(tmp_path / "out/seed-5.safetensors")[1]["fingerprint"]

    assert mark() == mark(dict(loaders=1, checkpoint_steps=7)) != mark(batch=16)


def test_another_seed_is_another_result(prepared):
    other = with_(seeds=[6])
    train_method(
        other,
        "slavc",
        prepared / "data",
        prepared / "trunk.safetensors",
        prepared / "other",
        progress=False,
    )
    a, b = (
        load_file(prepared / "whole/seed-5.safetensors"),
        load_file(prepared / "other/seed-6.safetensors"),
    )
    assert not torch.equal(a["loc.audio.weight"], b["loc.audio.weight"])


def test_checkpoints_refuse(prepared, tmp_path):
    good = prepared / "whole" / "seed-5.safetensors"
    assert load_method(good)[0].about["seed"] == 5
    with pytest.raises(FileNotFoundError, match="no such checkpoint.*train"):
        load_method(tmp_path / "none.safetensors")
    cut = tmp_path / "cut.safetensors"
    for size in (0, 5, 1000, good.stat().st_size - 1):
        cut.write_bytes(good.read_bytes()[:size])
        with pytest.raises(
            ValueError,
            match="cut.safetensors: not a whole slavc checkpoint.*train again",
        ):
            load_checkpoint(cut)
    with pytest.raises(ValueError, match="belongs to another configuration"):
        load_checkpoint(good, "0" * 16)
    maps = tmp_path / "maps.npz"
    maps.write_bytes((prepared / "whole" / "maps-5.npz").read_bytes()[:-100])
    with pytest.raises(ValueError, match="maps.npz: not a whole file of maps"):
        read_maps(maps)


def test_a_loss_that_is_not_finite_stops(prepared, monkeypatch, tmp_path):
    from slavc.methods.slavc import SLAVC

    monkeypatch.setattr(
        SLAVC,
        "loss",
        lambda self, batch: {"total": self.loc.audio.weight.sum() * float("nan")},
    )
    with pytest.raises(
        FloatingPointError, match="epoch 0, step 0 .seed 5.. Lower train.rate"
    ):
        train_method(
            PARAMS,
            "slavc",
            prepared / "data",
            prepared / "trunk.safetensors",
            tmp_path / "nan",
            progress=False,
        )


@pytest.mark.parametrize(
    "at, message",
    [
        (5, "weights are not finite, first loc.audio.weight"),
        (8, "loss is nan"),
        (-1, "weights are not finite"),
    ],
)
def test_weights_that_are_not_finite_are_never_kept(
    prepared, monkeypatch, tmp_path, at, message
):
    """A loss is of the weights before its step; what the step made of them is looked at before it becomes a state or a result."""
    from slavc.methods.slavc import SLAVC

    steps, params = [], with_(machine=dict(checkpoint_steps=6))
    last = TRAIN["epochs"] * (96 // TRAIN["batch"]) - 1 if at < 0 else at
    move = SLAVC.after_step

    def spoil(self):
        move(self)
        if len(steps) == last:
            with torch.no_grad():
                self.loc.audio.weight[0, 0] = float("nan")
        steps.append(0)

    monkeypatch.setattr(SLAVC, "after_step", spoil)
    with pytest.raises(FloatingPointError, match=message):
        train_method(
            params,
            "slavc",
            prepared / "data",
            prepared / "trunk.safetensors",
            tmp_path / "out",
            progress=False,
        )
    assert not (tmp_path / "out/seed-5.safetensors").exists()
    for state in (tmp_path / ".state").glob("*/state.safetensors"):
        assert all(
            t.isfinite().all()
            for t in load_file(state).values()
            if t.is_floating_point()
        )
    monkeypatch.setattr(SLAVC, "after_step", move)
    train_method(
        params,
        "slavc",
        prepared / "data",
        prepared / "trunk.safetensors",
        tmp_path / "out",
        progress=False,
    )
    a, b = (
        load_file(prepared / "whole/seed-5.safetensors"),
        load_file(tmp_path / "out/seed-5.safetensors"),
    )
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_another_test_list_is_another_run(prepared, tmp_path, monkeypatch):
    """Maps after every epoch belong to one list of pairs: a stopped run does not go on under another."""
    import shutil

    from slavc.train import training

    data = Path(shutil.copytree(prepared / "data", tmp_path / "data"))
    save, calls = training.save_checkpoint, []

    def stop(path, *more):
        save(path, *more)
        calls.append(path)
        if path.name.startswith("maps-000"):
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_checkpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        train_method(
            PARAMS,
            "slavc",
            data,
            prepared / "trunk.safetensors",
            tmp_path / "out",
            progress=False,
        )
    monkeypatch.setattr(training, "save_checkpoint", save)
    pairs = pd.read_csv(data / "test/pairs.csv", dtype=str)
    pairs[::-1].iloc[:-1].to_csv(data / "test/pairs.csv", index=False)
    train_method(
        PARAMS,
        "slavc",
        data,
        prepared / "trunk.safetensors",
        tmp_path / "out",
        progress=False,
    )
    whole, fewer = (
        read_maps(prepared / "whole/maps-5.npz"),
        read_maps(tmp_path / "out/maps-5.npz"),
    )
    at = {key: k for k, key in enumerate(zip(whole[0].video, whole[0].audio))}
    assert len(fewer[0]) == len(whole[0]) - 1
    for epoch in range(len(whole[1])):
        np.testing.assert_allclose(
            fewer[1][epoch],
            whole[1][epoch][[at[key] for key in zip(fewer[0].video, fewer[0].audio)]],
            atol=1e-5,
        )


def test_a_removal_that_was_stopped_is_no_hindrance(prepared, tmp_path, monkeypatch):
    from slavc.train import training

    params = with_(epochs=1)

    def half(folder, ignore_errors=False):
        if Path(folder).exists():
            next(Path(folder).glob("maps-*")).unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training.shutil, "rmtree", half)
        with pytest.raises(KeyboardInterrupt):
            train_method(
                params,
                "slavc",
                prepared / "data",
                prepared / "trunk.safetensors",
                tmp_path / "out",
                progress=False,
            )
    train_method(
        params,
        "slavc",
        prepared / "data",
        prepared / "trunk.safetensors",
        tmp_path / "out",
        progress=False,
    )
    assert not list((tmp_path / ".state").iterdir())


def test_a_full_disk_names_the_file_of_maps(tmp_path, monkeypatch):
    from slavc.train.training import save_maps

    pairs = pd.DataFrame(dict(video=["a"], audio=["a"]))
    save_maps(tmp_path / "maps.npz", pairs, np.ones((1, 1, 2, 2)), (0, 1))
    before = (tmp_path / "maps.npz").read_bytes()
    monkeypatch.setattr(
        np,
        "savez",
        lambda file, **_: (
            file.write(b"half"),
            (_ for _ in ()).throw(OSError(28, "No space left on device")),
        ),
    )
    with pytest.raises(OSError, match="maps.npz: cannot be written .No space left"):
        save_maps(tmp_path / "maps.npz", pairs, np.ones((1, 1, 2, 2)), (0, 1))
    assert (tmp_path / "maps.npz").read_bytes() == before and [
        p.name for p in tmp_path.iterdir()
    ] == ["maps.npz"]


def test_more_loader_processes_change_nothing(prepared):
    loaders = with_(machine=dict(loaders=2))
    train_method(
        loaders,
        "slavc",
        prepared / "data",
        prepared / "trunk.safetensors",
        prepared / "loaders",
        progress=False,
    )
    a, b = (
        load_file(prepared / "whole/seed-5.safetensors"),
        load_file(prepared / "loaders/seed-5.safetensors"),
    )
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_batch_larger_than_the_data(prepared, tmp_path):
    big = with_(batch=500)
    with pytest.raises(
        ValueError, match="train.batch is 500, but there are only 96 training clips"
    ):
        train_method(
            big,
            "slavc",
            prepared / "data",
            prepared / "trunk.safetensors",
            tmp_path / "big",
            progress=False,
        )


@pytest.mark.parametrize("name", ["frames.npy", "waves.npy"])
def test_a_damaged_pack(prepared, tmp_path, name):
    import shutil

    shutil.copytree(prepared / "data" / "train", tmp_path / "train")
    whole = (tmp_path / "train" / name).read_bytes()
    (tmp_path / "train" / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        ValueError, match=f"{name}: cannot be read.*Delete the folder and run `prepare`"
    ):
        Pack(tmp_path / "train")


def save_beyond_the_limit(path):
    save_checkpoint(path, dict(w=torch.ones(3)), dict(epoch=1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    with pytest.raises(
        OSError, match="state.safetensors: cannot be written.*Make room"
    ):
        save_checkpoint(path, dict(w=torch.ones(1_000_000)), dict(epoch=2))


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path):
    """A limit on the size of files stands in for the full disk: the file is named, the one before is whole, nothing is left beside it."""
    assert alone(save_beyond_the_limit, tmp_path / "state.safetensors") == 0
    tensors, about = load_checkpoint(tmp_path / "state.safetensors")
    assert (
        about["epoch"] == 1
        and tensors["w"].tolist() == [1, 1, 1]
        and len(list(tmp_path.iterdir())) == 1
    )


def test_a_loader_that_dies_stops_with_a_reason_and_the_run_goes_on(
    prepared, tmp_path, monkeypatch
):
    """A loader process killed in the second epoch: an error says so, the state is kept, and the same call ends in the undisturbed run's weights."""
    from slavc.data.clips import TrainClips

    whole = TrainClips.__getitem__

    def dies(self, i):
        if self.epoch == 1 and torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(self, i)

    loaders = with_(machine=dict(loaders=1))
    monkeypatch.setattr(TrainClips, "__getitem__", dies)
    with pytest.raises(RuntimeError, match="worker.*(killed|exited)"):
        train_method(
            loaders,
            "slavc",
            prepared / "data",
            prepared / "trunk.safetensors",
            tmp_path / "out",
            progress=False,
        )
    assert list((tmp_path / ".state").glob("*/state.safetensors"))
    monkeypatch.setattr(TrainClips, "__getitem__", whole)
    train_method(
        loaders,
        "slavc",
        prepared / "data",
        prepared / "trunk.safetensors",
        tmp_path / "out",
        progress=False,
    )
    a, b = (
        load_file(f / "seed-5.safetensors")
        for f in (prepared / "whole", tmp_path / "out")
    )
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_half_precision_learns_the_same(prepared, tmp_path):
    """bf16: other last bits, losses within a few percent, and maps from it in float32."""
    whole = with_(epochs=1)
    half = with_(epochs=1, precision="bf16", fused=True)
    history = train_method(
        half,
        "slavc",
        prepared / "data",
        prepared / "trunk.safetensors",
        tmp_path / "half",
        progress=False,
    )
    full = train_method(
        whole,
        "slavc",
        prepared / "data",
        prepared / "trunk.safetensors",
        tmp_path / "full",
        progress=False,
    )
    np.testing.assert_allclose(history.loss, full.loss, rtol=0.03)
    assert (
        not np.array_equal(history.loss, full.loss)
        and read_maps(tmp_path / "half/maps-5.npz")[1].dtype == np.float32
    )
    with pytest.raises(
        ValueError, match="train.precision is 'fp16'; choose fp32 or bf16"
    ):
        train_method(
            with_(precision="fp16"),
            "slavc",
            prepared / "data",
            prepared / "trunk.safetensors",
            tmp_path / "none",
            progress=False,
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_trains_the_same_way(prepared, tmp_path):
    device = with_(device="cuda")
    history = train_method(
        device,
        "slavc",
        prepared / "data",
        prepared / "trunk.safetensors",
        tmp_path / "cuda",
        progress=False,
    )
    assert np.isfinite(history.loss).all()
