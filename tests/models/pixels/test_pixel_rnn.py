"""PixelRNN: skewing, slow references, receptive fields, caches; test_base.py has what all pixel models share."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from gensrc.models.pixels.pixel_rnn import DiagonalBiLSTM, PixelRNN, RowLSTM, cell, skew, unskew
from gensrc.models.pixels.pixelcnn import receptive_field
from tests.models.pixels.test_base import FAMILIES, generator, pictures, small

LAYERS = ("row", "diagonal")

# --- Who sees whom --------------------------------------------------------------------------------


@pytest.mark.parametrize(("layers", "first"), [(1, 3), (2, 3), (1, 7), (3, 5)])
def test_receptive_field_of_a_row_lstm_is_a_triangle(layers, first):
    """Of the row d above: to the right a column more with each row, to the left one more with each layer besides."""
    torch.manual_seed(0)
    model = PixelRNN(layer="row", width=16, num_layers=layers, first_kernel=first)
    field = receptive_field(model, (1, 17, 17), 10, 8)[0] > 0
    reach, expected = first // 2, torch.zeros(17, 17, dtype=torch.bool)
    for up in range(11):
        right = up - 1 + reach if up else -1
        expected[10 - up, max(0, 8 - up - layers - reach) : max(0, 8 + right + 1)] = True
    assert torch.equal(field, expected)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("first", [3, 7])
def test_receptive_field_of_a_diagonal_bilstm_lacks_only_the_end_of_the_row_above(layers, first):
    """Only the first kernel reaches the last pixel of the row above: states of that row know what is before it."""
    torch.manual_seed(0)
    model = PixelRNN(layer="diagonal", width=16, num_layers=layers, first_kernel=first)
    for row, column in ((6, 4), (8, 0), (6, 12 - first // 2)):
        field = receptive_field(model, (1, 13, 13), row, column)[0].flatten() > 0
        before = torch.arange(169) < row * 13 + column
        before[row * 13 - 1] = column + first // 2 >= 12
        assert torch.equal(field, before)


# --- Against slow references ----------------------------------------------------------------------


def lstm_step(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    i, forget, o, g = gates.chunk(4)
    c = torch.sigmoid(forget) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def written_out(layer: RowLSTM | DiagonalBiLSTM, x: Tensor) -> Tensor:
    """The states of one picture, pixel by pixel, with the weights of `layer`."""
    _, height, width = x.shape
    f, zeros = layer.width, torch.zeros(layer.width)
    inputs = layer.inputs(x[None])[0].unflatten(0, (-1, 4 * f))

    def row_lstm() -> Tensor:
        h, c = ({} for _ in range(2))
        for row, column in itertools.product(range(height), range(width)):
            gates = inputs[0, :, row, column].clone()
            for k in range(-layer.margin, layer.margin + 1):
                part = layer.weight[0][:, (k + layer.margin) * f : (k + layer.margin + 1) * f]
                gates += part @ h.get((row - 1, column + k), zeros)
            h[row, column], c[row, column] = lstm_step(gates, c.get((row - 1, column), zeros))
        return torch.stack([h[p] for p in itertools.product(range(height), range(width))], 1)

    def from_side(side: int, step: int) -> dict[tuple[int, int], Tensor]:
        h, c = ({} for _ in range(2))
        for row, column in itertools.product(range(height), range(width)[::step]):
            weight, beside = layer.weight[side], (row, column - step)
            around = torch.cat([h.get((row - 1, column), zeros), h.get(beside, zeros)])
            gates = inputs[side, :, row, column] + weight @ around
            h[row, column], c[row, column] = lstm_step(gates, c.get(beside, zeros))
        return h

    if isinstance(layer, RowLSTM):
        return row_lstm().view(f, height, width)
    left, right = from_side(0, 1), from_side(1, -1)
    places = itertools.product(range(height), range(width))
    sums = [left[row, column] + right.get((row - 1, column), zeros) for row, column in places]
    return torch.stack(sums, 1).view(f, height, width)


@pytest.mark.parametrize("layer", [RowLSTM(3, 3, 1), RowLSTM(3, 5, 3), DiagonalBiLSTM(3, 1), DiagonalBiLSTM(3, 3)])
def test_a_layer_equals_its_definition_pixel_by_pixel(layer):
    x = torch.randn(2, 6, 4, 5, generator=generator())
    with torch.no_grad():
        expected = torch.stack([written_out(layer, each) for each in x])
        torch.testing.assert_close(layer(x), expected)


def test_lstm_cell_equals_torchs():
    torch_s, given, state = nn.LSTMCell(4, 3), torch.randn(5, 4), torch.randn(2, 5, 3)
    i, forget, g, o = (given @ torch_s.weight_ih.T + torch_s.bias_ih + torch_s.bias_hh).chunk(4, 1)
    ih, fh, gh, oh = (state[0] @ torch_s.weight_hh.T).chunk(4, 1)
    gates = torch.cat([i + ih, forget + fh, o + oh, g + gh], 1)
    h, c = cell(gates.mT[None], state[1].mT[None])
    for ours, theirs in zip((h, c), torch_s(given, tuple(state)), strict=True):
        torch.testing.assert_close(ours[0].mT, theirs)


@pytest.mark.parametrize(("height", "width"), [(4, 5), (5, 4), (1, 3), (3, 1), (28, 28)])
def test_skew_shifts_each_row_by_its_index_and_unskew_inverts_it(height, width):
    x = torch.randn(2, 3, height, width, generator=generator())
    skewed = skew(x)
    assert skewed.shape == (2, 3, height, width + height - 1)
    for row in range(height):
        assert torch.equal(skewed[:, :, row, row : row + width], x[:, :, row])
    assert skewed.abs().sum().item() == pytest.approx(x.abs().sum().item())  # zeros elsewhere
    assert torch.equal(unskew(skewed), x)


# --- Samples --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("about", FAMILIES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [0, 4])
def test_cached_steps_equal_the_forward_pass(layer, about, channels, classes):
    model = small(layer, channels=channels, num_classes=classes, **about)
    labels, x = torch.arange(4) if classes else None, pictures(model)
    with torch.no_grad():
        whole, step = model(x, labels), model.cached(x, labels)
        for row, column in itertools.product(range(6), range(5)):
            for _ in range(model.family.colours):  # asking again changes nothing
                torch.testing.assert_close(step(row, column), whole[:, :, row, column], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layer", ["row", "diagonal"])
def test_a_small_step_gains_what_the_slope_of_the_loss_says(layer, gains_what_its_slope_says):
    torch.manual_seed(0)
    model = PixelRNN(layer=layer, width=8, num_layers=1, first_kernel=3, size=(6, 5))
    x = torch.randint(0, 2, (16, 1, 6, 5)).float()
    gains_what_its_slope_says(model.parameters(), lambda: model.loss(x))


# --- Bad input ------------------------------------------------------------------------------------


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="layer must be 'row' or 'diagonal', not 'column'"):
        PixelRNN(layer="column")
    with pytest.raises(ValueError, match="width must be a multiple of 3 and num_layers at least 1, not 8 and 2"):
        PixelRNN(width=8, channels=3)
    with pytest.raises(ValueError, match="width must be a multiple of 1 and num_layers at least 1, not 16 and 0"):
        PixelRNN(num_layers=0)
