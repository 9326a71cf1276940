"""Image grids, the palette and the spectrogram."""

import math

import matplotlib.pyplot as plt
import pytest
import torch

from gensrc import plots


def test_tile_puts_each_picture_in_its_place():
    images = torch.rand(5, 1, 3, 4)
    sheet = plots.tile(images, columns=2)
    assert sheet.shape == (3 * 3 + 2, 2 * 4 + 1, 1)
    for index, (top, left) in enumerate([(0, 0), (0, 5), (4, 0), (4, 5), (8, 0)]):
        assert (sheet[top : top + 3, left : left + 4, 0] == images[index, 0].numpy()).all()
    assert (sheet[8:, 5:] == 1).all(), "an empty place is white"


def test_tile_refuses_no_picture_and_no_column():
    with pytest.raises(ValueError, match="not 1 and 0"):
        plots.tile(torch.zeros(1, 1, 2, 2), columns=0)


def test_image_grid_labels_rows_and_refuses_another_number():
    fig = plots.image_grid(torch.zeros(4, 3, 2, 2), columns=2, row_labels=["a", "b"])
    assert [label.get_text() for label in fig.axes[0].get_yticklabels()] == ["a", "b"]
    plt.close(fig)
    with pytest.raises(ValueError, match="1 labels for 2 rows"):
        plots.image_grid(torch.zeros(4, 1, 2, 2), columns=2, row_labels=["a"])


def test_palette_survives_colour_blindness():
    """Machado et al. (2009), severity 1: every two colours stay apart for deuteranopes and protanopes."""
    deutan = torch.tensor([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
    protan = torch.tensor([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]])
    colours = torch.tensor([plt.matplotlib.colors.to_rgb(colour) for colour in plots.PALETTE])
    linear = ((colours + 0.055) / 1.055).pow(2.4)
    for seen_by in (deutan, protan):
        seen = (linear @ seen_by.T).clamp(0, 1).pow(1 / 2.2)
        apart = torch.cdist(seen, seen) + torch.eye(len(seen))
        assert apart.min() > 0.15


def test_a_spectrogram_has_a_sine_at_its_frequency_with_its_loudness():
    wave = 0.5 * torch.sin(2 * math.pi * 1000 / 8000 * torch.arange(1000))
    found = plots.spectrogram(wave)
    assert found.shape == (129, 12)
    assert (found.argmax(0) == 32).all()  # 1,000 of 4,000 Hz in 128 steps
    torch.testing.assert_close(found.amax(0), torch.full((12,), 20 * math.log10(0.5)), atol=0.01, rtol=0)
    assert (plots.spectrogram(torch.zeros(300)) == -90).all()


def test_a_wave_shorter_than_the_window_has_no_spectrogram():
    with pytest.raises(ValueError, match="a wave of 255 samples is shorter than the window, 256"):
        plots.spectrogram(torch.zeros(255))
