"""Metrics against closed forms and against slow, plain references."""

import math

import jaxtyping
import pytest
import torch

from gensrc.evaluation import metrics


def gaussian(n: int, mean: float, sd: float, seed: int) -> torch.Tensor:
    return mean + sd * torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_frechet_distance_of_gaussians_is_the_closed_form():
    a, b = gaussian(200_000, 0.0, 1.0, 1), gaussian(200_000, 2.0, 3.0, 2)
    # independent coordinates: sum over three of (mean difference)^2 + (sd difference)^2
    assert metrics.frechet_distance(a, b) == pytest.approx(3 * (4 + 4), rel=0.01)


def test_frechet_distance_sees_correlation():
    mix = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.436, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    independent = gaussian(100_000, 0.0, 1.0, 1)
    correlated = gaussian(100_000, 0.0, 1.0, 2) @ mix.T
    covariance = mix @ mix.T
    expected = 3 + covariance.trace() - 2 * torch.linalg.eigvalsh(covariance).sqrt().sum()
    assert metrics.frechet_distance(independent, correlated) == pytest.approx(expected.item(), abs=0.02)


def test_frechet_distance_of_a_set_to_itself_is_zero_and_it_is_symmetric():
    a, b = gaussian(500, 0.0, 1.0, 1), gaussian(500, 1.0, 2.0, 2)
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert metrics.frechet_distance(a, b) == pytest.approx(metrics.frechet_distance(b, a))


def test_frechet_distance_takes_constant_features():
    a, b = torch.zeros(10, 2), torch.ones(10, 2)
    assert metrics.frechet_distance(a, b) == pytest.approx(2)


def test_frechet_distance_divides_covariances_by_one_less_than_the_number_of_examples():
    # Variances of 0 and 2 and of 0 and 8 around their means, so (sqrt(8) - sqrt(2))^2 = 2 apart.
    a, b = torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), torch.tensor([[-2.0, 0.0], [2.0, 0.0]])
    assert metrics.frechet_distance(a, b) == pytest.approx(2, abs=1e-6)


def test_knn_classify_equals_a_plain_count():
    torch.manual_seed(0)
    known, labels = torch.randn(60, 2), torch.randint(0, 3, (60,))
    codes = torch.randn(1100, 2)
    expected = []
    for point in codes:
        nearest = labels[(known - point).norm(dim=1).argsort()[:5]].tolist()
        expected.append(max(sorted(set(nearest)), key=nearest.count))
    assert metrics.knn_classify(known, labels, codes, k=5).tolist() == expected


@pytest.mark.parametrize("k", [0, 5])
def test_knn_classify_refuses_a_bad_k(k):
    with pytest.raises(ValueError, match=f"between 1 and the 4 known codes, not {k}"):
        metrics.knn_classify(torch.zeros(4, 2), torch.zeros(4).long(), torch.zeros(1, 2), k=k)


def test_active_units_divides_the_variance_by_one_less_than_the_number_of_examples():
    means = torch.tensor([[-1.0], [1.0]])  # of variance 2 with that divisor, 1 without
    assert metrics.active_units(means, threshold=1.5) == 1
    assert metrics.active_directions(torch.cat([means, torch.zeros(2, 1)], 1), threshold=1.5) == 1


def test_active_units_counts_variances_above_the_threshold():
    codes = torch.randn(5000, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.2, 0.05, 0.0])
    assert metrics.active_units(codes) == 2
    assert metrics.active_units(codes, threshold=0.001) == 3


def test_active_directions_do_not_depend_on_the_axes():
    codes = torch.randn(5000, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.2, 0.05, 0.0])
    turned = codes @ torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1))).Q
    assert metrics.active_directions(codes) == metrics.active_directions(turned) == 2
    assert metrics.active_units(turned) > 2
    assert metrics.active_directions(turned, threshold=0.001) == 3


def cloud(n: int, low: float, high: float, seed: int) -> torch.Tensor:
    return low + (high - low) * torch.rand(n, 2, generator=torch.Generator().manual_seed(seed))


def test_precision_and_recall_equal_a_plain_count():
    real, made, k = cloud(40, 0, 1, 1), cloud(60, 0.5, 1.5, 2), 3

    def covered(points, centres):
        radii = [sorted((c - other).norm().item() for other in centres)[k] for c in centres]
        found = [any((p - c).norm().item() <= radius for c, radius in zip(centres, radii, strict=True)) for p in points]
        return sum(found) / len(found)

    found = metrics.precision_recall(real, made, k=k)
    assert found.precision == pytest.approx(covered(made, real))
    assert found.recall == pytest.approx(covered(real, made))


def test_samples_from_a_part_of_the_data_have_high_precision_and_low_recall():
    found = metrics.precision_recall(cloud(1500, 0, 1, 1), cloud(1500, 0, 0.5, 2))
    assert found.precision > 0.97
    assert found.recall == pytest.approx(0.25, abs=0.05)
    apart = metrics.precision_recall(cloud(50, 0, 1, 1), cloud(50, 8, 9, 2))
    assert apart == (0, 0)


@pytest.mark.parametrize("k", [0, 5])
def test_precision_recall_refuses_a_bad_k(k):
    with pytest.raises(ValueError, match=f"at least 1 and below 5, .* not {k}"):
        metrics.precision_recall(torch.zeros(9, 2), torch.zeros(5, 2), k=k)


# --- at the edges ---

METRICS = {
    "active_units": lambda a, b: metrics.active_units(a),
    "active_directions": lambda a, b: metrics.active_directions(a),
    "knn_classify": lambda a, b: metrics.knn_classify(a, torch.zeros(len(a)).long(), b, k=1),
    "frechet_distance": metrics.frechet_distance,
    "precision_recall": lambda a, b: metrics.precision_recall(a, b, k=1),
}
TWO_SETS = [name for name in METRICS if not name.startswith("active")]


@pytest.fixture
def unwatched():
    """Without the check of shapes that tests have and readers have not."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def features(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("name", METRICS)
def test_one_feature_is_enough(name):
    a, b = features(6, 1), features(7, 1)
    assert repr(METRICS[name](a, b)) == repr(METRICS[name](a.double(), b.double()))


def test_of_one_feature_the_frechet_distance_is_the_closed_form():
    a, b = features(50, 1), 2 * features(50, 1) + 3
    expected = (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
    assert metrics.frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.usefixtures("unwatched")
@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (features(0, 3), "a set of 0 examples is too small"),
        (features(5), r"the shape \(examples, d\)"),
        (features(5, 1, 3), r"the shape \(examples, d\)"),
        (features(5, 0), r"the shape \(examples, d\)"),
        (features(5, 3).index_fill(0, torch.tensor([2]), math.nan), "not finite"),
        (features(5, 3).index_fill(0, torch.tensor([2]), math.inf), "not finite"),
    ],
    ids=["empty", "one axis", "three axes", "no feature", "NaN", "infinite"],
)
def test_sets_that_have_no_metric_are_named(name, wrong, message):
    with pytest.raises(ValueError, match=message):
        METRICS[name](wrong, features(6, 3))
    if name in TWO_SETS:
        with pytest.raises(ValueError, match=message):
            METRICS[name](features(6, 3), wrong)


@pytest.mark.usefixtures("unwatched")
def test_sets_of_different_features_are_named():
    for name in TWO_SETS:
        with pytest.raises(ValueError, match=r"with one d, not \(6, 3\) and \(6, 1\)"):
            METRICS[name](features(6, 3), features(6, 1))
    with pytest.raises(ValueError, match="6 known codes need as many labels"):
        metrics.knn_classify(features(6, 3), torch.zeros(6, 1).long(), features(2, 3))


@pytest.mark.parametrize("name", ["active_units", "active_directions", "frechet_distance", "precision_recall"])
def test_one_example_has_no_variance_and_no_neighbour(name):
    with pytest.raises(ValueError, match="a set of 1 examples is too small: give 2 or more"):
        METRICS[name](features(1, 3), features(6, 3))


@pytest.mark.parametrize("far", [1e4, -1e5])
def test_features_far_from_the_origin_have_the_same_neighbours(far):
    # On a grid that float32 holds exactly even there.
    a, b = ((8 * features(n, 16)).round() / 16 for n in (300, 200))
    labels = torch.arange(300) % 10
    assert metrics.knn_classify(a + far, labels, b + far).tolist() == metrics.knn_classify(a, labels, b).tolist()
    near, shifted = metrics.precision_recall(a, b), metrics.precision_recall(a + far, b + far)
    assert near == shifted
    assert 0 < near.recall < 1


def test_copies_of_one_example_cover_it_alone():
    real = features(40, 64) + 1000
    found = metrics.precision_recall(real, real[:1].repeat(30, 1))
    assert found == pytest.approx((1, 1 / 40))
