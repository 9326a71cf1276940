"""The prior's probabilities sum to one over all pictures, no code sees a later one, and samples follow it."""

import itertools
import math

import pytest
import torch

from gensrc.models.image_tokens.code_prior import CodePrior


def tiny(**given) -> CodePrior:
    torch.manual_seed(0)
    return CodePrior(
        **{"codebook_size": 3, "max_length": 4, "embed_dim": 16, "num_heads": 2, "num_layers": 2, **given}
    ).eval()


def test_the_probabilities_of_all_pictures_sum_to_one():
    prior = tiny()
    with torch.no_grad():
        each = [-prior.loss(torch.tensor(codes).reshape(1, 2, 2)) for codes in itertools.product(range(3), repeat=4)]
    assert torch.stack(each).double().exp().sum() == pytest.approx(1, abs=1e-5)


def test_no_logit_depends_on_its_own_code_or_a_later_one():
    prior = tiny(max_length=6)
    codes = torch.tensor([[0, 1, 2, 0, 1]])
    logits = prior(codes)
    assert logits.shape == (1, 6, 3)
    for place in range(5):
        other = codes.clone()
        other[0, place] = (other[0, place] + 1) % 3
        apart = (prior(other) - logits).abs().amax((0, 2))
        assert apart[: place + 1].max() == 0
        assert apart[place + 1 :].min() > 0


def test_the_loss_is_in_nats_a_picture():
    prior = tiny()
    torch.nn.init.zeros_(prior.head.weight)
    torch.nn.init.zeros_(prior.head.bias)
    loss = prior.loss(torch.randint(3, (5, 2, 2)))
    assert loss.item() == pytest.approx(4 * math.log(3), rel=1e-5)


def test_frequencies_of_samples_are_their_probabilities():
    prior = tiny(max_length=2)
    drawn = prior.sample(20_000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for pair in itertools.product(range(3), repeat=2):
            chance = (-prior.loss(torch.tensor(pair).reshape(1, 1, 2))).exp().item()
            share = (drawn == torch.tensor(pair)).all(1).float().mean().item()
            assert share == pytest.approx(chance, abs=4 * math.sqrt(chance / 20_000))


def test_samples_continue_given_codes_and_are_the_likeliest_at_a_low_temperature():
    prior = tiny()
    given = torch.tensor([[2, 1]]).expand(50, 2)
    drawn = prior.sample(50, given=given, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn[:, :2], given)
    assert len(drawn.unique(dim=0)) > 3
    cold = prior.sample(50, given=given, temperature=1e-4)
    assert len(cold.unique(dim=0)) == 1
    with torch.no_grad():
        assert cold[0, 2] == prior(given[:1])[0, -1].argmax()


def test_a_small_step_gains_what_the_slope_of_the_loss_says(gains_what_its_slope_says):
    prior = tiny()
    codes = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 1]]).reshape(2, 2, 2)
    gains_what_its_slope_says(prior.parameters(), lambda: prior.loss(codes))


# --- Bad input ------------------------------------------------------------------------------------


def test_codes_outside_the_code_book_are_refused():
    with pytest.raises(ValueError, match="codes must lie between 0 and 2, these span 0 to 3"):
        tiny().loss(torch.tensor([[[0, 1], [2, 3]]]))


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature must be positive"):
        tiny().sample(1, temperature=temperature)


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="codebook_size must be at least 1, not 0"):
        CodePrior(codebook_size=0)


@pytest.mark.parametrize("given", [0, 1, 3])
def test_samples_with_a_cache_are_those_of_whole_prefixes(given):
    prior = tiny()
    prefix = torch.randint(3, (6, given), generator=torch.Generator().manual_seed(1))
    drawn = prior.sample(6, given=prefix, generator=torch.Generator().manual_seed(2))
    codes, generator = prefix, torch.Generator().manual_seed(2)
    while codes.shape[1] < prior.max_length:
        with torch.no_grad():
            probs = prior(codes)[:, -1].softmax(1)
        codes = torch.cat([codes, torch.multinomial(probs, 1, generator=generator)], 1)
    assert torch.equal(drawn, codes)
