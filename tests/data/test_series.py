"""The series are the textbooks' and the photographs scikit-learn's."""

import hashlib
from collections.abc import Callable

import pytest
import torch

from gensrc.data.photographs import photographs
from gensrc.data.series import Series, air_passengers, sunspots


def test_sunspots_are_the_yearly_means_from_1700_to_2008() -> None:
    found = sunspots()
    assert len(found) == len(found.values) == len(found.times) == 309
    assert found.values.dtype == torch.float64
    assert (found.times[0], found.times[-1]) == (1700, 2008)
    assert found.values.mean().item() == pytest.approx(49.752104, abs=1e-6)
    assert (found.values.min(), found.values.max()) == (0, 190.2)
    assert found.times[found.values.argmax()] == 1957
    assert found.unit == "sunspot number"


def test_sunspots_are_those_of_statsmodels() -> None:
    statsmodels = pytest.importorskip("statsmodels.datasets", reason="statsmodels has them too")
    table = statsmodels.sunspots.load_pandas().data
    assert sunspots().values.tolist() == table["SUNACTIVITY"].tolist()
    assert sunspots().times.tolist() == table["YEAR"].tolist()


def test_sunspots_come_and_go_in_eleven_years() -> None:
    values = sunspots().values - sunspots().values.mean()
    power = torch.fft.rfft(values).abs().square()
    assert 309 / int(power[1:].argmax() + 1) == pytest.approx(11, abs=0.3)


def test_passengers_are_the_monthly_totals_from_1949_to_1960() -> None:
    found = air_passengers()
    assert len(found) == 144
    assert found.values.sum() == 40363  # as in the textbooks: a mean of 280.2986
    assert (found.values.min(), found.values.max()) == (104, 622)
    assert found.values.view(12, 12).sum(1).tolist() == [
        1520, 1676, 2042, 2364, 2700, 2867, 3408, 3939, 4421, 4572, 5140, 5714,
    ]  # fmt: skip
    assert found.times[0] == 1949
    assert found.times[-1].item() == pytest.approx(1960 + 11 / 12)
    assert (found.values.view(12, 12).argmax(1) >= 6).all()  # July or August


@pytest.mark.parametrize(("series", "digest"), [(sunspots, "858dafd9a1cc4670"), (air_passengers, "2d582ad499623b9c")])
def test_no_number_changes_by_accident(series: Callable[[], Series], digest: str) -> None:
    written = " ".join(f"{value:g}" for value in series().values.tolist())
    assert hashlib.sha256(written.encode()).hexdigest().startswith(digest)


def test_photographs_are_a_temple_and_a_dahlia_with_their_attribution() -> None:
    found = photographs()
    assert found.names == ("china", "flower")
    assert len(found) == 2
    assert found.images.shape == (2, 3, 427, 640)
    assert found.images.dtype == torch.float32
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    sky, dahlia = found.images[0, :, 20, 300], found.images[1, :, 200, 300]
    assert sky[2] > sky[0] > 0.7  # bright and bluish
    assert dahlia[0] > 1.5 * dahlia[2]  # orange
    assert all("CC BY 2.0" in attribution for attribution in found.attributions)
    assert torch.equal(photographs(dtype=torch.uint8).images / 255, found.images)


def test_another_dtype_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"torch\.float32 or torch\.uint8, not torch\.float16"):
        photographs(dtype=torch.float16)
