"""Speech is what was recorded, mu-law loses nothing twice, and the reader of WAV files takes nothing else."""

import hashlib
import io
import json
import struct
import wave
from pathlib import Path

import make_pictures
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gensrc.data import registry
from gensrc.data.registry import DataError
from gensrc.data.speech import LEVELS, Speech, from_mu_law, mu_law, read_wav, speech

COUNTS = {"train": 82, "test": 13}
SAMPLES = {"train": 2_945_348, "test": 403_172}


@pytest.fixture(scope="module")
def loaded() -> dict[str, Speech]:
    return {split: speech(split) for split in COUNTS}


# --- The data set ---------------------------------------------------------------------------------


@pytest.mark.parametrize("split", COUNTS)
def test_prompts_are_waves_and_codes_with_names(split: str, loaded: dict[str, Speech]) -> None:
    found = loaded[split]
    assert len(found) == len(found.waves) == len(found.codes) == COUNTS[split]
    assert sum(map(len, found.waves)) == SAMPLES[split]
    for samples, codes in zip(found.waves, found.codes, strict=True):
        assert samples.shape == codes.shape
        assert (samples.dtype, codes.dtype) == (torch.float32, torch.int64)
        assert 2.5 * 8000 < len(samples) < 12 * 8000
        assert 0.2 < samples.abs().max() <= 1
        assert samples[:300].abs().max() < 0.02  # each begins with a short pause
        assert codes.min() >= 0
        assert codes.max() < LEVELS


def test_the_cards_counts_are_those_of_the_loader() -> None:
    (card,) = [card for card in registry.cards(registry.PACK) if card.name == "speech"]
    assert card.counts == COUNTS


def test_waves_are_the_decoded_codes(loaded: dict[str, Speech]) -> None:
    for found in loaded.values():
        for samples, codes in zip(found.waves, found.codes, strict=True):
            assert torch.equal(mu_law(samples), codes)
            assert torch.equal(from_mu_law(codes), samples)


def test_waves_are_the_same_on_every_machine(loaded: dict[str, Speech]) -> None:
    content = torch.cat(loaded["train"].waves).numpy().tobytes()
    assert hashlib.sha256(content).hexdigest().startswith("f718fb4fefe59a0c")


def test_neighbouring_samples_correlate_and_loudness_varies(loaded: dict[str, Speech]) -> None:
    """Neighbouring samples go together, as those of noise do not, and loud and soft alternate, as in no tone."""
    samples = torch.cat(loaded["train"].waves)
    assert torch.corrcoef(torch.stack([samples[1:], samples[:-1]]))[0, 1] > 0.7
    loudness = samples[: len(samples) // 400 * 400].view(-1, 400).square().mean(1).sqrt()
    assert loudness.quantile(0.9) > 20 * loudness.quantile(0.1)


def test_no_prompt_and_no_sentence_lies_in_both_splits(loaded: dict[str, Speech]) -> None:
    hashes = {hashlib.sha256(c.numpy().tobytes()).digest() for found in loaded.values() for c in found.codes}
    assert len(hashes) == sum(COUNTS.values())
    train, test = ({make_pictures.sentence(name) for name in loaded[split].names} for split in COUNTS)
    assert train.isdisjoint(test)


def test_another_split_is_an_error() -> None:
    with pytest.raises(ValueError, match="split has to be 'train' or 'test', not 'valid'"):
        speech("valid")


def test_a_damaged_file_stops_the_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "speech").mkdir()
    (tmp_path / "speech" / "codes-idx1-ubyte.xz").write_bytes(b"half a file")
    monkeypatch.setenv("GENSRC_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"codes-idx1-ubyte\.xz is damaged"):
        speech()


# --- Mu-law ---------------------------------------------------------------------------------------


def test_encoding_inverts_decoding_for_every_code() -> None:
    codes = torch.arange(LEVELS)
    samples = from_mu_law(codes)
    assert torch.equal(mu_law(samples), codes)
    assert (samples.diff() > 0).all()
    assert torch.equal(samples, -samples.flip(0))
    assert (samples[0], samples[-1]) == (-1, 1)


def test_codes_follow_the_formula_and_are_clipped() -> None:
    samples = torch.linspace(-1, 1, 9999, dtype=torch.float64)
    companded = samples.sign() * torch.log1p(255 * samples.abs()) / torch.log(torch.tensor(256.0, dtype=torch.float64))
    exact = (companded + 1) / 2 * 255
    assert ((mu_law(samples) - exact).abs() <= 0.5 + 1e-4).all()
    assert mu_law(torch.tensor([-7.0, 7.0])).tolist() == [0, 255]


def test_soft_samples_are_rounded_finely_and_loud_ones_coarsely() -> None:
    steps = from_mu_law(torch.arange(LEVELS)).diff()
    assert steps[127] < 2e-4
    assert steps[-1] > 0.02


def test_a_round_trip_errs_by_no_more_than_half_a_step_of_the_companded_scale() -> None:
    """Half a step is 1/255 of ln(1 + 255 |x|) / ln 256, so |x| moves by (1/255 + |x|) (256^(1/255) - 1) at most."""
    samples = torch.cat([torch.linspace(-1, 1, 20_001), torch.linspace(-1e-3, 1e-3, 2001)]).double()
    error = (from_mu_law(mu_law(samples)) - samples).abs()
    bound = (1 / 255 + samples.abs()) * (256 ** (1 / 255) - 1)
    assert (error <= bound + 2**-24).all()
    assert (error / bound).max() > 0.99, "the bound is met"


def test_samples_that_are_not_finite_are_refused() -> None:
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="samples that are not finite"):
            mu_law(torch.tensor([0.1, wrong]))


@pytest.mark.parametrize(("codes", "said"), [([3, 256], "3 to 256"), ([-1, 3], "-1 to 3")])
def test_codes_outside_the_levels_are_refused(codes: list[int], said: str) -> None:
    with pytest.raises(ValueError, match=f"codes must lie between 0 and 255, not from {said}"):
        from_mu_law(torch.tensor(codes))


# --- WAV ------------------------------------------------------------------------------------------


def wav(
    samples: bytes, *, bits: int = 16, channels: int = 1, rate: int = 8000, kind: int = 1, extra: bytes = b""
) -> bytes:
    described = struct.pack("<HHIIHH", kind, channels, rate, 0, 0, bits)
    chunks = b"fmt " + struct.pack("<I", 16) + described + extra + b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def test_samples_of_16_bits_are_read() -> None:
    samples, rate = read_wav(wav(struct.pack("<4h", 0, 16384, -32768, 32767)))
    assert samples.tolist() == [[0, 0.5, -1, 32767 / 32768]]
    assert rate == 8000


def test_samples_of_8_bits_and_two_channels_are_read() -> None:
    samples, rate = read_wav(wav(bytes([128, 0, 192, 255]), bits=8, channels=2, rate=44100))
    assert samples.tolist() == [[0, 0.5], [-1, 127 / 128]]
    assert rate == 44100


def test_files_of_the_standard_library_are_read_and_other_chunks_skipped() -> None:
    stored = io.BytesIO()
    with wave.open(stored, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(struct.pack("<3h", 1, 2, 3))
    samples, rate = read_wav(stored.getvalue())
    assert (samples * 32768).tolist() == [[1, 2, 3]]
    assert rate == 16000
    odd = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    assert read_wav(wav(b"\1\0", extra=odd))[0].tolist() == [[1 / 32768]]


WRONG = {
    "nothing": (b"", "no WAV file"),
    "another kind": (b"RIFF" + bytes(4) + b"AVI " + bytes(40), "no WAV file"),
    "no samples": (wav(b"\0\0")[:-10], "no WAV file"),
    "no description": (wav(b"\0\0").replace(b"fmt ", b"fmx "), "no WAV file"),
    "half of them": (wav(bytes(100))[:-30], "is incomplete: 70 of 100 bytes are there"),
    "mu-law": (wav(bytes(4), kind=7, bits=8), "no WAV file of uncompressed samples .*unknown format: 7"),
    "24 bits": (wav(bytes(6), bits=24), "24 bits"),
    "no channel": (wav(bytes(4), channels=0), "no WAV file"),
    "no time": (wav(bytes(4), rate=0), "0 samples a second"),
    "silence of no length": (wav(b""), "incomplete|no WAV file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_files_that_are_no_wav_are_refused(case: str) -> None:
    content, message = WRONG[case]
    with pytest.raises(DataError, match=message):
        read_wav(content)


numbers = st.integers(0, 3) | st.integers(0, 65535)
headers = st.builds(
    lambda samples, bits, channels, rate, kind: wav(samples, bits=bits, channels=channels, rate=rate, kind=kind),
    st.binary(max_size=40),
    st.sampled_from([8, 16]) | numbers,
    numbers,
    numbers,
    st.just(1) | numbers,
)


@given(st.binary(max_size=64) | headers, st.integers(0, 90), st.integers(0, 90), st.binary(max_size=8))
def test_any_bytes_give_samples_or_the_documented_error(whole: bytes, start: int, end: int, other: bytes) -> None:
    for content in (whole, whole[:start] + other + whole[end:]):
        try:
            samples, rate = read_wav(content)
        except DataError:
            continue
        assert samples.dim() == 2
        assert samples.numel() > 0
        assert samples.abs().max() <= 1
        assert rate > 0


# --- How it was made ------------------------------------------------------------------------------


def test_prompts_are_chosen_by_length_cut_and_coded(tmp_path: Path) -> None:
    folder = tmp_path / "usr" / "share" / "asterisk" / "sounds" / "en_US_f_Allison"
    folder.mkdir(parents=True)
    silence, tone = struct.pack("<8000h", *[5] * 8000), struct.pack("<24000h", *[8000, -8000] * 12000)
    (folder / "kept.wav").write_bytes(wav(silence + tone + silence))
    (folder / "short.wav").write_bytes(wav(tone[:16000]))
    (folder / "long.wav").write_bytes(wav(tone * 5))
    (folder / "fast.wav").write_bytes(wav(tone * 2, rate=16000))
    made = make_pictures.make_speech(tmp_path, {})
    table = json.loads(made["table.json"])
    assert (table["names"], table["lengths"]) == (["kept"], [400 + 24000 + 400])
    codes = torch.frombuffer(bytearray(made["codes-idx1-ubyte"][8:]), dtype=torch.uint8).long()
    assert from_mu_law(codes[400:402]).tolist() == pytest.approx([8000 / 32768, -8000 / 32768], rel=0.02)


def test_prompts_with_nearly_the_same_words_are_one_sentence() -> None:
    one = {"vol-inc-in", "vol-dec-out", "vol-rest"}
    assert len({make_pictures.sentence(name) for name in one}) == 1
    assert make_pictures.sentence("vm-review-urgent") == make_pictures.sentence("vm-review")
    assert make_pictures.sentence("vm-tempgreeting2") == make_pictures.sentence("vm-tempgreeting")
    assert make_pictures.sentence("vm-intro") != make_pictures.sentence("vm-review")
