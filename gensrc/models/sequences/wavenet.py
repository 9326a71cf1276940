"""WaveNet: an autoregressive model of raw sound, one sample at a time.

Van den Oord and others, WaveNet: A Generative Model for Raw Audio, 2016, is the source
of the network, and of a softmax over the 256 codes of mu-law companding. Salimans and
others, PixelCNN++, ICLR 2017, section 2.1, is the source of the mixture of logistic
distributions, an alternative to the softmax.

Deviations: the first causal convolution has a kernel of 1, which is an embedding of the
codes; the skip connections of all layers are one matrix of their concatenated outputs,
which equals a sum; a recording is padded with the code of silence, since zeros would be
an input that never occurs in training. The mixture is one of mu-law codes, not of
16-bit samples, so that its likelihood can be compared with the softmax's.

Shapes: `outputs` parameters of the distribution of a sample.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gensrc.models.checks import (
    check_labels,
    check_sizes,
    check_temperature,
    check_texts,
    widened,
)
from gensrc.models.distributions import (
    LEVELS,
    DiscretizedLogisticMixture,
    sample_categorical,
)
from gensrc.models.sequences.causal_conv import DilatedStack, FastWaveNetCache

SILENCE = 127
"""The mu-law code of a sample of 0, half a level below it; torchaudio has 128."""


class WaveNet(nn.Module):
    """p(x_t | x_<t) of mu-law codes 0 to 255, from the last `receptive_field` of them.

    channels: of the residual stream, to which each layer adds its output.
    skip_channels: of the sum of the skip connections.
    dilations: one a layer; the paper doubles them from 1 to 512, several times over.
    num_components: of the mixture of logistic distributions; 0 for a softmax over the
        codes.
    num_classes: of the paper's global conditioning, such as speakers; 0 for an
        unconditional model.

    Raises ValueError for sizes that make no network.
    """

    def __init__(
        self,
        *,
        channels: int = 32,
        skip_channels: int = 128,
        dilations: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
        kernel_size: int = 2,
        num_components: int = 0,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, skip_channels=skip_channels)
        check_sizes(least=0, num_components=num_components, num_classes=num_classes)
        self.num_components, self.num_classes = num_components, num_classes
        self.embed = nn.Embedding(LEVELS, channels)
        self.stack = DilatedStack(
            channels,
            dilations=dilations,
            kernel_size=kernel_size,
            num_classes=num_classes,
        )
        last = nn.Linear(skip_channels, 3 * num_components or LEVELS)
        self.head = nn.Sequential(
            nn.Linear(len(dilations) * channels, skip_channels),
            nn.ReLU(),
            nn.Linear(skip_channels, skip_channels),
            nn.ReLU(),
            last,
        )
        if num_components:
            with torch.no_grad():  # initialise with components spread over the levels
                spread = last.bias.view(3, num_components)
                spread[1] = torch.linspace(0, 1, num_components)
                spread[2] = -2.0

    @property
    def receptive_field(self) -> int:
        """The number of earlier codes that a prediction depends on."""
        return self.stack.receptive_field

    def forward(
        self,
        codes: Int[Tensor, "batch time"],
        labels: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch time outputs"]:
        """Entry t of the outputs predicts code t, from the codes before it.

        Raises ValueError for no codes, for one outside 0 to 255, and for labels that
        are missing, superfluous or of no class.
        """
        self._check(codes, labels)
        before = torch.cat([self._silence(len(codes)), codes[:, :-1]], 1)
        return self.network(before, labels)[:, self.receptive_field - 1 :]

    def network(
        self,
        codes: Int[Tensor, "batch time"],
        labels: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch time outputs"]:
        """Entry t of the outputs predicts code t + 1.

        Entries before receptive_field - 1 depend on zero padding.
        """
        gated, _ = self.stack(self.embed(codes).mT, labels)
        return widened(self.head(gated.mT))

    def log_prob(
        self,
        codes: Int[Tensor, "batch time"],
        labels: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch time"]:
        """log p of each code given all before it, in nats, for whole recordings.

        Raises ValueError as `forward` does.
        """
        return self._log_prob(self(codes, labels), codes)

    @torch.no_grad()
    def probs(self, past: Int[Tensor, " time"]) -> Float[Tensor, "256"]:
        """The distribution of the code after `past`, the whole recording so far.

        Raises ValueError as `forward` does, and for a class-conditional model.
        """
        self._check(past[None], None)
        silence = self._silence(1)
        before = torch.cat([silence, past[None].to(silence.device)], 1)
        outputs = self.network(before[:, -self.receptive_field :])[:, -1:]
        every = torch.arange(LEVELS, device=outputs.device).unsqueeze(1)
        return self._log_prob(outputs.expand(LEVELS, -1, -1), every)[:, 0].exp()

    def loss(
        self,
        codes: Int[Tensor, "batch time"],
        labels: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, ""]:
        """-log p in nats a sample, mean over pieces of recordings.

        The first `receptive_field` codes of a piece are not predicted, as the codes
        before them, which are no silence, are not in the batch.

        Raises ValueError for pieces without a code to predict, and as `forward` does.
        """
        self._check(codes, labels)
        given = self.receptive_field
        if codes.shape[1] <= given:
            raise ValueError(
                f"pieces of {codes.shape[1]} codes are too short: {given}, the "
                f"receptive field, are given, so take {given + 1} or more"
            )
        outputs = self.network(codes[:, :-1], labels)[:, given - 1 :]
        return -self._log_prob(outputs, codes[:, given:]).mean()

    @torch.inference_mode()
    def sample(
        self,
        n: int,
        *,
        length: int,
        prompt: Int[Tensor, " prompt"] | None = None,
        labels: Int[Tensor, " n"] | None = None,
        temperature: float = 1.0,
        use_cache: bool = True,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "n length"]:
        """`length` new codes for n recordings, which continue `prompt` or silence.

        temperature: divides logits and multiplies scales; below 1 samples are more
            conservative.
        use_cache: False recomputes the whole receptive field for every code, with the
            same noise; the codes are equal up to rounding.

        Raises ValueError for a length below 1, a temperature that is not positive, and
        as `forward` does.
        """
        check_sizes(length=length)
        check_temperature(temperature)
        codes = self._silence(n)
        labels = None if labels is None else labels.to(codes.device)
        if prompt is not None:
            if prompt.ndim != 1:
                raise ValueError(
                    f"a prompt is one row of codes, not of shape {tuple(prompt.shape)}:"
                    " all recordings continue the same"
                )
            codes = torch.cat([codes, prompt.to(codes.device).expand(n, -1)], 1)
        self._check(codes, labels)
        start, field = codes.shape[1], self.receptive_field
        if use_cache:
            before = self.embed(codes[:, :-1]).mT
            cache = FastWaveNetCache(self.stack, before, labels)
        codes = torch.cat([codes, codes.new_zeros(n, length)], 1)
        for time in range(start, start + length):
            if use_cache:
                outputs = self.head(cache.step(self.embed(codes[:, time - 1])))
            else:
                outputs = self.network(codes[:, time - field : time], labels)[:, -1]
            codes[:, time] = self._draw(outputs, temperature, generator)
        return codes[:, start:].clone()

    def _log_prob(self, outputs: Tensor, codes: Tensor) -> Tensor:
        """log p of codes, "batch time", from the outputs that predict them."""
        if not self.num_components:
            return -F.cross_entropy(outputs.mT, codes, reduction="none")
        # As a picture one pixel high.
        levels = codes[:, None, None].to(outputs) / (LEVELS - 1)
        return self._mixture(outputs).level_log_prob(levels)[:, 0, 0]

    def _mixture(
        self, outputs: Tensor, temperature: float = 1.0
    ) -> DiscretizedLogisticMixture:
        parameters = outputs.mT.unflatten(1, (3, self.num_components, 1, 1))
        logits, loc, log_scale = parameters.unbind(1)
        return DiscretizedLogisticMixture(
            logits / temperature, loc, log_scale + math.log(temperature)
        )

    def _draw(
        self, outputs: Tensor, temperature: float, generator: torch.Generator | None
    ) -> Tensor:
        """One code a row."""
        if self.num_components:
            levels = self._mixture(outputs[:, None], temperature).sample(generator)
            return (levels.flatten() * (LEVELS - 1)).round().long()
        return sample_categorical(outputs, temperature=temperature, generator=generator)

    def _silence(self, n: int) -> Tensor:
        where = self.embed.weight.device
        return torch.full((n, self.receptive_field), SILENCE, device=where)

    def _check(self, codes: Tensor, labels: Tensor | None) -> None:
        check_texts(codes, LEVELS, "codes", "turn waves into codes by mu_law")
        check_labels(labels, len(codes), self.num_classes)
