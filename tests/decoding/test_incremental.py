"""Incremental decoding: a text in pieces gives the logits of the whole, for GPT and encoder-decoder."""

import pytest
import torch
from torch import Tensor, nn

from gensrc import decoding
from gensrc.data.vocabulary import BOS, PAD
from gensrc.decoding import IncrementalDecoder
from gensrc.models.transformers.cache import KeyValueCache
from gensrc.models.transformers.gpt import GPT
from gensrc.models.transformers.transformer import Config, Transformer

VOCAB = 20


def gpt(context: int = 600, **changes: int) -> GPT:
    """A small GPT with large weights, so that its logits depend strongly on the text."""
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB, "max_length": context, "embed_dim": 32, "num_heads": 4, "num_layers": 2}
    model = GPT(**(sizes | changes)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(8)
    return model


def translator(positions: str = "sinusoidal") -> Transformer:
    torch.manual_seed(0)
    config = Config(
        embed_dim=32, num_heads=4, num_layers=2, hidden_dim=64, positions=positions, max_length=600, norm_first=True
    )
    return Transformer(config, source_vocab=VOCAB, target_vocab=VOCAB).eval()


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(4, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def read_in_pieces(reader: IncrementalDecoder, ids: Tensor, sizes: list[int]) -> Tensor:
    return torch.cat([reader.read(piece) for piece in ids.split(sizes, 1)], 1)


@pytest.mark.parametrize("sizes", [[1] * 40, [40], [7, 1, 30, 2]])
def test_gpt_logits_in_pieces_equal_those_of_the_whole_text(sizes: list[int]) -> None:
    model, ids = gpt(), tokens(3, 40)
    reader = IncrementalDecoder(model, ids[:, :7], max_new_tokens=33)
    with torch.no_grad():
        assert (read_in_pieces(reader, ids, sizes) - model(ids)).abs().max() <= 1e-5


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary", "none"])
def test_encoder_decoder_logits_in_pieces_equal_the_whole_and_encode_the_source_once(positions: str) -> None:
    model, ids = translator(positions), tokens(3, 30)
    source = tokens(3, 9, seed=1)
    source[1, 5:] = PAD
    with torch.no_grad():
        whole = model(source, ids)
        reader = IncrementalDecoder(model, ids[:, :1], max_new_tokens=29, source=source)
        computed = []
        for block in model.decoder.blocks:
            hidden = block.cross_attn.project
            block.cross_attn.project = lambda *given, f=hidden, **named: (
                computed.append(named["cache"].memory is None) or f(*given, **named)
            )
        pieces = read_in_pieces(reader, ids, [1] * 30)
    assert (pieces - whole).abs().max() <= 1e-5
    assert sum(computed) == 2, "the source's keys and values are computed once a block"


@pytest.mark.slow
def test_greedy_texts_of_512_tokens_are_the_same_with_and_without_cache() -> None:
    model, prompt = gpt(), tokens(1, 8)
    kept, anew = (decoding.generate(model, prompt, max_new_tokens=512, use_cache=use) for use in (True, False))
    assert torch.equal(kept, anew)
    assert kept.shape == (1, 520)
    assert len(kept[0, 8:].unique()) > 3, "a text of one letter would prove nothing"


@pytest.mark.slow
def test_encoder_decoder_texts_are_the_same_with_and_without_cache() -> None:
    model, source = translator(), tokens(2, 10)
    prompt = torch.full((2, 1), BOS)
    kept, anew = (
        decoding.generate(model, prompt, max_new_tokens=128, source=source, use_cache=use) for use in (True, False)
    )
    assert torch.equal(kept, anew)


def test_cache_memory_is_allocated_once() -> None:
    kept, places = KeyValueCache(10), set()
    for number in range(10):
        key, value = torch.full((2, 2, 1, 1, 3), float(number))
        keys, values = kept.extend(key, value)
        places.add((keys.data_ptr(), values.data_ptr()))
        assert keys.shape == values.shape == (2, 1, number + 1, 3)
        assert keys[0, 0, :, 0].tolist() == list(range(number + 1))
    assert len(places) == 1
    with pytest.raises(ValueError, match="room for 10 tokens, not 11"):
        kept.extend(key, value)
    assert kept.length == 10


@pytest.mark.parametrize("use_cache", [True, False])
def test_what_is_rewound_is_forgotten(use_cache: bool) -> None:
    model, ids, other = gpt(), tokens(1, 12), tokens(1, 12, seed=1)
    reader = IncrementalDecoder(model, ids, max_new_tokens=1, use_cache=use_cache)
    reader.read(ids)
    reader.rewind(5)
    mixed = torch.cat([ids[:, :5], other[:, 5:]], 1)
    with torch.no_grad():
        assert torch.allclose(reader.read(other[:, 5:]), model(mixed)[:, 5:], atol=1e-5)


@pytest.mark.parametrize("use_cache", [True, False])
def test_reorder_copies_rows_of_the_cache(use_cache: bool) -> None:
    model, ids = gpt(), tokens(3, 12)
    rows = torch.tensor([2, 0, 0])
    reader = IncrementalDecoder(model, ids, max_new_tokens=5, use_cache=use_cache)
    reader.read(ids[:, :10])
    reader.reorder(rows)
    with torch.no_grad():
        wanted = model(torch.cat([ids[rows, :10], ids[:, 10:]], 1))[:, 10:]
    assert torch.allclose(reader.read(ids[:, 10:]), wanted, atol=1e-5)


@pytest.mark.parametrize("use_cache", [True, False])
def test_left_padding_does_not_change_the_logits(use_cache: bool) -> None:
    model = gpt()
    rows = [tokens(length, seed=length) for length in (9, 4, 1)]
    after = tokens(3, 6, seed=9)
    batch = decoding.left_pad(rows)
    reader = IncrementalDecoder(model, batch, max_new_tokens=6, use_cache=use_cache)
    together = read_in_pieces(reader, torch.cat([batch, after], 1), [9, 1, 1, 4])
    for number, row in enumerate(rows):
        with torch.no_grad():
            alone = model(torch.cat([row, after[number]])[None])[0]
        assert torch.allclose(together[number, 9 - len(row) :], alone, atol=1e-5)


def test_model_can_be_trained_after_decoding() -> None:
    model = gpt()
    written = decoding.generate(model, tokens(2, 5), max_new_tokens=4)
    model.train()
    model.loss(written).backward()
    assert model.embed.weight.grad is not None


def test_log_prob_is_the_sum_of_the_tokens_log_probabilities() -> None:
    model, rows = gpt(), [tokens(9), tokens(6, seed=1)]
    ids = decoding.left_pad(rows)
    ids = torch.cat([ids, tokens(2, 4, seed=2)], 1)
    ids[0, -2:] = PAD  # an ended row
    found = decoding.log_prob(model, ids, start=9)
    for number, (row, new) in enumerate(((rows[0], 2), (rows[1], 4))):
        text = torch.cat([row, ids[number, 9 : 9 + new]])
        wanted = model.log_prob(text)[-new:].sum()
        assert torch.allclose(found[number], wanted, atol=1e-4)


BATCH = tokens(2, 5)


@pytest.mark.parametrize(
    ("prompt", "new", "message"),
    [
        (BATCH[:, :0], 5, "the prompt is empty"),
        (BATCH[:0], 5, "the prompt is empty"),
        (torch.full((2, 5), PAD), 5, "a row of the prompt ends in padding"),
        (torch.cat([BATCH, torch.full((1, 5), PAD)]), 5, "a row of the prompt ends in padding"),
        (torch.tensor([[5, 6, PAD]]), 5, "where left_pad puts it"),
        (torch.tensor([[5, PAD, 6]]), 5, "has some between tokens"),
        (BATCH, 0, "max_new_tokens must be at least 1, not 0"),
        (BATCH, 28, "prompt and new tokens are 33 together, more than the context of 32"),
    ],
)
def test_unfit_prompts_and_lengths_are_refused(prompt: Tensor, new: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IncrementalDecoder(gpt(max_length=32), prompt, max_new_tokens=new)


def test_prompt_and_new_tokens_may_fill_the_context() -> None:
    assert decoding.generate(gpt(max_length=32), BATCH, max_new_tokens=27).shape == (2, 32)


@pytest.mark.parametrize("wrong", [VOCAB, -1])
def test_an_id_outside_the_vocabulary_is_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match="tokens must lie between 0 and 19, these span"):
        decoding.generate(gpt(), torch.tensor([[5, wrong]]), max_new_tokens=2)


def test_models_in_training_mode_are_refused() -> None:
    with pytest.raises(ValueError, match=r"training mode: call model\.eval\(\)"):
        IncrementalDecoder(gpt().train(), BATCH, max_new_tokens=2)


def test_encoder_decoders_need_a_source_and_unpadded_prompts() -> None:
    padded = decoding.left_pad([tokens(3), tokens(1)])
    for prompt, source in ((BATCH, None), (padded, tokens(2, 4))):
        with pytest.raises(ValueError, match="needs its source, and prompts of one length"):
            IncrementalDecoder(translator(), prompt, max_new_tokens=2, source=source)


def test_models_without_blocks_are_refused() -> None:
    with pytest.raises(TypeError, match="Linear has no blocks that take a cache"):
        IncrementalDecoder(nn.Linear(3, 3).eval(), BATCH, max_new_tokens=2)
