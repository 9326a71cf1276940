"""Recurrent networks RNN, LSTM and GRU, written out, and a recurrent language model.

Elman, Finding Structure in Time, Cognitive Science 1990, is the source of the plain
network; Hochreiter and Schmidhuber, Long Short-Term Memory, Neural Computation 1997,
with the forget gate of Gers, Schmidhuber and Cummins, Learning to Forget, Neural
Computation 2000, of the LSTM; Cho and others, Learning Phrase Representations using RNN
Encoder-Decoder, EMNLP 2014, of the GRU. Backpropagation through time is truncated to
windows as in Williams and Peng, Neural Computation 1990.

Deviations are those of torch, whose layers have the same weights under the same names:
two biases a gate where one is enough; no peepholes in the LSTM; in the GRU the reset
gate acts after the matrix product, and z weighs the old state instead of the new one.

A state is h of shape "layers batch hidden", for the LSTM a pair (h, c) of them.

Vanishing gradients are measured by products of Jacobians, as in Pascanu, Mikolov and
Bengio, On the Difficulty of Training Recurrent Neural Networks, ICML 2013.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gensrc.models.checks import (
    check_sizes,
    check_temperature,
    check_texts,
    widened,
)
from gensrc.models.distributions import sample_categorical

State = Tensor | tuple[Tensor, Tensor]


# --- the layers ---


class Recurrent(nn.Module):
    """The base of all three: weights with torch's names, and the loop over time.

    Raises ValueError for a size below 1.
    """

    gates = 1
    """How many vectors of hidden_size a step computes from its input."""

    def __init__(
        self, input_size: int, hidden_size: int, *, num_layers: int = 1
    ) -> None:
        super().__init__()
        check_sizes(
            input_size=input_size, hidden_size=hidden_size, num_layers=num_layers
        )
        self.hidden_size, self.num_layers = hidden_size, num_layers
        rows, bound = self.gates * hidden_size, 1 / math.sqrt(hidden_size)
        for layer in range(num_layers):
            width = hidden_size if layer else input_size
            for name, shape in (
                ("weight_ih", (rows, width)),
                ("weight_hh", (rows, hidden_size)),
                ("bias_ih", (rows,)),
                ("bias_hh", (rows,)),
            ):
                start = torch.empty(shape).uniform_(-bound, bound)
                self.register_parameter(f"{name}_l{layer}", nn.Parameter(start))

    def forward(
        self, x: Float[Tensor, "batch time features"], state: State | None = None
    ) -> tuple[Float[Tensor, "batch time hidden"], State]:
        """The top layer's h at every step, and the state after the last.

        Without a state it starts from zeros. Raises ValueError if the state belongs to
        another batch.
        """
        parts = self._parts(x, state)
        for layer in range(self.num_layers):
            now, outputs = [part[layer] for part in parts], []
            for x_t in x.unbind(1):
                now = self.step(self._from_input(x_t, layer), now, layer)
                outputs.append(now[0])
            x = torch.stack(outputs, dim=1)
            for part, last in zip(parts, now, strict=True):
                part[layer] = last
        h, *c = (torch.stack(part) for part in parts)
        return x, (h, c[0]) if c else h

    def step(self, x: Tensor, state: list[Tensor], layer: int) -> list[Tensor]:
        """The state after one step, from W_ih x + b_ih and the state before it."""
        raise NotImplementedError

    def _from_input(self, x: Tensor, layer: int) -> Tensor:
        weight = self.get_parameter(f"weight_ih_l{layer}")
        return F.linear(x, weight, self.get_parameter(f"bias_ih_l{layer}"))

    def _from_state(self, h: Tensor, layer: int) -> Tensor:
        weight = self.get_parameter(f"weight_hh_l{layer}")
        return F.linear(h, weight, self.get_parameter(f"bias_hh_l{layer}"))

    def _parts(self, x: Tensor, state: State | None) -> list[list[Tensor]]:
        """h, and c if there is one, each as a list of layers."""
        shape = (self.num_layers, len(x), self.hidden_size)
        if state is None:
            zeros = x.new_zeros(shape)
            state = (zeros, zeros) if isinstance(self, LSTM) else zeros
        given = state if isinstance(state, tuple) else (state,)
        if any(part.shape != shape for part in given):
            raise ValueError(
                f"the state has the shape {tuple(given[0].shape)}, this batch needs "
                f"{shape}: carry a state only on to the same rows, or start without"
            )
        return [list(part.unbind(0)) for part in given]


class RNN(Recurrent):
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh); equals torch's `nn.RNN`."""

    def step(self, x: Tensor, state: list[Tensor], layer: int) -> list[Tensor]:
        (h,) = state
        return [(x + self._from_state(h, layer)).tanh()]


class LSTM(Recurrent):
    """c' = f c + i g, h' = o tanh(c'), with gates i, f, o; equals torch's `nn.LSTM`."""

    gates = 4

    def step(self, x: Tensor, state: list[Tensor], layer: int) -> list[Tensor]:
        h, c = state
        write, keep, new, read = (x + self._from_state(h, layer)).chunk(4, dim=-1)
        c = keep.sigmoid() * c + write.sigmoid() * new.tanh()
        return [read.sigmoid() * c.tanh(), c]


class GRU(Recurrent):
    """h' = z h + (1 - z) new; equals torch's `nn.GRU`."""

    gates = 3

    def step(self, x: Tensor, state: list[Tensor], layer: int) -> list[Tensor]:
        (h,) = state
        reset_x, keep_x, new_x = x.chunk(3, dim=-1)
        reset_h, keep_h, new_h = self._from_state(h, layer).chunk(3, dim=-1)
        keep = (keep_x + keep_h).sigmoid()
        new = (new_x + (reset_x + reset_h).sigmoid() * new_h).tanh()
        return [keep * h + (1 - keep) * new]


WRITTEN_OUT = {"rnn": RNN, "lstm": LSTM, "gru": GRU}
TORCH = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


# --- vanishing gradients ---


def jacobians(
    layer: Recurrent, x: Float[Tensor, "time features"], state: State | None = None
) -> Float[Tensor, "time memory memory"]:
    """d state_t / d state_{t-1} at every step of one sequence, written-out layers only.

    The state is flattened: h of each layer, then for the LSTM c of each layer. Entry
    (i, j) is the derivative of number i by number j of the step before.

    Raises ValueError for a sequence of no steps, and as the layer for a wrong state.
    """
    if len(x) == 0:
        raise ValueError("there is no step to differentiate: a sequence needs one")
    split = isinstance(layer, LSTM)
    size = layer.num_layers * layer.hidden_size

    def flat(state: State) -> Tensor:
        parts = state if isinstance(state, tuple) else (state,)
        return torch.cat([part.flatten() for part in parts])

    def step(memory: Tensor, x_t: Tensor) -> Tensor:
        shaped = [p.view(layer.num_layers, 1, -1) for p in memory.split(size)]
        given = (shaped[0], shaped[1]) if split else shaped[0]
        return flat(layer(x_t.view(1, 1, -1), given)[1])

    with torch.no_grad():
        if state is not None:
            layer(x[None, :1], state)  # raises for a wrong state
        memory = x.new_zeros((1 + split) * size) if state is None else flat(state)
        before = []
        for x_t in x:
            before.append(memory)
            memory = step(memory, x_t)
    found = torch.func.vmap(torch.func.jacrev(step))(torch.stack(before), x)
    return found.detach()


def gradient_norms(
    jacobians: Float[Tensor, "time memory memory"],
) -> Float[Tensor, " distance"]:
    """The largest factor by which backpropagation over k steps scales a gradient.

    Entry k, from 0 to the number of steps, is the largest singular value of the product
    of the last k Jacobians, in double precision. It bounds the norm of a gradient k
    steps before the last state, relative to that at the last state.
    """
    product = torch.eye(jacobians.shape[-1], dtype=torch.float64)
    norms = [torch.ones((), dtype=torch.float64)]
    for each in jacobians.double().cpu().flip(0):
        product = product @ each
        norms.append(torch.linalg.matrix_norm(product, ord=2))
    return torch.stack(norms)


@torch.no_grad()
def set_keep_bias(layer: nn.Module, bias: float) -> None:
    """Set the bias of the gate that keeps the old state: sigmoid(bias) at zero input.

    It is the LSTM's forget gate and the GRU's z, of torch's layers and of ours. Gers
    and others initialise it open, and 1 is the usual bias (Jozefowicz, Zaremba and
    Sutskever, ICML 2015). To remember over T steps it needs about log(T - 1), which
    keeps 1 - 1/T (Tallec and Ollivier, ICLR 2018, who draw it at random up to that).

    Raises ValueError for a layer without such a gate.
    """
    gates = {LSTM: 4, nn.LSTM: 4, GRU: 3, nn.GRU: 3}.get(type(layer))
    if gates is None:
        raise ValueError(
            f"{type(layer).__name__} has no gate that keeps its state: give an LSTM or "
            "a GRU"
        )
    for name, weight in layer.named_parameters():
        if name.startswith("bias"):
            # The second part of (input, forget, new, output) and of (reset, z, new).
            weight.chunk(gates)[1].fill_(bias if name.startswith("bias_ih") else 0.0)


# --- a language model ---


class Carry(NamedTuple):
    """The state of a recurrent language model between two pieces of a text."""

    last: Int[Tensor, " batch"]
    """The last token, which is the network's next input."""
    state: Any  # State; jaxtyping cannot check a union of a tensor and a tuple here

    def detach(self) -> "Carry":
        """The same state, detached from the graph."""
        state = self.state
        if isinstance(state, tuple):
            return Carry(self.last, tuple(part.detach() for part in state))
        return Carry(self.last, state.detach())


class RecurrentLM(nn.Module):
    """p(x_t | x_<t) for tokens 0 to vocab_size - 1, by a recurrent network.

    The first token is predicted from a start symbol of the model's own, with the index
    vocab_size, so that the probabilities of all sequences of one length sum to 1.

    cell: "rnn", "lstm" or "gru".
    written_out: use the layers of this file instead of torch's fused ones, which give
        the same numbers from the same weights and are several times as fast.

    Raises ValueError for an unknown cell or a size below 1.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        embed_dim: int = 32,
        hidden_dim: int = 128,
        num_layers: int = 1,
        cell: str = "rnn",
        written_out: bool = False,
    ) -> None:
        super().__init__()
        check_sizes(
            vocab_size=vocab_size,
            embed_dim=embed_dim,
            hidden_dim=hidden_dim,
            num_layers=num_layers,
        )
        if cell not in TORCH:
            raise ValueError(f"cell must be one of {', '.join(TORCH)}, not {cell!r}")
        self.vocab_size = vocab_size
        self.embed = nn.Embedding(vocab_size + 1, embed_dim)
        self.recurrent: nn.Module
        if written_out:
            kind = WRITTEN_OUT[cell]
            self.recurrent = kind(embed_dim, hidden_dim, num_layers=num_layers)
        else:
            self.recurrent = TORCH[cell](
                int(embed_dim),
                int(hidden_dim),
                num_layers=int(num_layers),
                batch_first=True,
            )
        self.to_logits = nn.Linear(hidden_dim, vocab_size)

    def forward(
        self, tokens: Int[Tensor, "batch time"], carry: Carry | None = None
    ) -> tuple[Float[Tensor, "batch time vocab"], Carry]:
        """Entry t of the logits predicts token t, from the tokens before it.

        carry: the one that an earlier call returned for the text that these tokens
            continue; without it they begin a text.

        Raises ValueError for no tokens, for one outside the vocabulary, and for a carry
        of another batch.
        """
        self._check_tokens(tokens)
        if carry is None:
            carry = Carry(tokens.new_full((len(tokens),), self.vocab_size), None)
        if len(carry.last) != len(tokens):
            raise ValueError(
                f"the carry is of {len(carry.last)} texts, the batch has {len(tokens)}:"
                " carry on only to the same texts, or start without"
            )
        inputs = torch.cat([carry.last.unsqueeze(1), tokens[:, :-1]], dim=1)
        h, state = self.recurrent(self.embed(inputs), carry.state)
        return self.to_logits(h), Carry(tokens[:, -1], state)

    def loss(self, batch: Int[Tensor, "batch time"]) -> Float[Tensor, ""]:
        """-log p(x) / time in nats per token, mean over texts that begin here."""
        return _cross_entropy(self(batch)[0], batch)

    def window_loss(
        self, tokens: Int[Tensor, "batch time"], carry: Carry | None = None
    ) -> tuple[Float[Tensor, ""], Carry]:
        """The loss of a window of long texts, in nats per token, and what to carry on.

        carry: as in `forward`; detach it, so that no gradient crosses windows.
        """
        logits, carry = self(tokens, carry)
        return _cross_entropy(logits, tokens), carry

    def truncated(
        self, batch: Int[Tensor, "batch time"], *, window: int
    ) -> Iterator[Float[Tensor, ""]]:
        """Truncated backpropagation through time: the loss of each window in turn.

        Losses are in nats per token. The state is carried from window to window, the
        gradient is not: call `backward` and update the weights after each.

        Raises ValueError unless `window` lies between 1 and the length of the texts.
        """
        if not 1 <= window <= batch.shape[1]:
            raise ValueError(
                f"window must lie between 1 and the {batch.shape[1]} tokens of a text, "
                f"not {window}"
            )
        carry = None
        for piece in batch.split(int(window), dim=1):
            loss, carry = self.window_loss(piece, carry)
            yield loss
            carry = carry.detach()

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        length: int,
        prompt: Int[Tensor, " prompt"] | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "n length"]:
        """n texts of `length` new tokens, which continue `prompt` if there is one.

        temperature: divides the logits; below 1 samples are more conservative.

        Raises ValueError for a length below 1 and a temperature that is not positive.
        """
        check_sizes(length=length)
        check_temperature(temperature)
        where = self.to_logits.weight.device
        last, state = torch.full((n,), self.vocab_size, device=where), None
        if prompt is not None and len(prompt):
            last, state = self(prompt.to(where).expand(n, -1))[1]
        drawn = []
        for _ in range(length):
            h, state = self.recurrent(self.embed(last).unsqueeze(1), state)
            last = sample_categorical(
                self.to_logits(h[:, 0]), temperature=temperature, generator=generator
            )
            drawn.append(last)
        return torch.stack(drawn, dim=1)

    def _check_tokens(self, tokens: Tensor) -> None:
        advice = "encode the text with the model's own vocabulary"
        check_texts(tokens, self.vocab_size, "tokens", advice)


def _cross_entropy(
    logits: Float[Tensor, "batch time vocab"], tokens: Int[Tensor, "batch time"]
) -> Float[Tensor, ""]:
    return F.cross_entropy(widened(logits.flatten(0, 1)), tokens.flatten())
