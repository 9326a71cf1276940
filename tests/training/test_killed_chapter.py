"""A chapter's full run that is killed goes on where it was when it is started again, to the same bits."""

import os
import subprocess
import sys

CHAPTER = """
import os, signal
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


run = notebook.start("part/chapter", profile="full", seed=0)
model = notebook.trained(run, "net", Net, config={}, about="a net", train=learn)
print(len(steps_made), *(repr(float(value)) for weight in model.parameters() for value in weight.flatten()))
"""


# Each run is a process of its own, forked from one that has imported torch.
RUNS = """
import os, runpy, sys
from pathlib import Path

from gensrc import notebook

for killed_at in sys.argv[1:]:
    child = os.fork()
    if not child:
        os.environ["KILLED_AT"] = killed_at
        runpy.run_path("chapter.py", run_name="__main__")
        sys.stdout.flush()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    kept = sorted(path.name for path in Path("gensrc-output/training").rglob("*.safetensors"))
    print("ended with", status, "and keeps", *kept, flush=True)
"""


def test_a_run_that_is_killed_ends_in_the_same_bits_when_it_is_started_again(tmp_path):
    (tmp_path / "chapter.py").write_text(CHAPTER)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    runs = [sys.executable, "-c", RUNS, "0", "5", "9", "0"]
    done = subprocess.run(runs, cwd=tmp_path, env=environment, capture_output=True, text=True)
    whole, end, killed, killed_again, resumed, end_of_resumed = done.stdout.splitlines()
    assert end == end_of_resumed == "ended with 0 and keeps", "progress is removed when the weights are saved"
    assert killed == "ended with -9 and keeps 1.safetensors"
    assert killed_again == "ended with -9 and keeps 1.safetensors 2.safetensors", "in the second training"
    entries, weights = whole.split(" ", 1)
    entries_after, weights_after = resumed.split(" ", 1)
    assert weights_after == weights
    assert int(entries) == 8 + 12
    assert int(entries_after) == 20 - 4 - 8, "what was saved is not done again"
