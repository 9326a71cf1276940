"""Every model that learns, as small as it can be, with a batch for its loss: for tests that walk all of them."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import gensrc.evaluation
import gensrc.models
from gensrc.data.vocabulary import BOS, EOS
from gensrc.evaluation.image_classifier import ImageClassifier, PooledClassifier
from gensrc.evaluation.scene_judge import SceneReader
from gensrc.models.image_tokens.code_prior import CodePrior
from gensrc.models.image_tokens.vqvae import Tokenizer
from gensrc.models.pixels.base import PixelModel
from gensrc.models.pixels.context_model import ContextModel
from gensrc.models.pixels.gated_pixelcnn import GatedPixelCNN
from gensrc.models.pixels.pixel_rnn import PixelRNN
from gensrc.models.pixels.pixel_transformer import PixelTransformer
from gensrc.models.pixels.pixelcnn import PixelCNN
from gensrc.models.sequences.recurrent import RecurrentLM
from gensrc.models.sequences.wavenet import WaveNet
from gensrc.models.transformers.bert import LeftToRight, MaskedLM
from gensrc.models.transformers.bert_heads import BertClassifier, BertSpanReader
from gensrc.models.transformers.block_diffusion import BlockDiffusion
from gensrc.models.transformers.blockwise import BlockwiseGPT
from gensrc.models.transformers.diffusion import MaskedDiffusion
from gensrc.models.transformers.gpt import GPT
from gensrc.models.transformers.nonautoregressive import CTCTranslator, MaskPredict
from gensrc.models.transformers.transformer import Config, Transformer
from gensrc.models.vae.convolutional import ConvVAE
from gensrc.models.vae.discretized import DiscretizedVAE
from gensrc.models.vae.hierarchical import HierarchicalVAE, LadderVAE
from gensrc.models.vae.importance_weighted import ImportanceWeightedVAE
from gensrc.models.vae.vae import VAE, Autoencoder

BASES = {PixelModel}  # whose networks are those of others


@dataclass(frozen=True)
class Case:
    kind: type[nn.Module]
    config: dict[str, Any]
    batch: Callable[[], tuple[Tensor, ...]]

    def model(self) -> Any:
        torch.manual_seed(0)
        return self.kind(**self.config).eval()


def pictures(*shape: int, levels: int = 256) -> Tensor:
    drawn = torch.randint(levels, shape, generator=torch.Generator().manual_seed(1))
    return drawn / (levels - 1)


def ids(*shape: int, low: int = 4, high: int = 11) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(2))


def rows() -> Tensor:
    """BOS, three tokens, EOS, two tokens, EOS: two texts a row, as BERT has them."""
    ends = torch.tensor([[BOS], [EOS]])[:, None].expand(2, 3, 1)
    return torch.cat([ends[0], ids(3, 3), ends[1], ids(3, 2), ends[1]], 1)


def marks() -> Tensor:
    """One thing in the middle of each picture."""
    planes = torch.zeros(3, 2, 32, 32, dtype=torch.int64)
    planes[:, :, 15, 15] = 1
    return planes


GREY = (1, 4, 4)
SMALL = {"image_shape": GREY, "hidden_dim": 4, "latent_dim": 2}
GPT_SIZES = {"vocab_size": 11, "max_length": 8, "embed_dim": 8, "num_heads": 2, "num_layers": 1}
BERT = {"vocab_size": 11, "max_length": 8, "embed_dim": 8, "num_heads": 2, "num_layers": 1, "dropout": 0.0}
PAIR = {"config": Config(8, 2, 1, 8), "source_vocab": 11, "target_vocab": 11}
LABELS = torch.tensor([0, 1, 1])


def grey() -> tuple[Tensor]:
    return (pictures(3, *GREY, levels=2),)


CASES = {
    "autoencoder": Case(Autoencoder, SMALL, grey),
    **{name: Case(VAE, {**SMALL, "likelihood": name}, grey) for name in ("bernoulli", "continuous_bernoulli")},
    "gaussian": Case(VAE, {**SMALL, "likelihood": "gaussian"}, grey),
    "convolutional": Case(ConvVAE, {"image_shape": GREY, "channels": 2, "latent_dim": 2}, grey),
    "discretized": Case(DiscretizedVAE, SMALL, lambda: (pictures(3, *GREY),)),
    "importance weighted": Case(ImportanceWeightedVAE, {**SMALL, "samples": 2}, grey),
    **{
        kind.__name__: Case(kind, {"image_shape": GREY, "latent_dims": (2, 2), "hidden_dim": 4}, grey)
        for kind in (HierarchicalVAE, LadderVAE)
    },
    "context model": Case(ContextModel, {}, grey),
    **{
        f"{kind.__name__}, {likelihood}": Case(
            kind,
            {
                "size": (4, 4),
                "likelihood": likelihood,
                **({"embed_dim": 8, "num_heads": 2} if kind is PixelTransformer else {"width": 4}),
                "num_layers": 2,
                "num_classes": 2,
            },
            lambda likelihood=likelihood: (pictures(3, *GREY, levels=2 if likelihood == "bernoulli" else 256), LABELS),
        )
        for kind in (PixelCNN, GatedPixelCNN, PixelRNN, PixelTransformer)
        for likelihood in ("bernoulli", "categorical", "logistic_mixture")
    },
    "tokenizer": Case(Tokenizer, {"codebook_size": 8, "embed_dim": 2, "width": 4}, lambda: (pictures(3, 3, 8, 8),)),
    "FSQ tokenizer": Case(Tokenizer, {"levels": [3, 3], "width": 4}, lambda: (pictures(3, 3, 8, 8),)),
    "code prior": Case(
        CodePrior, {"codebook_size": 11, "max_length": 4, "embed_dim": 8, "num_layers": 1}, lambda: (ids(3, 2, 2),)
    ),
    "recurrent": Case(RecurrentLM, {"vocab_size": 11, "embed_dim": 4, "hidden_dim": 4}, lambda: (ids(3, 5),)),
    **{
        f"WaveNet of {m}": Case(
            WaveNet,
            {"channels": 4, "skip_channels": 4, "dilations": (1, 2), "num_components": m, "num_classes": 2},
            lambda: (ids(3, 8, high=256), LABELS),
        )
        for m in (0, 2)
    },
    "GPT": Case(GPT, GPT_SIZES, lambda: (ids(3, 5),)),
    "blockwise": Case(BlockwiseGPT, {**GPT_SIZES, "num_ahead": 3}, lambda: (ids(3, 5),)),
    "masked diffusion": Case(MaskedDiffusion, GPT_SIZES, lambda: (ids(3, 4),)),
    "block diffusion": Case(BlockDiffusion, {**GPT_SIZES, "block": 2}, lambda: (ids(3, 4),)),
    "masked": Case(MaskedLM, BERT, lambda: (rows(),)),
    "left to right": Case(LeftToRight, BERT, lambda: (rows(),)),
    "BERT classifier": Case(BertClassifier, {"num_classes": 2, **BERT}, lambda: (rows(), LABELS)),
    "BERT spans": Case(BertSpanReader, BERT, lambda: (rows(), torch.tensor([[5, 6]] * 3))),
    "Transformer": Case(Transformer, PAIR, lambda: (ids(3, 5), ids(3, 4))),
    "mask-predict": Case(MaskPredict, {**PAIR, "max_target": 6}, lambda: (ids(3, 5), ids(3, 4))),
    "CTC": Case(CTCTranslator, PAIR, lambda: (ids(3, 5), ids(3, 4))),
    "classifier": Case(
        ImageClassifier, {"image_size": 8, "width": 2, "num_classes": 2}, lambda: (pictures(3, 1, 8, 8), LABELS)
    ),
    "pooled classifier": Case(PooledClassifier, {"width": 2, "num_classes": 2}, lambda: (pictures(3, 3, 8, 8), LABELS)),
    "scene reader": Case(SceneReader, {"width": 2}, lambda: (pictures(3, 3, 32, 32), marks())),
}


def with_a_loss() -> set[type[nn.Module]]:
    """All classes of gensrc that have a loss, but bases."""
    found = set()
    for package in (gensrc.models, gensrc.evaluation):
        for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            for _, kind in inspect.getmembers(importlib.import_module(info.name), inspect.isclass):
                if issubclass(kind, nn.Module) and hasattr(kind, "loss"):
                    found.add(kind)
    return found - BASES
