"""Scores of translations and summaries: BLEU, chrF, exact match, ROUGE, novel words.

BLEU is that of Papineni et al., ACL 2002, and chrF that of Popović, WMT 2015, as the
package sacrebleu computes them (Post, A Call for Clarity in Reporting BLEU Scores, WMT
2018): its signature says how. ROUGE is that of Lin, 2004, as the package rouge-score
computes it. Both packages come with the extra "text".

All functions raise ValueError for no text at all, and for columns of unequal length;
ImportError without the package.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# Those of sacrebleu that need no further package.
BLEU_TOKENIZERS = ("13a", "zh", "intl", "char", "none")
ROUGE_KINDS = ("rouge1", "rouge2", "rougeL")


class Score(NamedTuple):
    """A score of a whole corpus."""

    value: float  # 0 to 100
    signature: str  # sacrebleu's: only scores with the same one can be compared


class Rouge(NamedTuple):
    """Precision, recall and F1 of each text, 0 to 1."""

    precision: Float[Tensor, " n"]
    recall: Float[Tensor, " n"]
    f1: Float[Tensor, " n"]


class Interval(NamedTuple):
    """The bounds of a confidence interval."""

    low: float
    high: float


def bleu(
    texts: Sequence[str],
    references: Sequence[str],
    *,
    tokenize: str = "13a",
    lowercase: bool = False,
) -> Score:
    """BLEU of a corpus, one reference a text: n-gram precisions and a brevity penalty.

    tokenize: one of BLEU_TOKENIZERS. "zh" makes each Chinese character a token, "none"
        splits at spaces, for texts that are tokenized already. Such "tokenized BLEU"
        depends on a tokenizer that no signature tells.
    lowercase: whether both sides are made lower case first.

    Raises ValueError for another tokenizer.
    """
    _check(texts, references)
    if tokenize not in BLEU_TOKENIZERS:
        raise ValueError(
            f"tokenize has to be one of {', '.join(BLEU_TOKENIZERS)}, not {tokenize!r}"
        )
    # `force` only keeps sacrebleu from warning of texts that are tokenized already.
    return _score(
        "BLEU",
        texts,
        references,
        tokenize=tokenize,
        lowercase=lowercase,
        force=tokenize == "none",
    )


def chrf(texts: Sequence[str], references: Sequence[str]) -> Score:
    """chrF2 of a corpus: F-score of character n-grams up to 6, recall weighed twice."""
    _check(texts, references)
    return _score("CHRF", texts, references)


def sentence_chrf(
    texts: Sequence[str], references: Sequence[str]
) -> Float[Tensor, " n"]:
    """chrF2 of each text by itself, 0 to 100, for means with their errors.

    Their mean is not the chrF of the corpus.
    """
    _check(texts, references)
    metric = _sacrebleu().CHRF()
    pairs = zip(texts, references, strict=True)
    return torch.tensor(
        [metric.sentence_score(text, [reference]).score for text, reference in pairs]
    )


def exact_match(texts: Sequence[str], references: Sequence[str]) -> Bool[Tensor, " n"]:
    """Whether each text is its reference, character by character."""
    _check(texts, references)
    return torch.tensor(
        [text == reference for text, reference in zip(texts, references, strict=True)]
    )


def rouge(
    texts: Sequence[str],
    references: Sequence[str],
    *,
    kind: str = "rougeL",
    stemmer: bool = True,
) -> Rouge:
    """ROUGE of each text: common words ("rouge1"), pairs of words ("rouge2"), or the
    longest common subsequence ("rougeL").

    A word is a run of a-z and 0-9, without case: other scripts count as nothing.
    stemmer: whether "packages" and "packaging" are the same word, by Porter's stemmer,
        as in most published figures.

    Raises ValueError for another kind.
    """
    _check(texts, references)
    if kind not in ROUGE_KINDS:
        raise ValueError(
            f"kind has to be one of {', '.join(ROUGE_KINDS)}, not {kind!r}"
        )
    scorer = _rouge_score().RougeScorer([kind], use_stemmer=stemmer)
    pairs = zip(texts, references, strict=True)
    scores = torch.tensor(
        [scorer.score(reference, text)[kind] for text, reference in pairs]
    )
    return Rouge(*scores.unbind(1))


def words(text: str) -> list[str]:
    """The words of a text in lower case, with the signs of "c++" or "x-ray"."""
    return re.findall(r"\w[\w.+#'-]*[\w+#]|\w", text.lower())


def novel(
    texts: Sequence[str], sources: Sequence[str], *, n: int = 1
) -> Float[Tensor, " text"]:
    """The share of each text's n-grams of words that its source lacks.

    See, Liu and Manning, Get To The Point, ACL 2017, figure 6. With n = 1 it is the
    share of unsupported words. 0 for a text of fewer than n words. A copied text has 0:
    the share says nothing about quality.

    Raises ValueError for an n below 1.
    """
    _check(texts, sources)
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    shares = []
    for text, source in zip(texts, sources, strict=True):
        own, known = _ngrams(text, n), set(_ngrams(source, n))
        shares.append(sum(gram not in known for gram in own) / max(len(own), 1))
    return torch.tensor(shares)


def bootstrap(
    values: Float[Tensor, " n"],
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The percentile interval of the mean, by drawing n examples with replacement.

    Efron, 1979. For two systems on the same examples, give the differences: what both
    find hard then cancels (Koehn, EMNLP 2004).

    Raises ValueError for fewer than two values, values that are not finite, no
    resample, and a level that is not between 0 and 1.
    """
    if values.ndim != 1 or len(values) < 2 or not bool(values.isfinite().all()):
        raise ValueError(
            "values must be two or more finite numbers in a row, not of shape "
            f"{tuple(values.shape)}"
        )
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(
            "resamples must be at least 1 and level between 0 and 1, not "
            f"{resamples} and {level}"
        )
    generator, exact = (
        torch.Generator().manual_seed(seed),
        values.detach().double().cpu(),
    )
    draws = (
        torch.randint(len(exact), (len(exact),), generator=generator)
        for _ in range(resamples)
    )
    means = torch.stack([exact[drawn].mean() for drawn in draws])
    bounds = means.quantile(
        torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    )
    return Interval(*bounds.tolist())


def _ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    found = words(text)
    return list(zip(*(found[start:] for start in range(n)), strict=False))


def _score(
    metric: str, texts: Sequence[str], references: Sequence[str], **settings: Any
) -> Score:
    counted = getattr(_sacrebleu(), metric)(**settings)
    value = counted.corpus_score(list(texts), [list(references)]).score
    return Score(float(value), str(counted.get_signature()))


def _sacrebleu() -> Any:
    try:
        from sacrebleu import metrics
    except ImportError as error:
        raise _lacking("sacrebleu") from error
    return metrics


def _rouge_score() -> Any:
    try:
        from rouge_score import rouge_scorer
    except ImportError as error:
        raise _lacking("rouge-score") from error
    return rouge_scorer


def _lacking(package: str) -> ImportError:
    return ImportError(
        f"This score needs the package {package}: install it, or gensrc with its extra "
        '"text".'
    )


def _check(texts: Sequence[str], others: Sequence[str]) -> None:
    if isinstance(texts, str) or isinstance(others, str):
        raise ValueError("a single text is no column of texts: put it into a list")
    if len(texts) != len(others) or not len(texts):
        raise ValueError(
            "each text needs its counterpart, and there must be one: "
            f"{len(texts)} and {len(others)}"
        )
