"""One training loop, with fronts for one model, for an adversarial pair and for long texts.

The chapter on the variational autoencoder writes such a loop out once; every later chapter calls `fit`. Two players of
an adversarial game are trained by `fit_gan`, a recurrent network on long texts by `fit_tbptt`. What chapters call is
handed on here.
"""

from gensrc.training.batches import Batches, BatchSource, RaggedBatches, Stages, pad
from gensrc.training.gan import GanRules, fit_gan
from gensrc.training.history import GanHistory, History, Snapshots, TrainingError
from gensrc.training.loop import Options, fit, fit_tbptt, fit_updates
from gensrc.training.muon import Muon, muon_with_adam
from gensrc.training.precision import FLOAT32, Precision, device, precision, seed_everything
from gensrc.training.resume import keep_progress
from gensrc.training.schedules import cosine, decay_groups, warmup_cosine

__all__ = [
    "FLOAT32",
    "BatchSource",
    "Batches",
    "GanHistory",
    "GanRules",
    "History",
    "Muon",
    "Options",
    "Precision",
    "RaggedBatches",
    "Snapshots",
    "Stages",
    "TrainingError",
    "cosine",
    "decay_groups",
    "device",
    "fit",
    "fit_gan",
    "fit_tbptt",
    "fit_updates",
    "keep_progress",
    "muon_with_adam",
    "pad",
    "precision",
    "seed_everything",
    "warmup_cosine",
]
