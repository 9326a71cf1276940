"""The linear autoregressive model AR(p): a weighted sum of p earlier values and noise.

Yule, On a Method of Investigating Periodicities in Disturbed Series, 1927, is the
source of the model, which he fitted by least squares as is done here; Dickey and
Fuller, Distribution of the Estimators for Autoregressive Time Series with a Unit Root,
JASA 1979, of the unit-root test behind the warning.

Deviation: none. Models with a moving average or differences are those of statsmodels.

Shapes: `time` values of a series, `order` coefficients.
"""

import math
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Complex, Float64
from torch import Tensor

from gensrc.models.checks import check_finite, check_sizes

CRITICAL = -2.86
"""Dickey and Fuller's 5 % critical value of `unit_root`, long series, intercept."""


class NonStationaryWarning(UserWarning):
    """A series that may not be stationary: its mean and variance need not exist."""


class Forecast(NamedTuple):
    """The normal distribution of each of the next values."""

    mean: Float64[Tensor, " steps"]
    sd: Float64[Tensor, " steps"]


@dataclass(frozen=True, eq=False)
class AR:
    """x_t = intercept + sum_i coefficients[i] x_(t-1-i) + sigma noise."""

    intercept: float
    coefficients: Float64[Tensor, " order"]
    sigma: float
    errors: Float64[Tensor, " order"] | None = None
    """Standard errors of the coefficients, if they were estimated."""
    unit_root: float = -math.inf
    """The statistic of Dickey and Fuller, with order - 1 lagged differences: (sum of
    the coefficients - 1) / its standard error. Near 0 it is no evidence against a
    random walk."""

    @classmethod
    def fit(cls, series: Float64[Tensor, " time"], order: int) -> "AR":
        """Least squares, which is maximum likelihood given the first `order` values.

        Warns with NonStationaryWarning if the test does not reject a random walk.
        Raises ValueError for an order below 1, a series too short for it or without
        noise, such as a constant one, and values that are not finite.
        """
        check_sizes(order=order)
        series = _checked(series)
        centre, spread = series.mean(), series.std()
        rows, unknown = len(series) - order, order + 1
        if rows <= unknown:
            raise ValueError(
                f"a series of {len(series)} values is too short for order {order}, "
                f"which needs {2 * order + 2} or more: give more, or a lower order"
            )
        # In standard units, so that neither a high level nor the unit costs digits.
        series = (series - centre) / spread
        before = torch.cat([series.new_ones(rows, 1), _before(series, order)], dim=1)
        _check_rank(before)
        now = series[order:]
        weights = torch.linalg.lstsq(before, now).solution
        variance = (now - before @ weights).square().sum() / (rows - unknown)
        covariance = variance * torch.linalg.inv(before.T @ before)
        total = covariance[1:, 1:].sum().sqrt()
        model = cls(
            intercept=(spread * weights[0] + centre * (1 - weights[1:].sum())).item(),
            coefficients=weights[1:],
            sigma=(spread * variance.sqrt()).item(),
            errors=covariance.diagonal()[1:].sqrt(),
            unit_root=((weights[1:].sum() - 1) / total).item(),
        )
        if not model.unit_root < CRITICAL:
            warnings.warn(
                f"the series may be non-stationary: its Dickey-Fuller statistic is "
                f"{model.unit_root:.2f}, not below {CRITICAL}; take differences",
                NonStationaryWarning,
                stacklevel=2,
            )
        return model

    def predict(self, series: Float64[Tensor, " time"]) -> Float64[Tensor, " rest"]:
        """The mean of each value given those before it, from index `order` on.

        Raises ValueError for a series with no value beyond the first `order`, and for
        values that are not finite.
        """
        series, order = _checked(series), len(self.coefficients)
        if len(series) <= order:
            raise ValueError(
                f"{len(series)} values leave none to predict from {order} before it"
            )
        return self.intercept + _before(series, order) @ self.coefficients

    def log_prob(self, series: Float64[Tensor, " time"]) -> Float64[Tensor, " rest"]:
        """log p of each value given those before it, in nats; entries and errors as
        for `predict`."""
        off = (series[len(self.coefficients) :] - self.predict(series)) / self.sigma
        return -0.5 * off.square() - math.log(self.sigma) - 0.5 * math.log(2 * math.pi)

    def forecast(self, series: Float64[Tensor, " time"], steps: int) -> Forecast:
        """The next `steps` values, each given the series only.

        A forecast's variance sums that of all noise since the series ended, each term
        times its squared impulse response. Raises ValueError for a series shorter than
        the order, no step, and values that are not finite.
        """
        check_sizes(steps=steps)
        series, order = _checked(series), len(self.coefficients)
        if len(series) < order:
            raise ValueError(f"{len(series)} values are too few to go on by {order}")
        mean, weight = list(series[len(series) - order :].unbind()), [1.0]
        for _ in range(steps):
            latest = torch.stack(mean[: -order - 1 : -1])
            mean.append(self.intercept + latest @ self.coefficients)
            pairs = zip(self.coefficients.tolist(), reversed(weight), strict=False)
            weight.append(sum(a * b for a, b in pairs))
        variance = torch.tensor(weight[:steps], dtype=torch.float64).square().cumsum(0)
        return Forecast(torch.stack(mean[order:]), self.sigma * variance.sqrt())

    def simulate(
        self, length: int, *, generator: torch.Generator | None = None, skip: int = 500
    ) -> Float64[Tensor, " time"]:
        """A series that starts from zeros; its first `skip` values are dropped."""
        noise = torch.randn(skip + length, generator=generator, dtype=torch.float64)
        weights, order = self.coefficients.tolist(), len(self.coefficients)
        values = [0.0] * order
        for shock in (self.intercept + self.sigma * noise).tolist():
            latest = reversed(values[-order:])
            values.append(
                sum(a * x for a, x in zip(weights, latest, strict=True)) + shock
            )
        return torch.tensor(values[order + skip :], dtype=torch.float64)

    @property
    def roots(self) -> Complex[Tensor, " order"]:
        """The eigenvalues of one step: by how much its modes are multiplied.

        The model is stationary if all lie inside the unit circle; a complex pair is an
        oscillation with a period of 2 pi / |angle| steps.
        """
        order = len(self.coefficients)
        shift = torch.eye(order - 1, order, dtype=torch.float64)
        matrix = torch.cat([self.coefficients.unsqueeze(0), shift])
        return torch.linalg.eigvals(matrix)


def _checked(series: Tensor) -> Tensor:
    """The series in double precision, if it is one and finite."""
    if series.ndim != 1:
        raise ValueError(
            f"a series has one axis, not the shape {tuple(series.shape)}: pass one "
            "variable, flattened"
        )
    series = series.double()
    check_finite(series, "series", "fill the gaps")
    return series


def _check_rank(before: Tensor) -> None:
    """Raises ValueError for columns without one solution; NaN is a series without
    spread."""
    finite = bool(before.isfinite().all())
    if not finite or torch.linalg.matrix_rank(before) < before.shape[1]:
        raise ValueError(
            "the series is constant, or follows exactly from fewer values than the "
            "order: take a lower order, or a series with noise"
        )


def _before(series: Tensor, order: int) -> Tensor:
    """The `order` values before each value that has as many, the latest first."""
    return series[:-1].unfold(0, order, 1).flip(1)
