"""Tokenizers of texts: one token a character, or byte-pair encoding.

    letters = Vocabulary.of(plays.texts)             one token a character
    pieces = BytePairs.of(plays.texts, size=1000)    byte-pair encoding; needs the extra "text"

Both have the same four special tokens and the same methods, so a model takes either.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int64
from torch import Tensor

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, BOS, EOS, UNK = range(4)  # padding, begin and end of a text, a character that the vocabulary lacks
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")
REPLACEMENT = "\ufffd"  # stands for an unknown character in a decoded text


class Vocabulary:
    """One token a character: the special tokens 0 to 3, then `characters` in the order given."""

    def __init__(self, characters: Iterable[str], *, unknown: str = "error") -> None:
        """unknown: "error" for a ValueError if a text has another character, "unk" for the token UNK in its place."""
        if unknown not in ("error", "unk"):
            raise ValueError(f"unknown has to be 'error' or 'unk', not {unknown!r}.")
        self.characters = tuple(characters)
        self.unknown = unknown
        self._ids = {character: number for number, character in enumerate(self.characters, len(SPECIALS))}
        if len(self._ids) != len(self.characters) or any(len(character) != 1 for character in self.characters):
            raise ValueError("A vocabulary needs single characters, each once.")

    @classmethod
    def of(cls, texts: Iterable[str], *, unknown: str = "error") -> "Vocabulary":
        """The vocabulary of all characters in `texts`, in Unicode's order."""
        return cls(sorted(set().union(*texts)), unknown=unknown)

    def __len__(self) -> int:
        return len(SPECIALS) + len(self.characters)

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> Int64[Tensor, " length"]:
        """The token of each character of `text`; `bos` and `eos` put the special tokens around it.

        Raises ValueError for a character that the vocabulary lacks, unless it was made with unknown="unk".
        """
        if self.unknown == "error" and (missing := set(text) - self._ids.keys()):
            raise ValueError(
                f"The vocabulary lacks {', '.join(map(repr, sorted(missing)[:5]))}: make it from these texts too, or "
                "with unknown='unk'."
            )
        ids = [self._ids.get(character, UNK) for character in text]
        return torch.tensor([BOS] * bos + ids + [EOS] * eos, dtype=torch.int64)

    def decode(self, ids: Int64[Tensor, " length"]) -> str:
        """The text of the tokens, without padding, begin and end; UNK becomes U+FFFD.

        Raises ValueError for a number that is no token.
        """
        numbers = _checked(ids, len(self))
        table = ("", "", "", REPLACEMENT, *self.characters)
        return "".join(table[number] for number in numbers)


class BytePairs:
    """One token a frequent run of bytes, by byte-pair encoding (Sennrich et al., 2016) over bytes as in GPT-2.

    The special tokens 0 to 3, the 256 bytes, then the pieces in the order in which they were merged. As every text is
    made of bytes, UNK never occurs. A piece may be a part of a character: only whole texts decode without U+FFFD.
    """

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self.tokenizer = tokenizer  # the library's object, which `transformers` takes too
        self.tokenizer.encode_special_tokens = True  # "<eos>" in a text is five characters, no special token

    @classmethod
    def of(cls, texts: Iterable[str], *, size: int) -> "BytePairs":
        """Learn `size` tokens, or fewer if the texts have no more pairs that occur twice. The same texts always give
        the same tokens.

        Raises ImportError without the package tokenizers, ValueError for a size below 260.
        """
        try:
            from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
        except ImportError as error:
            raise ImportError(
                'Byte pairs need the package tokenizers: install it, or gensrc with its extra "text".'
            ) from error
        bytes_alone = pre_tokenizers.ByteLevel.alphabet()
        if size < len(SPECIALS) + len(bytes_alone):
            raise ValueError(f"size has to be {len(SPECIALS) + len(bytes_alone)} or more, not {size}.")
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            min_frequency=2,
            show_progress=False,
            special_tokens=list(SPECIALS),
            initial_alphabet=sorted(bytes_alone),
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def encode(self, text: str, *, bos: bool = False, eos: bool = False) -> Int64[Tensor, " length"]:
        """The tokens of `text`; `bos` and `eos` put the special tokens around it."""
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        return torch.tensor([BOS] * bos + ids + [EOS] * eos, dtype=torch.int64)

    def decode(self, ids: Int64[Tensor, " length"]) -> str:
        """The text of the tokens, without special tokens; bytes that are no character become U+FFFD.

        Raises ValueError for a number that is no token.
        """
        return self.tokenizer.decode(_checked(ids, len(self)), skip_special_tokens=True)


def _checked(ids: Tensor, size: int) -> list[int]:
    numbers = ids.tolist()
    if wrong := [number for number in numbers if not 0 <= number < size]:
        raise ValueError(f"{wrong[0]} is no token: there are {size}, from 0 on.")
    return numbers
