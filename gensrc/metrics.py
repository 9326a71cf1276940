"""Numbers that judge a model. Each says what it measures, in which unit, and against what it must be read."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def active_units(means: Float[Tensor, "n d"], *, threshold: float = 0.01) -> int:
    """How many latent variables carry something: the variance of q's mean over the data is above `threshold`.

    Burda et al., Importance Weighted Autoencoders, ICLR 2016, section 5.2, where the threshold is 0.01 too.
    """
    return int((means.var(0) > threshold).sum())


def knn_accuracy(
    train_codes: Float[Tensor, "n d"],
    train_labels: Int[Tensor, " n"],
    test_codes: Float[Tensor, "m d"],
    test_labels: Int[Tensor, " m"],
    *,
    k: int = 5,
) -> float:
    """Share of test codes whose k nearest training codes (Euclidean) vote for the right label, from 0 to 1.

    It asks how far classes stay apart in a code that was learned without labels. Ties go to the smaller label.
    """
    if not 1 <= k <= len(train_codes):
        raise ValueError(f"k must lie between 1 and the {len(train_codes)} training codes, not {k}")
    classes = int(train_labels.max()) + 1
    right = 0
    for codes, labels in zip(test_codes.split(500), test_labels.split(500), strict=True):
        nearest = torch.cdist(codes, train_codes).topk(k, largest=False).indices
        votes = torch.nn.functional.one_hot(train_labels[nearest], classes).sum(1)
        right += int((votes.argmax(1) == labels).sum())
    return right / len(test_codes)


def frechet_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """Squared Frechet distance between the Gaussians fitted to two sets of features.

    |mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (Dowson and Landau, 1982; the form of the FID of Heusel et
    al., NeurIPS 2017). It depends on the features and on the numbers of examples: read it beside the distance between
    two halves of the real data, and never against a number made with other features.
    """
    a, b = a.double(), b.double()
    covariance_a, covariance_b = torch.cov(a.T), torch.cov(b.T)
    # tr (C_a C_b)^(1/2) = tr (C_a^(1/2) C_b C_a^(1/2))^(1/2), and the latter matrix is symmetric.
    root = _square_root(covariance_a)
    cross = torch.linalg.eigvalsh(root @ covariance_b @ root).clamp(min=0).sqrt().sum()
    shift = (a.mean(0) - b.mean(0)).square().sum()
    return float(shift + covariance_a.trace() + covariance_b.trace() - 2 * cross)


def _square_root(matrix: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
