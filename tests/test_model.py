"The encoders and the two trained methods: names and shapes of the release, gradients, switches, precision."

import json
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from conftest import alone
from safetensors.torch import save_file
from torch import nn

from slavc.methods import ezvsl, slavc
from slavc.model.encoders import PRESETS, build_trunks, trunk
from slavc.train.released import load, our_name

torch.set_num_threads(1)
SHARED = Path(__file__).parents[2] / "shared"
WIDTHS = (4, 8, 8, 16)  # a trunk that takes a millisecond


def small(method=slavc, **hyper):
    torch.manual_seed(0)
    return method.build(trunk(3, WIDTHS, 16), trunk(1, WIDTHS), **({"dim": 8} | hyper))


def batch(n=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {
        "frame": torch.randn(n, 3, 48, 48, generator=g),
        "spec": torch.randn(n, 1, 33, 40, generator=g),
        "index": torch.arange(n),
    }


# Names: the released state dict


@pytest.fixture(scope="module")
def released():
    path = SHARED / "golden" / "model_statedict.json"
    if not path.is_file():
        pytest.skip("reference material ../shared is absent")
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def full_size():
    return slavc.build(*build_trunks("resnet18", 32, None))


def test_every_released_tensor_has_its_counterpart(released, full_size):
    theirs = {
        our_name(name, "slavc"): (shape, dtype)
        for name, shape, dtype in released["keys"]
    }
    state = full_size.state_dict()
    ours = {
        name: (list(t.shape), str(t.dtype).removeprefix("torch."))
        for name, t in state.items()
    }
    assert len(theirs) == released["n_keys"] == 496
    assert {k: v[0] for k, v in theirs.items()} == {k: v[0] for k, v in ours.items()}
    assert all(
        dtype.removeprefix("torch.") == ours[name][1]
        for name, (_, dtype) in theirs.items()
    )


def load_released_tensors(released, prefix, path):
    g = torch.Generator().manual_seed(0)
    model = {
        prefix + name: torch.rand(shape, generator=g)
        if dtype == "float32"
        else torch.zeros(shape, dtype=torch.int64)
        for name, shape, dtype in released["keys"]
    }
    torch.save(
        {
            "model": model,
            "optimizer": {"state": {}, "param_groups": []},
            "epoch": 20,
            "best_Precision": 0.3,
            "best_AP": 0.3,
            "best_F1": 0.3,
        },
        path,
    )
    state = load(path).state_dict()
    assert len(state) == released["n_keys"] and all(
        torch.equal(state[our_name(name, "slavc")], t) for name, t in model.items()
    )


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_file_with_the_released_tensors_loads(released, prefix, tmp_path):
    assert alone(load_released_tensors, released, prefix, tmp_path / "latest.pth") == 0


def test_the_same_parameters_are_trained(released, full_size):
    trained = {name for name, p in full_size.named_parameters() if p.requires_grad}
    assert trained == {
        our_name(name, "slavc") for name in released["optimizer_param_names_in_order"]
    }
    assert (
        sum(p.numel() for p in full_size.parameters() if p.requires_grad)
        == released["n_trainable"]
    )
    assert sum(p.numel() for p in full_size.parameters()) == released["n_parameters"]


# Encoders


def test_torchvision_weights_load_through_the_front_door(monkeypatch):
    theirs = torchvision.models.resnet18(weights=None).eval()
    monkeypatch.setattr(
        torchvision.models.ResNet18_Weights,
        "get_state_dict",
        lambda self, **_: theirs.state_dict(),
    )
    visual, _ = build_trunks("resnet18", 32, "imagenet")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(
            visual.eval()(x), nn.Sequential(*list(theirs.children())[:-2])(x)
        )


def test_unreachable_weights_say_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def offline(self, **_):
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", offline)
    with pytest.raises(
        FileNotFoundError,
        match=r"cannot fetch .*resnet18.*Put that file at .*checkpoints",
    ):
        build_trunks("resnet18", 32, "imagenet")


@pytest.mark.parametrize(
    "content", [b"", b"no weights at all", b"PK\x03\x04 half an archive"]
)
def test_damaged_download_is_named(monkeypatch, tmp_path, content):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    name = Path(torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url).name
    (tmp_path / "checkpoints" / name).write_bytes(content)
    with pytest.raises(ValueError, match="is damaged .* delete it"):
        build_trunks("resnet18", 32, "imagenet")


def test_bad_encoder_settings(tmp_path):
    with pytest.raises(ValueError, match="preset 'wide' is unknown"):
        build_trunks("wide")
    with pytest.raises(ValueError, match="map_stride"):
        trunk(3, WIDTHS, 4)
    with pytest.raises(ValueError, match="widths"):
        trunk(3, (1, 2, 3))
    with pytest.raises(
        ValueError, match="fits presets 'resnet18' and 'efficientnet_lite0'"
    ):
        build_trunks("narrow", 16, "imagenet")
    with pytest.raises(FileNotFoundError, match="run the `encode` stage"):
        build_trunks("narrow", 16, tmp_path / "none.safetensors")
    weights = trunk(3, PRESETS["narrow"]).state_dict()
    save_file(weights, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    for size in (0, 5, 100, len(whole) - 7):
        (tmp_path / "cut.safetensors").write_bytes(whole[:size])
        with pytest.raises(ValueError, match="not a readable safetensors file"):
            build_trunks("narrow", 16, tmp_path / "cut.safetensors")
    del weights["conv1.weight"]
    save_file(weights | {"head.weight": torch.zeros(2)}, tmp_path / "part.safetensors")
    with pytest.raises(
        ValueError, match="missing conv1.weight; unknown head.weight; 2 in all"
    ):
        build_trunks("narrow", 16, tmp_path / "part.safetensors")


@pytest.mark.parametrize(
    "preset, size, stride", [("resnet18", 224, 32), ("narrow", 112, 16)]
)
def test_presets_give_7x7(preset, size, stride):
    visual = trunk(3, PRESETS[preset], stride).eval()
    with torch.no_grad():
        assert visual(torch.zeros(1, 3, size, size)).shape == (1, visual.channels, 7, 7)


# Gradients, targets, order


@pytest.mark.parametrize("method", [slavc, ezvsl])
def test_gradients_reach_the_online_side_only(method):
    model = small(method)
    model.loss(batch())["total"].backward()
    for name, p in model.named_parameters():
        if name.startswith("target."):
            assert p.grad is None and not p.requires_grad, name
        else:
            assert p.grad is not None and p.grad.isfinite().all() and p.grad.any(), name


def train(model, steps=3):
    optimiser = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=0.1
    )
    for step in range(steps):
        optimiser.zero_grad()
        model.loss(batch(seed=step))["total"].backward()
        optimiser.step()
        model.after_step()
    return model


@pytest.mark.parametrize("m, same_as", [(1.0, "start"), (0.0, "online")])
def test_limits_of_momentum(m, same_as):
    model = small(momentum=m)
    start = {k: v.clone() for k, v in model.target.named_parameters()}
    train(model)
    online = dict(model.named_parameters())
    for name, p in model.target.named_parameters():
        assert torch.equal(p, start[name] if same_as == "start" else online[name]), name


def test_target_keeps_batch_norm_statistics_of_its_own():
    model = train(small(momentum=1.0))
    ours, theirs = model.visual.layer4[1].bn1, model.target["visual"].layer4[1].bn1
    assert (
        ours.num_batches_tracked == theirs.num_batches_tracked == 3
    )  # train mode: it counts
    assert not torch.equal(
        ours.running_mean, theirs.running_mean
    )  # seen through its own weights
    kept = theirs.running_mean.clone()
    model.momentum = 0.0
    model.after_step()
    assert torch.equal(ours.weight, theirs.weight) and torch.equal(
        theirs.running_mean, kept
    )
    assert not model.eval().target.training and model.train().target.training


def test_first_target_pass_sees_the_initial_weights_then_the_average():
    "The release updates inside forward; with `after_step` the target passes see the same weights."
    model = small(momentum=0.5)
    weights, inside = [model.loc.audio.weight.detach().clone()], []
    head = model.target["loc"].audio
    head.register_forward_hook(lambda *_: inside.append(head.weight.clone()))
    optimiser = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=0.1
    )
    released = weights[0].clone()
    for step in range(3):
        released = (
            0.5 * released + 0.5 * model.loc.audio.weight.detach()
        )  # theirs: before the target pass
        optimiser.zero_grad()
        model.loss(batch(seed=step))["total"].backward()
        torch.testing.assert_close(inside[-1], released)
        optimiser.step()
        model.after_step()


def masks(model):
    "What reaches the four visual projections in one loss: which elements were dropped."
    seen = {}
    for side, nets in (("online", model._online()), ("target", model.target)):
        for space in ("loc", "avc"):
            nets[space].visual.register_forward_pre_hook(
                lambda _, args, key=(side, space): seen.__setitem__(key, args[0] == 0)
            )
    model.loss(batch())
    return seen


def test_one_dropout_mask_for_both_spaces_and_another_for_the_target():
    seen = masks(small(visual_dropout=0.9))
    for side in ("online", "target"):
        assert (
            torch.equal(seen[side, "loc"], seen[side, "avc"])
            and seen[side, "loc"].float().mean() > 0.85
        )
    assert not torch.equal(seen["online", "loc"], seen["target", "loc"])
    kept = ~seen["online", "loc"]
    assert (
        kept.any(1).float().mean() > kept.float().mean() * 2
    )  # elements, not channels
    seen = masks(small(visual_dropout=0.9, target_dropout=False))
    assert (
        seen["online", "loc"].float().mean()
        > 0.85
        > seen["target", "loc"].float().mean()
    )


def test_evaluation_has_no_dropout_and_is_repeatable():
    model = small().eval()
    b = batch()
    with torch.no_grad():
        assert torch.equal(model.loss(b)["total"], model.loss(b)["total"])
    assert torch.equal(
        model.localize(b["frame"], b["spec"]), model.localize(b["frame"], b["spec"])
    )


# Switches of inference


@pytest.mark.parametrize("encoder", ["momentum", "online"])
@pytest.mark.parametrize("branch", ["both", "loc", "avc"])
def test_only_what_is_in_use_runs(encoder, branch):
    model, ran = train(small()).eval(), set()
    for side, nets in (("online", model._online()), ("momentum", model.target)):
        for name in ("visual", "audio"):
            nets[name].register_forward_hook(lambda *_, key=(side, name): ran.add(key))
        for space in ("loc", "avc"):
            nets[space].visual.register_forward_hook(
                lambda *_, key=(side, space): ran.add(key)
            )
    b = batch()
    maps = model.localize(b["frame"], b["spec"], branch=branch, encoder=encoder)
    spaces = ("loc", "avc") if branch == "both" else (branch,)
    assert ran == {(encoder, name) for name in ("visual", "audio", *spaces)}
    assert (
        maps.shape == (4, 3, 3)
        and not maps.requires_grad
        and maps.abs().max() <= 1 + 1e-6
    )


def test_map_is_the_mean_cosine_of_eq_7():
    model, b = train(small(momentum=0.5)).eval(), batch()
    maps = {
        k: model.localize(b["frame"], b["spec"], branch=k)
        for k in ("both", "loc", "avc")
    }
    np.testing.assert_allclose(maps["both"], (maps["loc"] + maps["avc"]) / 2, atol=1e-6)
    V, a = (
        model.target["visual"](b["frame"]),
        model.target["audio"](b["spec"]).amax((2, 3)),
    )
    v, a = model.target["loc"].visual(V)[1, :, 2, 0], model.target["loc"].audio(a)[1]
    np.testing.assert_allclose(
        maps["loc"][1, 2, 0], torch.cosine_similarity(v, a, dim=0), atol=1e-6
    )
    assert not torch.allclose(
        maps["both"], model.localize(b["frame"], b["spec"], encoder="online")
    )
    one = model.localize(b["frame"][2:3], b["spec"][2:3])  # clips do not see each other
    np.testing.assert_allclose(one[0], maps["both"][2], atol=1e-5)


def test_without_targets():
    model = small(momentum=None)
    assert not any(name.startswith("target") for name in model.state_dict())
    train(model).eval()
    b = batch()
    maps = model.localize(b["frame"], b["spec"])
    assert torch.equal(maps, model.localize(b["frame"], b["spec"], encoder="online"))
    with pytest.raises(ValueError, match="encoder"):
        model.localize(b["frame"], b["spec"], encoder="momentum")


# Precision and bad input


@pytest.mark.parametrize("method", [slavc, ezvsl])
def test_half_precision_training_is_finite(method):
    model = small(method).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        total = model.loss(batch())["total"]
    total.backward()
    assert total.dtype == torch.float32 and total.isfinite()
    assert all(
        p.grad.isfinite().all() for p in model.parameters() if p.grad is not None
    )
    model.eval()
    with torch.autocast("cpu", torch.bfloat16):
        maps = model.localize(batch()["frame"], batch()["spec"])
    assert maps.dtype == torch.float32 and maps.isfinite().all()


@pytest.mark.parametrize("method", [slavc, ezvsl])
def test_bad_use(method):
    model = small(method)
    with pytest.raises(ValueError, match="batch of 1"):
        model.loss(batch(1))
    with pytest.raises(RuntimeError, match=r"\.eval\(\)"):
        model.localize(batch()["frame"], batch()["spec"])
    with pytest.raises(ValueError, match="visual_dropout"):
        small(method, visual_dropout=1.0)
    with pytest.raises(TypeError, match="temprature"):
        small(method, temprature=0.1)


def test_bad_switches():
    for wrong in (
        dict(momentum=1.1),
        dict(pool="mean"),
        dict(contrast="both"),
        dict(audio_dropout=-0.1),
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            small(**wrong)
    model, b = small().eval(), batch()
    for wrong in (dict(branch="joint"), dict(encoder="ema")):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            model.localize(b["frame"], b["spec"], **wrong)
