"""Figures: one style that is readable in print, on a phone, in the dark and by the colour-blind."""

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

# Okabe and Ito's palette: told apart by readers with every common kind of colour blindness.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def style() -> None:
    """Set matplotlib's defaults for every figure of the book."""
    plt.rcParams.update(
        {
            "figure.figsize": (5.2, 3.2),
            "figure.dpi": 144,
            "figure.constrained_layout.use": True,
            "font.size": 11,  # on a phone a figure is some 340 pixels wide
            "axes.prop_cycle": plt.cycler(color=PALETTE),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "legend.frameon": False,
            "image.cmap": "gray",
            "image.interpolation": "nearest",
        }
    )


def tile(images: Float[Tensor, "n c h w"], *, columns: int, pad: int = 1) -> np.ndarray:
    """The pictures as one, row by row, with `pad` white pixels between; shape (H, W, c), values in [0, 1].

    Raises ValueError if there is no picture or no column.
    """
    count, channels, height, width = images.shape
    if count < 1 or columns < 1:
        raise ValueError(f"tile needs pictures and columns, not {count} and {columns}")
    rows = math.ceil(count / columns)
    sheet = np.ones((rows * (height + pad) - pad, columns * (width + pad) - pad, channels), dtype=np.float32)
    for index, image in enumerate(images.detach().cpu().float().clamp(0, 1).permute(0, 2, 3, 1).numpy()):
        row, column = divmod(index, columns)
        top, left = row * (height + pad), column * (width + pad)
        sheet[top : top + height, left : left + width] = image
    return sheet


def image_grid(
    images: Float[Tensor, "n c h w"], *, columns: int, row_labels: Sequence[str] = (), scale: float = 0.5
) -> Figure:
    """A figure of pictures in rows; `scale` is the width of one picture in inches.

    Raises ValueError if the labels are not as many as the rows.
    """
    sheet = tile(images, columns=columns)
    rows = math.ceil(len(images) / columns)
    if row_labels and len(row_labels) != rows:
        raise ValueError(f"{len(row_labels)} labels for {rows} rows of pictures")
    margin = 1.3 if row_labels else 0.0
    fig, axes = plt.subplots(figsize=(columns * scale + margin, rows * scale))
    axes.imshow(sheet.squeeze(-1) if sheet.shape[-1] == 1 else sheet, vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    if row_labels:
        height = images.shape[2] + 1
        axes.set_yticks([height * row + height / 2 - 1 for row in range(rows)], row_labels)
        axes.tick_params(length=0)
    return fig


def spectrogram(
    wave: Float[Tensor, " time"], *, window: int = 256, hop: int = 64
) -> Float[Tensor, "frequencies frames"]:
    """The spectrogram in decibels relative to a full-scale sine; rows go from frequency 0 to half the rate.

    A Hann window of `window` samples moves over the wave in steps of `hop`; values below -90 dB become -90 dB.

    Raises ValueError for a wave shorter than the window.
    """
    import torch

    if len(wave) < window:
        raise ValueError(f"a wave of {len(wave)} samples is shorter than the window, {window}: give a longer one")
    hann = torch.hann_window(window, dtype=wave.dtype)
    size = torch.stft(wave, window, hop, window=hann, center=False, return_complex=True).abs()
    return (20 * (size * 2 / hann.sum()).clamp(min=10**-4.5).log10()).clamp(min=-90)
