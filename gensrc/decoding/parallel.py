"""Blockwise parallel decoding: greedy texts of a GPT, several tokens a call.

Stern, Shazeer and Uszkoreit, Blockwise Parallel Decoding for Deep Autoregressive
Models, NeurIPS 2018, is the source (section 4: one call checks a block and proposes the
next). Its acceptance of nearly best tokens is left out: the text is the greedy one.
"""

import torch
from jaxtyping import Int
from torch import Tensor

from gensrc.decoding.incremental import IncrementalDecoder
from gensrc.decoding.speculative import Speculation, check_one
from gensrc.models.transformers.blockwise import BlockwiseGPT


def agreed(block: Int[Tensor, " k"], choices: Int[Tensor, " k"]) -> int:
    """How many tokens of a block the model would have written itself.

    choices: the model's next token after each of the block. The first of the block was
    its choice; the next counts if it is the choice after the first, and so on.
    """
    return 1 + int((block[1:] == choices[:-1]).cumprod(0).sum())


@torch.no_grad()
def blockwise(
    model: BlockwiseGPT, prompt: Int[Tensor, "batch time"], *, max_new_tokens: int
) -> Speculation:
    """Continue one text as greedy decoding does, in fewer calls.

    The heads write a block after the text. One call reads the block: its first head
    tells how much of it is kept, and all heads write the next block after that.

    The first token of a block is certain and thus not counted as proposed. Raises
    ValueError for other than one prompt, a padded one, and as `IncrementalDecoder`
    does.
    """
    decoder = IncrementalDecoder(model, prompt, max_new_tokens=max_new_tokens)
    check_one(prompt)
    done, end = Speculation(prompt), prompt.shape[1] + max_new_tokens
    block = decoder.read(prompt)[0, -1].argmax(-1)
    done.calls = 1
    while (time := done.ids.shape[1]) + 1 < end:
        block = block[: end - time]
        choices = decoder.read(block[None])[0].argmax(-1)
        kept = agreed(block, choices[:, 0])
        done.ids = torch.cat([done.ids, block[None, :kept]], 1)
        done.calls += 1
        done.proposed += len(block) - 1
        done.tested += min(kept, len(block) - 1)
        done.accepted += kept - 1
        decoder.rewind(time + kept)
        block = choices[kept - 1]
    # One token may be missing, which is certain.
    done.ids = torch.cat([done.ids, block[None, : end - time]], 1)
    return done
