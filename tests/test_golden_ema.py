"The momentum update against the released code's (golden/ema.npz)."

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from slavc.model.momentum import ema_update, make_target

SHARED = Path(__file__).parents[2] / "shared"
PARAMETERS = ["0.weight", "0.bias", "1.weight", "1.bias"]


@pytest.fixture(scope="module")
def golden():
    path = SHARED / "golden" / "ema.npz"
    if not path.is_file():
        pytest.skip("reference material ../shared is absent")
    with np.load(path) as file:
        return {key: file[key] for key in file}


def put(module, values):
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.tensor(values[name]))


@pytest.mark.parametrize("m", [0.9, 0.999])
def test_released_update(golden, m):
    assert m in golden["ms"]
    online = {"net": nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))}
    put(online["net"], {p: golden[f"m{m}__init__{p}"] for p in PARAMETERS})
    target = make_target(online)
    own = dict(target["net"].named_parameters())
    assert list(own) == PARAMETERS
    assert [p.requires_grad for p in own.values()] == golden[
        f"m{m}__requires_grad"
    ].tolist()
    target["net"][1].running_mean.copy_(torch.tensor([1.0, 2, 3]))
    for p in PARAMETERS:
        np.testing.assert_array_equal(own[p], golden[f"m{m}__init__{p}"])
    for step in range(int(golden["steps"])):
        put(online["net"], {p: golden[f"m{m}__online__{p}"][step] for p in PARAMETERS})
        online["net"][1].running_mean.add_(7)  # must not reach the target
        ema_update(online, target, m)
        for p in PARAMETERS:
            np.testing.assert_allclose(
                own[p], golden[f"m{m}__momentum__{p}"][step], rtol=0, atol=1e-6
            )
    np.testing.assert_array_equal(
        target["net"][1].running_mean, golden[f"m{m}__momentum_running_mean_after"]
    )
    printed = {p: golden[f"m{m}__footnote_literal__{p}"][-1] for p in PARAMETERS}
    strayed = max(np.abs(own[p].numpy() - printed[p]).max() for p in PARAMETERS)
    assert strayed > 1e-4, "the footnote as printed is another formula"


def test_mismatch_is_named():
    online = {"net": nn.Linear(2, 3)}
    target = make_target(online)
    with pytest.raises(ValueError, match="momentum m"):
        ema_update(online, target, 1.5)
    with pytest.raises(ValueError, match="differ in number or shape"):
        ema_update({"net": nn.Linear(2, 4)}, target, 0.9)
    with pytest.raises(ValueError, match="differ"):
        ema_update({"other": nn.Linear(2, 3)}, target, 0.9)
