"""``@transformation`` makes a factory's result a value; ``elementwise`` lifts a rule for one leaf to trees.

An optimizer is written for one leaf::

    def rule(g, p, s, mu):              # gradient, parameter, scalars of this step, then the state's slots
        mu = decay * mu + g
        return mu, mu                   # the update, then the new slots

    return elementwise(rule, TraceState)

``compose.chain`` joins the rules of adjacent stages into one, so that a chain is traced once per shape of a
leaf (an inner ``jax.jit``) and intermediate results stay in float32.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_lite import checks, shares, tree
from jaxopt_lite.axes import chosen_by_compiler, is_typed, is_whole
from jaxopt_lite.call import bind, rebuild


class Transformation(optax.GradientTransformationExtraArgs):
    """An optax gradient transformation that is also a value: it prints as its call, compares, hashes, pickles."""

    call: Any
    stages: Any

    def __new__(cls, init, update, call=None, stages=None):
        """``call`` is what it prints and compares by; ``stages`` what ``chain`` joins (a Stage or Links)."""
        self = super().__new__(cls, init, update)
        self.call, self.stages = call, stages
        return self

    def __repr__(self) -> str:
        return repr(self.call) if self.call else tuple.__repr__(self)

    def __eq__(self, other: object) -> bool:
        if self.call is None or not isinstance(other, Transformation):
            return tuple.__eq__(self, other)
        return self.call == other.call

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.call) if self.call else tuple.__hash__(self)

    def __reduce__(self):
        if self.call is None:
            raise TypeError("a transformation pickles only when its factory stands under @transformation")
        return rebuild, (self.call.make, self.call.args, self.call.kwargs)


def transformation(factory: Callable) -> Callable[..., Transformation]:
    """Decorator for a factory that returns any optax-protocol pair ``init, update``.

    The result is a ``Transformation``; ``update`` ignores extra arguments that the pair does not take, and
    raises ``ValueError`` when the updates differ from the parameters in structure or shape.

    >>> @transformation
    ... def halve(times=1):
    ...     return optax.scale(0.5**times)
    >>> halve(times=2)
    halve(times=2)
    >>> halve(2) == halve(times=2) != halve()
    True
    """

    @functools.wraps(factory)
    def make(*args, **kwargs):
        call = bind(make, args, kwargs)
        made = optax.with_extra_args_support(_made(factory, args, kwargs))
        update = getattr(made.update, "unchecked", made.update)
        return Transformation(made.init, checked(make.__name__, update), call, getattr(made, "stages", None))

    return make


def _made(factory: Callable, args: tuple, kwargs: dict) -> Any:
    """``factory(*args, **kwargs)``, whose leaf rules may use its arguments on a mesh of explicit axes too."""
    made = factory(*args, **kwargs)
    numbers = {key: x for key, x in [*enumerate(args), *kwargs.items()] if is_typed(x)}

    def remake(numbers):
        given = [numbers.get(i, x) for i, x in enumerate(args)]
        return factory(*given, **{key: numbers.get(key, x) for key, x in kwargs.items()})

    return _handed_over(made, remake, numbers) if numbers else made


def _handed_over(made: Any, remake: Callable, numbers: dict) -> Any:
    """``made`` with ``numbers`` among the scalars of each leaf rule that its own factory lifted.

    A rule runs where the compiler chooses the axes, and there it may not close over arrays typed for the mesh.
    """
    stage = getattr(made, "stages", None)
    if stage is None:
        return made
    if not isinstance(stage, Stage):  # a chain's links
        part = lambda k: lambda numbers: remake(numbers).stages.parts[k]
        return stage.relinked([_handed_over(x, part(k), numbers) for k, x in enumerate(stage.parts)])
    if made.call or stage.numbers:  # from another factory, which has done this
        return made

    def scalars(t, updates):
        return numbers, stage.scalars(t, updates) if stage.scalars else None

    @functools.wraps(stage.rule)
    def rule(g, p, s, *rest):
        numbers, s = s
        return remake(numbers).stages.rule(g, p, s, *rest)

    return lifted(stage._replace(rule=rule, scalars=scalars, numbers=True))


def checked(name: str, update: Callable) -> Callable:
    """``update`` after a check that every gradient has its parameter's place and shape.

    An update with the attribute ``example_axis`` takes one gradient for each example, and checks them itself.
    """
    if getattr(update, "example_axis", False):
        return update

    def checked_update(updates, state, params=None, **extra):
        if params is not None:
            checks.same_tree(f"{name}.update", "updates", updates, "params", params)
        return update(updates, state, params, **extra)

    checked_update.unchecked = update  # type: ignore[attr-defined]
    return checked_update


class Stage(NamedTuple):
    """A leaf rule and how its state is laid out; see ``elementwise``."""

    rule: Callable
    state: type
    init: Callable
    scalars: Callable | None
    reads_params: bool
    reads_tree: bool
    mask: Any
    reads_mask: bool
    counters: tuple[str, ...]
    waits: Callable | None
    together: bool | None = False
    numbers: bool = False  # whether the rule gets arrays that it used to close over with its scalars

    @property
    def name(self) -> str:
        """The factory in which the rule stands, for messages."""
        return self.rule.__qualname__.split(".")[0]

    @property
    def counts(self) -> list[str]:
        """The state's fields that count steps."""
        return [field for field in self.state._fields if field in self.counters]  # type: ignore[attr-defined]

    @property
    def slots(self) -> list[str]:
        """The state's fields that hold one array (or a tree of them) per leaf."""
        return [field for field in self.state._fields if field not in self.counters]  # type: ignore[attr-defined]

    def init_state(self, params: Any) -> Any:
        """Counts of 0 and fresh slots, sharded like the parameters."""
        leaves, treedef = jax.tree.flatten(params)
        leaves = [x if hasattr(x, "dtype") else jnp.asarray(x) for x in leaves]  # a Python number
        rows = [tuple(self.init(leaf)) for leaf in leaves]
        trees = {f: treedef.unflatten([row[k] for row in rows]) for k, f in enumerate(self.slots)}
        return self.state(**trees, **{field: jnp.zeros([], jnp.int32) for field in self.counts})


def elementwise(
    rule: Callable,
    state: type = optax.EmptyState,
    *,
    init: Callable | None = None,
    scalars: Callable | None = None,
    reads_params: bool = False,
    reads_tree: bool = False,
    mask: Any = None,
    reads_mask: bool = False,
    counters: tuple[str, ...] = ("count",),
    waits: Callable | None = None,
    together: bool | None = False,
) -> Transformation:
    """Lift a rule for one leaf to any tree of parameters.

    Args:
      rule: ``rule(g, p, s, *slots) -> (u, *slots)``. All arrays come in the compute dtype (float32 for 16
        bits); the update returns in the gradient's dtype and the slots in their stored dtype. Arrays that it closes
        over work on a mesh of explicit axes if they are arguments of the factory under ``@transformation`` that
        lifts it, alone or in a chain (inside ``masked`` or ``partition`` give it a factory of its own).
      state: a NamedTuple class; the fields named in ``counters`` count steps, every other field is a slot:
        one array, or a tree of them, per leaf.
      init: ``init(leaf) -> slots``, from an array or ``ShapeDtypeStruct``; by default zeros (``tree.zeros``).
      scalars: ``scalars(t, updates) -> s``, once per step; t = 1, 2, … is this step (``None`` without count).
      reads_params: the rule needs ``p``, so ``update`` raises without ``params``; otherwise ``p`` is ``None``.
      reads_tree: ``scalars`` looks at the updates, so they must be complete before this stage.
      mask: where False the stage lets the leaf pass; only for rules without slots, or that read it.
      reads_mask: run on every leaf, with the mask's value there: ``rule(g, p, s, on, *slots)``, ``on`` a bool.
      counters: the fields of ``state`` that count steps.
      waits: ``waits(slots) -> (on CPUs, everywhere)``, whether a leaf with such slots is to begin only when the one
        before it is done, so that what both need in between does not take memory at once; by default none does.
      together: the rule takes a stack of matrices, also in its slots, as so many matrices, and on a mesh wants all of
        one shape as one stack, to share it out (``shares.rule_by_matrix``); ``None``: it may be given one, since it
        goes entry by entry.
    """
    width = len([field for field in state._fields if field not in counters])  # type: ignore[attr-defined]
    init = init or (lambda leaf: tuple(tree.zeros(leaf) for _ in range(width)))
    if mask is not None and width and not reads_mask:
        raise ValueError(
            "elementwise: mask is for rules without slots, wrap the transformation in masked(...)"
        )
    return lifted(
        Stage(
            rule, state, init, scalars, reads_params, reads_tree, mask, reads_mask, counters, waits, together
        )
    )


def lifted(stage: Stage) -> Transformation:
    """The stage alone, as a transformation."""
    group = Group((stage,))

    def update(updates, state, params=None, **extra):
        updates, (state,) = group.update(updates, [state], params)
        return updates, state

    return Transformation(stage.init_state, update, None, stage)


class Group:
    """Adjacent stages run as one leaf rule; only the first may look at the whole tree of updates."""

    def __init__(self, stages: tuple[Stage, ...]):
        self.stages = stages
        self.reads_params = any(stage.reads_params for stage in stages)
        self.waits = any(stage.waits for stage in stages)
        together = [stage.together for stage in stages]
        self.together = True in together and False not in together
        self.name = next((stage.name for stage in stages if stage.reads_params), stages[0].name)
        self.leaf = jax.jit(self._leaf, static_argnums=(5, 6))

    def update(self, updates: Any, states: list, params: Any) -> tuple[Any, list]:
        """One step: the scalars once, then the joined rule on every leaf that has a gradient."""
        leaves, treedef = jax.tree.flatten(updates, is_leaf=tree.is_none)
        if self.reads_params:
            checks.require_params(self.name, params)
        ps = treedef.flatten_up_to(params) if self.reads_params else [None] * len(leaves)
        pairs = list(zip(self.stages, states, strict=True))
        counts = [
            {f: optax.safe_increment(getattr(state, f)) for f in stage.counts} for stage, state in pairs
        ]
        scalars = tuple(
            stage.scalars(next(iter(steps.values()), None), updates) if stage.scalars else None
            for stage, steps in zip(self.stages, counts, strict=True)
        )
        rows = list(zip(*(self._slots(*pair, treedef) for pair in pairs), strict=True))
        flags = list(zip(*(active(stage.mask, updates, params) for stage in self.stages), strict=True))
        new: list = [None] * len(leaves)
        before = None  # the new slots of the last leaf for which the next is to wait
        for bundle in self._bundles(leaves, ps, rows, flags):
            g, p, row = _stacked([(leaves[i], ps[i], rows[i]) for i in bundle])
            g, ready = self._in_turn(g, row, before) if self.waits else (g, None)
            many = len(bundle) > 1
            done = (None, row) if g is None else self.leaf(g, p, scalars, row, ready, flags[bundle[0]], many)
            before = before if ready is None else done[1]
            for i, part in zip(bundle, _unstacked(done, len(bundle)), strict=True):
                kept = self.together and leaves[i] is not None
                new[i] = jax.tree.map(shares.placed_like, (leaves[i], rows[i]), part) if kept else part
        rebuilt = [
            self._rebuild(stage, steps, [row[k] for _, row in new], treedef)
            for k, (stage, steps) in enumerate(zip(self.stages, counts, strict=True))
        ]
        return treedef.unflatten([u for u, _ in new]), rebuilt

    def _bundles(self, leaves, ps, rows, flags) -> list[list[int]]:
        """Which leaves are worked on at once: each alone, or on a mesh as one stack all matrices of one type.

        A batch that the devices divide is shared out as it is.
        """
        if not (self.together and shares.on_mesh()):
            return [[i] for i in range(len(leaves))]
        bundles: dict = {}
        for i, (g, *rest, on) in enumerate(zip(leaves, ps, rows, flags, strict=True)):
            arrays = jax.tree.leaves((g, rest))
            alone = (
                g is None
                or jnp.ndim(g) < 2
                or all(map(is_whole, arrays))
                or any(map(shares.has_batch, arrays))
            )
            bundles.setdefault(i if alone else (*map(jax.typeof, arrays), on), []).append(i)
        return list(bundles.values())

    def _in_turn(self, g, row, before):
        """The gradient, maybe there only once ``before`` is; and None, or True, which no compiler knows until then."""
        answers = [stage.waits(slots) for stage, slots in zip(self.stages, row, strict=True) if stage.waits]
        on_cpus, everywhere = map(any, zip(*answers, strict=True))
        if g is None or not on_cpus:
            return g, None
        before = row if before is None else before
        if everywhere:
            g, before = jax.lax.optimization_barrier((g, before))
        return g, tree.known_late(before)

    def _leaf(self, g, p, scalars, row, ready, active, stacked):
        """The stages' rules on one leaf, or a stack; what comes out lies where the gradient and the old state do."""
        how = shares.known(g, (g, p, row), stacked) if self.together else None

        def rules(g, p, scalars, row):
            whole = lambda g, row, p: self._rules(active, g, p, scalars, row)
            return (whole if how is None else shares.in_shares(whole, *how))(g, row, p)

        def work():
            with shares.in_order_of((g, row)):
                return chosen_by_compiler(rules, (g, row), g, p, scalars, row)

        if ready is None:
            return work()
        work = jax.jit(work, inline=True)  # traced once for both
        # On a CPU XLA gives memory of its own to all work that could be done at once, and control flow is done in turn.
        alone = lambda: jax.lax.cond(ready, work, lambda: (jnp.zeros_like(g), row))
        return jax.lax.platform_dependent(cpu=alone, default=work)

    def _rules(self, active, g, p, scalars, row):
        """The rules one after the other, in float32 or better from end to end."""
        dtype = jnp.result_type(jnp.float32, g.dtype, *(x.dtype for x in jax.tree.leaves(row)))
        wide = lambda tree: jax.tree.map(lambda x: _widen(x, dtype), tree)
        u, p = wide((g, p))
        new = []
        for stage, s, slots, on in zip(self.stages, scalars, row, active, strict=True):
            if on or stage.reads_mask:
                flag = (on,) if stage.reads_mask else ()
                s = (s[0], wide(s[1])) if stage.numbers else wide(s)  # arguments keep their precision
                u, *values = stage.rule(u, p, s, *flag, *wide(slots))
                slots = jax.tree.map(_like, tuple(values), slots)
            new.append(slots)
        return _like(u, g), tuple(new)

    def _slots(self, stage, state, treedef) -> list[tuple]:
        """One tuple of the stage's slots for each leaf."""
        columns = [treedef.flatten_up_to(getattr(state, field)) for field in stage.slots]
        return list(zip(*columns, strict=True)) if columns else [()] * treedef.num_leaves

    def _rebuild(self, stage, counts, rows, treedef):
        trees = {f: treedef.unflatten([row[k] for row in rows]) for k, f in enumerate(stage.slots)}
        return stage.state(**trees, **counts)


def _stacked(trees: list) -> Any:
    """The leaves as one stack, behind the batch of the first, which may be split."""
    if len(trees) == 1:
        return trees[0]
    axis = trees[0][0].ndim - 2
    return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis), *trees)


def _unstacked(done: Any, count: int) -> list:
    """Undo ``_stacked``."""
    if count == 1:
        return [done]
    before = (slice(None),) * (done[0].ndim - 3)
    return [jax.tree.map(lambda x, k=k: x[(*before, k)], done) for k in range(count)]


def active(mask: Any, updates: Any, params: Any) -> list[bool]:
    """For each leaf of ``updates``, whether ``mask`` (a tree, a prefix, a function of one, ``None``) is True."""
    if mask is None:
        return [True] * len(jax.tree.leaves(updates, is_leaf=tree.is_none))
    values = mask(updates if params is None else params) if tree.is_function(mask) else mask
    return [bool(on) for on in tree.broadcast_prefix(values, updates)]


def _widen(x, dtype):
    """``x`` in the compute dtype; real arrays stay real beside complex ones, integers and bools stay."""
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    real = not jnp.issubdtype(x.dtype, jnp.complexfloating)
    return x.astype(jnp.finfo(dtype).dtype if real else dtype)


def _like(value, old):
    """``value`` in the dtype in which ``old`` is kept; another shape would mean a gradient that does not fit."""
    if value.shape != old.shape:
        raise ValueError(f"update: the gradient gives shape {value.shape} where the state has {old.shape}")
    return value.astype(old.dtype)
