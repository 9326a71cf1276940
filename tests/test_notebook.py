"""What a chapter prints is exact in form, and a false sentence never passes."""

import base64
import contextlib
import inspect
import io
import re
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from gensrc import notebook, training
from gensrc.data.speech import read_wav
from gensrc.models.vae import vae


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("test ELBO", -104.0811, "nats", {"rel": 0.05}), "test ELBO ≈ -104.1 nats (±5 %)"),
        (("accuracy", 0.91234, "", {"abs": 0.02}), "accuracy ≈ 0.912 (±0.02)"),
        (("bound", -97.123456, "nats", {"rel": 1e-3}), "bound ≈ -97.123 nats (±0.1 %)"),
        (("count", 12345.6, "", {"abs": 100}), "count ≈ 12346 (±100)"),
        (("nothing", 0.0, "", {"abs": 1e-6}), "nothing ≈ 0.0000000 (±1e-06)"),
        (("tiny", 1.23456e-15, "", {"rel": 1e-3}), "tiny ≈ 1.2346e-15 (±0.1 %)"),
        (("tiny", -1.23456e-15, "", {"abs": 1e-14}), "tiny ≈ -1e-15 (±1e-14)"),
        (("tensor", torch.tensor(2.5), "", {"rel": 0.1}), "tensor ≈ 2.50 (±10 %)"),
    ],
)
def test_report_prints_value_unit_and_tolerance(capsys, arguments, line):
    *positional, tolerance = arguments
    notebook.report(*positional, **tolerance)
    assert capsys.readouterr().out == line + "\n"


@pytest.mark.parametrize(
    ("value", "tolerance", "message"),
    [
        (float("nan"), {"rel": 0.1}, "no finite number"),
        (float("inf"), {"rel": 0.1}, "no finite number"),
        (1.0, {}, "give one tolerance"),
        (1.0, {"rel": 0.1, "abs": 0.1}, "give one tolerance"),
        (1.0, {"rel": 0.0}, "must be positive"),
        (1.0, {"abs": -1.0}, "must be positive"),
        (1.0, {"abs": float("inf")}, "must be positive and finite"),
        (1.0, {"rel": 1.0}, "within 100 % of a number lies zero"),
        (1.0, {"rel": 0.1, "retrained": 1.5}, "within 150 % of a number lies zero"),
        (0.0, {"rel": 0.1}, "give abs="),
        (1.0, {"rel": 0.01, "retrained": 0.01}, "retrained=0.01 must be wider than 0.01"),
    ],
)
def test_report_refuses_wrong_values_and_tolerances(value, tolerance, message):
    notebook.start("part/chapter", profile="full")
    with pytest.raises(ValueError, match=message):
        notebook.report("x", value, **tolerance)


@pytest.mark.parametrize(("label", "unit"), [("", ""), ("a\nb", ""), ("a", "n\nm"), ("a", " "), ("a", " m")])
def test_report_refuses_what_would_not_be_read_back(label, unit):
    with pytest.raises(ValueError, match="would not be read back"):
        notebook.report(label, 1.0, unit, rel=0.1)


def test_a_full_run_reports_with_the_tolerance_of_retrained_weights(capsys):
    for profile, line in (("quick", "x ≈ 100.00 (±0.1 %)"), ("full", "x ≈ 100.0 (±5 %)")):
        notebook.start("part/chapter", profile=profile)
        notebook.report("x", 100.0, rel=1e-3, retrained=0.05)
        assert capsys.readouterr().out == line + "\n"
    notebook.report("x", 100.0, rel=1e-3)
    assert capsys.readouterr().out == "x ≈ 100.00 (±0.1 %)\n", "a line without the second keeps the first"


@pytest.mark.parametrize("truth", [True, torch.tensor(True), torch.tensor([True]).numpy()])
def test_claim_prints_a_tick(capsys, truth):
    notebook.claim("two and two are four", truth)
    assert capsys.readouterr().out == "✓ two and two are four\n"


@pytest.mark.parametrize("encoding", ["ascii", "gbk"])
def test_a_terminal_without_the_signs_gets_question_marks(monkeypatch, encoding):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    notebook.claim("it is so", True)
    notebook.report("test ELBO", -104.1, "nats", rel=0.05)
    terminal.seek(0)
    assert terminal.readline() == "? it is so\n"
    assert terminal.readline().startswith("test ELBO ")


def test_a_false_claim_raises_and_prints_nothing(capsys):
    with pytest.raises(notebook.ClaimError, match="not so: pigs fly"):
        notebook.claim("pigs fly", torch.tensor(1.0) > 2)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("truthy", [1, "yes", [False], 0.3, None])
def test_a_claim_needs_a_truth_value(truthy):
    with pytest.raises(TypeError, match="needs True or False"):
        notebook.claim("something", truthy)


def test_start_seeds_and_refuses_bad_arguments():
    run = notebook.start("part/chapter", seed=7)
    first = torch.rand(3)
    notebook.start("part/chapter", seed=7)
    assert torch.equal(first, torch.rand(3))
    assert (run.pick(quick=1, full=2), run.full) == (1, False)
    assert notebook.start("part/chapter", profile="full").pick(quick=1, full=2) == 2
    with pytest.raises(ValueError, match="profile must be one of quick, full, not 'fast'"):
        notebook.start("part/chapter", profile="fast")
    for seed in (-1, 2**32, 0.5, True):
        with pytest.raises(ValueError, match="seed must be a whole number"):
            notebook.start("part/chapter", seed=seed)


def test_generators_of_a_run_are_independent_of_each_other():
    run = notebook.start("part/chapter")
    assert torch.equal(torch.rand(4, generator=run.generator(1)), torch.rand(4, generator=run.generator(1)))
    assert not torch.equal(torch.rand(4, generator=run.generator(1)), torch.rand(4, generator=run.generator(2)))


@pytest.fixture
def shown(monkeypatch):
    calls = []
    monkeypatch.setattr("IPython.display.display", lambda *objects, **options: calls.append((objects, options)))
    return calls


def test_figure_carries_caption_and_alt_text_and_is_closed(shown):
    fig, axes = plt.subplots()
    axes.plot([1, 2])
    alt = "A line that rises from one to two."
    notebook.figure(fig, name="rise", caption="A line.", alt=alt)
    ((bundle,), options), *rest = shown
    assert not rest
    assert bundle["text/plain"] == f"[figure rise] A line. | {alt}"
    assert options["metadata"]["image/png"]["alt"] == alt
    assert options["metadata"]["gensrc"]["figure"] == {"name": "rise", "caption": "A line.", "alt": alt, "kind": "plot"}
    assert not plt.get_fignums()


def test_the_same_figure_is_the_same_bytes(shown):
    for _ in range(2):
        fig, axes = plt.subplots()
        axes.plot([1, 2])
        notebook.figure(fig, name="rise", caption="A line.", alt="A line that rises from one to two.")
    (first, _), (second, _) = shown
    assert first == second


@pytest.mark.parametrize(
    "options", [{"alt": "too short"}, {"caption": " "}, {"kind": "movie"}], ids=["alt", "caption", "kind"]
)
def test_figure_refuses_missing_texts_and_unknown_kinds(options):
    good = {"name": "n", "caption": "A line.", "alt": "A line that rises from one to two."}
    with pytest.raises(ValueError, match="needs a caption, and an alt text|kind must be"):
        notebook.figure(plt.figure(), **{**good, **options})
    plt.close("all")


def test_a_seed_may_be_numpys_whole_number():
    run = notebook.start("a chapter", seed=np.int64(3))
    assert (run.seed, type(run.seed)) == (3, int)
    assert torch.equal(torch.rand(2), torch.rand(2, generator=torch.Generator().manual_seed(3)))


def test_source_shows_the_code_and_its_file(shown):
    notebook.source(vae.gaussian_kl)
    text = shown[0][0][0].data
    assert text.startswith("`gensrc/models/vae/vae.py`\n\n```python\ndef gaussian_kl(")
    assert inspect.getsource(inspect.unwrap(vae.gaussian_kl)).rstrip() in text


def test_trained_loads_in_quick_and_trains_first_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gensrc.checkpoints.SHIPPED", tmp_path / "package" / "gensrc" / "checkpoints")
    config = {"hidden_dim": 4, "latent_dim": 2}

    def train(model):
        with torch.no_grad():
            model.decoder[-1].bias.fill_(0.5)

    def get(profile, seed=0):
        run = notebook.start("part/chapter", profile=profile, seed=seed)
        return notebook.trained(run, "tiny", vae.VAE, config=config, about="a test", train=train)

    made = get("full")
    shipped = (tmp_path / "gensrc-output" / "checkpoints" / "tiny.safetensors").read_bytes()
    assert (get("full", seed=1).decoder[-1].bias == 0.5).all()
    assert (tmp_path / "gensrc-output" / "checkpoints" / "tiny.safetensors").read_bytes() == shipped
    loaded = get("quick")
    assert (made.decoder[-1].bias == 0.5).all()
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in made.state_dict().items())


def test_progress_is_taken_up_unless_other_code_or_another_seed_made_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gensrc.checkpoints.SHIPPED", tmp_path / "package" / "gensrc" / "checkpoints")
    config = {"hidden_dim": 4, "latent_dim": 2}
    seen = []

    def train(stop_at, model):
        def look(step, _):
            seen.append(step)
            if step == stop_at:
                raise KeyboardInterrupt

        batches = training.Batches(torch.zeros(8, 1, 28, 28), batch_size=4)
        training.fit(model, batches, steps=4, log_every=1, save_seconds=0, callbacks=(look,))

    def entries(stop_at=None, *, seed=0, about="a test", program="the cells"):
        seen.clear()
        monkeypatch.setattr(notebook, "_program", lambda: program)
        run = notebook.start("part/chapter", profile="full", seed=seed)
        with contextlib.suppress(KeyboardInterrupt):
            notebook.trained(run, "tiny", vae.VAE, config=config, about=about, train=partial(train, stop_at))
        return list(seen)

    def kept():
        return len(list(tmp_path.glob("gensrc-output/training/*/*/1.safetensors")))

    assert (entries(3), kept()) == ([1, 2, 3], 1)
    assert (entries(1, seed=1), kept()) == ([1], 1), "before its first save"
    assert (entries(), kept()) == ([3, 4], 0)
    for other in ({"about": "another"}, {"program": "changed cells"}):
        assert (entries(3), kept()) == ([1, 2, 3], 1)
        assert (entries(**other), kept()) == ([1, 2, 3, 4], 0), "and what the old code has left is removed"


def test_a_recording_that_was_cut_off_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gensrc.checkpoints.SHIPPED", tmp_path / "package" / "gensrc" / "checkpoints")
    monkeypatch.setattr("gensrc.checkpoints.RECORDINGS", tmp_path / "package" / "gensrc" / "recordings")
    seen = []

    def make(stop_at):
        def look(step, _):
            seen.append(step)
            if step == stop_at:
                raise KeyboardInterrupt

        torch.manual_seed(0)
        model = vae.VAE(hidden_dim=4, latent_dim=2)
        batches = training.Batches(torch.zeros(8, 1, 28, 28), batch_size=4)
        history = training.fit(model, batches, steps=4, log_every=1, save_seconds=0, callbacks=(look,))
        return {"loss": torch.tensor(history.loss)}

    def recorded(stop_at):
        seen.clear()
        run = notebook.start("part/chapter", profile="full")
        return notebook.recorded(run, "curve", partial(make, stop_at), about="a test")["loss"]

    whole = recorded(None)
    with pytest.raises(KeyboardInterrupt):
        recorded(3)
    resumed = recorded(None)
    assert seen == [3, 4]
    assert torch.equal(resumed, whole)
    assert not list(tmp_path.glob("gensrc-output/training/*/*/*")), "progress is removed once the tensors are saved"


def test_the_program_is_what_a_notebook_has_run_or_the_script(monkeypatch):
    shell = SimpleNamespace(user_ns={"In": ["", "a = 1", "b = 2"]})
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__file__=__file__))
    assert notebook._program() == Path(__file__).read_text(encoding="utf8")
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace())
    assert notebook._program() == ""
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    assert notebook._program() == "\na = 1\nb = 2"


def test_png_bytes_are_a_png(shown):
    import base64

    notebook.figure(plt.figure(), name="n", caption="Nothing.", alt="An empty figure, nothing is drawn.")
    data = base64.b64decode(shown[0][0][0]["image/png"])
    assert plt.imread(io.BytesIO(data)).ndim == 3


def test_sounds_are_players_of_the_waves_in_the_page_itself(shown):
    wave = torch.tensor([0.0, 0.5, -0.25, 1.5, -2.0])
    notebook.sounds({"a <loud> one": wave, "silence": torch.zeros(3)}, rate=8000, name="two", caption="Two waves.")
    ((bundle,), options) = shown[0]
    page = bundle["text/html"]
    assert options["raw"]
    assert bundle["text/plain"] == "[sounds two] Two waves."
    assert page.count("<audio controls") == 2
    assert 'aria-label="a &lt;loud&gt; one"' in page
    first, second = re.findall(r'src="data:audio/wav;base64,([^"]*)"', page)
    samples, rate = read_wav(base64.b64decode(first))
    assert rate == 8000
    torch.testing.assert_close(samples, wave.clamp(-1, 1)[None] * 32767 / 32768, atol=1 / 32768, rtol=0)
    assert len(read_wav(base64.b64decode(second))[0][0]) == 3


@pytest.mark.parametrize(
    ("waves", "caption", "message"),
    [
        ({}, "Nothing.", "need a wave at least"),
        ({"a": torch.zeros(9)}, " ", "a caption that says what to listen for"),
        ({"a": torch.zeros(1, 9)}, "A.", "'a' must be one row of finite samples, not of shape"),
        ({"a": torch.tensor([float("nan")])}, "A.", "'a' must be one row of finite samples"),
        ({"a": torch.zeros(0)}, "A.", "'a' must be one row"),
        ({"a": torch.zeros(160_001)}, "A.", "last 20.0 s; show 20 s at most"),
    ],
)
def test_sounds_refuse_missing_captions_and_wrong_waves(waves, caption, message):
    with pytest.raises(ValueError, match=message):
        notebook.sounds(waves, rate=8000, name="n", caption=caption)
