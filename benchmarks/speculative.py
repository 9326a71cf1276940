"""Speculative decoding with the book's GPT of Shakespeare: tokens a call, and seconds against decoding token by token.

    python benchmarks/speculative.py [--threads 1] [--rounds 3] [--texts 4] [--tokens 190] [--gamma 2 4]

The drafts are tables of n-grams of the training texts, and prompt look-up. Each continues beginnings of a play that
the model was not trained on, greedily and by samples. For each it prints the share of the tested proposals that were
accepted, what 1 - TV says this should be, tokens a call, and the ratio of seconds of plain decoding to its own: above
1 it is the faster. All sides take turns in one process; with one thread, times are processor time, which other
processes affect less; with more, wall-clock time. Greedy texts of all sides have to be the same.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from gensrc.checkpoints import load_weights
from gensrc.data.text import shakespeare
from gensrc.data.vocabulary import Vocabulary
from gensrc.decoding import generate, sampler
from gensrc.decoding.drafts import Draft, NGramDraft, PromptLookup
from gensrc.decoding.speculative import Speculation, likeliest, speculate
from gensrc.models.sequences.ngram import NGram
from gensrc.models.transformers.gpt import GPT

PROMPT = 60
CONFIG = {"vocab_size": 77, "max_length": 256, "embed_dim": 160, "num_heads": 5, "num_layers": 4, "positions": "rotary"}


def now() -> float:
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def timed(write: Callable[[], Tensor | Speculation]) -> tuple[float, Tensor | Speculation]:
    start = now()
    written = write()
    return now() - start, written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=190)
    parser.add_argument("--gamma", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--orders", type=int, nargs="+", default=[3, 4])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    letters = Vocabulary.of(shakespeare("train").texts, unknown="unk")
    model = load_weights("shakespeare-gpt", GPT(**CONFIG), config=CONFIG).eval()
    text = torch.cat([letters.encode(play) for play in shakespeare("train").texts])
    drafts: dict[str, Draft] = {
        f"{order}-grams": NGramDraft(NGram(text[None], order=order, vocab_size=len(letters)), text)
        for order in args.orders
    }
    drafts["look-up"] = PromptLookup(len(letters), longest=6, shortest=3)
    play = letters.encode(shakespeare("validation").texts[0])
    prompts = [play[None, 3000 * i + 1000 :][:, :PROMPT] for i in range(args.texts)]
    for manner in ("greedy", "samples"):
        compare(model, drafts, prompts, args, manner)


def compare(model: GPT, drafts: dict[str, Draft], prompts: list[Tensor], args: argparse.Namespace, manner: str) -> None:
    settings = {"max_new_tokens": args.tokens}
    filters = {"filters": [likeliest]} if manner == "greedy" else {}
    sides = [(name, gamma) for name in drafts for gamma in args.gamma]
    times: dict[tuple[str, int] | str, list[float]] = {side: [] for side in [*sides, "plain"]}
    found: dict[tuple[str, int], list[Speculation]] = {side: [] for side in sides}
    for number in range(1 + args.rounds):
        for prompt in prompts:
            choose = {} if manner == "greedy" else {"choose": sampler(generator=torch.Generator().manual_seed(number))}
            plain, ids = timed(lambda prompt=prompt, more=choose: generate(model, prompt, **settings, **more))
            times["plain"].append(plain)
            for name, gamma in sides:
                more = filters | {"generator": torch.Generator().manual_seed(number), "gamma": gamma}
                seconds, run = timed(
                    lambda prompt=prompt, name=name, more=more: speculate(
                        model, drafts[name], prompt, **settings, **more
                    )
                )
                times[name, gamma].append(seconds)
                found[name, gamma].append(run)
                assert manner != "greedy" or torch.equal(run.ids, ids), "greedy texts differ"
    first = len(prompts)  # the first round warms caches and kernels up
    whole = statistics.median(times["plain"][first:])
    print(f"{manner}, plain: {1e3 * whole / args.tokens:.2f} ms a token")
    for side in sides:
        runs = found[side]
        calls, tested = (sum(getattr(run, each) for run in runs) for each in ("calls", "tested"))
        accepted, overlap = (sum(getattr(run, each) for run in runs) / tested for each in ("accepted", "overlap"))
        who = f"{manner}, {side[0]}, gamma {side[1]}"
        print(f"{who}: accepted {accepted:.3f}, 1 - TV {overlap:.3f}", end=", ")
        ratio = whole / statistics.median(times[side][first:])
        print(f"tokens a call {args.tokens * len(runs) / calls:.2f}, ratio of seconds {ratio:.2f}")


if __name__ == "__main__":
    main()
