"""From a checkpoint and a video to a drawn video, by command; errors in one message."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from slavc.cli import app
from slavc.data.media import Media, frame_at, write_video
from slavc.methods import slavc
from slavc.model.checkpoints import save_checkpoint
from slavc.model.encoders import build_trunks
from slavc.train.released import load


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of a small untrained model, a video, one without sound."""
    path = tmp_path_factory.mktemp("localize")
    torch.manual_seed(0)
    model = slavc.build(*build_trunks("narrow", 16, None), dim=16)
    save_checkpoint(
        path / "model.safetensors",
        model.state_dict(),
        dict(
            module="slavc",
            hyper=dict(dim=16),
            encoders=dict(preset="narrow", map_stride=16, frozen_stages=0),
            size=112,
            rate=8000,
            seconds=1.0,
            audio=dict(window=256, hop=250, mean=0.0, std=1.0),
        ),
    )
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 255, (9, 16, 3)), np.ones((10, 10, 1))).astype(
        np.uint8
    )
    write_video(
        path / "film.mp4",
        [np.roll(picture, 4 * k, 1) for k in range(30)],
        10,
        rng.normal(0, 0.1, 24000),
        8000,
    )
    write_video(path / "mute.mp4", [picture] * 10, 10)
    (path / "presence.json").write_text(
        json.dumps(
            {"alpha": None, "confidence": "max", "threshold": {"threshold": 0.0}}
        )
    )
    (path / "none.json").write_text("{}")
    return path


def call(folder, *arguments, ok=True):
    result = CliRunner().invoke(
        app,
        [
            "localize",
            "--checkpoint",
            str(folder / "model.safetensors"),
            *map(str, arguments),
        ],
    )
    assert (result.exit_code == 0) == ok and "Traceback" not in result.output, (
        result.output,
        result.exception,
    )
    return result.output


def test_a_video_comes_out_with_its_maps_and_its_sound(folder):
    said = call(
        folder,
        folder / "film.mp4",
        "--out",
        folder / "drawn.mp4",
        "--presence",
        folder / "presence.json",
        "--fps",
        4,
    )
    assert "12 maps" in said and "visible in 100 %" in said
    table = pd.read_csv(folder / "drawn.csv")
    assert (
        len(table) == 12
        and np.allclose(table.second, np.arange(12) / 4 + 0.125, atol=0.01)
        and table.present.all()
    )
    with Media(folder / "drawn.mp4") as media:
        assert abs(media.end - 3) < 0.3 and media.audio


def test_the_maps_are_the_models(folder):
    """What the table says is what the model says of the same frame and sound, branch by branch."""
    from slavc.localize import maps_at

    model = load(folder / "model.safetensors")
    with Media(folder / "film.mp4") as media:
        together = maps_at(model, media, [0.4, 1.5, 2.6], 1.0, batch=2)
        alone = np.concatenate(
            [maps_at(model, media, [t], 1.0) for t in (0.4, 1.5, 2.6)]
        )
        parts = [
            maps_at(model, media, [1.5], 1.0, branch=branch)
            for branch in ("loc", "avc")
        ]
        frame = torch.from_numpy(frame_at(media, 1.5))
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose((parts[0] + parts[1]) / 2, alone[1:2], atol=1e-5)
    assert frame.shape == (90, 160, 3)


def test_as_much_sound_as_in_training(folder):
    """Without --seconds it is the checkpoint's."""
    for name, more in (
        ("own.mp4", ()),
        ("same.mp4", ("--seconds", 1)),
        ("other.mp4", ("--seconds", 3)),
    ):
        call(folder, folder / "film.mp4", "--out", folder / name, "--fps", 2, *more)
    own, same, other = (
        pd.read_csv(folder / f"{name}.csv").confidence
        for name in ("own", "same", "other")
    )
    assert own.equals(same) and not own.equals(other)


def test_a_threshold_is_of_the_confidence_it_was_tuned_on(folder, tmp_path):
    """The rule comes with the file of `slavc evaluate --presence`; another one, or maps that were mixed, are refused."""
    film = folder / "film.mp4"
    sure = {}
    for rule in ("max", "top_quarter"):
        call(
            folder, film, "--out", tmp_path / f"{rule}.mp4", "--fps", 2, "--rule", rule
        )
        sure[rule] = pd.read_csv(tmp_path / f"{rule}.csv").confidence
    between = (sure["max"].min() + sure["top_quarter"].max()) / 2
    assert sure["top_quarter"].max() < between < sure["max"].min()
    for rule, share in (("max", 100), ("top_quarter", 0)):
        (tmp_path / "p.json").write_text(
            json.dumps(
                {"alpha": None, "confidence": rule, "threshold": {"threshold": between}}
            )
        )
        assert f"visible in {share} %" in call(
            folder,
            film,
            "--out",
            tmp_path / "x.mp4",
            "--fps",
            2,
            "--presence",
            tmp_path / "p.json",
        )
    assert "its threshold is of top_quarter, not of max" in call(
        folder,
        film,
        "--out",
        tmp_path / "y.mp4",
        "--presence",
        tmp_path / "p.json",
        "--rule",
        "max",
        ok=False,
    )
    (tmp_path / "p.json").write_text(
        json.dumps(
            {"alpha": 0.4, "confidence": "max", "threshold": {"threshold": between}}
        )
    )
    assert "evaluate without --alpha" in call(
        folder,
        film,
        "--out",
        tmp_path / "y.mp4",
        "--presence",
        tmp_path / "p.json",
        ok=False,
    )
    assert not (tmp_path / "y.mp4").exists()


def test_a_photograph_is_drawn_upright_whatever_its_format(folder, tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    lying = Image.fromarray(rng.integers(0, 255, (60, 120, 3), np.uint8))
    turn = Image.Exif()
    turn[0x0112] = 6  # the camera was turned: show it a quarter to the right
    for name, how in (
        ("phone.jpg", dict(exif=turn)),
        ("plain.webp", {}),
        ("plain.bmp", {}),
        ("plain.tif", {}),
    ):
        lying.save(tmp_path / name, **how)
        call(
            folder,
            tmp_path / name,
            "--sound",
            folder / "film.mp4",
            "--out",
            tmp_path / "drawn.png",
        )
        assert Image.open(tmp_path / "drawn.png").size == (
            (60, 120) if how else (120, 60)
        ), name


def test_errors_say_what_to_do(folder):
    cases = {
        ("mute.mp4", "x.mp4"): "has no audio track",
        ("nothing.mp4", "x.mp4"): "no such media file",
    }
    for (source, out), words in cases.items():
        assert words in call(folder, folder / source, "--out", folder / out, ok=False)
    film = folder / "film.mp4"
    assert "holds no threshold" in call(
        folder,
        film,
        "--out",
        folder / "x.mp4",
        "--presence",
        folder / "none.json",
        ok=False,
    )
    assert "not both" in call(
        folder,
        film,
        "--out",
        folder / "x.mp4",
        "--presence",
        folder / "presence.json",
        "--threshold",
        1,
        ok=False,
    )
    assert "branch must be" in call(
        folder, film, "--out", folder / "x.mp4", "--branch", "up", ok=False
    )
    assert not (folder / "x.mp4").exists()
    done = CliRunner().invoke(
        app, ["convert", str(folder / "model.safetensors"), str(folder / "model.pth")]
    )
    assert done.exit_code == 1 and "released programs know only" in done.output
