"The controls' known numbers on VGG-SS, and the released fusion (golden/evaluator.npz)."

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from slavc.model.ogl import OGL, measure_upper
from slavc.score.controls import (
    AcceptAll,
    CenterPrior,
    PresenceOracle,
    RandomMap,
    WholeImage,
)
from slavc.score.fusion import fuse

torch.set_num_threads(1)
SHARED = Path(__file__).parents[2] / "shared"
FRAME, SPEC = torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8)


def half_mask(raw):
    "The released mask: upsampled to 224, every pixel at or above the sorted map's middle entry."
    full = F.interpolate(raw[:, None], (224, 224), mode="bicubic", align_corners=True)[
        0, 0
    ]
    return (full >= full.flatten().sort().values[224 * 224 // 2]).numpy()


@pytest.fixture(scope="module")
def vggss():
    "Ground-truth masks of VGG-SS on the 224 grid: union of clipped, truncated boxes."
    path = SHARED / "metadata" / "vggss.json"
    if not path.is_file():
        pytest.skip("reference material ../shared is absent")
    clips = json.loads(path.read_text())
    truth = np.zeros((len(clips), 224, 224), bool)
    for mask, clip in zip(truth, clips):
        for box in clip["bbox"]:
            x0, y0, x1, y1 = (224 * np.clip(box, 0, 1)).astype(int)
            mask[y0:y1, x0:x1] = True
    return truth.reshape(len(clips), -1)


@pytest.mark.parametrize(
    "control, pixels, hits, percent",
    [
        (CenterPrior(), 25089, 1762, 34.16),  # the paper's row, exactly
        (WholeImage(), 224 * 224, 1132, 21.95),
    ],
)
def test_localisation_on_vggss(vggss, control, pixels, hits, percent):
    mask = half_mask(control.localize(FRAME, SPEC)).ravel()
    assert mask.sum() == pixels
    inside = np.array([np.count_nonzero(truth & mask) for truth in vggss])
    iou = inside / np.array([np.count_nonzero(truth | mask) for truth in vggss])
    assert (iou >= 0.5).sum() == hits
    assert round(100 * hits / len(vggss), 2) == percent


def test_accepting_or_knowing_presence_moves_no_mask():
    mask = half_mask(CenterPrior().localize(FRAME, SPEC))
    assert (half_mask(AcceptAll().localize(FRAME, SPEC)) == mask).all()
    for present in (True, False):
        assert (
            half_mask(PresenceOracle().localize(FRAME, SPEC, [present])) == mask
        ).all()


def test_presence_oracle_separates_whatever_the_method():
    g = torch.Generator().manual_seed(0)
    frame, spec = (
        torch.randn(64, 3, 8, 8, generator=g),
        torch.randn(64, 1, 8, 8, generator=g),
    )
    present = torch.arange(64) % 2 == 0
    for method in (None, RandomMap()):
        maps = PresenceOracle(method).localize(frame, spec, present)
        confidence = maps.flatten(1).amax(1)
        assert confidence[present].min() > confidence[~present].max()
    with pytest.raises(ValueError, match="present"):
        PresenceOracle().localize(frame, spec, present[:3])


@pytest.mark.parametrize("alpha", [0.4, 0.9])
def test_fusion_is_the_released_one(alpha):
    "Mixing small maps by static ranges, then upsampling, equals their mix of upsampled scores."
    path = SHARED / "golden" / "evaluator.npz"
    if not path.is_file():
        pytest.skip("reference material ../shared is absent")
    with np.load(path) as golden:
        bound = 1 / float(golden["tau"])
        av, obj = torch.tensor(golden["raw_av"]), torch.tensor(golden["raw_obj"])
        maps, span = fuse(av, (-bound, bound), obj, (0, 2.5), alpha)
        name = f"avobj_{alpha}"
        expected = {
            k: golden[f"{k}__{name}"]
            for k in ("conf", "score_min", "score_max", "score_mean")
        }
    full = F.interpolate(maps[:, None], (224, 224), mode="bicubic", align_corners=True)
    full = full.flatten(1).sort().values
    assert span == (0, 1)
    np.testing.assert_allclose(
        full[:, -224 * 56 :].mean(1), expected["conf"], rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(full[:, 0], expected["score_min"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(full[:, -1], expected["score_max"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(full.mean(1), expected["score_mean"], rtol=0, atol=1e-5)


def test_fusion_takes_arrays_and_tensors():
    av, obj = np.random.default_rng(0).uniform(-1, 1, (2, 3, 7, 7))
    ours, _ = fuse(torch.tensor(av), (-1, 1), torch.tensor(obj), (0, 2.5))
    np.testing.assert_allclose(ours, fuse(av, (-1, 1), obj, (0, 2.5))[0])


def test_ogl_needs_a_bound():
    with pytest.raises(ValueError, match="upper"):
        OGL(torch.nn.Identity(), upper=0)
    assert (
        measure_upper(
            torch.nn.Identity(),
            [torch.full((1, 3, 2, 2), -4.0), torch.ones(1, 3, 2, 2)],
        )
        == 4
    )
