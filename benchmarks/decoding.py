"""Speed of text generation: two ratios, to decoding without a cache and to the transformers library.

    python benchmarks/decoding.py [--threads 1] [--rounds 5] [--tokens 512] [--widths 128 256] [--layers 4]

All sides are one GPT with the same random weights, and write the same tokens, greedily, after a prompt of 8: ours with
its cache; ours recomputing everything for each token; and `GPT2LMHeadModel.generate` with its own cache and defaults.
They take turns in one process. Medians and ratios are printed; compare the ratios, as times depend on the machine.
With one thread, times are processor time, which other processes affect less; with more, wall-clock time. Texts are
written one at a time and eight at a time; without a cache, which is slow, in one round and one at a time only.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, logging

from gensrc.decoding import generate
from gensrc.models.transformers.gpt import GPT, to_gpt2

VOCAB, PROMPT = 80, 8


def pair(context: int, width: int, layers: int) -> tuple[GPT, GPT2LMHeadModel]:
    torch.manual_seed(0)
    heads = width // 32
    ours = GPT(vocab_size=VOCAB, max_length=context, embed_dim=width, num_heads=heads, num_layers=layers).eval()
    with torch.no_grad():
        for weight in ours.parameters():
            if weight.ndim > 1:
                weight.mul_(5)  # at the start of training a GPT repeats one token for ever
    sizes = {"n_positions": context, "n_embd": width, "n_head": heads, "n_layer": layers}
    config = GPT2Config(vocab_size=VOCAB, bos_token_id=1, eos_token_id=None, pad_token_id=0, **sizes)
    theirs = GPT2LMHeadModel(config).eval()
    theirs.load_state_dict(to_gpt2(ours.state_dict()))
    return ours, theirs


def now() -> float:
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def measured(sides: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, float]:
    """The median seconds of each side; raises AssertionError if they do not write the same."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    texts = []
    for number in range(1 + rounds):
        for name, write in sides.items():
            start = now()
            texts.append(write())
            if number:  # the first round warms caches and kernels up
                times[name].append(now() - start)
    assert all(torch.equal(text, texts[0]) for text in texts), "the sides write different texts"
    return {name: statistics.median(values) for name, values in times.items()}


def compare(width: int, layers: int, new: int, rounds: int) -> None:
    ours, theirs = pair(PROMPT + new, width, layers)
    for batch in (1, 8):
        prompt = torch.randint(1, VOCAB, (batch, PROMPT), generator=torch.Generator().manual_seed(0))
        seen = torch.ones_like(prompt)
        sides = {
            "ours": lambda prompt=prompt: generate(ours, prompt, max_new_tokens=new),
            "the library": lambda prompt=prompt, seen=seen: theirs.generate(
                prompt, attention_mask=seen, max_new_tokens=new, do_sample=False
            ),
        }
        medians = measured(sides, rounds)
        for name, seconds in medians.items():
            print(f"  {batch} at a time, {name}: {1e3 * seconds / new:.2f} ms a step")
        print(f"  {batch} at a time, ratio to the library {medians['the library'] / medians['ours']:.2f}")
        if batch == 1:
            start = now()
            generate(ours, prompt, max_new_tokens=new, use_cache=False)
            anew = now() - start
            print(f"  without a cache: {1e3 * anew / new:.2f} ms a step, ratio {anew / medians['ours']:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Ratios of our seconds a text to those of others.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--layers", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()

    for width in options.widths:
        print(f"width {width}, {options.layers} blocks, {options.tokens} tokens")
        compare(width, options.layers, options.tokens, options.rounds)


if __name__ == "__main__":
    main()
