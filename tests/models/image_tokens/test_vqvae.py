"""Codes are those of the nearest entry, gradients pass straight through, and bad input is refused with advice."""

import math

import pytest
import torch
import torch.nn.functional as F

from gensrc import checkpoints
from gensrc.data.captions import captioned_digits
from gensrc.data.emoji import emoji
from gensrc.evaluation import scene_judge
from gensrc.models.image_tokens.vqvae import CodeBook, FiniteScalar, Tokenizer, perplexity, straight_through, used


def tiny(**given) -> Tokenizer:
    torch.manual_seed(0)
    return Tokenizer(**{"codebook_size": 16, "embed_dim": 4, "width": 8, **given})


def pictures(n: int = 3, size: int = 16) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


# --- Straight through -----------------------------------------------------------------------------


def test_straight_through_has_the_values_of_one_and_the_gradient_of_the_other():
    z, entry = (torch.randn(2, 3).requires_grad_() for _ in range(2))
    passed = straight_through(z, entry)
    torch.testing.assert_close(passed, entry)
    passed.square().sum().backward()
    torch.testing.assert_close(z.grad, 2 * entry.detach())  # as if the decoder's gradient had met no quantiser
    assert entry.grad is None


def test_the_reconstruction_error_has_a_gradient_for_the_encoder():
    model = tiny().eval()
    quantized = model.quantize(pictures())
    F.mse_loss(model.draw(quantized.vectors), pictures()).backward()
    assert all(weight.grad.abs().max() > 0 for weight in model.encoder.parameters() if weight.dim() > 1)
    model.zero_grad()
    z = model.encoder(pictures())
    entries = model.quantizer.lookup(model.encode(pictures()))
    F.mse_loss(model.draw(entries + 0 * z), pictures()).backward()
    assert all(weight.grad.abs().max() == 0 for weight in model.encoder.parameters())


def test_the_commitment_has_a_gradient_for_the_encoder_and_none_for_the_entries():
    book = CodeBook(5, 2).eval()
    z = torch.randn(1, 2, 3, 3, requires_grad=True)
    quantized = book(z)
    quantized.commitment.backward()
    expected = 2 * (z - book.lookup(quantized.codes)) / z.numel()
    torch.testing.assert_close(z.grad, expected.detach())
    assert not book.vectors.requires_grad


def test_the_loss_is_error_over_variance_plus_commitment():
    model = tiny(variance=0.1).eval()
    model.beta = 0.5
    quantized = model.quantize(pictures())
    error = (model.draw(quantized.vectors) - pictures()).square().mean()
    torch.testing.assert_close(model.loss(pictures()), error / 0.1 + 0.5 * quantized.commitment)


# --- The code book --------------------------------------------------------------------------------


def test_the_nearest_entry_is_chosen():
    torch.manual_seed(0)
    book, z = CodeBook(50, 7).eval(), torch.randn(4, 7, 5, 6)
    distances = torch.cdist(z.permute(0, 2, 3, 1).reshape(-1, 7), book.vectors)
    assert torch.equal(book(z).codes.flatten(), distances.argmin(1))
    assert torch.equal(book.lookup(book(z).codes)[1, :, 2, 3], book.vectors[book(z).codes[1, 2, 3]])


def test_bfloat16_does_not_change_what_is_nearest():
    torch.manual_seed(0)
    book, flat = CodeBook(50, 7), torch.randn(500, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(book.nearest(flat), torch.cdist(flat, book.vectors).argmin(1))


def test_entries_converge_to_the_mean_of_their_vectors():
    torch.manual_seed(0)
    book = CodeBook(3, 2)
    book.restart, book.decay = 0, 0.5
    untouched = book.vectors[2].clone()
    first, second = torch.randn(6, 2), torch.randn(4, 2)
    book.follow(first, torch.tensor([0, 0, 0, 1, 1, 1]))
    torch.testing.assert_close(book.vectors[:2], torch.stack([first[:3].mean(0), first[3:].mean(0)]))
    book.follow(second, torch.tensor([0, 0, 0, 0]))
    older, newer = first[:3].sum(0) * 0.25, second.sum(0) * 0.5
    torch.testing.assert_close(book.vectors[0], (older + newer) / (3 * 0.25 + 4 * 0.5))
    assert torch.equal(book.vectors[2], untouched)  # dead, and left alone


def test_entries_find_the_centres_of_all_clusters():
    torch.manual_seed(0)
    middles = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    book = CodeBook(12, 2).train()
    for _ in range(300):
        flat = middles[torch.arange(80) % 4] + 0.1 * torch.randn(80, 2)
        book(flat.T.reshape(1, 2, 8, 10))
    assert torch.cdist(middles, book.vectors).min(1).values.max() < 0.2


def test_dead_entries_are_reset_to_vectors_with_large_errors_unless_switched_off():
    torch.manual_seed(0)
    flat = torch.cat([torch.zeros(97, 2), torch.tensor([[9.0, 0.0], [0.0, 9.0], [9.0, 9.0]])])
    shares = {}
    for restart in (0.0, 0.5):
        book = CodeBook(4, 2).train()
        book.restart = restart
        book.vectors.copy_(torch.tensor([[0.0, 0.0], [-50.0, 0.0], [0.0, -50.0], [-50.0, -50.0]]))
        for _ in range(3):
            quantized = book(flat.T.reshape(1, 2, 10, 10))
        shares[restart] = used(quantized.codes, 4)
    assert shares == {0.0: 0.25, 0.5: 1.0}


def test_more_dead_entries_than_vectors_are_reset_in_several_batches():
    torch.manual_seed(0)
    tokenizer = Tokenizer(codebook_size=64, embed_dim=4, width=8)
    batch = torch.rand(2, 3, 16, 16)
    tokenizer.loss(batch)
    assert int((tokenizer.quantizer.counts == 1).sum()) == 32, "as many as there are vectors"
    tokenizer.loss(batch)
    assert int((tokenizer.quantizer.counts > 0.5).sum()) == 64


def test_entries_do_not_change_in_evaluation_mode():
    model = tiny()
    before = {name: value.clone() for name, value in model.eval().state_dict().items()}
    model.loss(pictures())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    model.train().loss(pictures())
    assert not torch.equal(before["quantizer.vectors"], model.quantizer.vectors)


# --- Finite scalars -------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [[8, 8, 8], [5, 4, 3], [3], [7, 4]])
def test_fsq_codes_and_vectors_are_one_to_one(levels):
    quantizer = FiniteScalar(levels)
    assert quantizer.codebook_size == math.prod(levels)
    every = torch.arange(quantizer.codebook_size).reshape(1, 1, -1)
    vectors = quantizer.lookup(every)
    assert len(vectors[0, :, 0].T.unique(dim=0)) == quantizer.codebook_size
    assert vectors.abs().max() <= 1
    # Far outputs of the encoder reach every corner; what is looked up is what the decoder was given.
    z = torch.rand(1, len(levels), 1, 50_000).mul(2).sub(1).atanh()
    made = quantizer(z)
    torch.testing.assert_close(made.vectors, quantizer.lookup(made.codes))
    assert used(made.codes, quantizer.codebook_size) > 0.99
    for number, n in enumerate(levels):
        assert len(made.vectors[0, number].unique()) == n


def test_fsq_rounds_to_the_nearest_level_with_the_gradient_of_the_bound():
    quantizer = FiniteScalar([5])
    z = torch.linspace(-3, 3, 41).reshape(1, 1, 1, -1).requires_grad_()
    made = quantizer(z)
    torch.testing.assert_close(made.vectors * 2, quantizer.bound(z).round())
    (slope,) = torch.autograd.grad(made.vectors.sum(), z)
    (expected,) = torch.autograd.grad(quantizer.bound(z).sum() / 2, z)
    torch.testing.assert_close(slope, expected)
    assert made.commitment == 0


# --- Use ------------------------------------------------------------------------------------------


def test_perplexity_counts_entries_that_are_used_equally():
    assert perplexity(torch.arange(8).repeat(5), 16) == pytest.approx(8)
    assert perplexity(torch.zeros(9).long(), 16) == 1
    uneven = torch.tensor([0, 0, 0, 1])
    assert perplexity(uneven, 2) == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))
    assert used(torch.arange(8).repeat(5), 16) == 0.5


# --- There and back -------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{}, {"levels": [5, 5]}, {"stride": 2}, {"stride": 8}, {"channels": 1}])
def test_decoding_the_codes_equals_the_forward_pass(given):
    model = tiny(**given).eval()
    images = pictures()[:, : given.get("channels", 3)]
    codes = model.encode(images)
    assert codes.shape == (3, 16 // model.stride, 16 // model.stride)
    assert codes.dtype == torch.int64
    torch.testing.assert_close(model.decode(codes), model(images).clamp(0, 1))


def test_pictures_of_any_multiple_of_the_stride_can_be_encoded():
    model = tiny().eval()
    assert model.encode(torch.rand(2, 3, 8, 24)).shape == (2, 2, 6)
    many = torch.rand(1001, 3, 4, 4)
    codes = model.encode(many)
    assert torch.equal(codes[1000:], model.encode(many[1000:]))
    assert model.decode(codes).shape == many.shape


def test_changing_one_code_changes_the_picture_near_it_only():
    model = tiny().eval()
    codes = model.encode(pictures(1, 64))
    other = codes.clone()
    other[0, 8, 8] = (codes[0, 8, 8] + 1) % 16
    changed = (model.decode(codes) != model.decode(other)).any(1)[0].nonzero()
    assert changed.min() >= 4 * 8 - 15
    assert changed.max() <= 4 * 8 + 18
    assert len(changed) > 0


def test_a_small_step_of_the_decoder_gains_what_the_slope_of_the_loss_says(gains_what_its_slope_says):
    """Of the decoder, as the gradient that passes the code book straight through is by design not the loss's own."""
    torch.manual_seed(0)
    images = torch.rand(32, 3, 8, 8)
    model = tiny(codebook_size=32, width=16, variance=1 / 12).eval()
    gains_what_its_slope_says(model.decoder.parameters(), lambda: model.loss(images))


# --- Bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 255.0)])
def test_pixels_out_of_range_are_refused(low, high):
    images = torch.tensor([low, high]).repeat(24).reshape(1, 3, 4, 4)
    for method in (tiny().loss, tiny().encode, tiny()):
        with pytest.raises(ValueError, match=rf"\[0, 1\], these span \[{low:.3g}, {high:.3g}\]: rescale"):
            method(images)


@pytest.mark.parametrize("code", [-1, 16, 1000])
@pytest.mark.parametrize("levels", [None, [4, 4]])
def test_codes_out_of_range_are_refused(code, levels):
    codes = torch.zeros(1, 2, 2).long()
    codes[0, 1, 1] = code
    with pytest.raises(ValueError, match="codes must lie between 0 and 15, these span .* has 16 entries"):
        tiny(levels=levels).decode(codes)


@pytest.mark.parametrize("shape", [(30, 32), (32, 30)])
def test_sides_that_the_stride_does_not_divide_are_refused(shape):
    with pytest.raises(ValueError, match=f"{shape[0]} by {shape[1]} pixels .* multiples of 4"):
        tiny().encode(torch.rand(1, 3, *shape))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stride": 3}, "power of two from 2 on, not 3"),
        ({"stride": 1}, "power of two from 2 on, not 1"),
        ({"codebook_size": 0}, "codebook_size must be at least 1, not 0"),
        ({"embed_dim": 0}, "embed_dim must be at least 1, not 0"),
        ({"channels": 0}, "channels must be at least 1, not 0"),
        ({"width": 2, "stride": 8}, "width must be at least 4, not 2"),
        ({"variance": 0.0}, "variance must be positive, not 0"),
        ({"levels": [8, 2]}, r"levels must be whole numbers from 3 on, not \[8, 2\]"),
        ({"levels": []}, r"levels must be whole numbers from 3 on, not \[\]"),
    ],
)
def test_impossible_settings_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        tiny(**given)


# --- The tokenizers that are shipped --------------------------------------------------------------


def shipped(name: str, **config) -> Tokenizer:
    return checkpoints.load_weights(name, Tokenizer(**config), config=config)


def test_the_tokenizer_of_scenes_preserves_the_captions_content():
    tokenizer = shipped("scenes-vq", codebook_size=512, embed_dim=16, variance=0.03)
    held = captioned_digits("test", 200, combinations="all", seed=2)
    codes = tokenizer.encode(held.images)
    drawn = tokenizer.decode(codes)
    kept = scene_judge.agreement(scene_judge.scene_reader().read(drawn), held.scenes)
    assert codes.shape == (200, 8, 8)
    assert used(codes, 512) >= 0.8
    assert F.mse_loss(drawn, held.images) < 0.02
    assert min(kept[name] for name in ("count", "digit", "colour", "position")) >= 0.97


def test_the_tokenizer_of_emoji_reconstructs_them():
    tokenizer = shipped("emoji-vq", codebook_size=512, embed_dim=16, variance=0.09)
    held = emoji("test", size=32).images
    codes = tokenizer.encode(held)
    assert codes.shape == (len(held), 8, 8)
    assert used(codes, 512) >= 0.8
    drawn = tokenizer.decode(codes)
    assert F.mse_loss(drawn, held) < held.var() / 6
    # Hues are learned last: a tokenizer that was trained too briefly draws all in one.
    hue, shown = (some - some.mean(1, keepdim=True) for some in (drawn, held))
    assert F.mse_loss(hue, shown) < shown.var() / 3
