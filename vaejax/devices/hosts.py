"""Many processes as one program, on one host or many: how they find each other, and who speaks.

Every process runs the same program on its own devices. What must be done once (files of the run
folder, measurements, what is printed) is done by the first; the others wait for it and get what it
found. On one process all of this is nothing.
"""

import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

# What is written to a folder to see whether all processes find it there.
SHARED = "vaejax-shared"
# Long enough for the first process to decode any set of sounds while the others wait.
PATIENCE_SECONDS = 24 * 3600
# Within this all processes fail, if the reason is the same for all.
FAILING_SECONDS = 10


@dataclass(frozen=True)
class Distributed:
    """Several processes as one program. Found by itself under SLURM, Open MPI and on TPU pods; as
    the variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID; or given here."""

    coordinator: str | None = None
    """HOST:PORT of process 0, which all others can reach."""
    num_processes: int | None = None
    """Processes in all; 1 keeps a process by itself, whatever the environment says."""
    process_id: int | None = None
    """Of this process, from 0."""


class FailedElsewhere(Exception):
    """The first process failed, and says why."""


def arguments(given: Distributed, environ: Mapping[str, str]) -> dict[str, Any] | None:
    """What `jax.distributed.initialize` is to be called with.

    Returns:
      None for a process by itself; nothing inside where JAX finds out by itself.

    Raises:
      ValueError: some of the three are given, but not all, or they do not fit together.
    """
    if given.num_processes == 1:
        return None
    stated = {
        "coordinator": (given.coordinator, environ.get("JAX_COORDINATOR_ADDRESS")),
        "num_processes": (given.num_processes, environ.get("JAX_NUM_PROCESSES")),
        "process_id": (given.process_id, environ.get("JAX_PROCESS_ID")),
    }
    values = {name: a if a is not None else b or None for name, (a, b) in stated.items()}
    missing = [name for name, value in values.items() if value is None]
    explicit = given != Distributed() or not missing
    if explicit and missing:
        raise ValueError(
            f"--distributed.{missing[0]} is missing: coordinator, num_processes and process_id go "
            "together, and none of them is needed under SLURM, Open MPI and on TPU pods"
        )
    if explicit:
        coordinator = values["coordinator"]
        try:
            num, index = (int(str(values[name])) for name in ("num_processes", "process_id"))
        except ValueError:
            raise ValueError(
                f"JAX_NUM_PROCESSES={values['num_processes']} and JAX_PROCESS_ID="
                f"{values['process_id']} must be whole numbers"
            ) from None
        if num == 1:
            return None
        _, _, port = str(coordinator).rpartition(":")
        if not port.isdigit():
            raise ValueError(
                f"--distributed.coordinator {coordinator} must be HOST:PORT, such as 10.0.0.1:1234"
            )
        if not 0 <= index < num:
            raise ValueError(
                f"--distributed.process_id {index} must lie from 0 to {num - 1}: there are "
                f"{num} processes"
            )
        return {
            "coordinator_address": coordinator,
            "num_processes": num,
            "process_id": index,
            # A scheduler around it would give each process one GPU.
            "cluster_detection_method": "deactivate",
        }
    if "SLURM_STEP_NODELIST" in environ and int(environ.get("SLURM_NTASKS", 1)) > 1:
        return {"local_device_ids": slurm_gpus(environ)}
    if "OMPI_MCA_orte_hnp_uri" in environ and int(environ.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        return {}
    workers = environ.get("TPU_PROCESS_ADDRESSES", environ.get("TPU_WORKER_HOSTNAMES", ""))
    if "," in workers or int(environ.get("MEGASCALE_NUM_SLICES", 1)) > 1:
        return {}
    return None


def slurm_gpus(environ: Mapping[str, str]) -> list[int] | None:
    """Which of the GPUs that a task of SLURM sees are its own.

    By itself JAX takes one per task, the one with the task's number on its node. That leaves GPUs
    unused where there are fewer tasks than GPUs, and asks for one that is not there where SLURM
    shows each task its own alone.

    Returns:
      Places in CUDA_VISIBLE_DEVICES; None where SLURM says nothing of GPUs.
    """
    seen = len([gpu for gpu in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu])
    if not seen:
        return None
    # 4(x2),3: four tasks on each of two nodes, then three.
    counts: list[int] = []
    for part in environ.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        number, _, times = part.partition("(x")
        if number.isdigit():
            counts += [int(number)] * int(times.rstrip(")") or 1)
    node, local = int(environ.get("SLURM_NODEID", 0)), int(environ.get("SLURM_LOCALID", 0))
    tasks = counts[node] if node < len(counts) else 1
    bound = "SLURM_GPUS_PER_TASK" in environ or "gpu" in environ.get("SLURM_TRES_PER_TASK", "")
    each = seen // tasks
    if bound or not each:
        return list(range(seen))
    return list(range(local * each, (local + 1) * each))


def start(given: Distributed) -> None:
    """Joins the other processes, if there are any; before anything is computed.

    Raises:
      ValueError: as `arguments`. OSError: the others are not found.
    """
    found = arguments(given, os.environ)
    on_tpu = found is None and given == Distributed() and _is_cloud_tpu(os.environ)
    if found is None and not on_tpu:
        return
    import jax

    before = signal.getsignal(signal.SIGTERM)
    try:
        jax.distributed.initialize(**(found or {}))
    except Exception as error:
        if not on_tpu:
            raise OSError(
                f"the processes do not find each other ({str(error).splitlines()[0]}); check that "
                "all were started, and that --distributed.coordinator is reachable from each"
            ) from error
        # A machine with a TPU that is not part of a pod need not say so.
    # JAX listens for SIGTERM itself; here it means to save and stop.
    signal.signal(signal.SIGTERM, before)
    if jax.process_count() > 1 and not jax.distributed.is_initialized():
        raise OSError(
            f"this is one of {jax.process_count()} hosts of a TPU pod, but the others are not "
            "found; give --distributed.coordinator, num_processes and process_id"
        )
    if jax.process_index():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _is_cloud_tpu(environ: Mapping[str, str]) -> bool:
    """Whether this may be a host of a TPU pod on Google Cloud, which its metadata server knows."""
    if environ.get("JAX_PLATFORMS", "tpu").split(",")[0] != "tpu" or "COLAB_RELEASE_TAG" in environ:
        return False
    chips = [*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*")]
    return bool(chips) and find_spec("libtpu") is not None


def count() -> int:
    """Processes."""
    if "jax" not in sys.modules:
        return 1
    import jax

    return jax.process_count() if jax.distributed.is_initialized() else 1


def index() -> int:
    """Of this process."""
    if count() == 1:
        return 0
    import jax

    return jax.process_index()


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return index() == 0


def wait(name: str = "wait", *, seconds: int = PATIENCE_SECONDS) -> None:
    """Returns when all processes are here."""
    if count() == 1:
        return
    # A barrier of the coordinator, not of the devices: their sums give up after a while.
    from orbax.checkpoint import multihost

    multihost.get_barrier_sync_fn()(key=name, timeout_ms=1000 * seconds)


def on_first(function: Callable[[], T]) -> T:
    """Calls a function in the first process while the others wait; its result in all of them.

    Args:
      function: returns what JSON holds.

    Raises:
      What the function raises; in the other processes, FailedElsewhere.
    """
    if count() == 1:
        return function()
    if not is_first():
        wait("first")
        said = _broadcast("")
        if not said:
            raise FailedElsewhere
        return json.loads(said)
    try:
        result = function()
    except BaseException:
        wait("first")
        _broadcast("")
        raise
    wait("first")
    _broadcast(json.dumps(result))
    return result


def first_then_others(function: Callable[[], T]) -> T:
    """Calls a function in all processes, but first in the first: the others find what it left."""
    if is_first():
        try:
            return function()
        finally:
            wait("turn")
    wait("turn")
    return function()


def any_of(flag: bool) -> bool:
    """Whether it is true in any process; to be called in all of them."""
    if count() == 1:
        return flag
    import numpy as np
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def check_same(what: str, value: str, advice: str) -> None:
    """Refuses what differs between processes.

    Args:
      what: it is, such as "the sounds".
      value: of this process, a short text.
      advice: what to do about it.

    Raises:
      ValueError: in the processes that have another value than the first.
    """
    first = on_first(lambda: value)
    differs = value != first
    if any_of(differs):
        said = f"process {index()} has {value}, process 0 {first}" if differs else "in others"
        raise ValueError(f"{what} are not the same in all processes ({said}): {advice}")


def check_shared(folder: Path, option: str) -> None:
    """Refuses a folder that is not the same one for all processes.

    Raises:
      ValueError: in all of them.
    """
    if count() == 1:
        return
    mark = on_first(lambda: tempfile.mkstemp(prefix=f".{SHARED}-", dir=folder)[1])
    seen = os.path.exists(mark)
    missing = any_of(not seen)
    if is_first():
        os.unlink(mark)
    if missing:
        raise ValueError(
            f"{option} {folder} is not the same folder for all processes: put it on a file system "
            "that all hosts share"
        )


def all_fail() -> bool:
    """Whether all processes fail, and not this one alone; waits a little for the others."""
    if count() == 1:
        return True
    try:
        wait("failed", seconds=FAILING_SECONDS)
    except Exception:
        return False
    return True


def gather(content: bytes) -> list[bytes]:
    """What each process gives, in the order of the processes; to be called in all of them."""
    if count() == 1:
        return [content]
    import numpy as np
    from jax.experimental import multihost_utils

    lengths = multihost_utils.process_allgather(np.asarray(len(content)))
    # Few sizes, because each is a program of its own.
    room = np.zeros(1 << max(10, int(lengths.max() - 1).bit_length()), np.uint8)
    room[: len(content)] = np.frombuffer(content, np.uint8)
    rows = multihost_utils.process_allgather(room)
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]


def _broadcast(text: str) -> str:
    """The text of the first process, in all."""
    return gather(text.encode() if is_first() else b"")[0].decode()
