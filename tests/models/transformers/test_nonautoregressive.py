"""Mask-predict against a slow copy of the paper's loop, CTC against the sum over all alignments, bad input."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gensrc.data.vocabulary import PAD
from gensrc.models.transformers.nonautoregressive import CTCTranslator, MaskPredict, collapse, random_part
from gensrc.models.transformers.transformer import Config

VOCAB = 9
MASK = VOCAB
CONFIG = Config(embed_dim=16, num_heads=2, num_layers=2, hidden_dim=32, dropout=0.0)
SIZES = {"config": CONFIG, "source_vocab": 7, "target_vocab": VOCAB}


def large(model):
    """Weights so large that the outputs depend strongly on all inputs."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(2)
    return model.eval()


def filler(**changes) -> MaskPredict:
    torch.manual_seed(0)
    return large(MaskPredict(**{**SIZES, "max_target": 6, **changes}))


def aligner(**changes) -> CTCTranslator:
    torch.manual_seed(0)
    return large(CTCTranslator(**{**SIZES, "stretch": 2, **changes}))


def tokens(*shape: int, high: int = 7, seed: int = 0) -> Tensor:
    return torch.randint(1, high, shape, generator=torch.Generator().manual_seed(seed))


def padded(ids: Tensor, *lengths: int) -> Tensor:
    return ids.masked_fill(torch.arange(ids.shape[1]) >= torch.tensor(lengths)[:, None], PAD)


SOURCES, TARGETS = padded(tokens(3, 5), 5, 2, 4), padded(tokens(3, 6, high=VOCAB, seed=1), 3, 6, 1)


# --- mask-predict ---


def test_the_loss_is_the_cross_entropy_of_masked_tokens_and_of_the_length():
    model = filler()
    loss = model.loss(SOURCES, TARGETS, generator=torch.Generator().manual_seed(2))
    masked = random_part(TARGETS != PAD, generator=torch.Generator().manual_seed(2))
    tokens_nats, length_nats = [], []
    for source, target, hidden in zip(SOURCES, TARGETS, masked, strict=True):
        source, target = source[source != PAD][None], target[target != PAD]  # each pair alone, unpadded
        given = model.condition(source)
        hidden = hidden[: len(target)]
        log_p = model.decode(target.masked_fill(hidden, MASK)[None], **given)[0].log_softmax(-1)
        tokens_nats += [-log_p[place, target[place]] for place in hidden.nonzero()[:, 0].tolist()]
        length_nats.append(-model.length_logits(**given)[0].log_softmax(-1)[len(target) - 1])
    wanted = torch.stack(tokens_nats).mean() + torch.stack(length_nats).mean()
    torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=1e-5)


def test_every_place_sees_every_other_and_no_masked_token():
    model = filler()
    given = model.condition(tokens(1, 5))
    target = torch.tensor([[MASK, 3, MASK, 5]])
    logits = model.decode(target, **given)
    assert logits.shape == (1, 4, VOCAB)
    for place in (1, 3):
        other = target.clone()
        other[0, place] = 6
        assert (model.decode(other, **given) != logits).any(-1).all()


def test_each_number_of_masked_tokens_is_as_likely_and_padding_is_never_masked():
    real = padded(torch.ones(2, 5, dtype=torch.int64), 5, 2) != PAD
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([random_part(real, generator=generator) for _ in range(3000)])
    assert not drawn[:, ~real].any()
    for row, length in ((0, 5), (1, 2)):
        counts = drawn[:, row].sum(1).bincount(minlength=length + 1)
        assert counts[0] == 0
        assert (counts[1:] / 3000).tolist() == pytest.approx([1 / length] * length, abs=0.03)
        rates = drawn[:, row, :length].float().mean(0)
        assert rates.tolist() == pytest.approx([(length + 1) / (2 * length)] * length, abs=0.03)


@torch.no_grad()
def by_hand(model: MaskPredict, source: Tensor, passes: int, candidates: int) -> list[int]:
    """One source alone, the loop as the paper has it: section 3.1 and 3.2."""
    given = model.condition(source[source != PAD][None])
    best, answer = -math.inf, []
    for length in (model.length_logits(**given)[0].topk(candidates).indices + 1).tolist():
        text, log_p = [MASK] * length, [0.0] * length
        for t in range(passes):
            number = length * (passes - t) // passes
            again = sorted(range(length), key=log_p.__getitem__)[:number] if t else list(range(length))
            for place in again:
                text[place] = MASK
            table = model.decode(torch.tensor([text]), **given)[0]
            table[:, PAD] = -math.inf
            found = table.log_softmax(-1).max(-1)
            for place in again:
                text[place], log_p[place] = int(found.indices[place]), float(found.values[place])
        if sum(log_p) / length > best:
            best, answer = sum(log_p) / length, text
    return answer


@pytest.mark.parametrize("candidates", [1, 3])
@pytest.mark.parametrize("passes", [1, 2, 4, 10])
def test_targets_are_those_of_the_papers_loop(passes, candidates):
    model = filler()
    sources = padded(tokens(8, 5, seed=3), 5, 1, 4, 5, 2, 3, 5, 4)
    found = model.mask_predict(sources, passes=passes, candidates=candidates)
    once = model.mask_predict(sources, passes=1, candidates=candidates)
    for source, row in zip(sources, found, strict=True):
        wanted = by_hand(model, source, passes, candidates)
        assert row[: len(wanted)].tolist() == wanted
        assert (row[len(wanted) :] == PAD).all()
    same = found.shape == once.shape and torch.equal(found, once)
    assert same == (passes == 1), "so that further passes are tested"


def test_ever_fewer_tokens_are_masked_and_the_surest_stay():
    model, inputs = filler(), []
    with torch.no_grad():
        model.to_length.bias[5] += 100  # six tokens
    decode = model.decode
    model.decode = lambda ids, *given, **named: inputs.append(ids) or decode(ids, *given, **named)
    model.mask_predict(SOURCES, passes=3)
    assert [(ids == MASK).sum(1).tolist() for ids in inputs] == [[6] * 3, [4] * 3, [2] * 3]


def test_neither_padding_nor_mask_is_ever_written():
    model = filler()
    with torch.no_grad():
        model.target.weight[PAD] *= 50
    for passes in (1, 3):
        written = model.mask_predict(tokens(20, 5), passes=passes)
        assert (written < MASK).all()
        assert (written[:, 0] != PAD).all()
        assert ((written[:, 1:] != PAD) <= (written[:, :-1] != PAD)).all()


# --- CTC ---


def alignments(model: CTCTranslator, source: Tensor) -> dict[tuple[int, ...], float]:
    """The probability of each target: the sum over all rows of places that collapse to it, one by one."""
    p = model(source[None]).detach()[0].double().softmax(-1)
    found: dict[tuple[int, ...], float] = {}
    for row in itertools.product(range(p.shape[1]), repeat=len(p)):
        merged = [token for token, _ in itertools.groupby(row)]
        target = tuple(token for token in merged if token != PAD)
        found[target] = found.get(target, 0.0) + math.prod(p[at, token].item() for at, token in enumerate(row))
    return found


def test_the_loss_is_minus_log_of_the_sum_over_all_alignments():
    model = aligner(target_vocab=3)
    for seed in range(2):
        source = tokens(3, seed=seed)
        exact = alignments(model, source)
        assert sum(exact.values()) == pytest.approx(1)
        for target in ((1,), (2, 1), (1, 1), (2, 2, 1), (1, 2, 1, 2, 1, 2)):
            loss = model.loss(source[None], torch.tensor([target]))
            assert float(loss.detach()) * len(target) == pytest.approx(-math.log(exact[target]), abs=1e-4)


def test_the_loss_of_a_padded_batch_is_that_of_its_pairs():
    model = aligner()
    sources, targets = padded(tokens(3, 5), 5, 2, 4), padded(tokens(3, 4, high=VOCAB, seed=1), 4, 2, 1)
    pairs = [(s[s != PAD][None], t[t != PAD][None]) for s, t in zip(sources, targets, strict=True)]
    wanted = sum(model.loss(s, t) * t.shape[1] for s, t in pairs) / 7
    torch.testing.assert_close(model.loss(sources, targets), wanted, atol=1e-5, rtol=1e-5)
    written = model.translate(sources)
    for row, (source, _) in zip(written, pairs, strict=True):
        alone = model.translate(source)[0]
        assert torch.equal(row[: len(alone)], alone)
        assert (row[len(alone) :] == PAD).all()
        assert torch.equal(alone, collapse(model(source).argmax(-1))[0])


def test_collapse_merges_equal_neighbours_and_leaves_out_blanks():
    rows = torch.tensor(
        [[0, 5, 5, 0, 5, 6], [7, 7, 7, 7, 7, 7], [0, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6], [3, 0, 0, 3, 3, 0]]
    )
    wanted = [[5, 5, 6], [7], [], [1, 2, 3, 4, 5, 6], [3, 3]]
    for row, target in zip(collapse(rows).tolist(), wanted, strict=True):
        assert row == target + [PAD] * (6 - len(target))
    assert collapse(rows[:2]).tolist() == [[5, 5, 6], [7, 0, 0]]
    assert collapse(rows[2:3]).shape == (1, 0)


def test_places_of_a_sources_padding_write_nothing():
    model = aligner()
    model.forward = lambda source: F.one_hot(torch.arange(1, 7).expand(len(source), 6), VOCAB).float()
    written = model.translate(padded(tokens(2, 3), 3, 2))
    assert written.tolist() == [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, PAD, PAD]]


def test_a_target_may_need_all_places_but_no_more():
    model, source = aligner(), padded(tokens(2, 3), 3, 2)
    fits = torch.tensor([[4, 4, 5, 5], [4, 4, 5, PAD]])  # six places and four
    assert model.loss(source, fits).isfinite()
    for target, message in (
        (torch.tensor([[4, 4, 5, 5], [4, 4, 5, 5]]), "target 1 needs 6 places, 4 tokens .* its source gives 4"),
        (torch.tensor([[1, 2, 1, 2, 1, 2, 1], [1, 0, 0, 0, 0, 0, 0]]), "target 0 needs 7 places, .* gives 6"),
    ):
        with pytest.raises(ValueError, match=f"{message}: leave the pair out, or build with a larger stretch than 2"):
            model.loss(source, target)


# --- both ---


@pytest.mark.parametrize("build", [filler, aligner])
def test_a_gradient_reaches_every_weight(build):
    model = build()
    model.loss(SOURCES[[0, 2]], TARGETS[[0, 2]]).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


@pytest.mark.parametrize("build", [filler, aligner])
@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (SOURCES, TARGETS[:, :0], "a text needs at least one|a target has length 0"),
        (SOURCES, padded(TARGETS, 3, 0, 1), "a target has length 0"),
        (SOURCES, torch.tensor([[1, PAD, 2]] * 3), "padding between tokens: put it at the end"),
        (SOURCES, torch.full((3, 2), MASK), "between 0 and 8, these span 9 to 9"),
        (SOURCES, -TARGETS, "between 0 and 8, these span"),
        (SOURCES + 3, TARGETS, "between 0 and 6, these span"),
        (SOURCES[:, :0], TARGETS, "a text needs at least one"),
        (padded(SOURCES, 5, 0, 2), TARGETS, "a source has no token but padding"),
    ],
)
def test_bad_pairs_are_named(build, source, target, message):
    with pytest.raises(ValueError, match=message):
        build().loss(source, target)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: filler().loss(SOURCES, tokens(3, 7)), "targets of 7 places are longer than max_target, 6"),
        (lambda: filler().mask_predict(SOURCES, passes=0), "passes must be at least 1, not 0"),
        (lambda: filler().mask_predict(SOURCES, passes=1, candidates=0), "candidates must be at least 1, not 0"),
        (lambda: filler().mask_predict(SOURCES, passes=1, candidates=7), "there are 6 lengths, not 7 candidates"),
        (lambda: filler().mask_predict(SOURCES * 0, passes=1), "a source has no token but padding"),
        (lambda: aligner().translate(SOURCES * 0), "a source has no token but padding"),
        (lambda: filler(max_target=0), "max_target must be at least 1, not 0"),
        (lambda: aligner(stretch=0), "stretch must be at least 1, not 0"),
    ],
)
def test_other_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
