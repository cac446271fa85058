"""Laws about parameter trees: whatever a user's model holds, the transformation must take it."""

import contextlib
from typing import Any

import jax

from jaxopt_lite.testing import trees
from jaxopt_lite.testing.compare import expect_close, expect_finite, expect_like, plain
from jaxopt_lite.testing.transformation_case import TransformationCase as Case

EMPTY: dict[str, tuple[int, ...]] = {"matrix": (0, 3), "vector": (0,)}
SCALAR: dict[str, tuple[int, ...]] = {"scalar": ()}
ODD: dict[str, tuple[int, ...]] = {
    "one": (1,),
    "column": (5, 1),
    "prime": (17,),
    "odd": (7, 13),
    "three": (2, 3, 5),
}
HARD = EMPTY | SCALAR | ODD


def _steps_on(case: Case, params: Any) -> Any:
    """Two finite steps that keep the structure; returns their updates."""
    grads = case.gradients(2, params)
    done = case.run(grads, params)
    expect_like(done.updates[-1], grads[-1], "the updates")
    expect_finite(done.updates, "the update")
    return done.updates


def _program(case: Case, params: Any) -> tuple[str, list[bytes], Any]:
    """The update on these parameters, primitive for primitive, the bytes of its first state, and what comes out."""
    state = case.tx.init(params)
    text, shapes = jax.make_jaxpr(case.update, return_shape=True)(case.gradients(1, params)[0], state, params)
    return str(text), [plain(x).tobytes() for x in jax.tree.leaves(state)], shapes[0]


def _as_ordinary(case: Case, params: Any, what: str) -> None:
    """The same leaves in another tree give the same updates: by the same program or, if another, by running it."""
    if case.traceable:
        *ordinary, _ = case.remember("program", lambda: _program(case, case.params))
        *program, updates = _program(case, params)
        expect_like(updates, params, "the updates")
        if program == ordinary:
            return
    got, want = _steps_on(case, params), case.ordinary().updates[:2]
    expect_close(jax.tree.leaves(got), jax.tree.leaves(want), what)


def _hold(case: Case, params: Any) -> None:
    """Two steps on these parameters; all hard shapes are compiled at once and, if that fails, one by one."""

    def together() -> bool:
        with contextlib.suppress(Exception):
            return bool(_steps_on(case, trees.from_shapes(HARD)))
        return False

    if not case.remember("hard shapes", together):
        _steps_on(case, params)


def empty_tree(case: Case) -> None:
    """A tree without leaves passes through: a frozen part of a model has no parameters to train."""
    params: dict[str, Any] = {}
    updates, _ = case.update(params, case.tx.init(params), params)
    expect_like(updates, params, "the updates")


def none_leaves(case: Case) -> None:
    """``None`` in the tree changes nothing: filtered models (equinox) carry it where a leaf is not trained."""
    _as_ordinary(case, {"a": case.params, "none": None}, "the update beside None")


def zero_size_leaves(case: Case) -> None:
    """A leaf without entries gives one without entries, and no NaN elsewhere through a mean over nothing."""
    _hold(case, {"a": case.params, "b": trees.from_shapes(EMPTY)})


def scalar_leaves(case: Case) -> None:
    """0-d parameters (temperatures, gates) stay 0-d."""
    _hold(case, trees.from_shapes(SCALAR))


def odd_sizes(case: Case) -> None:
    """Lengths 1, primes and higher ranks work: blocks and tiles that divide nothing must be padded right."""
    _hold(case, trees.from_shapes(ODD))


def containers(case: Case) -> None:
    """Named tuples, lists and dataclasses give the updates that a dictionary of the same leaves gives."""
    _as_ordinary(case, trees.in_containers(case.params), "the update inside containers")
