"""Write ranking_rax.json: values and gradients of Rax's ranking losses (``rax==0.4.0``), in float64."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import rax

jax.config.update("jax_enable_x64", True)
RNG = np.random.default_rng(0)
SCORES, RELEVANCE = 3 * RNG.standard_normal((4, 6)), np.stack([RNG.permutation(6) / 2 for _ in range(4)])
MASK = np.array([[1] * 6, [1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 0, 0], [1] * 6], bool)
LOSSES = {
    "pairwise_logistic_loss": lambda s, y, m: rax.pairwise_logistic_loss(s, y, where=m, reduce_fn=jnp.sum),
    "list_mle": lambda s, y, m: rax.listmle_loss(s, y, where=m, reduce_fn=jnp.sum),
}


def main():
    data = {"scores": SCORES.tolist(), "relevance": RELEVANCE.tolist(), "mask": MASK.tolist()}
    for name, loss in LOSSES.items():
        values, gradients = jax.vmap(jax.value_and_grad(loss))(SCORES, jnp.asarray(RELEVANCE), MASK)
        data[name] = {"values": values.tolist(), "gradients": gradients.tolist()}
    pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
