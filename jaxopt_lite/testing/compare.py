"""What laws are written with: `expect`, `expect_close`, `expect_finite`, ... raise `LawBroken` with the evidence."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_lite.testing.report import LawBroken


def plain(leaf: Any) -> np.ndarray:
    """A leaf as NumPy: float64 or complex128 for floating point, integers and key data as they are."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        return array.astype(np.complex128)
    return array.astype(np.float64) if jnp.issubdtype(array.dtype, jnp.floating) else array


def paths(tree: Any) -> list[tuple[str, Any]]:
    """Leaves with readable paths."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(jax.tree_util.keystr(path) or "value", leaf) for path, leaf in flat]


def aval(leaf: Any, weak: bool = False) -> str:
    """Shape and dtype as text, with the weak type when asked for."""
    kind = jax.typeof(leaf)
    text = f"{kind.dtype}{list(kind.shape)}"
    return text + " (weak type)" if weak and getattr(kind, "weak_type", False) else text


def show(tree: Any) -> str:
    """A short text of the values of a small tree."""
    parts = [f"{path}={np.array2string(plain(x), precision=6, threshold=12)}" for path, x in paths(tree)]
    text = ", ".join(parts).replace("\n", "") or repr(tree)
    return text if len(text) <= 400 else text[:400] + " ..."


def expect(ok: Any, message: str, **evidence: Any) -> None:
    """Raise `LawBroken` unless ``ok``; ``evidence`` is ``input``, ``got``, ``expected``."""
    if not bool(ok):
        raise LawBroken(message, **evidence)


def expect_like(got: Any, expected: Any, what: str, *, weak: bool = False, input: Any = None) -> None:
    """Same tree, shapes and dtypes (weak types too with ``weak``)."""
    trees: list[Any] = [jax.tree.structure(got), jax.tree.structure(expected)]
    expect(trees[0] == trees[1], f"the tree of {what} differs", input=input, got=trees[0], expected=trees[1])
    for (path, g), e in zip(paths(got), jax.tree.leaves(expected), strict=True):
        kinds = aval(g, weak), aval(e, weak)
        expect(
            kinds[0] == kinds[1], f"{what} differs at {path}", input=input, got=kinds[0], expected=kinds[1]
        )


def expect_finite(tree: Any, what: str, *, input: Any = None) -> None:
    """No NaN and no infinity in the floating leaves."""
    for path, leaf in paths(tree):
        values = plain(leaf)
        if values.dtype.kind in "fc" and not np.isfinite(values).all():
            raise LawBroken(f"{what} is not finite", input=input, got=f"{path}={values}", expected="finite")


def expect_close(
    got: Any, expected: Any, what: str, *, rtol: float = 1e-5, atol: float = 0.0, input: Any = None
) -> None:
    """Equal up to ``rtol`` of each leaf's largest expected value (plus ``atol``); NaN equals NaN."""
    same = len(jax.tree.leaves(got)) == len(jax.tree.leaves(expected))
    expect(same, f"{what}: different trees", input=input, got=show(got), expected=show(expected))
    for (path, g), e in zip(paths(got), jax.tree.leaves(expected), strict=True):
        _close_leaf(plain(g), plain(e), f"{what} at {path}", rtol, atol, input)


def _close_leaf(got: np.ndarray, want: np.ndarray, what: str, rtol: float, atol: float, input: Any) -> None:
    if got.shape != want.shape:
        raise LawBroken(what + " has another shape", input=input, got=got.shape, expected=want.shape)
    if got.dtype == want.dtype == bool:
        got, want = got.astype(np.int8), want.astype(np.int8)  # NumPy subtracts no bools
    finite = np.abs(want[np.isfinite(want)]) if want.dtype.kind in "fc" else np.abs(want)
    tolerance = atol + rtol * float(np.max(finite, initial=0.0))
    with np.errstate(invalid="ignore"):
        same = (got == want) | (np.abs(got - want) <= tolerance) | ((got != got) & (want != want))
    if not same.all():
        where = tuple(int(i) for i in np.argwhere(~same)[0])
        place = f"{what}{list(where)}" if where else what
        evidence = {"got": got[where].item(), "expected": f"{want[where].item()} within {tolerance:.2g}"}
        raise LawBroken(f"{place} differs", input=input, **evidence)


def expect_equal(got: Any, expected: Any, what: str, *, input: Any = None) -> None:
    """Equal to the last bit."""
    expect_close(got, expected, what, rtol=0.0, input=input)


def temporary_bytes(compiled: Any) -> int:
    """Scratch memory of a compiled program; 0 where the backend does not tell."""
    memory = compiled.memory_analysis()
    return memory.temp_size_in_bytes if memory is not None else 0


def expect_settled(after: Any, before: Any, step: int) -> None:
    """From its third step on a state keeps its form; hundreds of steps would otherwise compile hundreds of times."""
    form = lambda state: (jax.tree.structure(state), [jnp.shape(x) for x in jax.tree.leaves(state)])
    if step > 1 and form(after) != form(before):
        raise LawBroken("the state changes its form at every step", input=f"step {step}")
