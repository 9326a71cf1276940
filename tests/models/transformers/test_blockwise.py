"""A GPT with heads for later tokens: targets of each head, causality, equality with the GPT, bad input."""

import pytest
import torch
import torch.nn.functional as F

from gensrc.data.vocabulary import PAD
from gensrc.models.transformers.blockwise import BlockwiseGPT

VOCAB = 11


def small(num_ahead: int = 3) -> BlockwiseGPT:
    torch.manual_seed(0)
    model = BlockwiseGPT(
        num_ahead=num_ahead, vocab_size=VOCAB, max_length=10, embed_dim=16, num_heads=2, num_layers=2
    ).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(10)
    return model


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(1, VOCAB, shape, generator=torch.Generator().manual_seed(0))


def test_the_first_head_is_the_gpt_and_alone_its_loss_as_well():
    model, ids = small(), tokens(3, 6)
    assert model(ids).shape == (3, 6, 3, VOCAB)
    torch.testing.assert_close(model(ids)[:, :, 0], model.gpt(ids))
    assert (model(ids)[:, :, 1] - model.gpt(ids)).abs().max() > 1e-3
    one = small(1)
    torch.testing.assert_close(one.loss(ids), one.gpt.loss(ids))


def test_head_i_is_taught_the_token_i_places_after_the_next():
    model, ids = small(), tokens(3, 7)
    ids[1, 5:] = PAD
    logits, nats = model(ids), []
    for row, text in enumerate(ids):
        for place in range(6):
            for ahead in range(3):
                at = place + 1 + ahead
                if at < 7 and text[at] != PAD:
                    nats.append(F.cross_entropy(logits[row, place, ahead], text[at]))
    torch.testing.assert_close(model.loss(ids), torch.stack(nats).mean())


def test_no_head_sees_later_tokens():
    model, ids = small(), tokens(1, 6)
    other = ids.clone()
    other[0, 3] = ids[0, 3] % (VOCAB - 1) + 1
    same = (model(ids) == model(other)).all(-1)[0]
    assert same[:3].all()
    assert not same[3:].any()


def test_a_gradient_reaches_every_weight():
    model = small()
    model.loss(tokens(3, 6)).backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: small().loss(tokens(2, 3)), "3 tokens ahead need texts of 4, not 3"),
        (lambda: small().loss(torch.full((2, 5), PAD)), "a batch of padding has no token to predict"),
        (lambda: small().loss(tokens(2, 0)), "a text needs at least one"),
        (lambda: small().loss(tokens(2, 5) + 1), "between 0 and 10, these span"),
        (lambda: small()(tokens(2, 11)), "not within a context of 10"),
        (lambda: small(0), "num_ahead must be at least 1, not 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
