"""Generation: padded prompts, stop tokens, streams, and greedy texts of the transformers library."""

import math
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from gensrc import decoding
from gensrc.data.vocabulary import BOS, EOS, PAD
from gensrc.decoding import IncrementalDecoder, beam_search, generate, left_pad, sampler, stream
from gensrc.models.transformers.gpt import GPT, to_gpt2
from tests.decoding.test_incremental import gpt, tokens


def test_left_padded_prompts_give_the_texts_of_each_prompt_alone() -> None:
    model, rows = gpt(), [tokens(length, seed=length) for length in (11, 5, 1)]
    together = generate(model, left_pad(rows), max_new_tokens=60)
    found = beam_search(model, left_pad(rows), max_new_tokens=12, num_beams=3)
    for number, row in enumerate(rows):
        alone = generate(model, row[None], max_new_tokens=60)
        assert torch.equal(together[number, 11 - len(row) :], alone[0])
        alone = beam_search(model, row[None], max_new_tokens=12, num_beams=3)
        assert torch.equal(found[number, 11 - len(row) :], alone[0])


def test_no_filter_sees_padding() -> None:
    model, rows = gpt(), [tokens(length, seed=length) for length in (11, 5, 1)]

    def rarer(logits: Tensor, ids: Tensor) -> Tensor:
        """A filter of a reader's: it would be led astray by PAD, and by the number of columns."""
        assert (ids != PAD).all()
        rarer = logits.scatter_add(1, ids, torch.full(ids.shape, -3.0 / ids.shape[1]))
        return rarer.index_fill(1, torch.tensor([PAD]), -math.inf)

    def sampled(prompt: Tensor, **more: Any) -> Tensor:
        choose = sampler(repetition_penalty=1.8, filters=[rarer, lambda logits, _: decoding.keep_top_k(logits, 1)])
        return generate(model, prompt, max_new_tokens=40, choose=choose, **more)

    together = sampled(left_pad(rows))
    for number, row in enumerate(rows):
        assert torch.equal(together[number, 11 - len(row) :], sampled(row[None])[0])
    # Nor what follows a stop token.
    ended = sampled(left_pad(rows), stop_tokens=[int(together[0, 14])])
    assert ended.shape[1] > 15
    assert (ended[0, 15:] == PAD).all()


def test_rows_of_different_lengths_draw_the_numbers_that_a_batch_does() -> None:
    model, padded = gpt(), left_pad([tokens(3), tokens(5)] * 20)
    plain = [sampler(generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    together = next(stream(model, padded, max_new_tokens=1, choose=plain[0]))
    logits = IncrementalDecoder(model, padded, max_new_tokens=1).read(padded)[:, -1]
    assert torch.equal(together, plain[1](logits, padded))


def test_left_pad_refuses_empty_prompts() -> None:
    for prompts in ([], [tokens(3), tokens(0)]):
        with pytest.raises(ValueError, match="a prompt is empty: begin with a token at least, such as BOS"):
            left_pad(prompts)


def test_each_row_ends_at_its_own_stop_token() -> None:
    model, prompt = gpt(), tokens(4, 5)
    whole = generate(model, prompt, max_new_tokens=40)
    stops = [whole[0, 9].item(), whole[1, 20].item()]
    cut = generate(model, prompt, max_new_tokens=40, stop_tokens=stops)
    ends = []
    for long, short in zip(whole[:, 5:], cut[:, 5:], strict=True):
        hits = torch.isin(long, torch.tensor(stops)).nonzero()
        end = hits[0].item() + 1 if len(hits) else 40
        ends.append(end)
        assert torch.equal(short[:end], long[:end])
        assert (short[end:] == PAD).all()
    assert len(set(ends)) > 1
    assert cut.shape[1] == 5 + max(ends), "and nothing is computed when all have ended"


def test_stream_yields_each_token_after_one_forward_pass() -> None:
    model, prompt = gpt(), tokens(2, 5)
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    written = []
    for token in stream(model, prompt, max_new_tokens=6):
        written.append(token)
        assert len(calls) == len(written)
    assert torch.equal(torch.stack(written, 1), generate(model, prompt, max_new_tokens=6)[:, 5:])


# --- the transformers library, on the same weights ---


def library(model: GPT) -> nn.Module:
    heads, layers = model.encoder.config.num_heads, model.encoder.config.num_layers
    sizes = {"n_positions": model.max_length, "n_embd": model.embed.embedding_dim, "n_head": heads, "n_layer": layers}
    config = transformers.GPT2Config(
        vocab_size=model.vocab_size, bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, **sizes
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs.load_state_dict(to_gpt2(model.state_dict()))
    return theirs


def test_greedy_texts_equal_the_librarys_with_padding_and_stop_tokens() -> None:
    model = gpt()
    prompt = left_pad([tokens(9), tokens(4, seed=1), tokens(1, seed=2)])
    ours = generate(model, prompt, max_new_tokens=50, stop_tokens=[EOS])
    theirs = library(model).generate(
        prompt, attention_mask=(prompt != PAD).long(), max_new_tokens=50, do_sample=False, eos_token_id=EOS
    )
    assert torch.equal(ours, theirs)
