"""What is encoded comes back, the special tokens are where a model expects them, and errors say what to do."""

import hashlib
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gensrc.data.text import poems, shakespeare
from gensrc.data.vocabulary import BOS, EOS, PAD, SPECIALS, UNK, BytePairs, Vocabulary

TEXTS = ["the cat sat on the mat", "the dog sat on the log", "貓坐在墊子上，狗坐在木頭上。"] * 3
PIECES = BytePairs.of(TEXTS, size=300)
anything = st.text(st.characters(exclude_categories=["Cs"]))  # all but halves of characters
CODECS = pytest.mark.parametrize("codec", [Vocabulary.of(TEXTS), PIECES], ids=["characters", "byte pairs"])


# --- Both kinds -----------------------------------------------------------------------------------


@CODECS
def test_the_special_tokens_are_the_first_four(codec: Any) -> None:
    assert (PAD, BOS, EOS, UNK) == (0, 1, 2, 3)
    plain = codec.encode("the cat")
    assert plain.dtype == torch.int64
    assert plain.min() >= len(SPECIALS)
    assert codec.encode("the cat", bos=True, eos=True).tolist() == [BOS, *plain.tolist(), EOS]
    assert codec.encode("the cat", eos=True).tolist() == [*plain.tolist(), EOS]


@CODECS
def test_special_tokens_are_left_out_of_the_text(codec: Any) -> None:
    padded = torch.cat([codec.encode("the cat", bos=True, eos=True), torch.full((3,), PAD)])
    assert codec.decode(padded) == "the cat"


@CODECS
def test_an_empty_text_has_no_tokens(codec: Any) -> None:
    assert codec.encode("").shape == (0,)
    assert codec.encode("").dtype == torch.int64
    assert codec.decode(codec.encode("")) == ""


@CODECS
@pytest.mark.parametrize("number", [-1, 10_000])
def test_a_number_that_is_no_token_is_an_error(codec: Any, number: int) -> None:
    with pytest.raises(ValueError, match=rf"^{number} is no token: there are {len(codec)}, from 0 on\.$"):
        codec.decode(torch.tensor([5, number]))


@CODECS
def test_the_length_counts_every_token(codec: Any) -> None:
    assert codec.decode(torch.tensor([len(codec) - 1]))
    with pytest.raises(ValueError, match="is no token"):
        codec.decode(torch.tensor([len(codec)]))


# --- Characters -----------------------------------------------------------------------------------


@given(st.lists(anything, min_size=1), st.booleans(), st.booleans())
def test_every_text_of_the_vocabulary_comes_back(texts: list[str], bos: bool, eos: bool) -> None:
    vocabulary = Vocabulary.of(texts)
    for text in texts:
        ids = vocabulary.encode(text, bos=bos, eos=eos)
        assert len(ids) == len(text) + bos + eos
        assert vocabulary.decode(ids) == text


def test_characters_stand_in_unicodes_order() -> None:
    vocabulary = Vocabulary.of(["ba", "éa", "中"])
    assert vocabulary.characters == ("a", "b", "é", "中")
    assert len(vocabulary) == 8
    assert vocabulary.encode("bé中").tolist() == [5, 6, 7]


def test_an_unknown_character_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match=r"lacks 'q', 'x': make it from these texts too, or with unknown='unk'"):
        Vocabulary.of(["abc"]).encode("axqx")


def test_an_unknown_character_may_be_a_token() -> None:
    vocabulary = Vocabulary.of(["abc"], unknown="unk")
    assert vocabulary.encode("axb").tolist() == [4, UNK, 5]
    assert vocabulary.decode(vocabulary.encode("axb")) == "a\ufffdb"


def test_repeated_or_longer_characters_are_refused() -> None:
    for characters in (["a", "b", "a"], ["ab"], ["a", ""]):
        with pytest.raises(ValueError, match="single characters, each once"):
            Vocabulary(characters)
    with pytest.raises(ValueError, match="unknown has to be 'error' or 'unk', not 'skip'"):
        Vocabulary("abc", unknown="skip")


def test_shakespeares_vocabulary_is_the_well_known_small_one() -> None:
    vocabulary = Vocabulary.of(shakespeare().texts)
    assert "".join(vocabulary.characters[:22]) == "\n !\"&'(),-.12345:;?ABC"
    assert len(vocabulary) == 77
    for split in ("validation", "test"):
        for text in shakespeare(split).texts:
            assert vocabulary.decode(vocabulary.encode(text)) == text


# --- Byte pairs -----------------------------------------------------------------------------------


@given(anything)
def test_every_text_comes_back_from_byte_pairs(text: str) -> None:
    ids = PIECES.encode(text)
    assert PIECES.decode(ids) == text
    assert UNK not in ids


@given(st.lists(st.sampled_from([*SPECIALS, "a", " ", "<"])).map("".join))
def test_a_text_that_spells_a_special_token_is_only_a_text(text: str) -> None:
    ids = PIECES.encode(text)
    assert PIECES.decode(ids) == text
    assert not len(ids) or ids.min() >= len(SPECIALS)


def test_learning_again_gives_the_same_tokens() -> None:
    texts = poems("validation").texts
    first, again = (BytePairs.of(texts, size=600) for _ in range(2))
    assert first.tokenizer.to_str() == again.tokenizer.to_str()
    ids = torch.cat([first.encode(text) for text in texts])
    assert hashlib.sha256(ids.numpy().tobytes()).hexdigest()[:16] == "1abb7d2bb43e86f8"


def test_frequent_pieces_become_one_token() -> None:
    assert len(PIECES.encode("the cat sat")) < len("the cat sat") / 2
    assert len(PIECES.encode("zzzq")) == 4
    assert len(PIECES) == 300


def test_texts_without_pairs_give_bytes_alone() -> None:
    assert len(BytePairs.of(["ab"], size=1000)) == 260


def test_a_part_of_a_character_is_shown_as_such() -> None:
    alone = BytePairs.of([""], size=260)
    ids = alone.encode("貓")
    assert len(ids) == 3
    assert alone.decode(ids[:2]) == "\ufffd"


def test_too_small_a_size_is_an_error() -> None:
    with pytest.raises(ValueError, match="size has to be 260 or more, not 259"):
        BytePairs.of(TEXTS, size=259)


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)  # as if it were not there
    with pytest.raises(ImportError, match=r'need the package tokenizers: install it, or gensrc with its extra "text"'):
        BytePairs.of(TEXTS, size=300)
