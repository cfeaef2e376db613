"""Every method of params.yaml obeys the contract, under its common and its native recipe."""
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT

from slavc.clips import Clip
from slavc.losses import micl, similarity
from slavc.params import load_params
from slavc.sspl import random_parts
from slavc.ssltie import draw_turns, turn
from slavc.training import Inputs, build_method, fit, load_checkpoint, load_tensors, method_names, save_checkpoint

PARAMS = load_params(ROOT / "params.yaml")
AUDIO = dict(window=128, hop=128, mean=-1.1, std=0.15)


def clips(count=16):
    rng = np.random.default_rng(0)
    return [Clip(f"n{i}", rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), (0.1 * rng.standard_normal(4000)).astype(np.float32), 8000) for i in range(count)]


def trained(key, recipe, folder, frozen=3, hop=128, **train):
    """A method after three tiny epochs (or as many as said), its inputs and losses."""
    entry = PARAMS["methods"][key]
    own = entry["native"] if recipe == "native" else {}
    small = dict(neighbours=3, clusters=3, classes=3, hidden=16)                     # 16 clips of noise have no 20 clusters
    hyper = entry["hyper"] | own.get("hyper", {})
    hyper |= {name: small[name] for name in small if name in hyper or name in dict(dsol=["clusters"], coarsetofine=["classes"]).get(entry["module"], [])}
    encoders = PARAMS["encoders"] | dict(frozen_stages=frozen) | own.get("encoders", {})
    options = PARAMS["train"] | own.get("train", {}) | dict(epochs=3, batch=8) | train
    torch.manual_seed(0)
    method, lower = build_method(entry["module"], hyper, encoders)
    inputs = Inputs(56, 8000, AUDIO | dict(hop=hop), options["device"], lower)
    losses = fit(method, clips(), inputs, options, 0, folder / "state.safetensors", "mark", progress=False)
    return method, inputs, losses, (entry["module"], hyper, encoders)


def test_all_methods_have_an_entry():
    """Nothing lies about: every module with a `build` is trained by the default profile, and the smoke profile trains the same."""
    assert {m["module"] for m in PARAMS["methods"].values()} == set(method_names())
    assert list(load_params(ROOT / "profiles/smoke/params.yaml")["methods"]) == list(PARAMS["methods"])


@pytest.mark.parametrize("recipe", ["common", "native"])
@pytest.mark.parametrize("key", PARAMS["methods"])
def test_the_contract(key, recipe, tmp_path):
    method, inputs, losses, made = trained(key, recipe, tmp_path)
    assert len(losses) == 3 and np.isfinite(losses).all()
    some = clips(6)
    frames, waves = (torch.from_numpy(np.stack([f(c) for c in some])) for f in (lambda c: c.frame[:56, :56], lambda c: c.waveform))
    batch = inputs(frames, waves)
    maps = method.localize(batch["frame"], batch["spec"])
    stride = made[2]["map_stride"]
    assert maps.shape == (6, -(-56 // stride), -(-56 // stride)) and not maps.requires_grad
    low, high = method.range
    assert low < high and maps.min() >= low - 1e-5 and maps.max() <= high + 1e-5
    alone = torch.cat([method.localize(batch["frame"][i:i + 1], batch["spec"][i:i + 1]) for i in range(6)])
    torch.testing.assert_close(alone, maps, atol=1e-4, rtol=1e-4)                    # a clip's map does not depend on its neighbours in the batch
    with torch.autocast("cpu", torch.bfloat16):
        halved = method.localize(batch["frame"], batch["spec"])
    assert halved.dtype == torch.float32 and halved.isfinite().all()
    method.train()
    with pytest.raises(RuntimeError, match="evaluation mode"):
        method.localize(batch["frame"], batch["spec"])
    again, _ = build_method(*made)
    load_tensors(again, method.state_dict())                                          # labels and neighbours come back with the weights
    torch.testing.assert_close(again.eval().localize(batch["frame"], batch["spec"]), maps, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("key", PARAMS["methods"])
def test_as_profiles_paper_trains(key, tmp_path):
    """Every stage of the trunks (the frame that reaches a method is an image), by its own recipe, in bf16 with fused optimisers; and the state can be continued."""
    paper = load_params(ROOT / "profiles/paper/params.yaml")["train"]
    switches = {name: paper[name] for name in ("precision", "fused", "compile", "negatives", "sync_batchnorm")} | dict(device="cuda" if torch.cuda.is_available() else "cpu")
    assert np.isfinite(trained(key, "native", tmp_path, frozen=0, hop=64, epochs=2, **switches)[2]).all()
    tensors, about = load_checkpoint(tmp_path / "state.safetensors")
    save_checkpoint(tmp_path / "state.safetensors", tensors, about | dict(epoch=2))
    assert np.isfinite(trained(key, "native", tmp_path, frozen=0, hop=64, epochs=2, **switches)[2]).all()


def test_bf16_on_a_cpu_refuses_what_onednn_gets_wrong(tmp_path):
    """31 time steps end as two columns before the last stride: garbage on processors with AMX, so no training."""
    with pytest.raises(ValueError, match="needs more than 32 pixels and time steps: frames are 56 wide, spectrograms 31"):
        trained("slavc", "common", tmp_path, precision="bf16")
    assert np.isfinite(trained("slavc", "common", tmp_path, hop=117, precision="bf16")[2]).all()                      # 33


class Small(torch.nn.Module):
    """A method that compiles in seconds."""
    def __init__(self):
        super().__init__()
        self.visual, self.audio = torch.nn.Conv2d(3, 8, 7, 4), torch.nn.Conv2d(1, 8, 7, 4)

    def loss(self, batch):
        return {"total": micl(similarity(self.visual(batch["frame"]), self.audio(batch["spec"]).amax((2, 3))))}


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_learns_the_same(tmp_path, monkeypatch):
    made, compile_ = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda step: made.append(step) or compile_(step))
    losses = []
    for on in (False, True):
        torch.manual_seed(0)
        losses.append(fit(Small(), clips(), Inputs(56, 8000, AUDIO), PARAMS["train"] | dict(epochs=3, batch=8, compile=on), 0, tmp_path / str(on), "mark", progress=False))
    assert len(made) == 1
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def test_views_are_turned_in_float32_under_bf16():
    """In bf16 the places of a 224-pixel view are off by up to a pixel and a half."""
    frame, turns = torch.rand(4, 3, 224, 224), draw_turns(4)
    views = []
    for half in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            views.append((turn(frame, turns), random_parts(frame)))
    assert all(torch.equal(a, b) for a, b in zip(*views))


@pytest.mark.parametrize("key", PARAMS["methods"])
def test_unknown_settings_are_named(key):
    entry = PARAMS["methods"][key]
    with pytest.raises(ValueError, match=f"method {entry['module']}.*no_such_setting"):
        build_method(entry["module"], dict(entry["hyper"], no_such_setting=1), PARAMS["encoders"])


def test_one_recipe_for_all():
    """recipe: common changes nothing between methods but their own constants."""
    assert PARAMS["recipe"] == "common" and all(m["train"] == {} and m["encoders"] == {} for m in PARAMS["methods"].values())
    base = {k: v for k, v in PARAMS["methods"]["ezvsl"]["hyper"].items()}
    for key, method in PARAMS["methods"].items():
        for name in set(base) & set(method["hyper"]):
            assert method["hyper"][name] == base[name], (key, name)


def test_seeds():
    """Three seeds for the methods of the paper's Table 3, one for the later ones (or as params.yaml says now): the tables must say how many."""
    table = pd.read_csv(ROOT / "reports/default/table3.csv")
    for key, method in PARAMS["methods"].items():
        rows = table[table.Method == method["label"]]
        assert len(rows) == 1 and int(rows.seeds.iloc[0]) == len(method["seeds"]), key
