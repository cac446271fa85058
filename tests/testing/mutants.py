"""Wrong transformations: each wrong in one way seen in the wild, with the laws it breaks, no more and no less."""

import dataclasses
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxopt_lite.testing import TransformationCase as Case
from jaxopt_lite.testing import transformation_laws
from tests.testing.right import (
    LR,
    State,
    corrected,
    descend,
    hypot,
    largest,
    momentum,
    rms_oracle,
    stateless,
    wide,
    with_slot,
    zeros_real,
)

MUTANTS = {}
DERIVED = ("differentiable", "differentiable_at_zero")
MESH = ("sharded_equals_unsharded", "sharding_kept", "collectives_within_budget")
CLAIMED = ("zero_coordinate_stays", "nan_stays", "recovers_after_nan", "leaves_are_independent", "linear", "odd",
           "permutation_equivariant", "scale_invariant", "matches_oracle")  # fmt: skip
PROGRAMS = ("scan_equals_loop", "traced_once", "accumulation_equals_large_batch")
# What cannot be traced fails wherever something compiles it.
TRACED = (*PROGRAMS, *DERIVED, "vmap_equals_loop", "mixed_dtypes", "temporaries_within_budget")
# A state that never settles fails wherever steps are compared or repeated.
UNSETTLED = (*PROGRAMS, "dtypes_kept", "mixed_dtypes", "float64_in_full", "bfloat16_tracks_float32",
             "float16_tracks_float32", "descends")  # fmt: skip
# Answers that depend on how often the function was called differ between any two ways to call it.
IMPURE = ("jit_equals_eager", "scan_equals_loop", "vmap_equals_loop", "none_leaves", "containers",
          "bfloat16_tracks_float32", "float16_tracks_float32", "accumulation_equals_large_batch")  # fmt: skip

# Laws that never add an update to a parameter, or need a claim.
HARMLESS = {"init_equals_eval_shape", "pickles", "ignores_extra_arguments", "state_maps_over_params",
            "mismatch_raises", "learning_rate_kinds", "mixed_dtypes", "bfloat16_tracks_float32",
            "float16_tracks_float32", "zero_gradient_in_16_bit", "huge_gradients", *DERIVED,
            *CLAIMED, *MESH}  # fmt: skip


def breaks(*laws, **facts):
    """Register a function that makes a wrong transformation, with all the laws it breaks (the first names it)."""

    def register(make):
        MUTANTS[make.__name__] = (lambda: Case(make(), name=make.__name__, **facts), laws)
        return make

    return register


def remade(tx, init=None, update=None):
    return optax.GradientTransformation(init or tx.init, update or tx.update)


# --- JAX's and optax's protocol ---


@breaks("structure_kept", *(set(transformation_laws) - HARMLESS))
def mapping_comes_back_as_another_kind():
    return remade(
        stateless(descend), None, lambda g, s, p=None: (OrderedDict(jax.tree.map(descend, g, p)), s)
    )


@breaks("state_is_a_fixed_point", "traced_once", "float64_in_full")
def scale_in_the_state_has_a_weak_type():
    tx = stateless(descend)
    return remade(
        tx, lambda p: jnp.asarray(1.0), lambda g, s, p=None: (tx.update(g, (), p)[0], 0.9 * jnp.float32(s))
    )


@breaks("state_is_a_fixed_point", "survives_checkpoint", *UNSETTLED)
def state_keeps_a_history():
    tx = stateless(descend)
    return remade(tx, lambda p: (), lambda g, s, p=None: (tx.update(g, (), p)[0], (*s, g)))


@breaks("jit_equals_eager", *TRACED)
def branches_on_a_value():
    return stateless(lambda g, p: -LR * g if g.size == 0 or jnp.sum(jnp.abs(g)) >= 0 else g)


@breaks("pure", *IMPURE)
def counts_in_a_closure():
    calls = []

    def rule(g, p):
        calls.append(1)
        return -LR * g / len(calls)

    return stateless(rule)


@breaks("vmap_equals_loop", *DERIVED)
def calls_back_without_a_vmap_rule():
    call = lambda g: jax.pure_callback(lambda x: -LR * x, jax.ShapeDtypeStruct(g.shape, g.dtype), g)
    return stateless(lambda g, p: call(g))


@breaks("state_is_a_fixed_point", *UNSETTLED)
def counts_in_static_data():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Static:
        step: int = dataclasses.field(metadata={"static": True})

    tx = stateless(descend)
    return remade(tx, lambda p: Static(0), lambda g, s, p=None: (tx.update(g, (), p)[0], Static(s.step + 1)))


@breaks("init_equals_eval_shape", "vmap_equals_loop")
def init_reads_values():
    tx = with_slot(momentum)

    def init(params):
        assert all(float(jnp.sum(p)) < 1e9 for p in jax.tree.leaves(params) if p.dtype == jnp.float32)
        return tx.init(params)

    return remade(tx, init)


@breaks("survives_donation")
def state_aliases_params():
    def update(g, s, p=None):
        return jax.tree.map(descend, g, p), s

    return optax.GradientTransformation(lambda p: p, update)


@breaks("survives_flattening")
def state_holds_a_python_number():
    tx = stateless(descend)
    return remade(tx, lambda p: (0.9,), lambda g, s, p=None: (tx.update(g, (), p)[0], s))


@breaks("pickles", claims={"pickles"})
def does_not_pickle():
    return stateless(descend)


@breaks("ignores_extra_arguments")
def refuses_extra_arguments():
    return optax.GradientTransformationExtraArgs(*stateless(descend))


@breaks("state_maps_over_params")
def state_is_a_list_of_leaves():
    tx = stateless(descend)

    def init(params):
        return {f"leaf{i}": jnp.zeros_like(p) for i, p in enumerate(jax.tree.leaves(params))}

    return remade(tx, init)


@breaks("counter_saturates")
def counter_wraps_around():
    return with_slot(momentum, tick=lambda count: count + 1)


@breaks("mismatch_raises", claims={"strict"})
def broadcasts_wrong_gradients():
    return optax.GradientTransformation(
        lambda p: optax.EmptyState(), lambda g, s, p=None: (jax.tree.map(lambda x: -LR * x, g), s)
    )


def array_rate_upcasts(learning_rate):
    rate = learning_rate(0) if callable(learning_rate) else learning_rate
    scale = lambda g, s, p=None: (jax.tree.map(lambda x: -rate * x, g), s)
    return optax.GradientTransformation(lambda p: optax.EmptyState(), scale)


def array_rate_taken_for_a_schedule(learning_rate):
    rate = learning_rate if isinstance(learning_rate, float) else learning_rate(0)
    return stateless(lambda g, p: -rate * g)


for factory in (array_rate_upcasts, array_rate_taken_for_a_schedule):
    MUTANTS[factory.__name__] = (lambda f=factory: Case(f), ("learning_rate_kinds",))


# --- trees ---


@breaks("empty_tree")
def takes_the_first_leaf():
    def update(g, s, p=None):
        first = jax.tree.leaves(g)[0].dtype
        assert first is not None
        return jax.tree.map(descend, g, p), s

    return remade(stateless(descend), None, update)


@breaks("none_leaves")
def takes_none_for_an_array():
    def update(g, s, p=None):
        return jax.tree.map(lambda x: -LR * x.astype(x.dtype), g, is_leaf=lambda x: x is None), s

    return remade(stateless(descend), None, update)


@breaks("zero_size_leaves")
def divides_by_the_size():
    return stateless(lambda g, p: -LR * g * (g.size // g.size))


@breaks("scalar_leaves")
def looks_at_the_last_axis():
    return stateless(lambda g, p: -LR * g * min(g.shape[-1], 1) if g.size else g)


@breaks("odd_sizes")
def knows_two_ranks_only():
    rules = {0: descend, 1: descend, 2: descend}
    return stateless(lambda g, p: rules[g.ndim](g, p))


@breaks("containers")
def expects_dictionaries():
    def update(g, s, p=None):
        walk = lambda t: (
            {k: walk(v) for k, v in t.items()} if isinstance(t, dict) else t if t is None else -LR * t
        )
        return walk(g), s

    return remade(stateless(descend), None, update)


# --- dtypes ---


@breaks("dtypes_kept")
def rate_is_a_float32_array():
    rate = jnp.float32(LR)
    return remade(stateless(descend), None, lambda g, s, p=None: (jax.tree.map(lambda x: -rate * x, g), s))


@breaks("mixed_dtypes")
def state_takes_the_gradients_dtype():
    def update(g, s, p=None):
        m = jax.tree.map(lambda x, y: 0.9 * y + 0.1 * x, g, s)
        return jax.tree.map(lambda x, y: (-LR * y).astype(x.dtype), g, m), m

    return optax.GradientTransformation(lambda p: jax.tree.map(jnp.zeros_like, p), update)


def root(x):
    """√ with derivative 0 at 0."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)


def second_moment(b2=0.999, eps=1e-8, dtype=None, sqrt=root):
    """Adam's second moment as usually written; ``dtype`` stores it in the parameter's."""

    def rule(g, v, t, p):
        square = (jnp.abs(g) * jnp.abs(g)).astype(v.dtype)
        v = jnp.asarray(b2, v.dtype) * v + jnp.asarray(1 - b2, v.dtype) * square
        hat = v.astype(jnp.abs(g).dtype) / corrected(b2, t, jnp.abs(g).dtype)
        return -LR * g / (sqrt(hat) + eps), v

    return with_slot(rule, start=zeros_real if dtype is None else lambda p: jnp.zeros(p.shape, dtype(p)))


@breaks("bfloat16_tracks_float32", "huge_gradients")
def second_moment_in_bfloat16():
    return second_moment(dtype=lambda p: p.dtype if p.dtype == jnp.bfloat16 else jnp.finfo(wide(p)).dtype)


@breaks("zero_gradient_in_16_bit")
def epsilon_underflows_in_float16():
    def rule(g, p):
        return -LR * g / (jnp.abs(g) + jnp.asarray(1e-8, jnp.abs(g).dtype))

    return stateless(rule)


@breaks("float16_tracks_float32")
def squares_underflow_in_float16():
    def rule(g, v, t, p):
        low = jnp.abs(g).astype(p.dtype) if p.dtype == jnp.float16 else jnp.abs(g)
        v = 0.9 * v + 0.1 * ((1e-3 * low) ** 2).astype(v.dtype)
        return -LR * g / (1e3 * root(v) + 1e-3), v

    return with_slot(rule, start=zeros_real)


@breaks("float64_in_full")
def computes_in_float32():
    low = lambda x: x.astype(jnp.complex64 if jnp.issubdtype(x.dtype, jnp.complexfloating) else jnp.float32)
    return stateless(lambda g, p: -LR * low(g))


@breaks("complex64", "huge_gradients")
def squares_complex_gradients():
    def rule(g, v, t, p):
        size = jnp.where(g == 0, 0, jnp.sqrt(jnp.where(g == 0, 1, g * g)))
        return -LR * g / (size + 1e-3), v

    return with_slot(rule)


@breaks("complex64")
def drops_the_imaginary_part():
    return stateless(lambda g, p: -LR * jnp.real(g))


# --- values ---


@breaks("zero_gradient_gives_zero_update", "zero_coordinate_stays", "complex64", claims={"elementwise"})
def drifts_by_a_constant():
    return stateless(lambda g, p: -LR * g - 1e-3)


@breaks("zero_gradient_gives_zero_update", "zero_coordinate_stays", claims={"elementwise", "decays"})
def sign_of_zero_is_one():
    return stateless(lambda g, p: -LR * jnp.where(g == 0, 1, g / jnp.where(g == 0, 1, jnp.abs(g))))


@breaks(
    "zero_gradient_gives_zero_update", "zero_gradient_in_16_bit", "tiny_gradients", "huge_gradients",
    "differentiable_at_zero",
)  # fmt: skip
def divides_zero_by_zero():
    return second_moment(0.9, eps=0.0, sqrt=jnp.sqrt)


@breaks("zero_coordinate_stays", claims={"elementwise"})
def moves_untouched_entries():
    return stateless(lambda g, p: -LR * g + LR * jnp.where(g == 0, largest(g), 0) * (g.size > 1))


@breaks("tiny_gradients", "huge_gradients")
def ratio_of_squares_underflows():
    def rule(g, p):
        size = jnp.abs(g)
        return -LR * g * jnp.where(size > 0, size * size / jnp.where(size > 0, size * size, 1), 0)

    return stateless(rule)


@breaks("huge_gradients")
def second_moment_overflows():
    return second_moment()


@breaks("huge_gradients", claims={"odd"})
def global_norm_overflows():
    def update(g, s, p=None):
        size = sum(jnp.sum(jnp.abs(x.astype(wide(x))) ** 2) for x in jax.tree.leaves(g))
        scale = LR / jnp.maximum(1.0, jnp.sqrt(jnp.maximum(size, 1e-30)))
        return jax.tree.map(lambda x: (-scale * x).astype(x.dtype), g), s

    return remade(stateless(descend), None, update)


@breaks("nan_stays", claims={"elementwise"})
def hides_nan():
    return stateless(lambda g, p: -LR * jnp.where(jnp.isnan(g), 0, g))


@breaks("nan_stays", claims={"nan_spreads"})
def keeps_nan_to_itself():
    return stateless(descend)


def one_shared_maximum():
    def update(g, s, p=None):
        top = sum(largest(x.astype(wide(x))) for x in jax.tree.leaves(g))
        scale = LR / jnp.where(top == 0, 1, top)
        return jax.tree.map(lambda x: (-scale * x).astype(x.dtype), g), s

    return remade(stateless(descend), None, update)


@breaks("nan_stays", claims={"nan_stays"})
def nan_reaches_every_leaf():
    return one_shared_maximum()


@breaks("leaves_are_independent", "nan_stays", claims={"leafwise"})
def leaves_share_a_norm():
    return one_shared_maximum()


def skipping(select):
    tx = with_slot(momentum)

    def update(g, s, p=None):
        good = jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(g)]))
        u, new = tx.update(g, s, p)
        zero = jax.tree.map(jnp.zeros_like, u)
        return select(good, u, zero), select(good, new, s)

    return remade(tx, None, update)


@breaks("recovers_after_nan", claims={"skips_nonfinite"})
def skips_by_multiplying():
    mix = lambda good, x, y: jax.tree.map(lambda a, b: (good * a + (1 - good) * b).astype(b.dtype), x, y)
    return skipping(mix)


@breaks("recovers_after_nan", claims={"skips_nonfinite"})
def skips_the_update_but_not_the_state():
    choose = lambda good, x, y: jax.tree.map(lambda a, b: jnp.where(good, a, b), x, y)
    return skipping(lambda good, x, y: x if isinstance(x, State) else choose(good, x, y))


@breaks("permutation_equivariant", claims={"elementwise"})
def first_entries_learn_faster():
    return stateless(
        lambda g, p: -LR * g / (1 + jnp.arange(g.size).reshape(g.shape)).astype(jnp.abs(g).dtype)
    )


@breaks("odd", "complex64", claims={"odd"})
def prefers_one_direction():
    return stateless(lambda g, p: -LR * jnp.where(jnp.real(g) > 0, 2 * g, g))


@breaks("scale_invariant", claims={"scale_invariant"})
def epsilon_is_too_large():
    return stateless(lambda g, p: -LR * g / (jnp.abs(g) + 1e-1))


@breaks("linear", claims={"linear"})
def clips_in_silence():
    return stateless(lambda g, p: -LR * g / jnp.maximum(jnp.abs(g), 1))


@breaks("differentiable_at_zero", claims={"elementwise"})
def root_of_zero_has_no_derivative():
    return stateless(lambda g, p: -LR * g * (1 + 0 * jnp.sqrt(jnp.abs(g))))


@breaks(*DERIVED)
def rounds_through_a_host_callback():
    kind = lambda g: jax.ShapeDtypeStruct(g.shape, g.dtype)
    call = lambda g: jax.pure_callback(lambda x: -LR * x, kind(g), g, vmap_method="expand_dims")
    return stateless(lambda g, p: call(g))


@breaks("descends")
def ascends():
    return stateless(lambda g, p: LR * g)


@breaks("descends")
def diverges():
    return stateless(lambda g, p: -5.0 * g)


@breaks("descends", "huge_gradients")
def never_moves():
    return stateless(lambda g, p: 0 * LR * jnp.where(jnp.isfinite(g), g, 0))


def wrong_rms(b2=0.9, eps=1e-8, share=None, correct=corrected, outside=True):
    """The rule of `rms_oracle` in float32, with one term changed."""
    share = 1 - b2 if share is None else share

    def rule(g, r, t, p):
        r = hypot(np.sqrt(b2) * r, np.sqrt(share) * jnp.abs(g))
        hat = r / jnp.sqrt(correct(b2, t, r.dtype))
        return -LR * g / (hat + eps if outside else hypot(hat, jnp.full_like(hat, np.sqrt(eps)))), r

    return with_slot(rule, start=zeros_real)


ORACLE = {"oracle": rms_oracle()}


@breaks("matches_oracle", **ORACLE)
def forgets_bias_correction():
    return wrong_rms(correct=lambda b2, t, dtype: jnp.ones([], dtype))


@breaks("matches_oracle", **ORACLE)
def bias_correction_one_step_late():
    return wrong_rms(correct=lambda b2, t, dtype: corrected(b2, t + 1, dtype))


@breaks("matches_oracle", **ORACLE)
def forgets_one_minus_decay():
    return wrong_rms(share=1.0)


@breaks("matches_oracle", oracle=rms_oracle(0.9999999))
def decay_is_rounded_to_float32():
    return wrong_rms(0.9999999, correct=lambda b2, t, dtype: 1 - jnp.asarray(b2, dtype) ** t)


@breaks("matches_oracle", oracle=rms_oracle(eps=0.25))
def epsilon_inside_the_root():
    return wrong_rms(eps=0.25, outside=False)


# --- compiled programs ---


@breaks("temporaries_within_budget", claims={"elementwise"})
def sorts_a_copy_for_nothing():
    def rule(g, p):
        if jnp.issubdtype(g.dtype, jnp.complexfloating):
            return -LR * g
        stack = jnp.sort(jnp.stack([g, 2 * g, 3 * g, 4 * g]), axis=0)
        return -LR * (stack[0] - stack[0] + g)

    return stateless(rule)
