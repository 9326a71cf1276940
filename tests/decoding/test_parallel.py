"""Blockwise parallel decoding: greedy texts in fewer calls, counts, the rule of agreement, bad input."""

import pytest
import torch
from torch import Tensor

from gensrc.data.vocabulary import PAD
from gensrc.decoding import generate
from gensrc.decoding.parallel import agreed, blockwise
from gensrc.models.transformers.blockwise import BlockwiseGPT

VOCAB = 20


def model(num_ahead: int = 4, context: int = 64) -> BlockwiseGPT:
    torch.manual_seed(0)
    made = BlockwiseGPT(
        num_ahead=num_ahead, vocab_size=VOCAB, max_length=context, embed_dim=32, num_heads=4, num_layers=2
    ).eval()
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim > 1:
                weight.mul_(6)
    return made


def prompt(seed: int = 0) -> Tensor:
    return torch.randint(4, VOCAB, (1, 6), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("num_ahead", [1, 2, 4, 9])
@pytest.mark.parametrize("new", [1, 2, 3, 40, 58])
def test_texts_are_those_of_greedy_decoding(num_ahead: int, new: int) -> None:
    made = model(num_ahead)
    for seed in range(2):
        found = blockwise(made, prompt(seed), max_new_tokens=new)
        assert torch.equal(found.ids, generate(made.gpt, prompt(seed), max_new_tokens=new))


def test_counts_are_those_of_calls_and_tokens() -> None:
    made, read = model(), []
    made.register_forward_pre_hook(lambda _, given: read.append(given[0].shape[1]))
    found = blockwise(made, prompt(), max_new_tokens=40)
    assert found.calls == len(read)
    assert read[0] == 6
    assert max(read[1:]) <= 4
    blocks = found.calls - 1
    assert 40 - (blocks + found.accepted) in (0, 1), "each block gives one token and those that are accepted"
    assert found.accepted <= found.tested <= found.proposed <= 3 * blocks
    assert found.tested - found.accepted <= blocks


def test_heads_that_foresee_the_text_need_one_call_a_block() -> None:
    """A GPT that repeats one token for ever, and heads that are copies of it."""
    made = model(num_ahead=4)
    with torch.no_grad():
        for weight in made.gpt.encoder.parameters():
            weight.zero_()
        made.gpt.encoder.norm.bias.copy_(made.gpt.embed.weight[7])
        for head in made.heads:
            head.linear2.weight.zero_()
    found = blockwise(made, prompt(), max_new_tokens=40)
    assert (found.ids[0, 6:] == found.ids[0, 6]).all()
    assert found.calls == 1 + 10
    assert found.accepted == found.tested == found.proposed == 30


@pytest.mark.parametrize(
    ("block", "choices", "kept"),
    [
        ([5, 6, 7], [6, 7, 8], 3),
        ([5, 6, 7], [6, 1, 8], 2),
        ([5, 6, 7], [1, 7, 8], 1),  # what follows a wrong token does not count
        ([5], [9], 1),
    ],
)
def test_a_block_is_kept_up_to_the_first_token_that_the_model_would_not_write(
    block: list[int], choices: list[int], kept: int
) -> None:
    assert agreed(torch.tensor(block), torch.tensor(choices)) == kept


@pytest.mark.parametrize(
    ("ids", "new", "message"),
    [
        (prompt().expand(2, -1), 3, "one text at a time, not 2"),
        (prompt()[:, :0], 3, "the prompt is empty"),
        (torch.tensor([[5, PAD]]), 3, "ends in padding"),
        (torch.tensor([[PAD, 5]]), 3, "padding"),
        (prompt(), 0, "max_new_tokens must be at least 1, not 0"),
        (prompt(), 59, "65 together, more than the context of 64"),
        (torch.tensor([[5, 20]]), 3, "between 0 and 19, these span 5 to 20"),
    ],
)
def test_bad_input_is_named(ids: Tensor, new: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        blockwise(model(), ids, max_new_tokens=new)
    with pytest.raises(ValueError, match="training mode"):
        blockwise(model().train(), prompt(), max_new_tokens=3)
