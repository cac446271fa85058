"""quantize_state: the same updates with identity, close ones with fewer bytes, around any transformation."""

import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import jaxopt_lite as jol
from jaxopt_lite import optimizers, precision
from jaxopt_lite.precision.quantized import PAIRS, Encoded, is_encoded
from tests import users

RNG = np.random.default_rng(5)
PARAMS = {"kernel": jnp.asarray(RNG.normal(size=(16, 256)), jnp.float32), "bias": jnp.ones(256)}
GRADS = [jax.tree.map(lambda p: jnp.asarray(RNG.normal(size=p.shape), p.dtype), PARAMS) for _ in range(3)]
OURS = {
    "adamw": jol.adamw(1e-2),
    "clipped": jol.chain(jol.clip_by_global_norm(1.0), jol.adamw(1e-2)),
    "named": jol.named_chain(("norm", jol.clip(1.0)), ("adam", jol.adam(1e-2))),
    "stage": optimizers.scale_by_adam(),
    "mixed": jol.chain(optax.scale(0.5), jol.adam(0.1), optax.trace(0.9)),
    "masked": jol.masked(jol.adam(0.1), {"kernel": True, "bias": False}),
    "tunable": jol.tunable(jol.adamw, learning_rate=0.1),
}
# Each by its defaults, with the learning rate 0.01; that every other wraps too is in test_fields.py.
NAMES = """adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad lamb lars lion muon nadam nadamw
novograd radam rmsprop rprop shampoo sm3 soap yogi"""
MADE = {f"ours {name}": (optimizers, name) for name in NAMES.split()}
MADE |= {f"optax {name}": (optax, name) for name in ("adafactor", "adan", "rprop", "sm3")}
MADE |= {f"contrib {name}": (optax.contrib, name) for name in ("cocob", "madgrad", "muon")}


def steps(tx, grads=GRADS, params=PARAMS, state=None, jit=True):
    update = jax.jit(tx.update) if jit else tx.update
    state, all_updates = tx.init(params) if state is None else state, []
    for g in grads:
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
        all_updates.append(updates)
    return all_updates, state, params


@pytest.mark.parametrize("name", OURS)
def test_identity_is_the_transformation_bit_for_bit(name):
    for codec in ("identity", precision.identity_codec()):
        tx = jol.quantize_state(OURS[name], codec, min_size=0)
        chex.assert_trees_all_equal(steps(tx), steps(OURS[name]))


@pytest.mark.parametrize("name", OURS)
def test_int8_is_close_and_its_state_small_and_a_fixed_point(name):
    tx = jol.quantize_state(OURS[name], min_size=1)
    got, state, _ = steps(tx)
    want, plain, _ = steps(OURS[name])
    assert jol.state_bytes(state) < 0.32 * jol.state_bytes(plain)
    assert jax.tree.structure(tx.init(PARAMS)) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)) < 0.06


@pytest.mark.parametrize("name", MADE)
def test_the_direction_stays(name):
    module, factory = MADE[name]
    tx = getattr(module, factory)(1e-2)
    updates, _, _ = steps(jol.quantize_state(tx, min_size=16), GRADS[:2])
    want, _, _ = steps(tx, GRADS[:2])
    a, b = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(u[-1])]) for u in (updates, want))
    assert np.isfinite(a).all()
    assert np.sum(a * b) > 0.9 * np.sqrt(np.sum(a * a) * np.sum(b * b))


def test_state_that_holds_parameters_stays():
    state = jol.quantize_state(optimizers.schedule_free(jol.adam(0.1), 0.1), min_size=1).init(PARAMS)
    assert not any(is_encoded(x) for x in jax.tree.leaves(state.z, is_leaf=is_encoded))
    state = jol.quantize_state(optimizers.prodigy(), min_size=1).init(PARAMS)
    assert state.params0["kernel"].dtype == jnp.float32


def test_second_moments_get_the_square_root_codec_and_signed_fields_of_that_name_do_not():
    codecs = lambda tx: {
        jax.tree_util.keystr(path): leaf.codec
        for path, leaf in jax.tree_util.tree_leaves_with_path(
            jol.quantize_state(tx, min_size=300).init(PARAMS), is_leaf=is_encoded
        )
        if is_encoded(leaf)
    }
    signed, root = precision.int8_codec(), precision.uint8_sqrt_codec()
    assert list(codecs(optax.scale_by_adam()).values()) == [signed, root]
    assert codecs(optimizers.scale_by_adan())[".v['kernel']"] == signed
    assert codecs(optimizers.scale_by_adan())[".n['kernel']"] == root
    assert codecs(jol.chain(optax.scale_by_sm3()))["[0].nu['kernel']"] == signed
    assert codecs(optimizers.adagrad(0.1))["[0].sum_of_squares['kernel']"] == root


def test_overrides_and_min_size():
    tx = jol.quantize_state(
        jol.adam(0.1), overrides={"nu/kernel": None, "bias": "bfloat16", "mu": precision.fp8_codec((8, 256))}
    )
    state = tx.init(PARAMS)[0]
    assert state.nu["kernel"].dtype == jnp.float32
    assert state.mu["bias"].codec == precision.cast_codec("bfloat16", stochastic=True)
    assert state.mu["kernel"].codec == precision.fp8_codec((8, 256))
    assert not is_encoded(jol.quantize_state(jol.adam(0.1), min_size=4097).init(PARAMS)[0].mu["kernel"])


@pytest.mark.parametrize("codec", ["int8", "int4", "fp8", "bfloat16"])
def test_a_coordinate_without_gradient_never_moves_and_resuming_is_bit_exact(codec):
    tx = jol.quantize_state(jol.adam(1e-2), codec, min_size=1)
    grads = [jax.tree.map(lambda g: g.at[..., 7].set(0), g) for g in GRADS] * 10
    _, _, params = steps(tx, grads)
    chex.assert_trees_all_equal(params["kernel"][:, 7], PARAMS["kernel"][:, 7])
    _, half_state, half = steps(tx, grads[:13])
    leaves, treedef = jax.tree.flatten(half_state)
    saved = pickle.loads(pickle.dumps([np.asarray(x) for x in leaves]))
    again = treedef.unflatten([jnp.asarray(x) for x in saved])
    chex.assert_trees_all_equal(steps(tx, grads[13:], half, again)[2], params)
    assert jax.tree.structure(pickle.loads(pickle.dumps(half_state))) == treedef


@pytest.mark.parametrize("codec", ["int8", "int4", "bfloat16"])
def test_every_array_is_rounded_at_random_and_anew_every_step(codec):
    tx = jol.quantize_state(jol.adam(0.1), codec, min_size=1)
    encoded = lambda state: [a for a in jax.tree.leaves(state, is_leaf=is_encoded) if is_encoded(a)]
    before, after = encoded(tx.init(PARAMS)), encoded(steps(tx, GRADS[:1])[1])
    seeds = [np.array([a.seed for a in arrays]) for arrays in (before, after)]
    assert len(set(seeds[0])) == 2 * len(jax.tree.leaves(PARAMS))
    np.testing.assert_array_equal(seeds[1], seeds[0] + np.uint32(1))
    for one, later in zip(before, after, strict=True):
        array = jnp.abs(jax.random.normal(jax.random.key(0), one.decode().shape))
        assert not np.array_equal(one.replace(array).decode(), later.replace(array).decode())


@pytest.mark.parametrize("codec", ["int8", "int4"])
def test_init_encodes_while_it_runs_not_while_it_compiles_and_makes_no_wide_copy(codec):
    params = jnp.zeros((256, 512))
    lowered = jax.jit(precision.quantize_state(jol.adamw(1e-3), codec).init).lower(params)
    program = users.compiled(lowered)
    assert " reduce(" in program.as_text()  # the largest of each tile
    assert program.memory_analysis().temp_size_in_bytes < params.nbytes / 10


@pytest.mark.cpu
@pytest.mark.parametrize("codec", ["int8", "int4"])
def test_on_a_cpu_leaves_are_worked_on_one_after_the_other(codec):
    """The temporaries of twenty leaves are those of one, and no moment is decoded to memory: 5 % of float32 state."""
    tx = jol.quantize_state(jol.adamw(1e-3), codec)
    params = [jax.ShapeDtypeStruct((256, 256), jnp.float32)] * 20
    temporaries = users.compiled_step(tx, params).memory_analysis().temp_size_in_bytes
    assert temporaries < 0.05 * 20 * 8 * 256 * 256, temporaries / (20 * 8 * 256 * 256)


def test_packed_leaves_are_worked_on_one_after_the_other():
    """Each gradient is there only when the codes of the leaf before are: never all codes at once."""

    def waits(codec):
        params = [jnp.ones((8, 128 * (k + 1))) for k in range(3)]
        tx = jol.quantize_state(jol.adamw(1e-3), codec, min_size=0)
        equations = jax.make_jaxpr(tx.update)(params, tx.init(params), params).eqns
        inputs = [eqn.invars for eqn in equations if eqn.primitive.name == "optimization_barrier"]
        return [(variables[0].aval.shape, variables[-1].aval.dtype.name) for variables in inputs]

    assert waits("int4") == [((8, 128), "uint32"), ((8, 256), "uint32"), ((8, 384), "uint32")]
    assert waits("int8") == []


@pytest.mark.parametrize("codec", ["int8", "int4"])
def test_huge_and_tiny_gradients(codec):
    tx = jol.quantize_state(jol.adam(1e-2), codec, min_size=1)
    for size in (1e-30, 1e-15, 1e18, 1e20):
        grads = [jax.tree.map(lambda g, size=size: jnp.sign(g) * size, g) for g in GRADS]
        updates, state, _ = steps(tx, grads)
        chex.assert_tree_all_finite((updates, state))
        if size > 1e-18:
            assert all(np.abs(u).max() < 0.011 for u in jax.tree.leaves(updates))


def test_errors():
    with pytest.raises(ValueError, match="quantize_state: codec is 'int7', expected one of 'int8'"):
        jol.quantize_state(jol.adam(0.1), "int7")
    with pytest.raises(TypeError, match="quantize_state: codec is 8, expected a Codec"):
        jol.quantize_state(jol.adam(0.1), 8)
    with pytest.raises(TypeError, match=r"overrides\['nu'\] is 8"):
        jol.quantize_state(jol.adam(0.1), overrides={"nu": 8})
    with pytest.raises(TypeError, match="quantize_state: tx is the function 'adam'"):
        jol.quantize_state(jol.adam)


def test_any_pair_of_functions_is_a_codec_and_donation_works():
    halves = precision.Codec(lambda x, key=None: x.astype(jnp.float16), lambda s: s.astype(jnp.float32))
    tx = jol.quantize_state(jol.sgd(0.1, 0.9), halves)
    params = jax.tree.map(jnp.copy, PARAMS)
    state = tx.init(params)
    assert isinstance(state[0].trace["kernel"], Encoded)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return jol.apply_updates(params, updates), state

    step = jax.jit(step, donate_argnums=(0, 1))
    for g in GRADS:
        params, state = step(params, state, g)
    chex.assert_trees_all_close(params, steps(tx)[2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "codec", [codec for name in ("int8", "int4", "fp8") for codec in PAIRS[name]], ids=str
)
def test_a_codec_given_the_scale_of_an_array_encodes_it_as_without(codec):
    x, key = jnp.abs(jax.random.normal(jax.random.key(0), (20, 200))), jax.random.key(1)
    known, alone = codec.encode(x, key, codec.scale(x)), codec.encode(x, key)
    for got, want in zip(jax.tree.leaves(known), jax.tree.leaves(alone), strict=True):
        np.testing.assert_array_equal(got, want)
    other = codec.encode(x, key, 2 * codec.scale(x))  # it is the one given that counts
    assert not np.array_equal(jax.tree.leaves(other)[0], jax.tree.leaves(alone)[0])
