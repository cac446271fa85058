"""Short scripts of plain jax and optax, each of which asserts one fault: what confirms (or refutes) the kit.

``{make}`` is the call that makes the transformation, ``{loss}`` the loss; where a fault shows for one input only,
several scripts are tried in turn.
"""

import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_lite.testing.transformation_case import DEFAULT_ARGUMENTS, loss_arguments, required

IMPORTS = "import jax, jax.numpy as jnp, optax, optax.contrib\n"
TREE = 'p = {{"bias": jnp.full((3,), 0.5, {d}), "kernel": jnp.full((4, 3), 0.5, {d})}}\n'
WIDE = TREE.replace("{d}", "jnp.float32")
FINITE = "all(jnp.isfinite(x).all() for x in jax.tree.leaves({tree}))"
AVALS = "[(x.shape, x.dtype) for x in jax.tree.leaves({tree})]"
HALVES = ("jnp.float16", "jnp.bfloat16")
RAISES = (
    "try: {call}; fault = None\n"
    "except Exception as error: fault = error\n"
    "assert fault is not None\n"
)  # fmt: skip
UPDATE = "tx = {make}; s = tx.init(p)\n"


def claims_of(name, item):
    """What can be said of an item of optax from its signature and documentation alone."""
    short = name.split(".")[-1]
    if "losses" in name:
        return LOSS_CLAIMS.get(short, set())
    parameters = inspect.signature(item).parameters
    decay = [p.default for n, p in parameters.items() if "weight_decay" in n]
    moves = any(isinstance(d, float) and d > 0 for d in decay) or short in (
        "fromage",
        "noisy_sgd",
        "add_noise",
    )
    return {"decays"} if moves else set()


LOSS_CLAIMS = {
    "kl_divergence": {"log_probabilities"},
    "convex_kl_divergence": {"log_probabilities"},
    "kl_divergence_with_log_targets": {"log_probabilities", "log_targets"},
    "softmax_cross_entropy": {"logits"},
    "safe_softmax_cross_entropy": {"logits"},
    "softmax_cross_entropy_with_integer_labels": {"logits"},
    "poly_loss_cross_entropy": {"logits"},
    "ntxent": {"couples_examples"},
    "multiclass_generalized_dice_loss": {"couples_examples"},
}


def inputs_of(name):
    """Inputs of the losses whose second argument is neither a distribution nor a class id."""
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.normal(size=(6, 5)), jnp.float32)
    signs = jnp.asarray(rng.choice([-1.0, 1.0], (6, 5)), jnp.float32)
    bits = (signs + 1) / 2
    log_p = jax.nn.log_softmax(x)
    table = {
        "hinge_loss": (x, signs), "perceptron_loss": (x, signs), "sparsemax_loss": (x, bits),
        "sigmoid_binary_cross_entropy": (x, bits), "sigmoid_focal_loss": (x, bits),
        "kl_divergence_with_log_targets": (log_p, log_p[::-1]), "ntxent": (x, jnp.array([0, 1, 2, 0, 1, 2])),
        "triplet_margin_loss": (x, x[::-1], 0.5 * x[:, ::-1]),
        "ctc_loss": (x[:, None] + jnp.ones((6, 4, 5)), jnp.zeros((6, 4)), jnp.ones((6, 2), int), jnp.zeros((6, 2))),
    }  # fmt: skip
    return table.get(name.split(".")[-1])


def scripts(law, case):
    """All scripts that could show that the case breaks the law."""
    if case.kind == "loss":
        yield from _loss_scripts(law, case)
        return
    names = required(case.factory)
    arguments = ", ".join(f"{n}={DEFAULT_ARGUMENTS[n]}" for n in names)
    make, lines = with_loss(case, f"{case.name}({arguments})")
    rate, _ = with_loss(case, f"{case.name}(learning_rate=jnp.float32(0.25))")
    for template in TRANSFORMATIONS.get(law, ()):
        for halves in itertools.permutations(HALVES) if "{h}" in template else [(None, None)]:
            text = template.replace("{h}", str(halves[0])).replace("{make}", make).replace("{rate}", rate)
            text = text if case.sign < 0 else text.replace("p = p + u", "p = p - 0.01 * u")
            yield IMPORTS + lines + text.replace("{{", "{").replace("}}", "}")


def with_loss(case, make):
    """The transformation with its extra arguments put in: those of a loss whose gradient at p is g."""
    if case.extra is None:
        return make, ""
    words = "value=1.0, grad=g, value_fn=loss(g, p)" if case.extra is loss_arguments else "obj_fn=loss(g, p)"
    bound = f"bind({make})"
    return bound, (
        "loss = lambda g, p: lambda q: 1.0 + sum(((x - y) * (h + 0.5 * (x - y))).sum() "
        "for x, y, h in zip(*map(jax.tree.leaves, (q, p, g))))\n"
        f"bind = lambda t: optax.GradientTransformation(t.init, lambda g, s, p: t.update(g, s, p, {words}))\n"
    )


def _tree(dtype):
    return TREE.replace("{d}", dtype)


def _gradients(value):
    return f"g = jax.tree.map(lambda x: jnp.full_like(x, {value}), p)\n"


def _range(value):
    update = f"s = tx.init(p); u, s = tx.update(g, s, p)\nassert not ({FINITE.replace('{tree}', '(u, s)')}"
    return WIDE + _gradients(value) + "tx = {make}\n" + update


_NOT_MOVING = " and any(x.any() for x in jax.tree.leaves(u)))\n"
_TRACK = (
    "import functools; sizes = [{large}] * 50 + [{small}] * 250; tx = {make}\n"
    "step = jax.jit(lambda us, g: tx.update(jnp.full_like(us[0], g), us[1], jnp.full_like(us[0], 0.5)))\n"
    "start = lambda d: (jnp.zeros((4, 3), d), tx.init(jnp.full((4, 3), 0.5, d)))\n"
    "run = lambda d: float(functools.reduce(step, sizes, start(d))[0][0, 0])\n"
    "assert not abs(run({h}) - run(jnp.float32)) <= 0.05 * abs(run(jnp.float32)) + 1e-7\n"
)
_SIZES = ((2.0, 0.1), (1.3, 0.065), (0.7, 0.035))
_TRACKS = [_TRACK.replace("{large}", str(a)).replace("{small}", str(b)) for a, b in _SIZES]
_SLOPE = (
    "total = lambda g: sum(jnp.sum(x) for x in jax.tree.leaves({tree}))\n"
    f"assert not {FINITE.replace('{tree}', 'jax.grad(total)(g)')}\n"
)
_TWICE = "(lambda us: (us[0], tx.update(g, us[1], p)[0]))(tx.update(g, s, p))"
TRANSFORMATIONS = {
    "structure_kept": (
        WIDE + UPDATE + "u, _ = tx.update(p, s, p)\n"
        f"assert {AVALS.replace('{tree}', 'u')} != {AVALS.replace('{tree}', 'p')} "
        f"or not {FINITE.replace('{tree}', 'u')}\n",
        'p = {{"a": jnp.ones((4, 3)), "b": jnp.ones((3, 4))}}\n'
        + UPDATE + RAISES.replace("{call}", "tx.update(p, s, p)"),
    ),
    "state_is_a_fixed_point": (
        WIDE + UPDATE + "_, t = jax.jit(tx.update)(p, s, p)\nkinds = lambda s: [str(jax.typeof(x)) + str(getattr("
        "jax.typeof(x), 'weak_type', '')) for x in jax.tree.leaves(s)]\n"
        "assert jax.tree.structure(s) != jax.tree.structure(t) or kinds(s) != kinds(t)\n",
    ),
    "traced_once": (
        WIDE + UPDATE + "traces = []; f = jax.jit(lambda *a: (traces.append(1), tx.update(*a))[1])\n"
        "for _ in range(5): _, s = f(p, s, p)\nassert len(traces) > 1\n",
    ),
    "jit_equals_eager": (WIDE + UPDATE + RAISES.replace("{call}", "jax.jit(tx.update)(p, s, p)"),),
    "scan_equals_loop": (
        WIDE + UPDATE
        + RAISES.replace("{call}", "jax.lax.scan(lambda s, _: tx.update(p, s, p)[::-1], s, None, length=3)"),
    ),
    "vmap_equals_loop": (
        WIDE + UPDATE + "many = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), p)\n"
        + RAISES.replace("{call}", "jax.vmap(lambda p: tx.update(p, tx.init(p), p)[0])(many)"),
    ),
    "init_equals_eval_shape": (
        WIDE + "tx = {make}\n" + RAISES.replace("{call}", "jax.eval_shape(tx.init, p)"),
        WIDE + "tx = {make}; shapes = jax.eval_shape(lambda p: p, p)\n"
        + RAISES.replace("{call}", "jax.eval_shape(lambda: tx.init(shapes))"),
        WIDE + UPDATE + f"assert {AVALS.replace('{tree}', 'jax.eval_shape(tx.init, p)')} != "
        f"{AVALS.replace('{tree}', 's')}\n",
    ),
    "survives_donation": (
        WIDE + UPDATE
        + "try: jax.jit(lambda p, s: (p, s), donate_argnums=(0, 1))(p, s); fault = ''\n"
        "except Exception as error: fault = str(error)\nassert 'donate the same buffer twice' in fault\n",
    ),
    "survives_flattening": (
        WIDE + UPDATE + "assert not all(isinstance(x, jax.Array) for x in jax.tree.leaves(s))\n",
    ),
    "ignores_extra_arguments": (
        WIDE + UPDATE + "assert isinstance(tx, optax.GradientTransformationExtraArgs)\n"
        + RAISES.replace("{call}", "tx.update(p, s, p, an_argument_of_another_part=1.0)"),
    ),
    "state_maps_over_params": (
        WIDE + UPDATE + RAISES.replace("{call}", "optax.tree_utils.tree_map_params(tx, lambda x: x, s)"),
    ),
    "learning_rate_kinds": (
        "p = jnp.ones(3, jnp.bfloat16); tx = {rate}\nu, _ = tx.update(p, tx.init(p), p)\n"
        "assert u.dtype == jnp.float32\n",
        "p = jnp.ones(3, jnp.bfloat16)\ntx = {rate}\n"
        + RAISES.replace("{call}", "tx.update(p, tx.init(p), p)"),
    ),
    "empty_tree": (
        "tx = {make}\n" + RAISES.replace("{call}", "tx.update({{}}, tx.init({{}}), {{}})"),
    ),
    "zero_size_leaves": (
        'p = {{"w": jnp.ones((4, 3)), "empty": jnp.zeros((0, 3))}}\n' + UPDATE + "u, _ = tx.update(p, s, p)\n"
        + f"assert not {FINITE.replace('{tree}', 'u')}\n",
        'p = {{"w": jnp.ones((4, 3)), "empty": jnp.zeros((0, 3))}}\ntx = {make}\n'
        + RAISES.replace("{call}", "tx.update(p, tx.init(p), p)"),
    ),
    "scalar_leaves": ("p = jnp.float32(0.5); tx = {make}\n" + RAISES.replace("{call}", "tx.update(p, tx.init(p), p)"),),
    "none_leaves": (
        'p = {{"w": jnp.ones((4, 3)), "none": None}}\ntx = {make}\n'
        + RAISES.replace("{call}", "tx.update(p, tx.init(p), p)"),
    ),
    "containers": (
        "p = [jnp.ones((4, 3)), (jnp.ones(3),)]\ntx = {make}\n"
        + RAISES.replace("{call}", "tx.update(p, tx.init(p), p)"),
    ),
    "dtypes_kept": (
        _tree("{h}") + UPDATE + "u, t = tx.update(p, s, p)\n"
        f"assert {AVALS.replace('{tree}', '(u, t)')} != {AVALS.replace('{tree}', '(p, s)')}\n",
        _tree("{h}") + "tx = {make}\n" + RAISES.replace("{call}", "tx.update(p, tx.init(p), p)"),
    ),
    "mixed_dtypes": tuple(
        f"p = jnp.full((4, 3), 0.5, jnp.{p}); g = p.astype(jnp.{g})\n" + UPDATE
        + RAISES.replace("{call}", "jax.lax.scan(lambda s, _: tx.update(g, s, p)[::-1], s, None, length=2)")
        for p, g in (("bfloat16", "float32"), ("float32", "bfloat16"))
    ),
    "bfloat16_tracks_float32": tuple(t.replace("{h}", "jnp.bfloat16") for t in _TRACKS),
    "float16_tracks_float32": tuple(t.replace("{h}", "jnp.float16") for t in _TRACKS),
    "zero_gradient_gives_zero_update": (
        WIDE + _gradients("0.0") + UPDATE
        + "u, _ = tx.update(g, s, p)\nassert any(x.any() for x in jax.tree.leaves(u))\n",
    ),
    "zero_gradient_in_16_bit": (
        _tree("{h}") + 'g = {{"bias": p["bias"], "kernel": p["kernel"].at[0, 0].set(0.0)}}\n' + UPDATE
        + f"u, _ = tx.update(g, s, p)\nassert not {FINITE.replace('{tree}', 'u')}\n",
        _tree("{h}") + _gradients("0.0") + UPDATE
        + f"u, _ = tx.update(g, s, p)\nassert not {FINITE.replace('{tree}', 'u')}\n",
    ),
    "tiny_gradients": tuple(_range(v) + ")\n" for v in ("1e-30", "1e-10")),
    "huge_gradients": tuple(_range(v) + _NOT_MOVING for v in ("1e20", "1e10")),
    "differentiable": (
        WIDE + _gradients("0.7") + UPDATE + _SLOPE.replace("{tree}", "tx.update(g, s, p)[0]"),
        WIDE + _gradients("0.7") + UPDATE + _SLOPE.replace("{tree}", _TWICE),
    ),
    "differentiable_at_zero": (
        WIDE + _gradients("0.0") + UPDATE + _SLOPE.replace("{tree}", "tx.update(g, s, p)[0]"),
        WIDE + _gradients("0.0") + UPDATE + _SLOPE.replace("{tree}", _TWICE),
    ),
    "complex64": (
        "p = jnp.full((4, 3), 0.5 + 0.3j, jnp.complex64); tx = {make}\n"
        "u, v = (tx.update(c * p, tx.init(c * p), c * p)[0] for c in (1, 1j))\n"
        "assert u.dtype != p.dtype or not abs(v - 1j * u).max() <= 1e-3 * abs(u).max()\n",
        "p = jnp.full((4, 3), 0.5 + 0.3j, jnp.complex64); tx = {make}\n"
        + RAISES.replace("{call}", "tx.update(p, tx.init(p), p)"),
    ),
    "accumulation_equals_large_batch": (
        WIDE + "tx = optax.MultiSteps({make}, 4)\n" + RAISES.replace("{call}", "jax.jit(tx.update)(p, tx.init(p), p)"),
    ),
    "descends": (
        "target, p, tx = jnp.full((4, 3), 1.5), jnp.full((4, 3), 0.5), {make}\n"
        "s, f = tx.init(p), jax.jit(tx.update)\nfor _ in range(200):\n"
        "    u, s = f(p - target, s, p); p = p + u\nassert not abs(p - target).max() < 1.0\n",
    ),
    "float64_in_full": (
        "with jax.enable_x64(True):\n"
        "    g = jnp.array([0.1, 0.7, 1.3]); tx = {make}\n"
        "    u, _ = tx.update(g, tx.init(g), g)\n"
        "    assert u.dtype != g.dtype or (u == u.astype(jnp.float32)).all()\n",
    ),
    "odd_sizes": (
        'p = {{"one": jnp.ones(1), "column": jnp.ones((5, 1)), "three": jnp.ones((2, 3, 5))}}\n' + UPDATE
        + f"u, _ = tx.update(p, s, p)\nassert not {FINITE.replace('{tree}', 'u')}\n",
        'p = {{"one": jnp.ones(1), "column": jnp.ones((5, 1)), "three": jnp.ones((2, 3, 5))}}\ntx = {make}\n'
        + RAISES.replace("{call}", "tx.update(p, tx.init(p), p)"),
    ),
    "counter_saturates": (
        WIDE + UPDATE + "s = tx.update(p, s, p)[1]\n"
        "late = jax.tree.map(lambda x: jnp.full_like(x, 2**31 - 1) if x.dtype == jnp.int32 and x.ndim == 0 else x, s)\n"
        "assert any((x < 0).any() for x in jax.tree.leaves(tx.update(p, late, p)[1]) if x.dtype == jnp.int32)\n",
    ),
}  # fmt: skip


def _array(x):
    x = np.asarray(x)
    text = np.array2string(x, separator=", ", precision=3, threshold=99999, max_line_width=9999).replace(
        "\n", ""
    )
    return f"jnp.array({text}{', jnp.int32' if x.dtype.kind == 'i' else ''})".replace("0.   ", "0.").replace(
        "  ", " "
    )


def _loss_scripts(law, case):
    """Two examples of the case's inputs, written out."""
    inputs = [np.asarray(x)[:2] if np.ndim(x) and len(x) == len(case.inputs[0]) else x for x in case.inputs]
    x, *others = [_array(i) for i in inputs]
    rest = ", ".join(others)
    hostile = [_array(np.asarray(case.hostile()[0])[i : i + 2]) for i in (0, 1, 2, 4)]
    finite = (
        "assert not (jnp.isfinite(f(x)).all() and jnp.isfinite(jax.grad(lambda x: f(x).sum())(x)).all())\n"
    )
    head = lambda first, more=rest: f"f = lambda x: {case.name}(x, {more})\nx = {first}\n"
    if law == "hostile_predictions":
        nan = "assert jnp.isnan(f(x)).any() or jnp.isnan(jax.grad(lambda x: f(x).sum())(x)).any()\n"
        wrong = (
            "import numpy as np\nwith jax.enable_x64(True): want = np.asarray({name}({x64}))\n"
            "got = f(x)\nassert not np.allclose(got, want, rtol=1e-3, atol=1e-2)\n"
        )
        for first in hostile:
            yield IMPORTS + head(first) + nan
            exact = ", ".join(t.replace("jnp.array", "jnp.asarray") for t in (first, *others))
            yield IMPORTS + head(first) + wrong.replace("{name}", case.name).replace("{x64}", exact)
    zeros = f"jnp.zeros({np.shape(inputs[0])})"
    if law == "zero_predictions":
        yield IMPORTS + head(zeros) + finite
    if law == "differentiable_at_the_target":
        logs = "log_probabilities" in case.claims and "log_targets" not in case.claims
        first = f"jnp.log({others[0]})" if logs else others[0]
        yield IMPORTS + head(first) + finite
    if law == "one_hot_targets":
        hot = _array(np.eye(np.shape(inputs[1])[-1])[[1] * len(inputs[1])])
        hot = f"jnp.log({hot})" if "log_targets" in case.claims else hot
        yield IMPORTS + head(x, hot) + finite
        yield IMPORTS + head(x, hot) + "assert not jnp.isfinite(jax.jvp(f, (x,), (x,))[1]).all()\n"
    if law == "small_predictions_are_accurate":
        yield IMPORTS + (
            f"f = lambda x: {case.name}(x, 0 * x)\n"
            "with jax.enable_x64(True): want = float(f(jnp.float64(1e-4)))\n"
            "assert abs(f(jnp.float32(1e-4)) - want) > 1e-3 * want\n"
        )
    if law == "labels_out_of_range":
        bad = np.array(inputs[1])
        for value in (-1, np.shape(inputs[0])[-1]):
            bad[(0,) * bad.ndim] = value
            ok = "assert jnp.isfinite(f(x)).all() or jnp.isfinite(jax.grad(lambda x: f(x).sum())(x)).all()\n"
            yield IMPORTS + head(x, _array(bad)) + ok
    if law == "shape_mismatch_raises":
        for wrong in (
            f"{others[0]}[:1]",
            f"{others[0]}[..., :1]" if np.ndim(inputs[1]) > 1 else f"{others[0]}[:, None]",
        ):
            yield (
                IMPORTS
                + head(x, ", ".join([wrong, *others[1:]]))
                + "assert jnp.isfinite(f(x)).all()  # numbers, no error\n"
            )
    if law == "absent_class":
        wide = f"jnp.pad({x}, ((0, 0), (0, 1)), constant_values=-jnp.inf)"
        more = (
            others[0]
            if np.asarray(inputs[1]).dtype.kind == "i"
            else f"jnp.pad({others[0]}, ((0, 0), (0, 1)))"
        )
        yield IMPORTS + head(wide, more) + finite
    if law == "jit_equals_eager":
        yield IMPORTS + head(x) + RAISES.replace("{call}", "jax.jit(f)(x)")
        yield IMPORTS + RAISES.replace("{call}", f"jax.jit({case.name})({x}, {rest})")
    if law == "vmap_equals_loop":
        yield IMPORTS + head(x) + RAISES.replace("{call}", f"jax.vmap({case.name})(x[None], {rest}[None])")
    if law == "forward_equals_reverse":
        yield IMPORTS + head(x) + RAISES.replace("{call}", "jax.jvp(f, (x,), (x,))")
    if law == "second_derivative_is_finite":
        yield (
            IMPORTS
            + head(x)
            + "d = jax.jvp(jax.grad(lambda x: f(x).sum()), (x,), (jnp.ones_like(x),))[1]\n"
            + "assert not jnp.isfinite(d).all()\n"
        )
    if law == "sixteen_bit_is_accurate":
        for half in HALVES:
            low = ", ".join(f"{t}.astype({half})" if "int32" not in t else t for t in (x, *others))
            yield IMPORTS + (
                f"inputs = ({low},)\nwide = [t.astype(jnp.float32) if t.dtype == {half} else t for t in inputs]\n"
                f"got, want = {case.name}(*inputs).astype(jnp.float32), {case.name}(*wide)\n"
                f"assert not (abs(got - want) <= 4 * jnp.finfo({half}).eps * (1 + abs(want).max())).all()\n"
            )
    if law == "gradient_has_the_arguments_dtype":
        for half in HALVES:
            slope = f"jax.grad(lambda x: f(x).sum())(x.astype({half}))"
            yield IMPORTS + head(x) + RAISES.replace("{call}", slope)
            yield IMPORTS + head(x) + f"assert {slope}.dtype != {half}\n"
    if law == "examples_are_independent":
        fewer = ", ".join(f"{t}[:1]" for t in (x, *others))
        yield (
            IMPORTS
            + head(x)
            + f"got = {case.name}({fewer})\nassert abs(got[0] - f(x)[0]) > 1e-5 * abs(got[0])\n"
        )
    if law == "finite_float32":
        yield IMPORTS + head(x) + "assert f(x).dtype != jnp.float32 or not jnp.isfinite(f(x)).all()\n"
