"""Recurrent networks: equal to torch's on copied weights, probabilities that sum to 1, a gradient cut where it is."""

import itertools

import pytest
import torch
from torch import nn

from gensrc.models.sequences import recurrent
from gensrc.models.sequences.recurrent import RecurrentLM


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def language_model(cell: str = "gru", **options: int | bool) -> RecurrentLM:
    """A small model of three tokens whose weights are large enough for its memory to matter."""
    torch.manual_seed(0)
    model = RecurrentLM(**{"vocab_size": 3, "embed_dim": 4, "hidden_dim": 5} | options, cell=cell)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2)
    return model


def all_texts(length: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(3), repeat=length)))


def log_prob(model: RecurrentLM, texts: torch.Tensor) -> torch.Tensor:
    logits, _ = model(texts)
    return logits.log_softmax(-1).gather(2, texts.unsqueeze(2)).sum((1, 2))


# --- the written-out layers ---


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("kind", list(recurrent.TORCH))
def test_outputs_states_and_gradients_equal_torchs(kind: str, num_layers: int) -> None:
    torch.manual_seed(0)
    theirs = recurrent.TORCH[kind](3, 5, num_layers=num_layers, batch_first=True)
    ours = recurrent.WRITTEN_OUT[kind](3, 5, num_layers=num_layers)
    ours.load_state_dict(theirs.state_dict())  # the same names and shapes
    h, c, x = numbers(num_layers, 2, 5), numbers(num_layers, 2, 5, seed=1), numbers(2, 7, 3, seed=2)
    state = (h, c) if kind == "lstm" else h
    results = []
    for layer in (ours, theirs):
        inputs = x.clone().requires_grad_()
        outputs, last = layer(inputs, state)
        parts = last if isinstance(last, tuple) else (last,)
        (outputs.square().sum() + sum(part.sin().sum() for part in parts)).backward()
        results.append([outputs, *parts, inputs.grad, *(weight.grad for weight in layer.parameters())])
    for our, their in zip(*results, strict=True):
        torch.testing.assert_close(our, their, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", list(recurrent.TORCH))
def test_without_a_state_it_starts_from_zeros(kind: str) -> None:
    layer, x = recurrent.WRITTEN_OUT[kind](3, 5), numbers(2, 4, 3)
    zeros = torch.zeros(1, 2, 5)
    torch.testing.assert_close(layer(x)[0], layer(x, (zeros, zeros) if kind == "lstm" else zeros)[0])


@pytest.mark.parametrize("kind", list(recurrent.TORCH))
def test_no_output_depends_on_later_inputs(kind: str) -> None:
    layer, x = recurrent.WRITTEN_OUT[kind](3, 5), numbers(2, 6, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x)[0][:, 2].sum(), x)
    assert (gradient[:, 3:] == 0).all()
    assert (gradient[:, :3] != 0).any(dim=(0, 2)).all()


def test_weights_start_as_torchs_do() -> None:
    torch.manual_seed(0)
    ours = torch.cat([weight.flatten() for weight in recurrent.LSTM(30, 100).parameters()])
    assert ours.abs().max() <= 0.1
    assert ours.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02)


# --- how far back a gradient reaches ---


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("kind", list(recurrent.TORCH))
def test_the_product_of_the_jacobians_equals_autograds(kind: str, num_layers: int) -> None:
    torch.manual_seed(0)
    layer = recurrent.WRITTEN_OUT[kind](3, 5, num_layers=num_layers)
    x, parts = numbers(6, 3, seed=2), [numbers(num_layers, 1, 5), numbers(num_layers, 1, 5, seed=1)]
    parts = parts[: 2 if kind == "lstm" else 1]
    found = recurrent.jacobians(layer, x, tuple(parts) if kind == "lstm" else parts[0])
    assert found.shape == (6, 5 * num_layers * len(parts), 5 * num_layers * len(parts))

    given = [part.clone().requires_grad_() for part in parts]
    last = layer(x.unsqueeze(0), tuple(given) if kind == "lstm" else given[0])[1]
    last = torch.cat([part.flatten() for part in (last if kind == "lstm" else (last,))])
    rows = [torch.cat([g.flatten() for g in torch.autograd.grad(each, given, retain_graph=True)]) for each in last]
    torch.testing.assert_close(torch.linalg.multi_dot(list(found.flip(0))), torch.stack(rows), atol=1e-6, rtol=1e-4)


def test_the_jacobian_of_the_plain_network_is_that_of_the_formula() -> None:
    torch.manual_seed(0)
    layer, x = recurrent.RNN(3, 5), numbers(4, 3)
    h = layer(x.unsqueeze(0))[0][0]
    formula = (1 - h**2).unsqueeze(2) * layer.get_parameter("weight_hh_l0")
    torch.testing.assert_close(recurrent.jacobians(layer, x), formula.detach())


def test_gradient_norms_are_powers_if_all_jacobians_are_equal() -> None:
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    torch.testing.assert_close(recurrent.gradient_norms(turn.expand(5, 2, 2)), torch.ones(6, dtype=torch.float64))
    powers = 0.5 ** torch.arange(401, dtype=torch.float64)  # far below what float32 can hold
    torch.testing.assert_close(recurrent.gradient_norms(0.5 * turn.expand(400, 2, 2)), powers, rtol=1e-4, atol=0)


def test_gradient_norms_count_back_from_the_last_step() -> None:
    factors = torch.tensor([2.0, 3.0, 5.0]).view(3, 1, 1)
    assert recurrent.gradient_norms(factors).tolist() == [1, 5, 15, 30]


def test_no_gradient_grows_by_more_than_the_largest_singular_value_a_step() -> None:
    torch.manual_seed(0)
    layer = recurrent.RNN(3, 20)
    largest = torch.linalg.matrix_norm(layer.get_parameter("weight_hh_l0").double(), ord=2).item()
    found = recurrent.gradient_norms(recurrent.jacobians(layer, numbers(30, 3)))
    assert (found[1:] < largest ** torch.arange(1, 31)).all()


@pytest.mark.parametrize("layer", [nn.LSTM(3, 5, 2), recurrent.LSTM(3, 5), nn.GRU(3, 5), recurrent.GRU(3, 5)])
def test_a_gate_keeps_the_sigmoid_of_its_bias_at_zero_input(layer: nn.Module) -> None:
    recurrent.set_keep_bias(layer, 3.0)
    written = recurrent.WRITTEN_OUT[type(layer).__name__.lower()](3, 5, num_layers=layer.num_layers)
    written.load_state_dict(layer.state_dict())
    with torch.no_grad():
        for name, weight in written.named_parameters():
            if "weight" in name:
                weight.zero_()  # no input and no state speaks
    kept = recurrent.jacobians(written, numbers(1, 3))[0].diagonal()[-5 * layer.num_layers :]
    torch.testing.assert_close(kept, torch.tensor(3.0).sigmoid().expand(len(kept)))


@pytest.mark.parametrize("layer", [nn.RNN(3, 5), recurrent.RNN(3, 5), nn.Linear(3, 5)])
def test_set_keep_bias_refuses_a_layer_without_a_gate(layer: nn.Module) -> None:
    with pytest.raises(ValueError, match="has no gate that keeps its state: give an LSTM or a GRU"):
        recurrent.set_keep_bias(layer, 1.0)


def test_a_sequence_of_no_steps_has_no_jacobian() -> None:
    with pytest.raises(ValueError, match="no step to differentiate"):
        recurrent.jacobians(recurrent.RNN(3, 5), torch.empty(0, 3))


# --- the language model ---


@pytest.mark.parametrize("written_out", [False, True])
@pytest.mark.parametrize("cell", list(recurrent.TORCH))
def test_probabilities_of_all_texts_sum_to_one(cell: str, written_out: bool) -> None:
    model = language_model(cell, written_out=written_out)
    assert log_prob(model, all_texts(4)).exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("cell", list(recurrent.TORCH))
def test_written_out_and_fused_layers_give_the_same_logits(cell: str) -> None:
    fused, written = language_model(cell, num_layers=2), language_model(cell, num_layers=2, written_out=True)
    written.load_state_dict(fused.state_dict())
    torch.testing.assert_close(written(all_texts(4))[0], fused(all_texts(4))[0], atol=1e-6, rtol=1e-5)


def test_loss_is_nats_per_token() -> None:
    model, texts = language_model(), all_texts(4)
    assert model.loss(texts).item() == pytest.approx(-log_prob(model, texts).mean().item() / 4, rel=1e-5)


@pytest.mark.parametrize("cell", list(recurrent.TORCH))
def test_pieces_with_a_carried_state_equal_the_whole(cell: str) -> None:
    model, texts = language_model(cell), all_texts(5)
    whole, _ = model(texts)
    first, carry = model(texts[:, :2])
    second, _ = model(texts[:, 2:], carry)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)


@pytest.mark.parametrize("cell", list(recurrent.TORCH))
def test_windows_have_the_loss_of_the_whole_and_the_gradient_of_their_own(cell: str) -> None:
    model, texts = language_model(cell), all_texts(6)[::7]
    losses = list(model.truncated(texts, window=3))
    assert sum(losses).item() / 2 == pytest.approx(model.loss(texts).item(), rel=1e-5)

    # The second window alone, its memory given as numbers, has the same gradient.
    with torch.no_grad():
        _, carry = model(texts[:, :3])
    logits, _ = model(texts[:, 3:], carry)
    alone = nn.functional.cross_entropy(logits.flatten(0, 1), texts[:, 3:].flatten())
    weights = list(model.parameters())
    for one, other in zip(torch.autograd.grad(losses[1], weights), torch.autograd.grad(alone, weights), strict=True):
        torch.testing.assert_close(one, other)

    # And another one than if the gradient went on into the first.
    _, attached = model(texts[:, :3])
    logits, _ = model(texts[:, 3:], attached)
    through = nn.functional.cross_entropy(logits.flatten(0, 1), texts[:, 3:].flatten())
    weight = model.get_parameter("recurrent.weight_hh_l0")
    through_gradient = torch.autograd.grad(through, weight, retain_graph=True)[0]
    alone_gradient = torch.autograd.grad(list(model.truncated(texts, window=3))[1], weight)[0]
    assert not torch.allclose(through_gradient, alone_gradient, rtol=1e-2)


def test_weights_can_be_updated_between_windows() -> None:
    model = language_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for loss in model.truncated(all_texts(6), window=2):
        optimizer.zero_grad()
        loss.backward()  # would go through a freed graph if the state were not detached
        optimizer.step()


def test_the_last_window_may_be_shorter() -> None:
    assert len(list(language_model().truncated(all_texts(5), window=2))) == 3


@pytest.mark.parametrize("cell", list(recurrent.TORCH))
def test_samples_follow_the_model(cell: str) -> None:
    model = language_model(cell)
    drawn = model.sample(20_000, length=3, generator=torch.Generator().manual_seed(0))
    codes = drawn @ torch.tensor([9, 3, 1])
    shares = torch.bincount(codes, minlength=27) / len(drawn)
    assert (shares - log_prob(model, all_texts(3)).exp()).abs().max() < 0.015


def test_samples_continue_the_prompt() -> None:
    model, prompt = language_model(), torch.tensor([2, 0, 1])
    drawn = model.sample(20_000, length=1, prompt=prompt, generator=torch.Generator().manual_seed(0))
    expected = model(torch.tensor([[2, 0, 1, 0]]))[0][0, 3].softmax(-1)
    assert (torch.bincount(drawn[:, 0], minlength=3) / len(drawn) - expected).abs().max() < 0.015


def test_samples_are_the_likeliest_at_low_and_uniform_at_high_temperature() -> None:
    model = language_model()
    likeliest = model(torch.tensor([[0]]))[0][0, 0].argmax()
    assert (model.sample(100, length=1, temperature=1e-3) == likeliest).all()
    hot = model.sample(6_000, length=1, temperature=1e3, generator=torch.Generator().manual_seed(0))
    assert (torch.bincount(hot[:, 0], minlength=3) - 2_000).abs().max() < 200


# --- what goes wrong ---


@pytest.mark.parametrize("token", [3, -1])
def test_a_token_outside_the_vocabulary_is_refused(token: int) -> None:
    with pytest.raises(ValueError, match="tokens must lie between 0 and 2, these span .*: encode"):
        language_model().loss(torch.tensor([[0, token]]))


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(ValueError, match="a text needs at least one"):
        language_model()(torch.empty(2, 0, dtype=torch.int64))


def test_a_carry_of_another_batch_is_refused() -> None:
    model = language_model()
    _, carry = model(all_texts(2))
    with pytest.raises(ValueError, match="carry is of 9 texts, the batch has 2: carry on only to the same texts"):
        model(all_texts(2)[:2], carry)


def test_a_state_of_another_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"state has the shape \(1, 3, 5\), this batch needs \(1, 2, 5\)"):
        recurrent.GRU(4, 5)(numbers(2, 6, 4), torch.zeros(1, 3, 5))


def test_a_cell_of_another_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"this batch needs \(1, 2, 5\): carry a state only on to the same rows"):
        recurrent.LSTM(4, 5)(numbers(2, 6, 4), (torch.zeros(1, 2, 5), torch.zeros(1, 1, 5)))


def test_jacobians_refuse_a_wrong_state() -> None:
    with pytest.raises(ValueError, match=r"state has the shape \(1, 1, 4\), this batch needs \(1, 1, 5\)"):
        recurrent.jacobians(recurrent.GRU(4, 5), numbers(6, 4), torch.zeros(1, 1, 4))


@pytest.mark.parametrize("window", [0, 7])
def test_a_window_longer_than_the_text_is_refused(window: int) -> None:
    with pytest.raises(ValueError, match=f"window must lie between 1 and the 6 tokens of a text, not {window}"):
        next(language_model().truncated(all_texts(6), window=window))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length must be at least 1, not 0"),
        ({"length": 3, "temperature": 0.0}, "temperature must be positive and finite, not 0.0"),
    ],
)
def test_a_sample_of_no_tokens_or_at_no_temperature_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        language_model().sample(1, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 0}, "vocab_size must be at least 1, not 0"),
        ({"vocab_size": 3, "hidden_dim": 0}, "hidden_dim must be at least 1"),
        ({"vocab_size": 3, "cell": "elman"}, "cell must be one of rnn, lstm, gru, not 'elman'"),
    ],
)
def test_impossible_models_are_refused(options: dict[str, int | str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RecurrentLM(**options)
