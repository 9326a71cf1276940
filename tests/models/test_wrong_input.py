"""Functions beside the models: what torch would broadcast, or what is not finite, is refused with a sentence."""

import math

import jaxtyping
import numpy as np
import pytest
import torch

from gensrc import decoding, training
from gensrc.data.handwriting import draw
from gensrc.data.speech import mu_law
from gensrc.evaluation import metrics
from gensrc.evaluation.scene_judge import SceneReader
from gensrc.models import style_transfer
from gensrc.models.distributions import DiscretizedLogisticMixture, sample_categorical
from gensrc.models.gan import adversarial, augmentation
from gensrc.models.gan.dcgan import Discriminator, Generator
from gensrc.models.gan.stylegan import StyleGenerator
from gensrc.models.image_tokens.code_prior import CodePrior
from gensrc.models.image_tokens.vqgan import PatchDiscriminator, update_decoder
from gensrc.models.image_tokens.vqvae import CodeBook, FiniteScalar, Tokenizer, straight_through
from gensrc.models.pixels.gated_pixelcnn import GatedPixelCNN
from gensrc.models.pixels.pixel_rnn import PixelRNN
from gensrc.models.pixels.pixelcnn import PixelCNN
from gensrc.models.sequences.autoregression import AR
from gensrc.models.sequences.ngram import NGram
from gensrc.models.sequences.recurrent import RecurrentLM
from gensrc.models.sequences.wavenet import WaveNet
from gensrc.models.vae import hierarchical, vae
from gensrc.training import Batches, fit_gan, seed_everything
from tests.decoding.test_incremental import gpt
from tests.models.cases import CASES


@pytest.fixture(autouse=True)
def unwatched():
    """Without the check of shapes that tests have and readers have not."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def numbers(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def mixture():
    return DiscretizedLogisticMixture(*(numbers(4, 2, 1, 5, 5) for _ in range(3)))


MODEL = AR(0.0, torch.tensor([0.5], dtype=torch.float64), 1.0)
SERIES = numbers(40)
WITH_A_GAP = SERIES.index_fill(0, torch.tensor([7]), math.nan)
GAUSSIANS = [hierarchical.Gaussian(numbers(*shape), numbers(*shape)) for shape in ((4, 3), (4, 1))]

WRONG = {
    "gaussian_kl": lambda: vae.gaussian_kl(numbers(4, 3), numbers(4, 1)),
    "free_nats_kl": lambda: vae.free_nats_kl(numbers(4, 3), numbers(1, 3), 0.1),
    "gaussian_log_prob of a mean": lambda: vae.gaussian_log_prob(numbers(4, 3), numbers(4, 1), numbers(4, 3)),
    "gaussian_log_prob of a variance": lambda: vae.gaussian_log_prob(numbers(4, 3), numbers(4, 3), numbers(4, 1)),
    "reparameterize": lambda: vae.VAE(image_shape=(1, 4, 4)).reparameterize(
        numbers(4, 3), numbers(4, 3), numbers(4, 1)
    ),
    "kl_between": lambda: hierarchical.kl_between(*GAUSSIANS),
    "product": lambda: hierarchical.product(*GAUSSIANS),
    "a mixture": lambda: mixture().log_prob(torch.zeros(4, 5, 5)),
    "a mixture, transposed": lambda: mixture().log_prob(torch.zeros(4, 5, 5, 1)),
    "a mixture of unlike parameters": lambda: DiscretizedLogisticMixture(
        numbers(4, 2, 1, 5, 5), numbers(4, 2, 1, 5, 5), numbers(4, 2, 1, 1, 1)
    ),
    "parameters of a picture": lambda: PixelCNN(width=4).family.log_prob(numbers(1, 1, 4, 4), torch.zeros(3, 1, 4, 4)),
    "given pictures": lambda: PixelCNN(width=4, size=(4, 4)).sample(
        3, given=torch.zeros(1, 1, 4, 4), known=torch.ones(4, 4, dtype=torch.bool)
    ),
    "given codes": lambda: CodePrior(codebook_size=4, max_length=4, embed_dim=8).sample(
        3, given=torch.zeros(1, 2).long()
    ),
    "gradient_penalty": lambda: adversarial.gradient_penalty(
        lambda x: x.flatten(1).sum(1), numbers(4, 1, 8, 8), numbers(1, 1, 8, 8)
    ),
    "labels of a discriminator": lambda: Discriminator(8, num_classes=2, width=2)(
        numbers(4, 1, 8, 8), torch.zeros(1).long()
    ),
    "labels of a generator": lambda: Generator(8, num_classes=2, width=2)(numbers(4, 100), torch.zeros(4, 1).long()),
    **{f"{name} of three axes": lambda f=f: f(numbers(4, 8, 8)) for name, f in {"colour": augmentation.colour}.items()},
    "augment": lambda: augmentation.augment(numbers(4, 8, 8), ["colour"]),
    "decoded pictures": lambda: update_decoder(
        Tokenizer(codebook_size=4, embed_dim=2, width=4),
        PatchDiscriminator(width=2),
        None,
        torch.rand(1, 3, 32, 32),
        torch.zeros(2, 8, 8).long(),
    ),
    "gram": lambda: style_transfer.gram(numbers(3, 4, 4)),
    "relative_error": lambda: style_transfer.relative_error([numbers(4, 1)], [numbers(4)]),
    "a series of two axes": lambda: AR.fit(SERIES[:, None], 1),
    "a gap in fit": lambda: AR.fit(WITH_A_GAP, 1),
    "a gap in predict": lambda: MODEL.predict(WITH_A_GAP),
    "a gap in log_prob": lambda: MODEL.log_prob(WITH_A_GAP),
    "a gap in forecast": lambda: MODEL.forecast(WITH_A_GAP, 2),
    "n-grams of one text": lambda: NGram(torch.zeros(9).long(), order=2, vocab_size=3),
    "a wave with NaN": lambda: mu_law(WITH_A_GAP),
    "a wave of 16 bits": lambda: mu_law(torch.tensor([0, 32767, -32768], dtype=torch.int16)),
    "batches with NaN": lambda: Batches(torch.arange(40), WITH_A_GAP, batch_size=4),
    "batches with infinity": lambda: Batches(SERIES / 0, batch_size=4),
    **{
        f"{name} of one picture without a batch": lambda kind=kind: kind(size=(4, 4))(torch.zeros(1, 4, 4))
        for name, kind in {"PixelCNN": PixelCNN, "gated": GatedPixelCNN, "RNN": PixelRNN}.items()
    },
    "clips without channels": lambda: SceneReader(width=2).watch(torch.zeros(2, 4, 32, 32)),
    "log-weights of one example": lambda: vae.importance_weighted_bound(numbers(5), 5),
    **{
        f"logits of {len(shape)} axes, {name}": lambda f=f, shape=shape: f(numbers(*shape))
        for shape in ((7,), (2, 3, 7))
        for name, f in {
            "top-k": lambda logits: decoding.keep_top_k(logits, 1),
            "top-p": lambda logits: decoding.keep_top_p(logits, 0.5),
            "penalty": lambda logits: decoding.penalise_repetition(logits, torch.tensor([[1]] * 2), 1.2),
            "draw": decoding.draw,
        }.items()
    },
    "tokens of other rows": lambda: decoding.penalise_repetition(numbers(3, 7), torch.tensor([[1]]), 1.2),
    "a prompt without a batch": lambda: decoding.generate(gpt(), torch.tensor([5, 6]), max_new_tokens=2),
    "a prompt without a batch, beams": lambda: decoding.beam_search(
        gpt(), torch.tensor([5, 6]), max_new_tokens=2, num_beams=2
    ),
    "a text without a batch": lambda: decoding.log_prob(gpt(), torch.tensor([5, 6]), start=1),
    "logits with NaN": lambda: sample_categorical(numbers(2, 3) * math.nan),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_would_pass_in_silence_is_named(name):
    with pytest.raises(ValueError, match=r"shape|finite|labels|divide|nan"):
        WRONG[name]()


@pytest.mark.parametrize("real", [numbers(4, 1, 8, 8) * math.nan, numbers(4, 3, 8, 8), numbers(4, 8, 8)])
def test_real_examples_are_looked_at_before_the_discriminator_learns_them(real):
    torch.manual_seed(0)
    generator, discriminator = Generator(8, latent_dim=2, width=2), Discriminator(8, width=2)
    with pytest.raises(ValueError, match="finite|shape"):
        fit_gan(generator, discriminator, iter([(real,)] * 2), steps=1)


def test_series_of_any_type_have_one_forecast():
    for series in (SERIES, SERIES.double()):
        fitted = AR.fit(series, 1)
        assert fitted.coefficients.dtype == torch.float64
        assert torch.equal(fitted.forecast(series, 3).mean, fitted.forecast(series.double(), 3).mean)


# --- types of weights ---

NETWORKS = {
    "generator": (lambda: Generator(8, latent_dim=2, width=2), (3, 2)),
    "discriminator": (lambda: Discriminator(8, width=2), (3, 1, 8, 8)),
    "style generator": (lambda: StyleGenerator(latent_dim=4, w_dim=4, channels=4, size=16), (3, 4)),
    "patches": (lambda: PatchDiscriminator(width=2), (1, 3, 32, 32)),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_take_noise_and_pictures_of_any_type(name, dtype):
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    network, x = build().eval(), numbers(*shape)
    expected = network(x)
    found = network.to(dtype)(x)
    torch.testing.assert_close(found.float(), expected, atol=0.2, rtol=0.05)
    assert found.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_players_of_any_type_play(dtype):
    torch.manual_seed(0)
    generator, discriminator = Generator(8, latent_dim=2, width=2).to(dtype), Discriminator(8, width=2).to(dtype)
    history = fit_gan(generator, discriminator, Batches(torch.rand(8, 1, 8, 8), batch_size=4), steps=2)
    assert math.isfinite(history.generator_loss[-1])
    assert generator.sample(2).dtype == dtype


# --- whole numbers of numpy ---


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_numpys_whole_numbers_are_whole_numbers(kind):
    seed_everything(kind(3))
    after = torch.rand(2)
    seed_everything(3)
    assert torch.equal(after, torch.rand(2))
    ours, theirs = (next(Batches(torch.arange(9), batch_size=n, seed=s)) for n, s in ((4, 3), (kind(4), kind(3))))
    assert torch.equal(ours[0], theirs[0])
    filters = [style_transfer.RandomFeatures(seed=seed).filters for seed in (3, kind(3))]
    assert torch.equal(*filters)
    rows = [draw(2, 3, split="train", combinations="seen", seed=seed) for seed in (3, kind(3))]
    assert torch.equal(*rows)


# --- numbers and batches with which nothing can begin ---


class Line(torch.nn.Linear):
    def __init__(self):
        super().__init__(2, 1)

    def loss(self, x):
        return self(x).square().mean()


def rows():
    return Batches(torch.rand(8, 2), batch_size=4)


def start_training(**settings):
    model = Line().eval()
    try:
        training.fit(model, rows(), **{"steps": 2, **settings})
    finally:
        assert not model.training


def start_game(**settings):
    players = Generator(8, latent_dim=2, width=2), Discriminator(8, width=2)
    fit_gan(*players, Batches(torch.rand(8, 1, 8, 8), batch_size=4), **{"steps": 2, **settings})


def start_updates(**settings):
    model = Line()
    settings = {"steps": 2, **settings}
    training.fit_updates(lambda *_: {"loss": torch.zeros(())}, model, rows(), optimizers=[], **settings)


def start_windows(**settings):
    lm = RecurrentLM(vocab_size=4, embed_dim=2, hidden_dim=2)
    training.fit_tbptt(lm, torch.zeros(2, 8).long(), window=4, **{"steps": 2, **settings})


NAMED = {
    **{
        f"{start.__name__} with {name}={value}": (
            lambda start=start, name=name, value=value: start(**{name: value}),
            name,
        )
        for start in (start_training, start_game, start_updates, start_windows)
        for name, values in {
            "steps": (2.5, -3, math.nan),
            "log_every": (0, -1, 2.5),
            "save_seconds": (math.nan,),
        }.items()
        for value in values
    },
    **{
        f"{start.__name__} with clip={clip}": (lambda start=start, clip=clip: start(clip=clip), "clip")
        for start in (start_training, start_windows)
        for clip in (-1, 0, math.nan)
    },
    "a start before the text": (
        lambda: decoding.log_prob(gpt(), torch.tensor([[5, 6, 7]]), start=-1),
        "start must lie",
    ),
    "a start at nothing": (lambda: decoding.log_prob(gpt(), torch.tensor([[5, 6, 7]]), start=0), "start must lie"),
    "a start after the text": (lambda: decoding.log_prob(gpt(), torch.tensor([[5, 6, 7]]), start=3), "start must lie"),
    "no forecast": (lambda: MODEL.forecast(SERIES, 0), "steps must be at least 1"),
    "a constant series": (lambda: AR.fit(torch.full((40,), 3.0), 1), "constant"),
    "a line": (lambda: AR.fit(torch.arange(40.0), 2), "exactly"),
    "rows with NaN": (
        lambda: training.RaggedBatches([torch.rand(3), WITH_A_GAP], batch_size=1, padding=-1),
        "rows at place 0 .* finite",
    ),
    "an array with NaN": (lambda: Batches(WITH_A_GAP.numpy(), batch_size=4), "finite"),
    "complex numbers with NaN": (lambda: Batches(torch.complex(SERIES, WITH_A_GAP), batch_size=4), "finite"),
    "a complex array with NaN": (lambda: Batches(1j * WITH_A_GAP.numpy(), batch_size=4), "finite"),
    "no rows to fill up": (lambda: training.pad([], 0), "no rows"),
    "no samples of a posterior": (
        lambda: vae.VAE(image_shape=(1, 4, 4)).log_weights(torch.rand(2, 1, 4, 4), 0),
        "k must be at least 1",
    ),
    **{
        f"no samples of a hierarchy, {name}": (
            lambda call=call: call(hierarchy(), torch.rand(2, 1, 4, 4)),
            "must be at least 1",
        )
        for name, call in {
            "means": lambda model, x: model.posterior_means(x, samples=0),
            "weights": lambda model, x: model.log_weights(x, 0),
        }.items()
    },
    "no pictures in training": (
        lambda: Tokenizer(codebook_size=4, width=4).quantize(torch.rand(0, 3, 8, 8)),
        "no pictures",
    ),
    "no real examples": (
        lambda: adversarial.update_discriminator(
            Generator(8, latent_dim=2, width=2), Discriminator(8, width=2), None, torch.rand(0, 1, 8, 8), numbers(0, 2)
        ),
        "no real examples",
    ),
}


def hierarchy():
    return hierarchical.HierarchicalVAE(image_shape=(1, 4, 4), latent_dims=(2, 2), hidden_dim=4).eval()


@pytest.mark.parametrize("name", NAMED)
def test_what_cannot_begin_is_named(name):
    call, message = NAMED[name]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", CASES)
def test_a_batch_of_nothing_is_named(name):
    case = CASES[name]
    with pytest.raises(ValueError, match="there are no .*at least"):
        case.model().loss(*(part[:0] for part in case.batch()))


@pytest.mark.parametrize("level", [1e3, 1e6, 1e9])
def test_a_fit_does_not_depend_on_the_level(level):
    series = MODEL.simulate(500, generator=torch.Generator().manual_seed(0))
    low, high = AR.fit(series, 2), AR.fit(series + level, 2)
    torch.testing.assert_close(high.coefficients, low.coefficients, rtol=1e-5, atol=1e-5)
    assert high.sigma == pytest.approx(low.sigma, rel=1e-5)
    assert high.forecast(series + level, 3).mean - level == pytest.approx(low.forecast(series, 3).mean, abs=1e-4)


# --- values, shapes and types that would be taken for others ---


def mixture_of(*batch):
    return DiscretizedLogisticMixture(*(numbers(*batch, 2, 1, 5, 5) for _ in range(3)))


def prior():
    return CodePrior(codebook_size=9, max_length=16, embed_dim=8, num_layers=1)


def gaussian(*shapes):
    return hierarchical.Gaussian(*(numbers(*shape) for shape in shapes))


WHOLE = gaussian((4, 3), (4, 3))
NARROW = gaussian((4, 3), (4, 1))
SMALL_TYPES = (torch.int32, torch.int16, torch.uint8)
UNLIKE = {
    **{
        f"beams with alpha={alpha}": (
            lambda alpha=alpha: decoding.beam_search(
                gpt(), torch.tensor([[5]]), max_new_tokens=2, num_beams=2, alpha=alpha
            ),
            "alpha must be",
        )
        for alpha in (math.nan, math.inf, -math.inf)
    },
    **{
        f"a temperature of {wrong}": (
            lambda wrong=wrong: sample_categorical(numbers(2, 3), temperature=wrong),
            "temperature must be",
        )
        for wrong in (-1, 0, math.nan)
    },
    **{
        f"{name} with NaN": (lambda build=build: build().eval()(numbers(2, 3, 2, 2) * math.nan), "finite")
        for name, build in {"FSQ": lambda: FiniteScalar([3, 5, 4]), "code book": lambda: CodeBook(8, 3)}.items()
    },
    "one channel for three": (lambda: FiniteScalar([3, 5, 4])(torch.rand(2, 1, 2, 2)), "shape"),
    "eight channels for four": (lambda: CodeBook(8, 4)(torch.rand(2, 8, 2, 2)), "shape"),
    "straight_through": (lambda: straight_through(numbers(2, 4), numbers(4)), "shape"),
    **{
        f"{f.__name__} of a narrow {name}": (lambda f=f, pair=pair: f(*pair), "shape")
        for f in (hierarchical.kl_between, hierarchical.product)
        for name, pair in {"first": (NARROW, WHOLE), "second": (WHOLE, NARROW)}.items()
    },
    "means of other examples": (
        lambda: vae.gaussian_log_prob(numbers(3, 1, 2), numbers(4, 2), numbers(4, 2)),
        "shape",
    ),
    "one picture for two mixtures": (lambda: mixture_of(2).log_prob(torch.zeros(1, 1, 5, 5)), "shape"),
    "two pictures for one mixture": (lambda: mixture_of(1).log_prob(torch.zeros(2, 1, 5, 5)), "shape"),
    **{
        f"a level of {wrong}": (
            lambda wrong=wrong: mixture_of(2).log_prob(torch.full((2, 1, 5, 5), wrong)),
            "wants pixels|between two",
        )
        for wrong in (128.0, 0.5, math.nan)
    },
    **{
        f"a mixture with {wrong} at place {at}": (
            lambda wrong=wrong, at=at: DiscretizedLogisticMixture(
                *(numbers(2, 2, 1, 5, 5) + (wrong if place == at else 0) for place in range(3))
            ).sample(),
            "finite|nan",
        )
        for at in range(3)
        for wrong in (math.nan, math.inf)
    },
    "an average of another network": (
        lambda: adversarial.update_ema(torch.nn.Linear(3, 3), torch.nn.Linear(1, 1), 0.9),
        "shape",
    ),
    "a prompt for each recording": (
        lambda: WaveNet(channels=2, skip_channels=2, dilations=(1,)).sample(
            2, length=1, prompt=torch.zeros(2, 20).long()
        ),
        "one row",
    ),
    "more codes than a picture has": (lambda: prior().sample(2, given=torch.full((2, 30), 3)), "more than the 16"),
    "no entry among given codes": (lambda: prior().sample(2, given=torch.full((2, 3), 99)), "codes must lie"),
    "a start among given codes": (lambda: prior().sample(2, given=torch.full((2, 3), 9)), "codes must lie"),
    **{
        f"{name} of {kind}": (lambda call=call, kind=kind: call(torch.ones(2, 4).to(kind)), r"must be int64.*\.long")
        for kind in SMALL_TYPES
        for name, call in {
            "GPT's tokens": lambda ids: gpt().loss(ids),
            "n-grams": lambda ids: NGram(ids, order=2, vocab_size=4),
            "a wave": lambda ids: WaveNet(channels=2, skip_channels=2, dilations=(1,)).loss(ids),
            "a prompt": lambda ids: decoding.generate(gpt(), ids, max_new_tokens=1),
            "beams": lambda ids: decoding.beam_search(gpt(), ids, max_new_tokens=1, num_beams=2),
            "codes": lambda ids: Tokenizer(levels=[3, 3], width=4).decode(ids[None]),
            "codes of a book": lambda ids: Tokenizer(codebook_size=4, width=4).decode(ids[None]),
            "labels": lambda ids: PixelCNN(width=4, num_classes=2).loss(torch.zeros(8, 1, 4, 4), ids.flatten()),
        }.items()
    },
    **{
        f"a style weight of {wrong}": (
            lambda wrong=wrong: style_transfer.transfer(None, None, style_weight=wrong),
            "weights",
        )
        for wrong in (math.nan, math.inf)
    },
    "a pixel just outside": (lambda: vae.VAE().loss(torch.full((1, 1, 28, 28), 1.004)), r"\[1\.004, 1\.004\]"),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_what_would_be_taken_for_another_is_named(name):
    call, message = UNLIKE[name]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("off", [0, 5e-6, 9e-6, -9e-6])
def test_what_rounding_leaves_of_a_level_passes(off):
    levels = torch.arange(256).float().view(1, 1, 16, 16) / 255
    model = PixelCNN(width=4, size=(16, 16), likelihood="categorical")
    torch.testing.assert_close(model.loss(levels + off), model.loss(levels))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [1e-5, 1e-38, 1e-50, 5e-324])
def test_a_temperature_near_nothing_chooses_the_likeliest(dtype, temperature):
    logits = torch.tensor([[1.0, 3.0, 2.0], [-1.0, -3.0, -2.0], [0.0, -1.0, -math.inf]], dtype=dtype)
    shares = decoding.with_temperature(logits, temperature).softmax(-1)
    assert shares.tolist() == [[0, 1, 0], [1, 0, 0], [1, 0, 0]]


def test_neighbours_are_found_among_what_has_gradients():
    codes = numbers(6, 2).requires_grad_()
    labels = torch.arange(6)
    assert torch.equal(metrics.knn_classify(codes, labels, codes, k=1), labels)
