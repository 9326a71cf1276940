"""What all models have in common, tried on each of them."""

import inspect
import math

import jaxtyping
import numpy as np
import pytest
import torch

from gensrc import checkpoints
from gensrc.models.checks import reading_values
from tests.models.cases import CASES, with_a_loss


@pytest.fixture
def unwatched():
    """Without the check of shapes that tests have and readers have not."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_no_model_is_left_out():
    assert with_a_loss() == {case.kind for case in CASES.values()}


# --- configurations ---


@pytest.mark.parametrize("name", CASES)
def test_a_model_is_loaded_by_the_configuration_that_saved_it(name, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path / "gensrc" / "checkpoints")
    monkeypatch.chdir(tmp_path)
    case = CASES[name]
    model = case.model()
    checkpoints.save_weights("small", model, config=case.config, about="a test", bits=32)
    loaded = checkpoints.load_weights("small", case.model(), config=case.config)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())


def of_numpy(value):
    if isinstance(value, tuple | list):
        return type(value)(map(of_numpy, value))
    return np.int64(value) if isinstance(value, int) and not isinstance(value, bool) else value


def for_sample(model):
    """What a model's `sample` needs besides the number."""
    needed = {"labels": torch.tensor([0, 1])} if getattr(model, "num_classes", 0) else {}
    return needed | ({"length": 2} if "length" in inspect.signature(model.sample).parameters else {})


@pytest.mark.usefixtures("unwatched")
@pytest.mark.parametrize("name", CASES)
def test_sizes_may_be_numpys_whole_numbers(name):
    case = CASES[name]
    model = case.kind(**{key: of_numpy(value) for key, value in case.config.items()}).eval()
    assert model.loss(*case.batch()).isfinite()
    if hasattr(model, "sample"):
        assert len(model.sample(np.int64(2), **for_sample(model))) == 2


# --- wrong input is named ---


LIKELIHOODS = ("loss", "elbo", "log_prob", "log_weights")
ENTRANCES = (*LIKELIHOODS, "encode", "quantize", "infer", "posterior_means", "features", "window_loss", "classify")


def calls(name, of=ENTRANCES):
    """The functions of a model that data enter, each as a function of a batch."""
    model = CASES[name].model()
    more = {"log_weights": (2,), "infer": (2, None)}
    found = {each: getattr(model, each) for each in of if hasattr(model, each)}
    if "loss" in found and len(CASES[name].batch()) > 1:
        # Of a picture alone are what a classifier computes before its loss.
        found = {key: call for key, call in found.items() if key in LIKELIHOODS}
    if name == "GPT":
        del found["log_prob"]  # of one long text, without a batch
    if name == "Transformer":
        found.pop("encode", None)
    return {key: (lambda *batch, call=call, key=key: call(*batch, *more.get(key, ()))) for key, call in found.items()}


def misshapen(x):
    """What torch might broadcast, or take for something else."""
    return {
        "an axis is missing": x[:, 0] if x.ndim > 1 else x[0],
        "one alone": x[0],
        "an axis too many": x[:, None],
        "a last axis too many": x[..., None],
        "a batch of batches": x[None],
        "fewer": x[:2],
        "transposed": x.transpose(0, 1) if x.ndim > 1 else x[:, None].expand(-1, len(x)),
    }


@pytest.mark.usefixtures("unwatched")
@pytest.mark.parametrize("name", CASES)
def test_a_shape_that_torch_might_broadcast_is_refused(name):
    batch = CASES[name].batch()
    for call_name, call in calls(name).items():
        call(*batch)
        for place, right in enumerate(batch):
            for what, wrong in misshapen(right).items():
                if what in ("fewer", "transposed") and len(batch) == 1:
                    continue  # that is a batch as well
                if wrong.shape == right.shape:
                    continue
                with pytest.raises((ValueError, TypeError)) as caught:
                    call(*batch[:place], wrong, *batch[place + 1 :])
                assert isinstance(caught.value, ValueError), (call_name, place, what)


@pytest.mark.usefixtures("unwatched")
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.batch()[0].is_floating_point()])
def test_one_value_that_is_not_finite_is_refused(name, wrong):
    for call in calls(name).values():
        x, *more = CASES[name].batch()
        x[(1,) + (0,) * (x.ndim - 1)] = wrong
        with pytest.raises(ValueError, match="not finite|these span"):
            call(x, *more)


@pytest.mark.usefixtures("unwatched")
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.batch()[0].is_floating_point()])
def test_whole_numbers_for_pixels_are_refused(name):
    x, *more = CASES[name].batch()
    for call in calls(name).values():
        for dtype in (torch.uint8, torch.int64, torch.bool):
            with pytest.raises(ValueError, match=r"are torch\..*: turn them into floating-point numbers"):
                call(x.to(dtype), *more)


@pytest.mark.usefixtures("unwatched")
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.batch()[0].is_floating_point()])
def test_fractions_and_numbers_outside_the_vocabulary_are_refused(name):
    ids, *more = CASES[name].batch()
    for call in calls(name).values():
        with pytest.raises(ValueError, match="whole numbers"):
            call(ids.float(), *more)
        for outside in (-1, 300):
            with pytest.raises(ValueError, match="must lie between"):
                call(ids.clone().index_fill_(1, torch.tensor([1]), outside), *more)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.batch()[0].is_floating_point()])
def test_a_pixel_that_rounding_took_beyond_the_range_passes(name):
    x, *more = CASES[name].batch()
    x[0, 0, 0, 0], x[0, 0, 0, 1] = 1.0, 0.0
    beyond = x.clone()
    beyond[0, 0, 0, 0], beyond[0, 0, 0, 1] = 1 + 1e-6, -1e-6
    for kind, call in calls(name, LIKELIHOODS).items():
        torch.manual_seed(1)
        right = call(x, *more)
        torch.manual_seed(1)
        torch.testing.assert_close(call(beyond, *more), right, atol=1e-3, rtol=1e-3, msg=kind)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if hasattr(case.kind, "sample")])
def test_broken_weights_do_not_draw_what_looks_like_a_sample(name):
    model = CASES[name].model()
    if not list(model.parameters()):
        pytest.skip("counts are never NaN")
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(math.nan)
    with pytest.raises(ValueError, match="not finite|nan"):
        model.sample(2, **for_sample(model))


# --- types of weights ---


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_the_type_of_the_weights_is_followed(name, dtype):
    case = CASES[name]
    model = case.model()
    torch.manual_seed(1)
    single = model.loss(*case.batch())
    model = case.model().to(dtype)
    assert single.isfinite()
    batches = [case.batch()]
    if batches[0][0].is_floating_point() and dtype == torch.float64:
        batches.append(tuple(x.to(dtype) if x.is_floating_point() else x for x in batches[0]))
    for batch in batches:
        torch.manual_seed(1)
        loss = model.loss(*batch)
        assert float(loss) == pytest.approx(float(single), rel=1e-5 if dtype == torch.float64 else 0.1)
    if name != "context model":
        loss.backward()
        assert all(p.grad is None or p.grad.dtype == dtype for p in model.parameters())
    if hasattr(model, "sample"):
        first, second = (
            each.sample(2, generator=torch.Generator().manual_seed(3), **for_sample(model))
            for each in (case.model(), model)
        )
        assert first.shape == second.shape
        assert second.isfinite().all()


# --- nothing waits for a GPU ---

COUNTED = {"masked", "left to right", "tokenizer", "scene reader", "context model"}  # results of unknown size
COUNTED |= {"CTC"}  # torch's loss, which reads the lengths


@pytest.mark.usefixtures("unwatched")
@pytest.mark.parametrize("name", [name for name in CASES if name not in COUNTED and "RNN" not in name])
def test_a_step_of_training_reads_no_value(name):
    """Tensors on the device "meta" have no values, so whatever reads one fails. PixelRNN needs autocast, which it has
    not."""
    model = CASES[name].model().train().to("meta")
    with reading_values(False):
        loss = model.loss(*(x.to("meta") for x in CASES[name].batch()))
    loss.backward()
    assert loss.is_meta
