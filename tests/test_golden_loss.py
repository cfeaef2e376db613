"The losses against the released code's values and the paper's equations in float64 (golden/loss.npz)."

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from slavc.model.losses import log_match, micl, similarity, slavc_loss

torch.set_num_threads(1)
SHARED = Path(__file__).parents[2] / "shared"
CASES, NAMES = ["case0", "opposed"], ["img1", "img2", "aud1", "aud2"]


@pytest.fixture(scope="module")
def golden():
    path = SHARED / "golden" / "loss.npz"
    if not path.is_file():
        pytest.skip("reference material ../shared is absent")
    with np.load(path) as file:
        return {key: file[key] for key in file}


def features(golden, case, dtype, suffix=""):
    "The unit-length features of both heads; head 1 is correspondence, head 2 localisation."
    return {n: torch.tensor(golden[f"{case}__{n}{suffix}"], dtype=dtype) for n in NAMES}


def cosines(images, audios, head):
    "Plain inner products: the golden gradients are with respect to features that are already normalised."
    return torch.einsum(
        "idhw,jd->ijhw", images[f"img{head}"], audios[f"aud{head}"]
    ).flatten(2)


def pairs(images, audios):
    return cosines(images, audios, 2), cosines(images, audios, 1)  # (loc, avc)


def loss(golden, case, dtype, target=True, **switches):
    "Our loss on the golden features, and those features (leaves that collect gradients)."
    online = {n: x.requires_grad_() for n, x in features(golden, case, dtype).items()}
    if not target:
        return slavc_loss(
            pairs(online, online), temperature=float(golden["tau"]), **switches
        ), online
    slow = features(golden, case, dtype, "_mom")
    return slavc_loss(
        pairs(slow, online), pairs(online, slow), float(golden["tau"]), **switches
    ), online


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "key, target, switches",
    [
        ("eq5", False, dict(pool="max", contrast="symmetric")),
        ("eq6", True, dict(pool="max", contrast="symmetric")),
        ("eq6_sum", True, dict(pool="sum", contrast="symmetric")),
        ("eq6_max_bothaudio", True, dict(pool="max", contrast="audio")),
        ("eq6_sum_bothaudio", True, dict(pool="sum", contrast="audio")),
    ],
)
def test_per_clip_values(golden, case, key, target, switches):
    "Each clip's loss in float64. The equations' clips are compared one by one, the doubly-audio forms too."
    values, _ = loss(golden, case, torch.float64, target, reduction="none", **switches)
    np.testing.assert_allclose(
        values.detach(), golden[f"{case}__paper64_{key}"], rtol=1e-6
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "dtype, rtol, name",
    [(torch.float64, 1e-6, "authors64"), (torch.float32, 1e-5, "authors32")],
)
def test_released_loss_and_gradients(golden, case, dtype, rtol, name):
    value, online = loss(golden, case, dtype)  # defaults: sum, audio
    np.testing.assert_allclose(value.item(), golden[f"{case}__{name}_loss"], rtol=rtol)
    value.backward()
    for n in NAMES:
        theirs = golden[f"{case}__authors64_grad_{n}"]
        np.testing.assert_allclose(
            online[n].grad, theirs, rtol=0, atol=rtol * np.abs(theirs).max()
        )


@pytest.mark.parametrize("case", CASES)
def test_paper_gradients(golden, case):
    value, online = loss(golden, case, torch.float64, pool="max", contrast="symmetric")
    value.backward()
    for n in NAMES:
        theirs = golden[f"{case}__paper64_eq6_grad_{n}"]
        np.testing.assert_allclose(
            online[n].grad, theirs, rtol=0, atol=1e-6 * np.abs(theirs).max()
        )


@pytest.mark.parametrize("case", CASES)
def test_multiple_instance_loss(golden, case):
    f, tau = features(golden, case, torch.float64), float(golden["tau"])
    for head in (1, 2):
        S = similarity(f[f"img{head}"], f[f"aud{head}"])
        np.testing.assert_allclose(
            micl(S, tau, "none"), golden[f"{case}__paper64_eq1_sub{head}"], rtol=1e-6
        )
    both_ways = micl(similarity(f["img1"], f["aud1"]), tau)
    np.testing.assert_allclose(
        both_ways, golden[f"{case}__ezvsl64_max_xmil_sub1"], rtol=1e-6
    )
    one_way = F.cross_entropy(cosines(f, f, 1).amax(2) / tau, torch.arange(8))
    np.testing.assert_allclose(
        one_way, golden[f"{case}__slavcfile64_max_xmil_sub1"], rtol=1e-6
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pool", ["sum", "max"])
@pytest.mark.parametrize("contrast", ["audio", "symmetric"])
def test_half_precision_is_finite_and_near(golden, case, dtype, pool, contrast):
    "Features in half precision, through `similarity`: finite values and gradients, near the float64 loss."
    online = {n: x.requires_grad_() for n, x in features(golden, case, dtype).items()}
    slow = features(golden, case, dtype, "_mom")
    both = lambda images, audios: tuple(
        similarity(images[f"img{h}"], audios[f"aud{h}"]) for h in (2, 1)
    )
    value = slavc_loss(
        both(slow, online), both(online, slow), float(golden["tau"]), pool, contrast
    )
    value.backward()
    exact, _ = loss(golden, case, torch.float64, pool=pool, contrast=contrast)
    assert value.isfinite() and all(x.grad.isfinite().all() for x in online.values())
    np.testing.assert_allclose(
        value.item(), exact.item(), rtol=1e-3 if dtype == torch.float16 else 1e-2
    )


def test_logarithms_equal_the_product_form(golden):
    f, tau = features(golden, "case0", torch.float64), float(golden["tau"])
    S_loc, S_avc = pairs(f, f)
    product = (S_loc / tau).softmax(2) * (S_avc / tau).softmax(1)
    np.testing.assert_allclose(
        log_match(S_loc, S_avc, tau, "sum").exp(), product.sum(2), rtol=1e-10
    )
    np.testing.assert_allclose(
        log_match(S_loc, S_avc, tau, "max").exp(), product.amax(2), rtol=1e-10
    )


def test_autocast_does_not_coarsen_the_cosines():
    torch.manual_seed(0)
    V, a = torch.randn(4, 32, 7, 7), torch.randn(4, 32)
    with torch.autocast("cpu", torch.bfloat16):
        S = similarity(V, a)
    assert torch.equal(S, similarity(V, a))


def test_bad_input():
    S = torch.zeros(3, 3, 4)
    with pytest.raises(ValueError, match="batch of 1"):
        slavc_loss((S[:1, :1], S[:1, :1]))
    with pytest.raises(ValueError, match="batch of 1"):
        micl(S[:1, :1])
    with pytest.raises(ValueError, match="as many images as audios"):
        micl(S[:2])
    with pytest.raises(ValueError, match="pool"):
        slavc_loss((S, S), pool="mean")
    with pytest.raises(ValueError, match="contrast"):
        slavc_loss((S, S), contrast="images")
    with pytest.raises(ValueError, match="reduction"):
        micl(S, reduction="sum")
    with pytest.raises(ValueError, match="shapes differ"):
        slavc_loss((S, S[:, :, :2]))
    with pytest.raises(ValueError, match="similarity"):
        similarity(torch.zeros(2, 8, 7, 7), torch.zeros(2, 9))
