"""Translators that write all tokens of a target at once: mask-predict and CTC.

Gu and others, Non-Autoregressive Neural Machine Translation, ICLR 2018, is the source
of the problem, that each token is chosen without knowledge of the others, and of
training on what an autoregressive model writes. Ghazvininejad and others, Mask-Predict:
Parallel Decoding of Conditional Masked Language Models, EMNLP 2019, is the source of
`MaskPredict`, which with one pass is such a model and with more chooses again what it
was least sure of; Libovický and Helcl, End-to-End Non-Autoregressive Neural Machine
Translation with Connectionist Temporal Classification, EMNLP 2018, of `CTCTranslator`,
and Graves and others, Connectionist Temporal Classification, ICML 2006, of its loss.

Deviations: the length is predicted from the mean of the encoder's output, not from that
of a special token. The blank of CTC is PAD, which is no token of a target.

A target is padded with PAD at the end and has neither BOS nor EOS, as its length tells
where it ends; a source is padded likewise.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gensrc.data.vocabulary import PAD
from gensrc.models.checks import check_sizes, check_texts, readable, widened
from gensrc.models.transformers.transformer import (
    Config,
    Decoder,
    Encoder,
    TokenEmbedding,
    source_mask,
    token_mask,
)


class ParallelTranslator(nn.Module):
    """An encoder of the source, and a decoder whose places all see each other."""

    def __init__(self, config: Config, *, source_vocab: int, target_vocab: int) -> None:
        super().__init__()
        check_sizes(source_vocab=source_vocab, target_vocab=target_vocab)
        self.target_vocab = target_vocab
        self.source = TokenEmbedding(source_vocab, config.embed_dim)
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    def condition(self, source: Int[Tensor, "n source"]) -> dict[str, Tensor]:
        """What the decoder needs of a source.

        Raises ValueError for a source without tokens, and one of another vocabulary.
        """
        x = self.source(source)
        mask = source_mask(source)
        return {"memory": self.encoder(x, mask=mask), "memory_mask": mask}

    def _check_target(self, source: Tensor, target: Tensor) -> None:
        advice = "encode the target with the model's own vocabulary"
        check_texts(target, self.target_vocab, "target tokens", advice)
        if len(source) != len(target):
            raise ValueError(
                f"there are {len(source)} sources and {len(target)} targets: give one "
                "for each"
            )
        real = target != PAD
        if readable(target) and not bool(real[:, 0].all()):
            raise ValueError("a target has length 0: leave this pair out")
        if readable(target) and bool((real[:, 1:] > real[:, :-1]).any()):
            raise ValueError("a target has padding between tokens: put it at the end")


# --- masks and lengths ---


def random_part(
    real: Bool[Tensor, "n time"], *, generator: torch.Generator | None = None
) -> Bool[Tensor, "n time"]:
    """Some of each row's True places: 1 to all of them, each number as likely."""
    luck = torch.rand(real.shape, generator=generator).to(real.device)
    ranks = luck.masked_fill(~real, 2.0).argsort(dim=1).argsort(dim=1)
    share = torch.rand(len(real), 1, generator=generator).double().to(real.device)
    return ranks < (share * real.sum(1, keepdim=True)).long() + 1


class MaskPredict(ParallelTranslator):
    """p(masked target token | the others, source), and p(length | source).

    max_target: the longest target.

    The token MASK is `target_vocab`, one more than a target may have.
    """

    def __init__(
        self, config: Config, *, source_vocab: int, target_vocab: int, max_target: int
    ) -> None:
        super().__init__(config, source_vocab=source_vocab, target_vocab=target_vocab)
        check_sizes(max_target=max_target)
        self.mask_id, self.max_target = target_vocab, max_target
        self.target = TokenEmbedding(target_vocab + 1, config.embed_dim)
        self.to_length = nn.Linear(config.embed_dim, max_target)

    def decode(
        self,
        ids: Int[Tensor, "n time"],
        memory: Float[Tensor, "n source d"],
        *,
        memory_mask: Bool[Tensor, "n 1 1 source"],
    ) -> Float[Tensor, "n time vocab"]:
        """The logits of the token at each place, MASK among the ids or not."""
        hidden = self.decoder(
            self.target(ids),
            memory,
            mask=token_mask(ids),
            memory_mask=memory_mask,
            causal=False,
        )
        return widened(F.linear(hidden, self.target.weight[:-1]))

    def length_logits(
        self,
        memory: Float[Tensor, "n source d"],
        memory_mask: Bool[Tensor, "n 1 1 source"],
    ) -> Float[Tensor, "n max_target"]:
        """Entry i belongs to the length i + 1."""
        real = memory_mask[:, 0, 0, :, None]
        mean = (memory * real).sum(1) / real.sum(1)
        return widened(self.to_length(mean))

    def loss(
        self,
        source: Int[Tensor, "n source"],
        target: Int[Tensor, "n time"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Cross-entropy of the masked tokens, in nats a token, plus that of the length,
        in nats a target. Of each target a random number of tokens is masked.

        Raises ValueError for targets without a token, too long or padded elsewhere than
        at the end, and for tokens of no vocabulary, such as MASK.
        """
        self._check_target(source, target)
        if target.shape[1] > self.max_target:
            raise ValueError(
                f"targets of {target.shape[1]} places are longer than max_target, "
                f"{self.max_target}: shorten them, or build with a larger one"
            )
        given, real = self.condition(source), target != PAD
        masked = random_part(real, generator=generator)
        logits = self.decode(target.masked_fill(masked, self.mask_id), **given)
        nats = F.cross_entropy(logits.transpose(1, 2), target, reduction="none")
        lengths = F.cross_entropy(self.length_logits(**given), real.sum(1) - 1)
        return (nats * masked).sum() / masked.sum() + lengths

    @torch.no_grad()
    def mask_predict(
        self, source: Int[Tensor, "n source"], *, passes: int, candidates: int = 1
    ) -> Int[Tensor, "n time"]:
        """The target of each source in so many passes, padded.

        The first pass chooses all tokens; then the least probable of N are masked and
        chosen anew, N (passes - t) / passes of them after t passes. This is done for
        the likeliest lengths, as many as `candidates`; the target whose tokens have the
        highest mean of log p is taken.

        Raises ValueError for passes or candidates below 1, more candidates than
        lengths, and as `condition` does.
        """
        check_sizes(passes=passes, candidates=candidates)
        if candidates > self.max_target:
            raise ValueError(
                f"there are {self.max_target} lengths, not {candidates} candidates"
            )
        given = self.condition(source)
        lengths = self.length_logits(**given).topk(candidates).indices.flatten() + 1
        given = {k: x.repeat_interleave(candidates, 0) for k, x in given.items()}
        ids, log_p = self._passes(lengths, passes, given)
        best = (log_p.sum(1) / lengths).view(len(source), candidates).argmax(1)
        rows = torch.arange(len(source), device=ids.device) * candidates + best
        return ids[rows, : int(lengths[rows].max())]

    def _passes(
        self, lengths: Tensor, passes: int, given: dict[str, Any]
    ) -> tuple[Int[Tensor, "rows time"], Float[Tensor, "rows time"]]:
        """Targets of these lengths, and log p of each token when it was chosen."""
        places = torch.arange(int(lengths.max()), device=lengths.device)
        real = places < lengths[:, None]
        ids = torch.where(real, self.mask_id, PAD)
        log_p = torch.zeros(ids.shape, device=ids.device)
        for left in range(passes - 1, -1, -1):
            masked = ids == self.mask_id
            logits = self.decode(ids, **given)
            logits[..., PAD] = -torch.inf
            found, chosen = logits.log_softmax(-1).max(-1)
            ids = torch.where(masked, chosen, ids)
            log_p = torch.where(masked, found.to(log_p), log_p)
            again = lengths * left // passes
            if not bool(again.any()):
                break
            ranks = log_p.masked_fill(~real, 1.0).argsort(dim=1).argsort(dim=1)
            ids = ids.masked_fill(ranks < again[:, None], self.mask_id)
        return ids, log_p


# --- connectionist temporal classification ---


def collapse(ids: Int[Tensor, "n places"]) -> Int[Tensor, "n time"]:
    """Of equal neighbours keep one, then leave out the blanks, which are PAD.

    The rest is padded at the end; where nothing is left there is no time.
    """
    kept = ids != PAD
    kept[:, 1:] &= ids[:, 1:] != ids[:, :-1]
    order = (~kept).long().argsort(dim=1, stable=True)
    return ids.masked_fill(~kept, PAD).gather(1, order)[:, : int(kept.sum(1).max())]


class CTCTranslator(ParallelTranslator):
    """A token or blank at each of `stretch` places a source token, independently.

    A target's probability is the sum over all rows of places that `collapse` makes it
    of: so no length is predicted, and none is known in training either.
    """

    def __init__(
        self, config: Config, *, source_vocab: int, target_vocab: int, stretch: int = 3
    ) -> None:
        super().__init__(config, source_vocab=source_vocab, target_vocab=target_vocab)
        check_sizes(stretch=stretch)
        self.stretch = stretch
        self.split = nn.Linear(config.embed_dim, stretch * config.embed_dim)
        self.to_logits = nn.Linear(config.embed_dim, target_vocab)

    def forward(
        self, source: Int[Tensor, "n source"]
    ) -> Float[Tensor, "n places vocab"]:
        """The logits of each place, of which entry PAD is the blank's."""
        given = self.condition(source)
        x = self.split(given["memory"]).unflatten(2, (self.stretch, -1)).flatten(1, 2)
        mask = given["memory_mask"].repeat_interleave(self.stretch, -1)
        return widened(
            self.to_logits(self.decoder(x, mask=mask, causal=False, **given))
        )

    def loss(
        self, source: Int[Tensor, "n source"], target: Int[Tensor, "n time"]
    ) -> Float[Tensor, ""]:
        """-log p(target | source), in nats a token of the target.

        Raises ValueError for targets without a token or padded elsewhere than at the
        end, for tokens of no vocabulary, and for a target that needs more places than
        its source gives: one a token, and a blank between two that are the same.
        """
        self._check_target(source, target)
        log_p = self(source).log_softmax(-1).transpose(0, 1)
        places = (source != PAD).sum(1) * self.stretch
        lengths = (target != PAD).sum(1)
        self._check_places(target, lengths, places)
        nats = F.ctc_loss(log_p, target, places, lengths, blank=PAD, reduction="sum")
        return nats / lengths.sum()

    def _check_places(self, target: Tensor, lengths: Tensor, places: Tensor) -> None:
        same = (target[:, 1:] == target[:, :-1]) & (target[:, 1:] != PAD)
        needed = lengths + same.sum(1)
        if readable(target) and bool((needed > places).any()):
            row = int((needed > places).nonzero()[0])
            raise ValueError(
                f"target {row} needs {int(needed[row])} places, {int(lengths[row])} "
                f"tokens and blanks between equal ones, and its source gives "
                f"{int(places[row])}: leave the pair out, or build with a larger "
                f"stretch than {self.stretch}"
            )

    @torch.no_grad()
    def translate(self, source: Int[Tensor, "n source"]) -> Int[Tensor, "n time"]:
        """The target of the likeliest row of places, which need not be the likeliest
        target; padded."""
        best = self(source).argmax(-1)
        real = (source != PAD).repeat_interleave(self.stretch, 1)
        return collapse(best.masked_fill(~real, PAD))
