"""The run folder before and while training: whose it is, what it may go on with, who holds it.

config.json     the resolved config
data.json       sounds used and rejected, labels, split, fingerprint
fitted.npz      statistics, linear path, embedding of the training set (`run.arrays`)
prior.npz       the fitted prior (mixture or windows), what it was chosen from, the posteriors
                it was fitted to, and the step of their weights (`run.arrays`)
checkpoints/    weights and training state (`run.checkpoint`)
attributes.npz  how bright, noisy, ... the model's sounds are; made by sample.py at need
metrics.jsonl, tensorboard/, compilation_cache/
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from vaejax import config as configs
from vaejax import files
from vaejax.config import Config
from vaejax.devices import hosts

LOCK = ".lock"
# Of the folder of a sweep: its members and their settings.
SWEEP = "sweep.json"
# What train.py writes whole or not at all.
WRITTEN = ("config.json", "data.json", "fitted.npz", "prior.npz", "metrics.jsonl")
# The same of a sweep.
PLOT = "rate-distortion.png"
# What else it would write over.
OTHERS = ("checkpoints",)


@contextlib.contextmanager
def hold(*workdirs: Path) -> Iterator[None]:
    """Keeps other trainings out of run folders, and removes what a killed one left half-written.

    Of many processes the first holds them. A lock ends with its process, however that ends.

    Raises:
      ValueError: another process trains in one of them. OSError: it cannot be made.
    """
    with contextlib.ExitStack() as held:

        def take() -> None:
            for workdir in workdirs:
                held.enter_context(_held(workdir))

        hosts.on_first(take)
        yield


@contextlib.contextmanager
def _held(workdir: Path) -> Iterator[None]:
    is_new = not workdir.exists()
    workdir.mkdir(parents=True, exist_ok=True)
    with _locked(workdir / LOCK):
        files.clean(workdir, (*WRITTEN, SWEEP, PLOT, hosts.SHARED))
        files.clean(workdir / "tensorboard", ("*.hparams",))
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                (workdir / LOCK).unlink()
                if is_new:
                    workdir.rmdir()  # where nothing came of it


def _locked(path: Path) -> IO[str]:
    while True:
        file = path.open("a")
        if files.lock(file) is False:
            file.close()
            raise ValueError(
                f"another process is training in {path.parent}: wait for it, or choose another "
                "--workdir"
            )
        # The one before may have removed it between the two.
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def damaged(path: Path, reason: object) -> ValueError:
    """What to raise of a file of a run that cannot be read."""
    return ValueError(
        f"{path} is damaged ({reason}): remove it, and the train.py command of this run writes it "
        "anew"
    )


def read_json(path: Path) -> Any:
    """What a JSON file of a run holds.

    Raises:
      ValueError: it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise damaged(path, error) from None


def read_data(workdir: Path) -> dict[str, Any]:
    """What data.json says.

    Raises:
      ValueError: it is damaged, or of another program.
    """
    path = workdir / "data.json"
    found = read_json(path)
    if not isinstance(found, dict) or not {"fingerprint", "files"} <= found.keys():
        raise ValueError(f"{path} is not the data.json of a run: choose another --workdir")
    return found


def check(config: Config, workdir: Path) -> None:
    """Refuses a folder that this run may not write to; settings that never trained bind nobody.

    Raises:
      ValueError: it holds a sweep, a run with other settings, or files of another program.
    """
    if (workdir / SWEEP).exists():
        raise ValueError(
            f"{workdir} holds a sweep, whose runs are the folders in it; choose another --workdir"
        )
    path = workdir / "config.json"
    if (workdir / "data.json").exists() and not path.exists():
        read_data(workdir)
    elif not path.exists():
        theirs = [name for name in (*WRITTEN, *OTHERS) if (workdir / name).exists()]
        if theirs:
            raise ValueError(
                f"{workdir} holds {theirs[0]}, but no config.json of a run, so it is not written "
                "to; choose another --workdir"
            )
    else:
        old = read_config(path)
        if any((workdir / "checkpoints").glob("[bl]*st/[0-9]*")):
            configs.check_resumable(old, config, workdir)
            return
        if (workdir / "data.json").exists():
            read_data(workdir)
        for name in ("config.json", "data.json", "fitted.npz"):
            (workdir / name).unlink(missing_ok=True)


def read_config(path: Path) -> Config:
    """The config of a run.

    Raises:
      ValueError: it is damaged, of another version or of another program.
    """
    found = read_json(path)
    try:
        # An empty one would be that of any program.
        if not {"data", "model", "train"} <= found.keys():
            raise ValueError("it lacks sections")
        return configs.from_dict(found)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a config of this version of vaejax ({error}); choose another --workdir"
        ) from None


def begin(config: Config, workdir: Path, dataset) -> None:
    """Writes what a run is and of which sounds.

    Raises:
      ValueError: the sounds are others than the run began with.
    """
    corpus = dataset.corpus
    data, path = workdir / "data.json", workdir / "config.json"
    if data.exists() and not corpus.is_same(old := read_data(workdir)["fingerprint"]):
        raise ValueError(
            f"the sounds have changed since the run in {workdir} began (fingerprint was {old}, is "
            f"{corpus.fingerprint}); choose another --workdir to train on them as they are now"
        )
    if not path.exists() or path.read_text() != configs.to_json(config):
        files.write_text(path, configs.to_json(config))
    files.write_text(data, json.dumps(dataset.listing, indent=1) + "\n")
