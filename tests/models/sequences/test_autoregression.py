"""AR(p): least squares and the Dickey-Fuller statistic as in statsmodels, forecasts as in simulations."""

import math
import warnings
from types import ModuleType

import numpy as np
import pytest
import torch

from gensrc.data.series import air_passengers, sunspots
from gensrc.models.sequences.autoregression import AR, NonStationaryWarning


@pytest.fixture
def library() -> ModuleType:
    return pytest.importorskip("statsmodels.tsa.api", reason="the reference is statsmodels")


def model(*coefficients: float, intercept: float = 0.0, sigma: float = 1.0) -> AR:
    return AR(intercept, torch.tensor(coefficients, dtype=torch.float64), sigma)


def noise(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_fit_equals_statsmodels(order: int, library: ModuleType) -> None:
    values = sunspots().values
    ours, theirs = AR.fit(values, order), library.AutoReg(values.numpy(), order).fit()
    assert [ours.intercept, *ours.coefficients.tolist()] == pytest.approx(theirs.params.tolist(), rel=1e-8)
    # Theirs divide the sum of squares by the number of rows, ours by that less the number of weights.
    rows = len(values) - order
    factor = math.sqrt(rows / (rows - order - 1))
    assert ours.sigma == pytest.approx(math.sqrt(theirs.sigma2) * factor, rel=1e-8)
    assert ours.errors.tolist() == pytest.approx((theirs.bse[1:] * factor).tolist(), rel=1e-6)


@pytest.mark.parametrize("order", [1, 2, 9])
@pytest.mark.filterwarnings("ignore::gensrc.models.sequences.autoregression.NonStationaryWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_unit_root_statistic_is_that_of_dickey_and_fuller(order: int, library: ModuleType) -> None:
    values = sunspots().values
    theirs = library.adfuller(values.numpy(), maxlag=order - 1, autolag=None)
    assert AR.fit(values, order).unit_root == pytest.approx(theirs[0], rel=1e-6)


def test_forecast_equals_statsmodels(library: ModuleType) -> None:
    values = sunspots().values
    ours, theirs = AR.fit(values, 3), library.AutoReg(values.numpy(), 3).fit()
    forecast = ours.forecast(values, 12)
    np.testing.assert_allclose(forecast.mean.numpy(), theirs.forecast(12), rtol=1e-8)
    ratio = forecast.sd.numpy() / theirs.get_prediction(len(values), len(values) + 11).se_mean
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-6)  # sigma is estimated otherwise


def test_the_error_of_a_forecast_is_that_of_simulated_futures() -> None:
    truth = model(1.2, -0.6, intercept=0.5, sigma=2.0)
    long = truth.simulate(200_000, generator=torch.Generator().manual_seed(0))
    starts = long.unfold(0, 6, 6)  # two values to start from, four to forecast
    forecasts = [truth.forecast(start[:2], 4) for start in starts[:3]]
    means = torch.stack([starts[:, 1], starts[:, 0]], 1)
    off = []
    for step in range(4):
        means = torch.cat([(0.5 + means[:, :2] @ truth.coefficients).unsqueeze(1), means], 1)
        off.append(starts[:, 2 + step] - means[:, 0])
    spread = torch.stack(off).std(1)
    torch.testing.assert_close(forecasts[0].mean, means[0, :4].flip(0))
    assert (spread / forecasts[0].sd - 1).abs().max() < 0.02


def test_coefficients_are_found_within_their_standard_errors() -> None:
    truth, chance = model(1.4, -0.7), torch.Generator().manual_seed(0)
    fits = [AR.fit(truth.simulate(300, generator=chance), 2) for _ in range(100)]
    off = torch.stack([(fit.coefficients - truth.coefficients) / fit.errors for fit in fits])
    assert 0.9 < (off.abs() < 1.96).double().mean() < 0.99


def test_log_prob_is_the_normal_density_of_the_error() -> None:
    values, fit = sunspots().values, model(0.5, 0.2, intercept=3.0, sigma=4.0)
    means = 3.0 + 0.5 * values[1:-1] + 0.2 * values[:-2]
    expected = torch.distributions.Normal(means, 4.0).log_prob(values[2:])
    torch.testing.assert_close(fit.predict(values), means)
    torch.testing.assert_close(fit.log_prob(values), expected)


def test_roots_give_modulus_and_period() -> None:
    modulus, period = 0.9, 11.0
    roots = model(2 * modulus * math.cos(2 * math.pi / period), -(modulus**2)).roots
    assert roots.abs().tolist() == pytest.approx([modulus, modulus])
    assert (2 * math.pi / roots[0].angle().abs()).item() == pytest.approx(period)


@pytest.mark.parametrize(
    ("series", "order"), [(noise(500).cumsum(0), 1), (noise(500).cumsum(0), 4), (air_passengers().values.log(), 13)]
)
def test_fit_warns_of_a_random_walk(series: torch.Tensor, order: int) -> None:
    with pytest.warns(NonStationaryWarning, match="may be non-stationary: .* take differences"):
        AR.fit(series, order)


def test_fit_warns_of_a_trend_and_not_of_noise() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AR.fit(noise(500), 3)
        AR.fit(noise(500).cumsum(0).diff(), 1)


@pytest.mark.parametrize(("length", "order"), [(5, 2), (3, 5), (20, 13)])
def test_fit_refuses_a_series_too_short_for_the_order(length: int, order: int) -> None:
    with pytest.raises(ValueError, match=f"{length} values is too short for order {order}, .* or a lower order"):
        AR.fit(noise(length), order)


def test_fit_refuses_gaps_and_an_order_of_zero() -> None:
    values = noise(50)
    with pytest.raises(ValueError, match="order must be at least 1, not 0"):
        AR.fit(values, 0)
    values[3] = float("nan")
    with pytest.raises(ValueError, match="not finite: fill the gaps"):
        AR.fit(values, 2)


def test_predict_and_forecast_refuse_a_series_too_short() -> None:
    with pytest.raises(ValueError, match="1 values are too few to go on by 2"):
        model(0.5, 0.1).forecast(noise(1), 3)
    with pytest.raises(ValueError, match="2 values leave none to predict from 2 before it"):
        model(0.5, 0.1).predict(noise(2))
