"""The log-spectrogram against the released code's (../shared/golden) and against SciPy at other settings."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch

from slavc.data.audio import (
    log_density,
    log_spectrogram,
    middle,
    power_density,
    read_wave,
    resample,
    time_steps,
)

torch.set_num_threads(1)
SHARED = Path(__file__).parents[2] / "shared"
SECONDS = {"3s": 3.0, "short": 1.2, "10s": 10.0}
CASES = [("spectrogram", c) for c in SECONDS] + [
    ("spectrogram_16k", c) for c in ("3s", "short")
]


def golden(name):
    if not (SHARED / "golden").is_dir():
        pytest.skip("reference material ../shared is absent")
    return np.load(SHARED / "golden" / f"{name}.npz")


def signal(rate, seconds, seed):
    """The rule of golden/README.md: int16 samples."""
    n = round(rate * seconds)
    t = np.arange(n) / rate
    x = (
        0.30 * np.sin(2 * np.pi * 220 * t)
        + 0.20 * np.sin(2 * np.pi * 997 * t + 0.3)
        + 0.15 * np.sin(2 * np.pi * 3100 * t) * np.sin(2 * np.pi * 0.7 * t)
        + 0.10 * np.sin(2 * np.pi * 6500 * t + 1.1)
        + 0.02 * np.random.RandomState(seed).uniform(-1, 1, n)
    )
    return np.rint(32767 * x).astype("<i2")


@pytest.mark.parametrize("file, case", CASES)
def test_released_spectrogram(file, case, tmp_path):
    data = golden(file)
    rate, seed = int(data["sr"]), int(data["seed"])
    samples = signal(rate, SECONDS[case], seed)
    assert len(samples) == data[f"n_samples_{case}"]
    np.testing.assert_array_equal(samples[:16], data[f"first16_{case}"])
    assert hashlib.sha256(samples.tobytes()).hexdigest() == str(data[f"sha256_{case}"])

    soundfile.write(tmp_path / "clip.wav", samples, rate, subtype="PCM_16")
    waveform, found = read_wave(tmp_path / "clip.wav")
    assert found == rate and waveform.dtype == np.float32
    cut = torch.tensor(middle(waveform, rate))[None]
    spec = data[f"spec_{case}"]
    assert spec.shape == (257, time_steps(3 * rate))
    np.testing.assert_allclose(
        log_density(cut.double(), rate=rate)[0], spec, rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(log_density(cut, rate=rate)[0], spec, rtol=0, atol=1e-3)
    np.testing.assert_allclose(
        log_spectrogram(cut.double(), rate=rate)[0, 0] * 12, spec, rtol=0, atol=1e-5
    )
    ours = log_density(cut.double(), rate=rate)[0].numpy()
    stats = [ours.min(), ours.max(), ours.mean(), ours.std()]
    np.testing.assert_allclose(stats, data[f"spec_{case}_stats"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "window, hop, rate",
    [
        (512, 238, 22050),
        (256, 238, 11025),
        (64, 10, 8000),
        (63, 63, 8000),
        (30, 7, 1),
        (2, 1, 4),
        (7, 20, 100),
    ],
)
def test_scipy(window, hop, rate):
    rng = np.random.default_rng(window)
    x = rng.normal(size=(3, 1500)) * 0.3 + 0.1
    ours = power_density(torch.tensor(x), window, hop, rate).numpy()
    # SciPy knows no negative overlap: when the hop exceeds the window, take the windows one by one
    starts = range(0, x.shape[1] - window + 1, hop)
    pieces = [x[:, s : s + window] for s in starts]
    theirs = [
        scipy.signal.spectrogram(p, rate, nperseg=window, noverlap=0)[2] for p in pieces
    ]
    theirs = np.concatenate(theirs, axis=-1)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-15)
    assert ours.shape[2] == time_steps(x.shape[1], window, hop)
    if hop <= window:
        whole = scipy.signal.spectrogram(
            x, rate, nperseg=window, noverlap=window - hop
        )[2]
        np.testing.assert_allclose(ours, whole, rtol=1e-9, atol=1e-15)
    single = log_spectrogram(torch.tensor(x, dtype=torch.float32), window, hop, rate)[
        :, 0
    ]
    np.testing.assert_allclose(
        single, np.log(theirs + 1e-7) / 12, rtol=0, atol=1e-3 / 12
    )


def test_batch_is_its_clips():
    x = torch.randn(5, 4000, generator=torch.Generator().manual_seed(1))
    one_by_one = torch.cat([log_spectrogram(row[None]) for row in x])
    torch.testing.assert_close(log_spectrogram(x), one_by_one, rtol=0, atol=1e-6)
    assert log_spectrogram(x).is_contiguous()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda():
    x = torch.randn(4, 66150, generator=torch.Generator().manual_seed(1)) * 0.1
    torch.testing.assert_close(
        log_spectrogram(x.cuda()).cpu(), log_spectrogram(x), rtol=0, atol=1e-3 / 12
    )
    x = x.double()
    torch.testing.assert_close(
        log_density(x.cuda()).cpu(), log_density(x), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize(
    "bad",
    [
        torch.zeros(100),
        torch.zeros(2, 1, 600),
        torch.zeros(2, 511),
        torch.zeros(2, 600, dtype=torch.int16),
        torch.zeros(2, 600).half(),
    ],
)
def test_bad_waveforms(bad):
    with pytest.raises(ValueError, match="window|float32"):
        log_spectrogram(bad)


def test_middle_and_resample():
    assert (
        middle(np.arange(66151), 22050)[0] == 0
        and middle(np.arange(66152), 22050)[0] == 1
    )
    assert len(middle(np.zeros(1), 22050)) == 66150
    for bad in (np.zeros(0), np.zeros((2, 5))):
        with pytest.raises(ValueError, match="middle"):
            middle(bad, 10)
    with pytest.raises(ValueError, match="middle"):
        middle(np.zeros(5), 10, seconds=0)
    for rate, to in [(0, 22050), (22050, -1), (22050.5, 22050), (44101, 22050)]:
        with pytest.raises(ValueError, match="resample"):
            resample(np.zeros(5, np.float32), rate, to)
    for rate in (8000, 11025, 16000, 32000, 44100, 48000, 96000):
        x = np.zeros(3 * rate, np.float32)
        assert (
            resample(x, rate, 22050).shape
            == resample(torch.tensor(x), rate, 22050).shape
            == (66150,)
        )
    same = np.ones(4, np.float32)
    assert resample(same, 22050, 22050) is same


@pytest.mark.parametrize(
    "suffix, subtype",
    [
        (".wav", "PCM_16"),
        (".wav", "PCM_24"),
        (".wav", "FLOAT"),
        (".wav", "PCM_U8"),
        (".flac", "PCM_16"),
        (".ogg", "VORBIS"),
    ],
)
def test_formats(tmp_path, suffix, subtype):
    x = np.sin(np.arange(8000) / 20).astype(np.float32) * 0.5
    path = tmp_path / f"clip{suffix}"
    soundfile.write(path, np.stack([x, 0 * x], axis=1), 8000, subtype=subtype)
    waveform, rate = read_wave(path)
    assert rate == 8000 and waveform.shape == (8000,) and waveform.dtype == np.float32
    np.testing.assert_allclose(
        waveform, x / 2, atol={"VORBIS": 0.05, "PCM_U8": 0.01}.get(subtype, 5e-5)
    )


def test_scaling_and_clipping(tmp_path):
    soundfile.write(
        tmp_path / "a.wav",
        np.array([32767, -32768, 1], np.int16),
        8000,
        subtype="PCM_16",
    )
    np.testing.assert_array_equal(
        read_wave(tmp_path / "a.wav")[0], np.float32([1, -1, 1 / 32767])
    )
    soundfile.write(
        tmp_path / "b.wav", np.array([3.0, -2.0, 0.5]), 8000, subtype="FLOAT"
    )
    np.testing.assert_array_equal(
        read_wave(tmp_path / "b.wav")[0], np.float32([1, -1, 0.5])
    )


def test_a_streamed_header_is_no_cut(tmp_path):
    path = tmp_path / "piped.wav"
    soundfile.write(path, np.zeros(500), 8000, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    start = data.index(b"data") + 4
    data[4:8] = data[start : start + 4] = b"\xff\xff\xff\xff"  # as written to a pipe
    path.write_bytes(bytes(data))
    assert len(read_wave(path)[0]) == 500


def test_fuzz_never_leaks_a_library_error(tmp_path):
    """Cut or damaged files give samples or a ValueError that names the file, nothing else."""
    rng = np.random.default_rng(0)
    for suffix in (".wav", ".flac", ".ogg"):
        soundfile.write(tmp_path / f"good{suffix}", rng.normal(size=3000) * 0.1, 8000)
        good = (tmp_path / f"good{suffix}").read_bytes()
        for trial in range(40):
            data = bytearray(good[: rng.integers(0, len(good))] if trial % 2 else good)
            for _ in range(0 if trial % 4 == 1 else 4):
                if data:
                    data[rng.integers(len(data))] = rng.integers(256)
            path = tmp_path / f"bad{suffix}"
            path.write_bytes(bytes(data))
            try:
                waveform, _ = read_wave(path)
                assert (
                    np.isfinite(waveform).all()
                    and len(waveform)
                    and np.abs(waveform).max() <= 1
                )
            except ValueError as error:
                assert str(path) in str(error)
