"""On a mesh of explicit axes everything traces, and keeps the shardings that are part of its types."""

import functools
import inspect
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxopt_lite as jol
from jaxopt_lite.axes import chosen_by_compiler, divisible, leading, outer_first, placed_like
from jaxopt_lite.sharding import state_shardings
from jaxopt_lite.testing import TransformationCase, trees
from jaxopt_lite.transformation import elementwise, transformation
from tests.testing import exports

MESH = AbstractMesh((2,), ("data",), axis_types=(AxisType.Explicit,))
ROWS, LAST = (lambda x: P("data")), (lambda x: P(*[None] * (x.ndim - 1), "data"))


def typed(x, split):
    """Its shape, with an axis split over the mesh where that can be."""
    spec = split(x) if x.ndim else P()
    whole = all(axis is None or n % 2 == 0 for n, axis in zip(x.shape, spec, strict=False))
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(MESH, spec if whole else P()))


def specs(tree):
    """Where every array of a tree lies, in the short form."""
    spec = lambda x: tuple(x.sharding.spec) if x.sharding else ()
    short = lambda spec: spec[: max((i + 1 for i, entry in enumerate(spec) if entry), default=0)]
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): short(spec(x)) for path, x in leaves}


@pytest.mark.parametrize("split", [ROWS, LAST], ids=["rows", "last"])
@pytest.mark.parametrize("name", exports.checked())
def test_an_update_keeps_the_types_of_its_state(name, split):
    case = exports.transformation(name)
    params = jax.tree.map(lambda x: typed(x, split), trees.from_shapes({"bias": (16,), "kernel": (8, 16)}))
    places = jax.tree.map(lambda x: x.sharding, params)
    state = jax.eval_shape(case.tx.init, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), params))
    on = lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
    state = jax.tree.map(on, state, state_shardings(case.tx, params, places))
    with jax.sharding.use_abstract_mesh(MESH):
        updates, after = jax.eval_shape(case.update, params, state, params)
    assert specs(updates) == specs(params)
    assert specs(after) == specs(state)


def with_number(call, argument, value):
    """The transformation of the same call with another value of one argument."""
    bound = inspect.signature(call.make).bind(*call.args, **call.kwargs)
    bound.arguments[argument] = value
    return call.make(*bound.args, **bound.kwargs)


COUNTS = {  # lengths and numbers of steps, which cannot be traced
    "block_size", "max_dim", "min_dim_size_to_factor", "min_size", "period", "precondition_every", "seed", "steps"
}  # fmt: skip


def numbers_of(name):
    """The arguments of an export that are numbers and may be traced."""
    given = exports.transformation(name).tx.call.arguments
    is_number = lambda v: isinstance(v, (int, float)) and not isinstance(v, bool)
    return [key for key, value in given.items() if is_number(value) and key not in COUNTS]


@pytest.mark.parametrize("name", list(filter(numbers_of, exports.checked())))
def test_numbers_typed_for_the_mesh_may_be_hyperparameters(name):
    case = exports.transformation(name)
    shapes = trees.from_shapes({"bias": (16,), "kernel": (8, 16)})
    params = jax.tree.map(lambda x: typed(x, ROWS), shapes)
    number = typed(jax.ShapeDtypeStruct((), jnp.float32), ROWS)
    for argument in numbers_of(name):

        def update(params, x, argument=argument):
            traced = with_number(case.tx.call, argument, x)
            other = TransformationCase(lambda: traced, name=name, extra=case.extra)
            return other.update(params, traced.init(params), params)

        with jax.sharding.use_abstract_mesh(MESH):
            updates, _ = jax.eval_shape(update, params, number)
        assert specs(updates) == specs(params), argument


def test_numbers_keep_their_precision():
    """1 − β₂ is small, and 0 where β₂ is rounded before it is taken from 1."""
    g = {"kernel": jnp.ones((2, 4))}

    def averages(tx):
        return tx.update(g, tx.init(g), g)[1].nu["kernel"]

    plain = averages(jol.optimizers.scale_by_normuon(b2=1 - 1e-8))
    with jax.enable_x64(True):
        b2 = jnp.float64(1 - 1e-9)
        wide = averages(jol.optimizers.scale_by_adam(b2=b2))
    assert plain.all()
    assert wide.all()
    mesh = jax.make_mesh((1,), ("data",))
    place = lambda x: jax.device_put(x, NamedSharding(mesh, P()))
    g = jax.tree.map(place, g)
    with jax.set_mesh(mesh):
        assert jnp.array_equal(averages(jol.optimizers.scale_by_normuon(b2=1 - 1e-8)), plain)
        with jax.enable_x64(True):
            assert jnp.array_equal(averages(jol.optimizers.scale_by_adam(b2=place(b2))), wide)


@transformation
def tilted(learning_rate, decay):
    """Rules of its own beside others', as README's heavy_sign has them."""
    own = elementwise(lambda g, p, s: (g * decay,))
    return jol.chain(
        own, jol.optimizers.trace(decay), jol.chain(own, jol.optimizers.scale_by_learning_rate(learning_rate))
    )


@pytest.mark.parametrize(
    "around",
    [
        lambda tx: tx,
        lambda tx: jol.named_chain(("own", tx)),
        lambda tx: jol.quantize_state(tx, min_size=1),
        lambda tx: jol.masked(tx, lambda params: jax.tree.map(lambda x: x.ndim > 1, params)),
    ],
    ids=["alone", "named_chain", "quantize_state", "masked"],
)
def test_rules_lifted_inside_a_factory_may_use_numbers_typed_for_the_mesh(around):
    params = {"kernel": typed(jax.ShapeDtypeStruct((8, 16), jnp.float32), ROWS)}

    def update(params, rate, decay):
        tx = around(tilted(rate, decay))
        return tx.update(params, tx.init(params), params)

    number = typed(jax.ShapeDtypeStruct((), jnp.float32), ROWS)
    with jax.sharding.use_abstract_mesh(MESH):
        updates, _ = jax.eval_shape(update, params, number, number)
    assert specs(updates) == specs(params)


@pytest.mark.parametrize("name", exports.checked_losses())
def test_a_loss_of_split_examples(name):
    case = exports.loss(name)
    inputs = [typed(jnp.asarray(x), ROWS) for x in case.inputs]
    slope = jax.grad(case.total, case.argnums)
    whole = jax.eval_shape(case.loss, *case.inputs)
    with jax.sharding.use_abstract_mesh(MESH):
        value, gradient = jax.eval_shape(lambda *a: (case.loss(*a), slope(*a)), *inputs)
    if whole.ndim and whole.shape[0] == inputs[0].shape[0]:
        assert specs(value) == {"": ("data",)}
    assert specs(gradient) == specs(tuple(inputs[i] for i in case.argnums))


CLASSES = [
    "dice_loss", "group_advantages", "list_mle", "multiclass_hinge_loss", "multiclass_sparsemax_loss",
    "pairwise_logistic_loss", "safe_softmax_cross_entropy", "softmax_cross_entropy_with_integer_labels",
    "softmax_focal_loss", "tversky_loss",
]  # fmt: skip


@pytest.mark.parametrize("name", CLASSES)
def test_a_loss_of_split_classes(name):
    shape = jax.ShapeDtypeStruct((4, 8), jnp.float32)
    ids = name.startswith(("multiclass", "softmax_c", "softmax_f"))
    labels = typed(jax.ShapeDtypeStruct((4,), jnp.int32), lambda x: P()) if ids else typed(shape, LAST)
    arguments = [typed(shape, LAST)] if name == "group_advantages" else [typed(shape, LAST), labels]
    total = lambda *a: jnp.sum(getattr(jol.losses, name)(*a))
    with jax.sharding.use_abstract_mesh(MESH):
        assert specs(jax.eval_shape(jax.grad(total), *arguments)) == {"": (None, "data")}


def test_a_quantised_state_is_born_where_its_parameters_lie():
    tx = jol.quantize_state(jol.adam(1e-3), "int4")
    params = typed(jax.ShapeDtypeStruct((256, 512), jnp.float32), LAST)
    with jax.sharding.use_abstract_mesh(MESH):
        state = jax.eval_shape(tx.init, params)
    found = {path: spec for path, spec in specs(state).items() if "mu" in path and spec}
    assert list(found.values()) == [(None, "data")] * 2, specs(state)  # pairs and scales


def test_the_specs_of_parts():
    x = typed(jax.ShapeDtypeStruct((4, 6), jnp.float32), ROWS)
    seen = {}

    def look(x):
        seen["part"], seen["odd"], seen["other"] = (divisible(x, s) for s in ((2, 3), (3, 6), (4,)))
        seen["leading"] = leading(x, 1)
        return placed_like(x, x.T.T)

    with jax.sharding.use_abstract_mesh(MESH):
        jax.eval_shape(look, x)
    assert seen == {"part": P("data", None), "odd": P(None, None), "other": P(), "leading": P("data")}
    assert divisible(jnp.ones((4, 6)), (2, 3)) == P()


def test_a_batch_is_split_by_what_splits_it_then_by_copies_then_by_what_splits_its_matrices():
    """And by automatic axes last."""
    explicit, auto = AxisType.Explicit, AxisType.Auto
    order = lambda types, spec: "".join(outer_first(AbstractMesh((2, 2, 2), ("a", "b", "c"), types), spec))
    assert order((explicit,) * 3, P()) == order((auto,) * 3, P(None, "c", "a")) == "abc"
    assert order((explicit,) * 3, P("b", None, None)) == "bac"
    assert order((explicit,) * 3, P(None, "a", None)) == order((explicit,) * 3, P("b", "c", "a")) == "bca"
    assert order((explicit,) * 3, P(None, ("c", "a"))) == "bca"
    assert order((auto, explicit, auto), P(None, None, None)) == "bac"
    assert order((explicit, auto, explicit), P(None, "b", "c")) == "acb"


def test_off_a_mesh_nothing_is_in_the_way():
    made = jax.make_jaxpr(functools.partial(chosen_by_compiler, jnp.sin, P()))(1.0)
    assert [str(e.primitive) for e in made.eqns] == ["sin"]


def test_the_numbers_on_eight_devices():
    script = pathlib.Path(__file__).with_name("mesh_axes.py")
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-W", "error", str(script)], check=True, env=env)
