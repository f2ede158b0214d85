"""Many devices as one: which device holds which part of an array.

The batch axis is divided among all devices; the weights are on every one of them, or, for a model
that is too wide for that, divided as well. A step is the same function of (seed, step) on any
number of devices: only sums over the batch are added up in another order.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXIS = "device"
# Arrays with fewer elements stay whole on every device: moving them would cost more than they take.
LEAST_DIVIDED = 2**16


class Placement(NamedTuple):
    """How training lies on devices; as it stands, on one. See `over`."""

    vmap: Callable = jax.vmap
    """Of the examples of a batch."""
    put: Callable = jax.device_put
    """Arrays of the host, whole, on every device."""
    put_rows: Callable = jax.device_put
    """The rows of a batch that this process has read, on its devices."""
    rows: Callable[[int], slice] = slice
    """Size of a batch -> which rows of it this process reads."""
    results: Any = None
    """Shardings of the state and of the metrics after a step."""


ONE = Placement()


def over(mesh: Mesh | None, layout: Any = None) -> Placement:
    """The devices of a mesh, which share every batch.

    Args:
      mesh: None for one device.
      layout: of the state on them, see `weights`.
    """
    if mesh is None:
        return ONE
    everywhere = replicated(mesh)
    return Placement(
        vmap=make_vmap(mesh),
        put=partial(put, shardings=everywhere),
        put_rows=partial(put_rows, mesh=mesh),
        rows=local_rows,
        results=(layout, everywhere),
    )


def create_mesh() -> Mesh | None:
    """All devices of all processes in one row, those of a process side by side; None for one.

    A row in the order of the processes, rather than the ring that `jax.make_mesh` may lay: the rows
    of a batch that a process reads are then a contiguous part of it. Sums over all devices do not
    depend on the order.
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), (AXIS,)) if len(devices) > 1 else None


def local_mesh() -> Mesh | None:
    """The devices of this process; None for one."""
    devices = jax.local_devices()
    return Mesh(np.array(devices), (AXIS,)) if len(devices) > 1 else None


def describe() -> str:
    """The devices in words, such as `8 x TPU v4 in 2 processes`."""
    num, kind = jax.device_count(), jax.devices()[0].device_kind
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{num} x {kind}{processes}" if num > 1 else kind


def check_batch_size(batch_size: int, num_parts: int = 1) -> None:
    """Refuses a batch that does not divide.

    Args:
      num_parts: that each device works through one after the other (`train.grad_accumulation`).

    Raises:
      ValueError: names the sizes around it that do.
    """
    num = jax.device_count() * num_parts
    if batch_size % num:
        near = [size for size in (batch_size // num * num, (batch_size // num + 1) * num) if size]
        parts = f" times train.grad_accumulation={num_parts}" if num_parts > 1 else ""
        raise ValueError(
            f"train.batch_size={batch_size} must be a multiple of the {jax.device_count()} devices"
            f"{parts}; try " + " or ".join(f"--train.batch_size {size}" for size in near)
        )


def by_device(
    function: Callable, mesh: Mesh | None, in_axes: int | tuple[int | None, ...] = 0
) -> Callable:
    """A function of arrays with leading batch axes as one where each device does its own rows.

    Nothing is exchanged between devices, which the partitioner alone does not see of transforms
    (FFT) and loops. What comes back is whole arrays with a batch axis, as ever.

    Args:
      in_axes: of positional arguments: 0 where they are batched, None where they are the same for
        all rows.
    """
    if mesh is None:
        return function

    def divided(*args):
        axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
        specs = tuple(P() if axis is None else P(AXIS) for axis in axes)
        # Unchecked: a loop that starts from a constant would otherwise have to say that what it
        # carries differs between devices.
        mapped = jax.shard_map(
            function, mesh=mesh, in_specs=specs, out_specs=P(AXIS), check_vma=False
        )
        return mapped(*args)

    return divided


def make_vmap(mesh: Mesh | None) -> Callable:
    """`jax.vmap` where each device works on its own examples, see `by_device`.

    Returns:
      vmap(function, in_axes=0), for positional arguments that are batched (0) or the same for all
      examples (None).
    """

    def vmap(function: Callable, in_axes: int | tuple[int | None, ...] = 0) -> Callable:
        return by_device(jax.vmap(function, in_axes), mesh, in_axes)

    return vmap


def replicated(mesh: Mesh | None) -> NamedSharding | None:
    """The whole array on every device."""
    return None if mesh is None else NamedSharding(mesh, P())


def divided(mesh: Mesh | None) -> NamedSharding | None:
    """The leading axis divided among the devices."""
    return None if mesh is None else NamedSharding(mesh, P(AXIS))


def weights(tree: Any, mesh: Mesh | None, *, divide: bool) -> Any:
    """How a state lies on the devices: a tree of shardings like `tree`, or None for one device.

    Args:
      tree: arrays or their shapes.
      divide: whether each large array is divided among the devices along the longest axis that
        allows it (fully sharded data parallelism, ZeRO: Rajbhandari et al. 2020), rather than
        whole on each.
    """
    if mesh is None:
        return None

    def of(leaf) -> NamedSharding:
        spec: list[str | None] = [None] * len(leaf.shape)
        axes = [i for i, length in enumerate(leaf.shape) if length % mesh.size == 0]
        if divide and axes and np.prod(leaf.shape) >= LEAST_DIVIDED:
            spec[max(axes, key=lambda i: leaf.shape[i])] = AXIS
        return NamedSharding(mesh, P(*spec))

    return jax.tree.map(of, tree)


def put(tree: Any, shardings: Any) -> Any:
    """Arrays of the host, the same in every process, on the devices.

    Args:
      shardings: a tree like `tree`, or one for all of it; None for one device.
    """
    if shardings is None:
        return jax.device_put(tree)
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, tree)

    def one(array, sharding):
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(one, tree, shardings)


def put_rows(tree: Any, mesh: Mesh | None) -> Any:
    """The rows of a batch that this process has read, on its devices, as the whole batch."""
    if mesh is None:
        return jax.device_put(tree)
    sharding = divided(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), tree)


def local_rows(num: int) -> slice:
    """Which rows of a batch of `num` are those of the devices of this process."""
    before = sum(device.process_index < jax.process_index() for device in jax.devices())
    each = num // jax.device_count()
    return slice(before * each, (before + jax.local_device_count()) * each)


def to_host(tree: Any) -> Any:
    """Arrays in NumPy, whole, in every process; to be called in all of them."""

    def one(array):
        if array.is_fully_addressable:
            return np.asarray(array)
        if array.is_fully_replicated:
            return np.asarray(array.addressable_data(0))
        return multihost_utils.process_allgather(array, tiled=True)

    return jax.tree.map(one, tree)
