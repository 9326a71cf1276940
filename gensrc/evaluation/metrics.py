"""Metrics: active units, k-NN accuracy, Frechet distance, precision and recall.

All compute in double precision, since features may be far from the origin. They raise
ValueError for sets of features that are not of shape (n, d) with one d, that have
values which are not finite, and that are too small for the metric.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


def active_units(means: Float[Tensor, "n d"], *, threshold: float = 0.01) -> int:
    """The number of latent variables in use: the variance of q's mean over examples
    exceeds `threshold`.

    Burda et al., Importance Weighted Autoencoders, ICLR 2016, section 5.2, where the
    threshold is 0.01 too.
    """
    (means,) = _checked(means, least=2)
    return int((means.var(0) > threshold).sum())


def active_directions(means: Float[Tensor, "n d"], *, threshold: float = 0.01) -> int:
    """The number of directions of the latent space in use: eigenvalues of the
    covariance of the means above `threshold`.

    Unlike `active_units` it does not change when the latent space is rotated.
    """
    (means,) = _checked(means, least=2)
    return int((torch.linalg.eigvalsh(_covariance(means)) > threshold).sum())


def knn_classify(
    known_codes: Float[Tensor, "n d"],
    known_labels: Int[Tensor, " n"],
    codes: Float[Tensor, "m d"],
    *,
    k: int = 5,
) -> Int[Tensor, " m"]:
    """The most frequent class of the k nearest known codes (Euclidean); the smaller
    label if tied.

    Raises ValueError for a k below 1 or above the number of known codes, and for
    another number of labels.
    """
    known_codes, codes = _checked(known_codes, codes, least=1)
    if known_labels.shape != known_codes.shape[:1]:
        raise ValueError(
            f"{len(known_codes)} known codes need as many labels, not a tensor of "
            f"shape {tuple(known_labels.shape)}"
        )
    if not 1 <= k <= len(known_codes):
        raise ValueError(
            f"k must lie between 1 and the {len(known_codes)} known codes, not {k}"
        )
    from sklearn.neighbors import KNeighborsClassifier  # slow to import

    judge = KNeighborsClassifier(k, algorithm="brute")
    # Distances are computed from lengths, so they are exact near the origin only.
    centre = known_codes.mean(0)
    judge.fit((known_codes - centre).cpu().numpy(), known_labels.cpu().numpy())
    return torch.from_numpy(judge.predict((codes - centre).cpu().numpy()))


def frechet_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """Squared Frechet distance between the Gaussians fitted to two sets of features.

    |mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (Dowson and Landau, 1982;
    the form of the FID of Heusel et al., NeurIPS 2017). It depends on the features and
    on the numbers of examples: compare it with the distance between two halves of the
    real data, and never with a value from other features. Each set needs two examples.
    """
    a, b = _checked(a, b, least=2)
    covariance_a, covariance_b = _covariance(a), _covariance(b)
    # tr (C_a C_b)^(1/2) = tr (C_a^(1/2) C_b C_a^(1/2))^(1/2), a symmetric matrix.
    root = _square_root(covariance_a)
    cross = torch.linalg.eigvalsh(root @ covariance_b @ root).clamp(min=0).sqrt().sum()
    shift = (a.mean(0) - b.mean(0)).square().sum()
    return float(shift + covariance_a.trace() + covariance_b.trace() - 2 * cross)


def _square_root(matrix: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


class PrecisionRecall(NamedTuple):
    """Precision and recall of generated examples, each from 0 to 1."""

    precision: float
    recall: float


def precision_recall(
    real: Float[Tensor, "n d"], made: Float[Tensor, "m d"], *, k: int = 3
) -> PrecisionRecall:
    """The share of `made` in the region of `real`, and of `real` in that of `made`.

    The region of a set of features is the union of balls around them, whose radii are
    the distances to the k-th nearest neighbours within the set (Kynkäänniemi et al.,
    Improved Precision and Recall Metric for Assessing Generative Models, NeurIPS 2019,
    equations 1 and 2). Both depend on the features and on the numbers of examples:
    compare them with those of two halves of the real data.

    Raises ValueError for a k below 1 or not below the number of examples of each set.
    """
    real, made = _checked(real, made, least=2)
    if not 1 <= k < min(len(real), len(made)):
        raise ValueError(
            f"k must be at least 1 and below {min(len(real), len(made))}, the "
            f"examples of a set, not {k}"
        )
    # Distances are computed from lengths, so they are exact near the origin only.
    centre = real.mean(0)
    real, made = real - centre, made - centre
    return PrecisionRecall(_covered(made, real, k), _covered(real, made, k))


def _covered(
    points: Float[Tensor, "m d"], centres: Float[Tensor, "n d"], k: int
) -> float:
    """The share of the points that lie in a ball around one of the centres."""
    # The nearest of the k + 1 is the centre itself.
    radii = torch.cat(
        [
            torch.cdist(some, centres).topk(k + 1, largest=False).values[:, -1]
            for some in _parts(centres)
        ]
    )
    # What rounding makes of a distance of 0, so that copies of a centre are inside.
    radii = radii + 1e-7 * centres.norm(dim=1)
    inside = [(torch.cdist(some, centres) <= radii).any(1) for some in _parts(points)]
    return float(torch.cat(inside).float().mean())


def _parts(points: Float[Tensor, "n d"]) -> tuple[Tensor, ...]:
    return points.split(1000)  # to bound the memory of all distances


def _checked(*sets: Float[Tensor, "_ d"], least: int) -> list[Float[Tensor, "_ d"]]:
    """The sets in double precision, if they are sound; `least` examples in each."""
    for features in sets:
        if features.ndim != 2 or not 0 < features.shape[1] == sets[0].shape[-1]:
            shapes = " and ".join(str(tuple(each.shape)) for each in sets)
            raise ValueError(
                f"features must have the shape (examples, d) with one d, not {shapes}: "
                "flatten all axes but the first"
            )
        if len(features) < least:
            raise ValueError(
                f"a set of {len(features)} examples is too small: give {least} or more"
            )
        if not bool(features.isfinite().all()):
            raise ValueError(
                "the features have values that are not finite: look for them in the "
                "examples and in the network that computed them"
            )
    return [features.detach().double() for features in sets]


def _covariance(features: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
    return torch.atleast_2d(torch.cov(features.T))  # of one feature torch's is a number
