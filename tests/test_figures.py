"""Figures: readable at column width, apart for every kind of colour vision, and drawn whatever a profile has."""

import matplotlib
import numpy as np
import pandas as pd
import pytest

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.colors import to_rgb

from slavc.paper.figures import (
    COLOURS,
    HUES,
    area_figure,
    epoch_figure,
    epochs_table,
    iou_figure,
    loss_figure,
    threshold_figure,
)
from slavc.paper.page import PARTS, index_page, read_costs

LABELS = {"ezvsl": "EZ-VSL", "slavc": "SLAVC"}


def results(seeds, epochs):
    return pd.DataFrame(
        [
            dict(
                method=m,
                seed=s,
                epoch=e,
                final=e == epochs,
                protocol="paper",
                iou=0.5,
                subset="all",
                metric=metric,
                value=10.0 * e + s,
            )
            for m in LABELS
            for s in range(seeds)
            for e in range(1, epochs + 1)
            for metric in ("LocAcc", "AP")
        ]
    )


def curves(seeds):
    return pd.DataFrame(
        [
            dict(
                method=m,
                seed=s,
                protocol="paper",
                curve=c,
                subset=size,
                metric=metric,
                x=x,
                value=0.0 if m == "ogl" else 50 * x,
            )
            for m in ("ceiling", "ogl", *LABELS, "slavc+ogl")
            for s in range(seeds if m not in ("ceiling", "ogl") else 1)
            for c, sizes, metrics in (
                ("area", ("small", "medium", "large", "huge"), ("LocAcc", "AP")),
                ("threshold", ("all",), ("F1",)),
                ("iou", ("all",), ("AP",)),
            )
            for size in sizes
            for metric in metrics
            for x in (0.1, 0.5, 0.9)
        ]
    )


@pytest.mark.parametrize("seeds, epochs", [(1, 1), (1, 3), (3, 6)])
def test_every_figure_of_every_profile(seeds, epochs):
    histories = {
        m: pd.DataFrame(
            dict(
                seed=np.repeat(range(seeds), epochs),
                epoch=list(range(1, epochs + 1)) * seeds,
                loss=np.nan if m == "ezvsl" and epochs == 1 else 2.0,
            )
        )
        for m in LABELS
    }
    table, turned = (
        epochs_table(results(seeds, epochs), histories, "paper"),
        curves(seeds),
    )
    assert len(table) == 2 * seeds * epochs * 3
    own = turned[~turned.method.isin(["ceiling", "slavc+ogl"])]
    made = [
        epoch_figure(table, LABELS, "t"),
        loss_figure(table, LABELS, "t"),
        area_figure(turned, LABELS, "t"),
        threshold_figure(own, LABELS, "t"),
        iou_figure(own, LABELS, "t"),
    ]
    for figure in made:
        figure.canvas.draw()
        assert figure.get_size_inches()[0] == 5.5
        sizes = {
            text.get_fontsize()
            for text in figure.findobj(matplotlib.text.Text)
            if text.get_text().strip() and text.get_visible()
        }
        assert min(sizes) >= 6, sizes
    plt.close("all")


def test_colours_are_apart_for_every_kind_of_colour_vision():
    """Simulated without one kind of cone (Machado et al. 2009, severity 1): no pair of our colours comes near."""
    missing = {
        "protan": [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        "deutan": [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.01182, 0.04294, 0.968881],
        ],
        "tritan": [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.3039],
        ],
    }
    linear = lambda c: np.where(
        np.array(c) <= 0.04045,
        np.array(c) / 12.92,
        ((np.array(c) + 0.055) / 1.055) ** 2.4,
    )
    for colours in (COLOURS, HUES):
        for name, matrix in missing.items():
            seen = [np.array(matrix) @ linear(to_rgb(c)) for c in colours]
            nearest = min(
                np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]
            )
            assert nearest > 0.15, (name, colours, nearest)


def test_the_page_follows_the_paper(tmp_path):
    """Parts stand in the paper's order, and an empty profile gives an empty page rather than an error."""
    titles = [title for title, *_ in PARTS]
    order = [
        "Table 1",
        "Table 2",
        "Table 3",
        "Figure 2",
        "Figure 3",
        "Table 4",
        "Table 5",
    ]
    assert [t.split(":")[0] for t in titles][:7] == order
    page = index_page("t", "", "", tmp_path, read_costs(tmp_path))
    assert "Table" not in page and "Stages" in page
