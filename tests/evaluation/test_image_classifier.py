"""The classifier: cross-entropy by its definition, features, training, bad input."""

import pytest
import torch

from gensrc.evaluation.image_classifier import ImageClassifier, PooledClassifier


def small(**options: int) -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(**{"image_size": 8, "width": 4, "num_classes": 3, **options}).eval()


def pictures(n: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_loss_is_minus_the_log_probability_of_the_label():
    model, x, labels = small(), pictures(), torch.tensor([0, 1, 2, 2, 1, 0])
    probs = model(x).exp() / model(x).exp().sum(1, keepdim=True)
    each = [-probs[row, label].log() for row, label in enumerate(labels.tolist())]
    torch.testing.assert_close(model.loss(x, labels), torch.stack(each).mean())


def test_logits_are_linear_in_the_features_and_the_largest_is_the_class():
    model, x = small(), pictures()
    logits = model.features(x) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(x), logits)
    assert torch.equal(model.classify(x), logits.argmax(1))
    assert model.features(x).shape == (6, 16)


def test_in_evaluation_mode_a_logit_depends_on_its_own_picture_only():
    model, x = small(), pictures()
    torch.testing.assert_close(model(x)[2:3], model(x[2:3]))


def test_every_weight_has_a_gradient():
    model = small().train()
    model.loss(pictures(16), torch.arange(16) % 3).backward()
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in model.parameters())


def test_a_small_step_gains_what_the_slope_of_the_loss_says(gains_what_its_slope_says):
    model, x, labels = small(), pictures(16), torch.arange(16) % 3
    gains_what_its_slope_says(model.parameters(), lambda: model.loss(x, labels))


def test_wrong_sizes_and_pictures_are_refused():
    with pytest.raises(ValueError, match="multiple of 8"):
        small(image_size=28)
    with pytest.raises(ValueError, match="no size below 1"):
        small(width=0)
    with pytest.raises(ValueError, match=r"have shape \(2, 1, 16, 16\); this classifier wants \(n, 1, 8, 8\)"):
        small()(torch.zeros(2, 1, 16, 16))


def pooled() -> PooledClassifier:
    torch.manual_seed(0)
    return PooledClassifier(width=4, num_classes=3, channels=1).eval()


def test_pooled_features_are_the_mean_over_all_places():
    model = pooled()
    x = torch.rand(2, 1, 16, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.features(x), model.body(x).flatten(2).mean(2))
    assert model.features(x).shape == (2, 16)


def test_pooled_logits_are_linear_in_the_features_and_the_loss_is_minus_the_log_probability():
    model, x, labels = pooled(), pictures(), torch.tensor([0, 1, 2, 2, 1, 0])
    logits = model.features(x) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(x), logits)
    torch.testing.assert_close(model.loss(x, labels), -logits.log_softmax(1)[torch.arange(6), labels].mean())


def test_pooled_drops_features_in_training_alone():
    model, x = pooled(), pictures()
    assert torch.equal(model(x), model(x))
    model.head.train()
    model.training = True
    assert not torch.equal(model(x), model(x))
