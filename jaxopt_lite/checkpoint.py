"""Checkpoints of a training run: written atomically through orbax, each with a digest, the last few kept.

A checkpoint is a directory ``<directory>/<step>`` with two orbax items: ``leaves``, the arrays of one tree in
flattening order, and ``record``, a JSON object that tells which run it is, what the arrays are, and their
digest. orbax writes under a temporary name and renames, so a killed process leaves either the whole
checkpoint or a temporary directory; the digest finds what the file system damaged later.
"""

import hashlib
import json
import os
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

KEEP = 3

Identity = dict[str, Any]


def describe(name: str, tree: Any) -> dict[str, str]:
    """One ``path: dtype[shape]`` entry for every leaf.

    >>> describe("params", {"w": np.zeros((3, 2), np.float32)})
    {"params['w']": 'float32[3, 2]'}
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        name + jax.tree_util.keystr(path): f"{jnp.result_type(leaf)}{list(np.shape(leaf))}"
        for path, leaf in leaves
    }


def save(directory: str | os.PathLike, step: int, tree: Any, identity: Identity) -> None:
    """Write ``tree`` as the checkpoint of ``step`` and delete all but the last ``KEEP`` up to that step.

    Args:
      directory: where the checkpoints lie.
      step: the number of the step, the checkpoint's name.
      tree: arrays of any dtype, typed random keys and zero-size arrays included; on one process or spread over
        many, which then all call.
      identity: a flat dict of strings and ints that must be equal for this checkpoint to be resumed.
    """
    ocp, root = _orbax(directory)
    leaves = jax.device_get([_whole(_plain(leaf)) for leaf in jax.tree.leaves(tree)])
    leaves = [np.asarray(leaf) for leaf in leaves]
    specs = [[leaf.dtype.name, list(leaf.shape)] for leaf in leaves]
    record = {"identity": identity, "specs": specs, "digest": _digest(identity, specs, leaves)}
    arrays = {str(i): _storable(leaf) for i, leaf in enumerate(leaves) if leaf.size}
    items = ocp.args.Composite(leaves=ocp.args.PyTreeSave(arrays), record=ocp.args.JsonSave(record))
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        # force: a checkpoint that is already there was found damaged.
        checkpointer.save(root / str(step), args=items, force=True)
    for old in [s for s in _steps(root) if s <= step][:-KEEP]:
        (root / str(old)).rmtree()


def restore(directory: str | os.PathLike, template: Any, identity: Identity) -> tuple[int, Any] | None:
    """The last good checkpoint as ``(step, tree)``, or ``None`` when there is none.

    The tree has the structure of ``template``, and its arrays lie where the template's do; dtypes and shapes
    are those that were saved. A damaged or half-written checkpoint is passed over with a warning.

    Raises:
      ValueError: when the last good checkpoint belongs to a run with another ``identity``.
    """
    _, root = _orbax(directory)
    _clear_half_written(root)
    for step in reversed(_steps(root)):
        path = root / str(step)
        try:
            found, leaves = _read(path)
        except Exception as error:  # a damaged file can raise anything
            warnings.warn(f"fit: passed over the damaged checkpoint {path}: {error!r}", stacklevel=4)
            continue
        _require_same(directory, found, identity)
        references, treedef = jax.tree.flatten(template)
        return step, jax.tree.unflatten(treedef, map(_placed, leaves, references))
    return None


def _orbax(directory: Any) -> tuple[Any, Any]:
    """orbax itself, and the directory as an absolute path of the kind that orbax takes."""
    try:
        import orbax.checkpoint as ocp
        from etils import epath
    except ImportError as error:
        message = "fit: checkpoint_dir needs orbax-checkpoint: pip install jaxopt_lite[checkpoint]"
        raise ImportError(message) from error
    return ocp, epath.Path(directory).absolute()


def _steps(root: Any) -> list[int]:
    names = [path.name for path in root.iterdir()] if root.exists() else []
    return sorted(int(name) for name in names if name.isdigit())


def _clear_half_written(root: Any) -> None:
    for path in list(root.iterdir()) if root.exists() else []:
        if path.name.split(".")[0].isdigit() and ".orbax-checkpoint-tmp" in path.name:
            warnings.warn(f"fit: passed over the half-written checkpoint {path}", stacklevel=5)
            path.rmtree()


def _read(path: Any) -> tuple[Identity, list[np.ndarray]]:
    """Identity and arrays of one checkpoint; raises if anything at all is wrong with it."""
    ocp, path = _orbax(path)
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        record = checkpointer.restore(path, args=ocp.args.Composite(record=ocp.args.JsonRestore()))["record"]
        identity, specs = record["identity"], record["specs"]
        names = [str(i) for i, (_, shape) in enumerate(specs) if 0 not in shape]
        as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
        items = ocp.args.Composite(leaves=ocp.args.PyTreeRestore(restore_args=as_numpy))
        arrays = checkpointer.restore(path, args=items)["leaves"]
    leaves = [_unstored(arrays.get(str(i)), *spec) for i, spec in enumerate(specs)]
    if _digest(identity, specs, leaves) != record["digest"]:
        raise ValueError("its digest is wrong")
    return identity, leaves


def _require_same(directory: Any, found: Identity, expected: Identity) -> None:
    for name in [*expected, *found]:
        if found.get(name) != expected.get(name):
            raise ValueError(
                f"fit: checkpoint_dir {os.fspath(directory)!r} holds a run with {name} = {found.get(name)}, "
                f"expected {expected.get(name)}; give the same arguments again or another directory"
            )


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _whole(leaf: Any) -> Any:
    """The array on this host, also where other processes hold parts of it; these must then save too."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return leaf
    return multihost_utils.process_allgather(leaf, tiled=True)


def _placed(leaf: np.ndarray, like: Any) -> Any:
    """The array where ``like`` lies (host or device, sharded as it is), as a typed key if ``like`` is one."""
    if not isinstance(like, jax.Array):
        return leaf
    array = jnp.array(leaf)  # a copy: the step will donate it
    if _is_key(like):
        array = jax.random.wrap_key_data(array, impl=jax.random.key_impl(like))
    return jax.device_put(array, like.sharding) if like.committed else array


def _storable(leaf: np.ndarray) -> np.ndarray:
    """NumPy's own dtypes as they are; the others (bfloat16, float8, int4 ...), some unknown to orbax, as bytes."""
    return leaf if leaf.dtype.isbuiltin == 1 else _bytes(leaf)


def _unstored(stored: np.ndarray | None, dtype: str, shape: list[int]) -> np.ndarray:
    """Undo ``_storable``; an array of size 0 was not stored."""
    if stored is None:
        return np.zeros(shape, jnp.dtype(dtype))
    return stored.reshape(-1).view(jnp.dtype(dtype)).reshape(shape)


def _bytes(leaf: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)


def _digest(identity: Identity, specs: list, leaves: list[np.ndarray]) -> str:
    digest = hashlib.blake2b(json.dumps([identity, specs], sort_keys=True).encode(), digest_size=16)
    for leaf in leaves:
        digest.update(_bytes(leaf).data)
    return digest.hexdigest()
