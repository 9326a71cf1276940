"""A chapter's full run that is killed goes on where it was when it is started again, to the same bits."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

CHAPTER = """
import os, signal, sys
from pathlib import Path

import torch
from torch import nn

from gensrc import checkpoints, notebook, training

checkpoints.SHIPPED = Path("package/gensrc/checkpoints")
steps_made = []


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.3), nn.Linear(8, 3))

    def loss(self, x):
        return (self.body(x) - x).square().mean()


def count(step, model):
    steps_made.append(step)
    if len(steps_made) == int(os.environ.get("KILLED_AT", 0)):
        os.kill(os.getpid(), signal.SIGKILL)


def learn(model):
    data = torch.randn(50, 3)
    for steps in (40, 60):  # two trainings, one after the other
        batches = training.Batches(data, batch_size=10, transform=lambda x: x + 0.1 * torch.randn(x.shape))
        training.fit(model, batches, steps=steps, schedule=training.cosine(steps), log_every=5, save_seconds=0,
                     callbacks=(count,))


run = notebook.start("part/chapter", profile="full", seed=int(sys.argv[1]))
model = notebook.trained(run, "net", Net, config={}, about="a net", train=learn)
print(len(steps_made), *(repr(float(value)) for weight in model.parameters() for value in weight.flatten()))
"""


def start(folder: Path, *, killed_at: int = 0, seed: int = 0, text: str = CHAPTER):
    folder.mkdir(exist_ok=True)
    (folder / "chapter.py").write_text(text)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "KILLED_AT": str(killed_at), "TQDM_DISABLE": "1"}
    return subprocess.run(
        [sys.executable, "chapter.py", str(seed)], cwd=folder, env=environment, capture_output=True, text=True
    )


def result(done: subprocess.CompletedProcess) -> tuple[int, str]:
    assert done.returncode == 0, done.stderr
    count, weights = done.stdout.split(" ", 1)
    return int(count), weights


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> str:
    entries, weights = result(start(tmp_path_factory.mktemp("whole")))
    assert entries == 8 + 12
    return weights


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "gensrc-output" / "training").rglob("*.safetensors"))


def test_a_run_that_is_killed_ends_in_the_same_bits_when_it_is_started_again(tmp_path, uninterrupted):
    assert start(tmp_path, killed_at=5).returncode == -signal.SIGKILL
    assert kept(tmp_path) == ["1.safetensors"]
    assert start(tmp_path, killed_at=9).returncode == -signal.SIGKILL, "in the second training"
    assert kept(tmp_path) == ["1.safetensors", "2.safetensors"]
    entries, weights = result(start(tmp_path))
    assert weights == uninterrupted
    assert entries == 20 - 4 - 8, "what was saved is not done again"
    assert kept(tmp_path) == [], "it is removed when the weights are saved"
    assert (tmp_path / "gensrc-output" / "net.safetensors").exists()


def test_progress_that_other_code_or_another_seed_made_is_not_taken_up(tmp_path):
    start(tmp_path, killed_at=5)
    changed = CHAPTER.replace("0.1 * torch.randn", "0.2 * torch.randn")
    afresh = result(start(tmp_path / "other", text=changed))
    assert result(start(tmp_path, seed=1))[0] == 20
    assert kept(tmp_path) == ["1.safetensors"], "that of seed 0 is still there"
    assert result(start(tmp_path, text=changed)) == afresh
    assert kept(tmp_path) == [], "and what the old code has left is removed"
