"""The run folder: what is saved comes back bit for bit, and a broken one is explained."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaejax import config as configs
from vaejax import files, metrics
from vaejax.latent import priors
from vaejax.run import arrays, checkpoint, load
from vaejax.run.load import load_run
from vaejax.train.state import create_state


def equal(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.fixture
def opened(tmp_path):
    """Opens the checkpoints of a folder; all are closed at the end."""
    made = []

    def open_(path=tmp_path):
        made.append(checkpoint.Checkpoints(path))
        return made[-1]

    yield open_
    for checkpoints in made:
        checkpoints.close()


@pytest.fixture(scope="module")
def state(config):
    """A state with no two arrays alike, optimiser's included."""
    fresh = create_state(config)
    rng = np.random.default_rng(0)

    def scramble(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.asarray(rng.standard_normal(leaf.shape, np.float32))
        return leaf

    return jax.tree.map(scramble, fresh)._replace(step=jnp.asarray(7, jnp.int32))


def test_state_comes_back_bit_for_bit(opened, config, state, tmp_path):
    assert checkpoint.progress(tmp_path) is None
    checkpoints = opened()
    checkpoints.save_last(state, {"loss": 12.5, "step": 3})
    checkpoints.wait()
    restored, best = opened().restore_last(lambda: create_state(config))
    equal(restored, state)
    assert best == checkpoint.progress(tmp_path) == {"loss": 12.5, "step": 3}


def test_infinite_best_loss_survives(opened, config, state):
    checkpoints = opened()
    checkpoints.save_last(state, {"loss": float("inf")})
    checkpoints.wait()
    assert opened().restore_last(lambda: create_state(config))[1] == {"loss": float("inf")}


def test_a_new_folder_has_nothing_to_go_on_from(opened, config, tmp_path):
    assert opened().restore_last(lambda: create_state(config)) is None
    assert not checkpoint.has_checkpoint(tmp_path)


def test_the_newest_two_states_are_kept(opened, config, state, tmp_path):
    checkpoints = opened()
    for step in (7, 8, 9):
        checkpoints.save_last(state._replace(step=jnp.asarray(step, jnp.int32)), {"loss": 0.0})
    checkpoints.wait()
    kept = {p.name for p in (tmp_path / "checkpoints/last").iterdir() if p.name.isdigit()}
    assert kept == {"8", "9"}
    assert int(opened().restore_last(lambda: create_state(config))[0].step) == 9


def test_the_two_series_never_wait_at_one_barrier(tmp_path, monkeypatch):
    """Processes meet under a name made of a prefix and the step, which both series may share."""
    asked = []
    monkeypatch.setattr(
        checkpoint.ocp, "CheckpointManager", lambda path, options: asked.append(options)
    )
    checkpoint.Checkpoints(tmp_path)
    prefixes = [o.multiprocessing_options.barrier_sync_key_prefix for o in asked]
    assert len(set(prefixes)) == 2
    assert None not in prefixes


def test_saving_a_step_twice_is_once(opened, state):
    checkpoints = opened()
    checkpoints.save_last(state, {"loss": 1.0})
    checkpoints.save_last(state, {"loss": 1.0})
    checkpoints.wait()
    assert checkpoints.last.all_steps() == [7]


def test_best_weights_come_back_with_their_step(opened, config, state, tmp_path):
    checkpoints = opened()
    checkpoints.save_best(3, state.params)
    checkpoints.save_best(5, state.ema)
    checkpoints.wait()
    assert checkpoint.has_checkpoint(tmp_path)
    step, params = opened().restore_best(config, 0)
    assert step == 5
    equal(params, state.ema)


def test_best_weights_of_a_future_that_was_undone_are_replaced(opened, config, state):
    # Killed after the best of step 20, resumed at 10: its step 15 is newer than what 20 was.
    killed = opened()
    killed.save_best(20, state.params)
    killed.wait()
    checkpoints = opened()
    checkpoints.save_best(15, state.ema)
    checkpoints.wait()
    step, params = opened().restore_best(config, 0)
    assert step == 15
    equal(params, state.ema)


def test_what_was_fitted_comes_back_bit_for_bit(tmp_path, fitted):
    embedding = metrics.fit_embedding(np.random.default_rng(0).normal(size=(9, 1024)))
    arrays.save_fitted(tmp_path, fitted, embedding)
    loaded, loaded_embedding = arrays.load_fitted(tmp_path)
    equal(loaded, fitted)
    equal(loaded_embedding, embedding)


def test_prior_comes_back_for_its_own_step_only(tmp_path):
    prior = priors.standard(3)
    rng = np.random.default_rng(0)
    posteriors = arrays.Posteriors(np.arange(5), rng.normal(size=(5, 3)), np.ones((5, 3)))
    assert arrays.load_prior(tmp_path, 4) is None
    untold = arrays.Aggregate(prior, posteriors, {"N(0, I)": -4.5})
    arrays.save_prior(tmp_path, untold, None, 4)
    loaded, told = arrays.load_prior(tmp_path, 4)
    equal(loaded, untold)
    assert told is None
    sizes = priors.Sizes(8, 0.5, 0.25)
    windows = priors.windows_around(*rng.uniform(1, 2, (2, 40, 3)), sizes=sizes)
    scores = {"mixture": -5.0, "windows": -4.0}
    told = arrays.Aggregate(windows, posteriors._replace(means=-posteriors.means), scores)
    arrays.save_prior(tmp_path, untold, told, 4)
    for loaded, saved in zip(arrays.load_prior(tmp_path, 4), (untold, told), strict=True):
        equal(loaded, saved)
    assert arrays.load_prior(tmp_path, 5) is None


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "data.json"
    files.write_text(path, "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# Loading a run


def test_run_loads_with_all_that_a_sound_needs(trained):
    run = load_run(trained)
    assert run.config == configs.load(trained / "config.json")
    assert run.has_fitted_prior
    assert run.instrument.prior.means.shape[1] == 8
    train_rows = [i for i, row in enumerate(run.data["files"]) if row["split"] == "train"]
    np.testing.assert_array_equal(run.posteriors.rows, train_rows)
    assert run.instrument.embedding.points.shape == (len(train_rows), 64)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.instrument))


def test_loading_twice_gives_the_same_run(trained):
    first, second = load_run(trained), load_run(str(trained))
    assert first.fingerprint == second.fingerprint
    equal(first.instrument, second.instrument)


def test_fingerprint_outlives_what_changes_no_sound(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    path = tmp_path / "run/config.json"
    stored = json.loads(path.read_text())
    stored["train"]["num_steps"] += 100  # the run goes on, its best weights stay the best
    del stored["augment"]  # as a version wrote it that did not know the section yet
    path.write_text(json.dumps(stored))
    before = load_run(trained).fingerprint
    assert load_run(tmp_path / "run").fingerprint == before


def test_fingerprint_follows_weights_and_data(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    before = load_run(trained).fingerprint
    data = json.loads((tmp_path / "run/data.json").read_text())
    kept = data["fingerprint"]
    data["fingerprint"] = "other"
    (tmp_path / "run/data.json").write_text(json.dumps(data))
    assert load_run(tmp_path / "run").fingerprint != before
    run = load_run(trained)
    other = jax.tree.map(lambda leaf: leaf * 1.0001, run.instrument.params)
    fitted = run.instrument.fitted
    assert load._fingerprint(run.instrument.params, fitted, kept) == before
    assert load._fingerprint(other, fitted, kept) != before


def test_folder_without_a_run_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"python train\.py --workdir {tmp_path}"):
        load_run(tmp_path)


def test_an_array_that_would_be_unpickled_is_refused(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    with np.load(trained / "prior.npz") as stored:
        arrays = {**stored, "means": np.array([print], dtype=object)}
    np.savez(tmp_path / "run/prior.npz", **arrays)
    with pytest.raises(ValueError, match="allow_pickle"):
        load_run(tmp_path / "run")


def store(checkpoints, tree):
    """Saves a state as an earlier version had it."""
    args = checkpoint.ocp.args
    parts = args.Composite(state=args.StandardSave(tree), best=args.JsonSave({"loss": 1.0}))
    checkpoints.last.save(7, args=parts)
    checkpoints.wait()


def test_a_state_of_before_a_field_or_an_empty_part_existed_goes_on(opened, config, state):
    earlier = state._asdict()
    del earlier["first_bad_step"]
    earlier["params"] = {k: v for k, v in earlier["params"].items() if jax.tree.leaves(v)}
    assert earlier["params"].keys() < state.params.keys()
    earlier["ema"] = {**earlier["ema"], "since_left_out": {}}
    store(opened(), earlier)
    restored, best = opened().restore_last(lambda: create_state(config))
    equal(restored, state)
    assert best == {"loss": 1.0}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tree: tree["likelihood"].clear(), "lacks .*params/likelihood/log_sigma_offset"),
        (lambda tree: tree.update(more=jnp.zeros(2)), "also has params/more"),
        (
            lambda tree: tree["likelihood"].update(log_sigma_offset=jnp.zeros(3)),
            "other sizes of params/likelihood/log_sigma_offset",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(opened, config, state, change, said):
    tree = state._asdict()
    tree["params"] = {**tree["params"], "likelihood": dict(tree["params"]["likelihood"])}
    change(tree["params"])
    store(opened(), tree)
    with pytest.raises(ValueError, match=said) as error:
        opened().restore_last(lambda: create_state(config))
    assert "\n" not in str(error.value)


def test_weights_under_other_names_are_refused_in_one_line(tmp_path, config):
    checkpoints = checkpoint.Checkpoints(tmp_path)
    checkpoints.save_best(3, {"other": jnp.zeros(2)})
    checkpoints.wait()
    with pytest.raises(ValueError, match="of another version of vaejax") as error:
        checkpoints.restore_best(config, 0)
    assert "\n" not in str(error.value)
    checkpoints.close()
