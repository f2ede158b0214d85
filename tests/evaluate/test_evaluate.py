"""`python -m vaejax.evaluate` on a trained run: its figures, its files and its errors."""

import contextlib
import io
import json
import shutil
import sys

import jax
import numpy as np
import pytest
import soundfile

import vaejax
from vaejax import cli, metrics
from vaejax.data.clips import raw_clip
from vaejax.evaluate import __main__ as script
from vaejax.evaluate import generation, report, systems
from vaejax.evaluate.reconstruction import RECONSTRUCTION
from vaejax.run.load import load_run


def evaluate(*argv):
    """Runs the command in this process: (exit code, stdout, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    old_argv, sys.argv = sys.argv, ["vaejax.evaluate", *map(str, argv)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.run(script.main)
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.argv = old_argv
    return code or 0, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def done(trained, tmp_path_factory):
    """(folder of the outputs, figures, text on screen) of an evaluation of the shared run."""
    folder = tmp_path_factory.mktemp("evaluation")
    out = folder / "figures.json"
    code, text, err = evaluate(
        "--workdir", trained, "--num", 16, "--draws", 4, "--out", out, "--clips", 32
    )
    assert code == 0, err
    return folder, json.loads(out.read_text()), text


def values_of(tree):
    """Every figure in a tree, as (value, low, high)."""
    if isinstance(tree, dict) and set(tree) == {"value", "low", "high"}:
        yield tree["value"], tree["low"], tree["high"]
    elif isinstance(tree, dict):
        for branch in tree.values():
            yield from values_of(branch)


def test_every_figure_is_finite_and_within_its_interval(done):
    _, figures, _ = done
    found = list(values_of(figures))
    assert len(found) > 80
    for value, low, high in found:
        assert np.isfinite([value, low, high]).all()
        assert low <= high
    for tables in (figures["reconstruction"]["systems"], figures["bound"]["systems"]):
        for value, low, high in values_of(tables):
            slack = 1e-6 * abs(value) + 1e-9
            assert low - slack <= value <= high + slack


def test_reconstruction_is_what_training_measured(trained, done):
    # Training measures the same sounds at every evaluation: the best weights, and step 0 = pPCA.
    _, figures, _ = done
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    measured = {m["step"]: m for m in lines if m["split"] == "held_out"}
    for name, step in ((systems.VAEJAX, figures["run"]["step"]), (systems.PPCA, 0)):
        table = figures["reconstruction"]["systems"][name]
        for key in ("mel_l1_db", "lsd_db"):
            assert table[key]["value"] == pytest.approx(measured[step][key], rel=2e-3)
        bound = figures["bound"]["systems"][name]
        assert bound["elbo"]["value"] == pytest.approx(-measured[step]["loss"], rel=5e-3)


def test_figures_are_told_apart_by_kind(done):
    _, figures, text = done
    assert "Reconstruction by kind of sound" in text
    kinds = figures["by_kind"]
    assert sum(found["sounds"] for found in kinds.values()) == figures["judged"]["sounds"]
    every = [row["kind"] for row in figures["sounds"]]
    rebuilt = figures["reconstruction"]["systems"][systems.VAEJAX]
    weights = [every.count(kind) / len(every) for kind in kinds]
    for key in ("mel_l1_db", "body_db", "onset_step"):
        parts = [found["systems"][systems.VAEJAX][key]["value"] for found in kinds.values()]
        assert np.dot(weights, parts) == pytest.approx(rebuilt[key]["value"], abs=1e-6)
    for found in kinds.values():
        assert found["originals"]["onset_step"]["value"] == 0


def test_latent_is_described(trained, done):
    _, figures, text = done
    assert "What one standard deviation does" in text
    latent, config = figures["latent"], json.loads((trained / "config.json").read_text())
    # Its rate and distortion are the two terms of the ELBO.
    bound = figures["bound"]["systems"][systems.VAEJAX]["elbo"]
    total = -latent["rate"]["value"] - latent["distortion"]["value"]
    assert total == pytest.approx(bound["value"], rel=0.01)
    assert sorted(e["dimension"] for e in latent["effects"]) == list(
        range(config["model"]["latent_dim"])
    )
    assert np.diff([e["size"] for e in latent["effects"]]).max() <= 0
    assert "factors" not in latent


def test_the_anchors_lie_where_they_must(done):
    _, figures, _ = done
    rebuilt = figures["reconstruction"]["systems"]
    assert list(rebuilt) == [systems.TRUE, systems.VAEJAX, systems.PPCA, systems.PCA]
    assert rebuilt[systems.TRUE]["onset_step"]["value"] == 0
    # The level of the body has no best end, and hangs on phases alone.
    for key in set(RECONSTRUCTION) - {"body_db", "onset", "onset_step"}:
        floor = rebuilt[systems.TRUE][key]["value"]
        assert all(floor <= table[key]["value"] for table in rebuilt.values())
    assert rebuilt[systems.TRUE]["feature_mse"]["value"] == 0
    made = figures["generation"]["systems"]
    for name in (systems.VAEJAX, systems.PPCA, systems.GMM):
        shares = ("precision", "recall", "coverage", "ndb", "copies", "silent", "clipped", "onset")
        for key in shares:
            assert 0 <= made[name][key]["value"] <= 1
        assert 0 <= made[name]["jensen_shannon"]["value"] <= np.log(2)
    bound = figures["bound"]["systems"][systems.VAEJAX]
    assert bound["iwae"]["value"] >= bound["elbo"]["value"]
    assert figures["reconstruction"]["vaejax_against"][systems.PCA]["difference"]["mel_l1_db"][
        "value"
    ] == pytest.approx(
        rebuilt[systems.VAEJAX]["mel_l1_db"]["value"] - rebuilt[systems.PCA]["mel_l1_db"]["value"]
    )


def test_pca_is_that_of_scikit_learn(trained, done):
    from sklearn.decomposition import PCA

    from vaejax import features
    from vaejax.data import sounds
    from vaejax.train import evaluation

    run = load_run(trained)
    config, fitted = run.config, run.instrument.fitted
    loaded = sounds.load(config)

    @jax.jit
    def read(clips, lengths, facts, rows):
        def one(pcm, length):
            waveform = raw_clip(pcm, length, config)
            return features.x_of(waveform, fitted.statistics, config)

        return jax.vmap(one)(clips, lengths)

    train, held_out = (
        evaluation.over_rows(read, loaded, rows).reshape(len(rows), -1)
        for rows in (loaded.train_rows, loaded.held_out_rows)
    )
    pca = PCA(config.model.latent_dim, svd_solver="full").fit(train)
    error = np.mean((pca.inverse_transform(pca.transform(held_out)) - held_out) ** 2)
    _, figures, _ = done
    got = figures["reconstruction"]["systems"][systems.PCA]["feature_mse"]["value"]
    assert got == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_sounds_are_those_of_the_sampler(trained, temperature):
    run = vaejax.load(trained)
    own = systems.create(run, None, temperature=temperature)[1]
    made = generation.make_sounds(
        own,
        3,
        seed=5,
        statistics=run.instrument.fitted.statistics,
        embedding=run.instrument.embedding,
        config=run.config,
    )
    sampled = run.sample(jax.random.key(5), 3, temperature=temperature)
    peak = np.abs(sampled).max(1, keepdims=True)
    embed = jax.jit(
        jax.vmap(
            lambda w: metrics.embed(
                w, run.instrument.embedding, sample_rate=run.config.data.sample_rate
            )
        )
    )
    expected = np.asarray(embed(sampled / peak))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(made.points, expected, atol=1e-2 * scale)


def test_screen_and_page_say_what_the_json_says(done):
    folder, figures, text = done
    page = (folder / "figures.html").read_text()
    value = report.number(
        figures["reconstruction"]["systems"][systems.VAEJAX]["mel_l1_db"]["value"]
    )
    for place in (text, page):
        assert value in place
        assert "SI-SDR does not apply" in place
        assert "Fréchet distance" in place
    assert page.count("<audio") == 9
    assert "http" not in page.replace("http://www.w3.org", "")
    assert len(page) < 4e6
    assert sorted(p.name for p in folder.iterdir()) == ["figures.html", "figures.json"]


def test_nothing_is_overwritten_without_being_told(trained, done):
    folder, _, _ = done
    code, _, err = evaluate("--workdir", trained, "--out", folder / "figures.json")
    assert code == 1
    assert err.strip().startswith("error: ")
    assert "exists; choose another --out, or add --overwrite" in err


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (("--workdir", "nowhere"), 1, "no run in nowhere"),
        (("--num", "3"), 2, "--num 3 must be 0 or at least 8"),
        (("--draws", "-1"), 2, "--draws -1 must be at least 0"),
        (("--out", "x.html"), 2, "names the JSON file"),
    ],
)
def test_errors_are_one_line(argv, code, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    got, _, err = evaluate(*argv)
    assert got == code
    assert text in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_other_sounds_can_be_rebuilt_when_the_runs_own_are_gone(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run, ignore=shutil.ignore_patterns("compilation_cache"))
    settings = json.loads((run / "config.json").read_text())
    settings["data"]["source"] = str(tmp_path / "gone")
    (run / "config.json").write_text(json.dumps(settings))
    code, _, err = evaluate("--workdir", run, "--num", 0, "--draws", 0)
    assert code == 1
    assert "the run's sounds are gone" in err
    assert "--data" in err

    other = tmp_path / "other"
    other.mkdir()
    t = np.arange(8000) / 16_000
    for i in range(2):
        wave = np.sin(2 * np.pi * 220 * (i + 1) * t) * np.exp(-6 * t)
        soundfile.write(other / f"{i}.wav", wave, 16_000)
    code, _, err = evaluate("--workdir", run, "--num", 0, "--draws", 0, "--data", other)
    assert code == 0, err
    figures = json.loads((run / "evaluation.json").read_text())
    assert [row["file"] for row in figures["sounds"]] == ["0.wav", "1.wav"]
    assert list(figures["reconstruction"]["systems"]) == [
        systems.TRUE,
        systems.VAEJAX,
        systems.PPCA,
    ]
    assert "generation" not in figures
