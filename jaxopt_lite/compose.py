"""Put transformations together: one after the other, each on its own leaves, or on some leaves only."""

import inspect
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_lite import checks, tree
from jaxopt_lite.transformation import Group, Stage, Transformation, elementwise, transformation
from jaxopt_lite.types import Mask, Params, Updates


class Links(NamedTuple):
    """The parts of a chain; a named chain's state is a dict, else a tuple, of the parts' states."""

    parts: tuple
    names: tuple[str, ...] | None = None

    def relinked(self, parts: list) -> Transformation:
        """A chain of other parts under the same names."""
        return _linked(Links(tuple(parts), self.names))

    def pack(self, states: list) -> Any:
        """The chain's state from its parts' states."""
        return tuple(states) if self.names is None else dict(zip(self.names, states, strict=True))

    def unpack(self, state: Any) -> list:
        """The parts' states, after a check that they are this chain's."""
        fits = isinstance(state, tuple) and len(state) == len(self.parts)
        if self.names is not None:
            fits = isinstance(state, dict) and set(state) == set(self.names)
        if not fits:
            got = f"keys {sorted(state)}" if isinstance(state, dict) else f"{type(state).__name__}"
            want = f"keys {sorted(self.names)}" if self.names else f"a tuple of {len(self.parts)} states"
            raise ValueError(f"chain.update: state is {got}, expected {want}; was it made by another chain?")
        return list(state) if self.names is None else [state[name] for name in self.names]


@transformation
def chain(*transformations):
    """Apply transformations one after the other; the state is the tuple of their states.

    Ours, optax's and any other optax-protocol transformation mix freely. Adjacent leaf rules of ours are
    joined into one: traced once per shape of a leaf, in float32 from end to end.

    >>> import jaxopt_lite as jol
    >>> jol.chain(jol.clip_by_global_norm(1.0), jol.adam(1e-3))
    chain(clip_by_global_norm(max_norm=1.0), adam(learning_rate=0.001))
    """
    for i, tx in enumerate(transformations, start=1):
        _require_transformation(f"chain: argument {i}", tx)
    return _linked(Links(transformations))


@transformation
def named_chain(*transformations):
    """Like ``chain``, from ``(name, transformation)`` pairs; the state is a dict of states by name.

    >>> import jaxopt_lite as jol
    >>> sorted(named_chain(("clip", jol.clip(1.0)), ("adam", jol.adam(1e-3))).init({}))
    ['adam', 'clip']
    """
    for i, pair in enumerate(transformations, start=1):
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            raise TypeError(f"named_chain: argument {i} is {pair!r}, expected a (name, transformation) pair")
        _require_transformation(f"named_chain: {pair[0]!r}", pair[1])
    names = tuple(name for name, _ in transformations)
    if len(set(names)) < len(names):
        raise ValueError(f"named_chain: names are {names}, expected each only once")
    return _linked(Links(tuple(tx for _, tx in transformations), names))


def _require_transformation(where: str, tx: Any) -> None:
    if isinstance(tx, optax.GradientTransformation):
        return
    if callable(tx):
        name = getattr(tx, "__name__", repr(tx))
        raise TypeError(f"{where} is the function {name!r}, expected a transformation: call it, {name}(...)")
    raise TypeError(f"{where} is {tx!r}, expected a gradient transformation (an init and an update)")


def _linked(links: Links) -> Transformation:
    """The chain as one transformation; its plan (runs of joined stages, foreign parts) is made once."""
    plan = _plan(_primitives(links))

    def init(params):
        return links.pack([part.init(params) for part in links.parts])

    def update(updates, state, params=None, **extra):
        old, new = _unpack(links, state), []
        for step, size in plan:
            states, old = old[:size], old[size:]
            if isinstance(step, Group):
                updates, states = step.update(updates, states, params)
            else:
                updates, *states = step.update(updates, *states, params, **extra)
            new += states
        return updates, _pack(links, iter(new))

    update.example_axis = any(getattr(tx.update, "example_axis", False) for tx in links.parts)  # type: ignore[attr-defined]
    return Transformation(init, update, None, links)


def _primitives(part: Any) -> list:
    """The stages and foreign transformations inside nested chains, in order."""
    stages = part if isinstance(part, Links) else getattr(part, "stages", None)
    if isinstance(stages, Links):
        return [primitive for inner in stages.parts for primitive in _primitives(inner)]
    return [stages if isinstance(stages, Stage) else optax.with_extra_args_support(part)]


def of_leaf_rules(tx: Any) -> bool:
    """Whether ``tx`` is made of leaf rules of this package alone, which compilers fuse to a few passes over memory."""
    return all(isinstance(primitive, Stage) for primitive in _primitives(tx))


def _plan(primitives: list) -> list[tuple[Any, int]]:
    """Join stages into groups. A stage that looks at the whole tree of updates begins a new one."""
    runs: list[list] = []
    for primitive in primitives:
        joins = isinstance(primitive, Stage) and not primitive.reads_tree
        if joins and runs and isinstance(runs[-1][0], Stage):
            runs[-1].append(primitive)
        else:
            runs.append([primitive])
    return [(Group(tuple(run)) if isinstance(run[0], Stage) else run[0], len(run)) for run in runs]


def _unpack(part: Any, state: Any) -> list:
    """The states of ``_primitives(part)``."""
    links = part if isinstance(part, Links) else getattr(part, "stages", None)
    if not isinstance(links, Links):
        return [state]
    pairs = zip(links.parts, links.unpack(state), strict=True)
    return [primitive for inner, inner_state in pairs for primitive in _unpack(inner, inner_state)]


def _pack(part: Any, states: Iterator) -> Any:
    """Undo ``_unpack``."""
    links = part if isinstance(part, Links) else getattr(part, "stages", None)
    return (
        links.pack([_pack(inner, states) for inner in links.parts])
        if isinstance(links, Links)
        else next(states)
    )


@transformation
def masked(tx, mask: Mask):
    """Apply ``tx`` where ``mask`` is True; other leaves pass through and have no state.

    ``mask`` is a tree of bools like the parameters (or a prefix of theirs), or a function from parameters to
    one. As in optax, whose implementation this is.
    """
    _require_transformation("masked: tx", tx)
    if not tree.is_function(mask):
        return optax.masked(tx, mask)
    return _chosen_by_params(lambda chosen: optax.masked(tx, chosen), mask)


def _chosen_by_params(make: Callable, choose: Callable) -> optax.GradientTransformationExtraArgs:
    """``make(choose(params))``, where optax would look at the updates, in which a leaf may be ``None``."""

    def update(updates, state, params=None, **extra):
        chosen = choose(updates if params is None else params)
        return make(lambda _: chosen).update(updates, state, params, **extra)  # a chosen tree may be callable

    return optax.GradientTransformationExtraArgs(make(choose).init, update)


@transformation
def freeze(mask: Mask):
    """Make the update exactly 0 where ``mask`` is True, whatever the gradient (NaN too); no state.

    Put it last in a chain, so that no weight decay follows.
    """

    def rule(g, p, s):
        return (jnp.zeros_like(g),)

    return elementwise(rule, mask=mask, together=None)


@transformation
def partition(transformations: dict, labels: Any):
    """Apply to each leaf the transformation that its label names.

    Args:
      transformations: label → transformation.
      labels: one of
        a function ``(path, leaf) -> label``, where a path reads ``"layers/0/kernel"``;
        a dict of regular expressions ``{pattern: label}``: the first that matches (``re.search``) the path;
        a tree of labels like the parameters, or a prefix of theirs (a dict whose keys are those of the
        parameters is one); a function from parameters to such a tree, as in optax.

    >>> import jaxopt_lite as jol
    >>> params = {"embed": jnp.ones((4, 2)), "bias": jnp.ones(2)}
    >>> tx = partition({"a": jol.sgd(1.0), "b": jol.sgd(0.1)}, {"^emb": "a", ".*": "b"})
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> updates["embed"][0, 0].item(), round(updates["bias"][0].item(), 3)
    (-1.0, -0.1)
    """
    for label, tx in transformations.items():
        _require_transformation(f"partition: {label!r}", tx)
    labelled = lambda params: _label_tree(labels, params, transformations)
    return _chosen_by_params(lambda chosen: optax.partition(transformations, chosen), labelled)


def _label_tree(labels: Any, params: Any, known: Any) -> Any:
    """What ``partition`` takes as labels, as a tree of labels (or a prefix of one)."""
    if isinstance(labels, dict) and _is_patterns(labels, params, known):
        labels = _by_pattern(labels)
    if not tree.is_function(labels):
        return labels
    if len(inspect.signature(labels).parameters) == 1:
        return labels(params)

    def label(path, leaf):
        found = labels(path_string(path), leaf)
        if found not in known:
            message = f"the label {found!r}, expected one of {list(known)}"
            raise ValueError(f"partition: {path_string(path)!r} has {message}")
        return found

    return jax.tree_util.tree_map_with_path(label, params)


def _is_patterns(labels: dict, params: Any, known: Any) -> bool:
    """A flat dict from strings to known labels whose keys are not just those of the parameters."""
    flat = all(isinstance(k, str) and isinstance(v, Hashable) and v in known for k, v in labels.items())
    return flat and not (isinstance(params, Mapping) and set(params) == set(labels))


def _by_pattern(patterns: dict[str, Any]) -> Callable[[str, Any], Any]:
    def label(path: str, leaf: Any) -> Any:
        for pattern, label in patterns.items():
            if re.search(pattern, path):
                return label
        raise ValueError(f"partition: no pattern of {list(patterns)} matches the path {path!r}")

    return label


def path_string(path: tuple) -> str:
    """A leaf's path as text: ``"layers/0/kernel"``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def apply_updates(params: Params, updates: Updates) -> Params:
    """pᵢ + uᵢ for every leaf, added in the wider of the two dtypes and kept in the parameter's.

    ``None`` in ``updates`` leaves that parameter as it is. Another structure or shape is a ``ValueError``.

    >>> apply_updates({"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([-0.5, 0.5])})["w"].tolist()
    [0.5, 2.5]
    """
    checks.same_tree("apply_updates", "updates", updates, "params", params)
    return jax.tree.map(_add, updates, params, is_leaf=tree.is_none)


def _add(u: Any, p: Any) -> Any:
    if u is None:
        return p
    if isinstance(p, jax.Array) and isinstance(u, jax.Array) and p.dtype == u.dtype:
        return jax.lax.add(p, u)  # the common case, without the tracing time of dtype promotion
    return jnp.asarray(p + u).astype(jnp.asarray(p).dtype)
