"""Preference and policy losses at a large vocabulary, without its logits: any of them on `linear_log_probs`.

    python examples/chunked_preference.py [--steps 30] [--vocabulary 8192]

A reward-free toy of two stages. DPO teaches a tiny policy to prefer answers of even tokens; then GRPO samples
answers to each prompt, rewards even tokens, and raises what did better than its group. Both losses see the
output head only through per-token log-probabilities, computed block by block in both passes.
"""

import argparse

import jax
import jax.numpy as jnp

import jaxopt_lite as jol
from jaxopt_lite.losses.language import linear_log_probs
from jaxopt_lite.losses.policy import group_advantages, grpo_loss
from jaxopt_lite.losses.preference import dpo_loss


def init(key, vocabulary, features):
    keys = jax.random.split(key, 2)
    return {
        "embedding": jax.random.normal(keys[0], (vocabulary, features)) * 0.3,  # tied: it is the head as well
        "mix": jax.random.normal(keys[1], (features, features)) * 0.3,
    }


def hidden_states(params, tokens):
    """A causal running mean of embeddings through one layer: enough of a model to differentiate through."""
    context = jnp.cumsum(params["embedding"][tokens], axis=-2)
    context = context / jnp.arange(1, tokens.shape[-1] + 1)[None, :, None]
    return jnp.tanh(context @ params["mix"])


def log_probs(params, tokens, start):
    """The log-probability of every answer token; the answer begins at `start`."""
    hidden = hidden_states(params, tokens)[..., start - 1 : -1, :]
    return linear_log_probs(hidden, params["embedding"], tokens[..., start:], transpose_kernel=True)


def dpo(params, batch):
    """Direct preference optimisation: four sums of log-probabilities, two of them the reference's."""
    chosen, rejected = (log_probs(params, batch[k], batch["start"]).sum(-1) for k in ("chosen", "rejected"))
    return dpo_loss(chosen, rejected, *batch["reference"], beta=0.5, reduction="mean")


def grpo(params, batch):
    logps = log_probs(params, batch["tokens"], batch["start"])
    return grpo_loss(logps, batch["old"], batch["advantages"], mask=jnp.ones(logps.shape, bool))


def sample(key, params, prompts, length):
    """Answers, one token at a time, from logits of the last position only."""
    tokens = prompts
    for k in jax.random.split(key, length):
        last = hidden_states(params, tokens)[:, -1]
        tokens = jnp.concatenate(
            [tokens, jax.random.categorical(k, last @ params["embedding"].T)[:, None]], 1
        )
    return tokens


def answers(key, count, length, vocabulary, remainder):
    """Random answers of even (`remainder` 0) or odd tokens."""
    return 2 * jax.random.randint(key, (count, length), 0, vocabulary // 2) + remainder


def preferences(key, params, vocabulary, pairs=32, length=6):
    """Pairs of answers to one prompt, the chosen one even, with the reference's log-probabilities."""
    keys = jax.random.split(key, 3)
    prompts = jax.random.randint(keys[0], (pairs, length), 0, vocabulary)
    batch = {
        name: jnp.concatenate([prompts, answers(k, pairs, length, vocabulary, odd)], axis=1)
        for name, k, odd in (("chosen", keys[1], 0), ("rejected", keys[2], 1))
    }
    score = jax.jit(lambda tokens: log_probs(params, tokens, length).sum(-1))
    reference = tuple(score(batch[name]) for name in ("chosen", "rejected"))
    return batch | {"reference": reference, "start": length}


def train(loss, params, tx, steps, batches):
    """`steps` updates; the first and the last loss."""

    def step(params, state, batch, start):
        value, grads = jax.value_and_grad(loss)(params, batch | {"start": start})
        updates, state = tx.update(grads, state, params)
        return jol.apply_updates(params, updates), state, value

    step, state, values = jax.jit(step, static_argnums=3), tx.init(params), []
    for i in range(steps):
        batch = dict(batches(i, params))
        params, state, value = step(params, state, batch, batch.pop("start"))
        values.append(float(value))
    return params, values


def main(*, steps=30, vocabulary=8192, features=32, seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    params = init(keys[0], vocabulary, features)

    pairs = preferences(keys[1], params, vocabulary)
    params, losses = train(dpo, params, jol.adamw(3e-2), steps, lambda i, p: pairs)
    print(f"dpo loss {losses[0]:.3f} -> {losses[-1]:.3f}")

    prompts = jnp.repeat(jax.random.randint(keys[2], (8, 6), 0, vocabulary), 8, axis=0)  # 8 answers to each
    draw = jax.jit(lambda key, params: sample(key, params, prompts, 6))
    score = jax.jit(lambda params, tokens: log_probs(params, tokens, 6))
    rewards = []

    def rollout(i, params):
        tokens = draw(jax.random.fold_in(keys[3], i), params)
        reward = jnp.mean(tokens[:, 6:] % 2 == 0, axis=1)
        rewards.append(float(reward.mean()))
        advantages = group_advantages(reward.reshape(8, 8)).reshape(-1)
        return {"tokens": tokens, "old": score(params, tokens), "advantages": advantages, "start": 6}

    params, _ = train(grpo, params, jol.adamw(1e-2), steps, rollout)
    print(f"share of even tokens {rewards[0]:.3f} -> {rewards[-1]:.3f}")

    assert losses[-1] < 0.5 * losses[0]
    assert rewards[-1] > rewards[0] + 0.1
    return losses, rewards


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--vocabulary", type=int, default=8192)
    main(**vars(parser.parse_args()))
