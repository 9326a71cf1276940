"""Decoding of language models: filters, sampling, beam search, incremental decoding."""

from gensrc.decoding.beam import beam_search, wu_length
from gensrc.decoding.filters import (
    draw,
    greedy,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalise_repetition,
    sampler,
    with_temperature,
)
from gensrc.decoding.generate import generate, left_pad, stream
from gensrc.decoding.incremental import IncrementalDecoder, log_prob

__all__ = [
    "IncrementalDecoder",
    "beam_search",
    "draw",
    "generate",
    "greedy",
    "keep_min_p",
    "keep_top_k",
    "keep_top_p",
    "left_pad",
    "log_prob",
    "penalise_repetition",
    "sampler",
    "stream",
    "with_temperature",
    "wu_length",
]
