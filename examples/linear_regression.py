"""Fit the line y = 2x + 1 to noisy points, first with plain gradient descent, then with Adam.

python examples/linear_regression.py --epochs 100 --learning-rate 0.01
"""

import argparse

import jax
import jax.numpy as jnp

import jaxopt_lite as jol
from jaxopt_lite.losses import squared_error


def sample(key, points, noise):
    """Points on the line y = 2x + 1, with Gaussian noise."""
    key_x, key_noise = jax.random.split(key)
    x = jax.random.normal(key_x, (points,))
    return {"x": x, "y": 2 * x + 1 + noise * jax.random.normal(key_noise, (points,))}


def predict(params, x):
    return params["slope"] * x + params["intercept"]


def loss_fn(params, batch):
    return squared_error(predict(params, batch["x"]), batch["y"], reduction="mean")


def train(tx, data, *, key, epochs, batch_size):
    """Train from zero and print the mean loss of every tenth epoch."""
    print(tx)
    params = {"slope": jnp.zeros(()), "intercept": jnp.zeros(())}
    result = jol.fit(loss_fn, params, tx, data, key=key, batch_size=batch_size, epochs=epochs)
    losses = result.history["loss"].reshape(epochs, -1).mean(axis=1)
    for epoch in range(9, epochs, 10):
        print(f"  epoch {epoch + 1:4d}  loss {losses[epoch]:.4f}")
    slope, intercept = float(result.params["slope"]), float(result.params["intercept"])
    prediction = float(predict(result.params, 2.0))
    print(f"  y = {slope:.3f} x + {intercept:.3f}; at x = 2 it predicts {prediction:.3f}, the line has 5")
    return {"slope": slope, "intercept": intercept, "prediction": prediction, "loss": float(losses[-1])}


def main(*, points=100, noise=0.1, epochs=100, batch_size=10, learning_rate=0.01, seed=0):
    """Train with sgd and with adam; returns the figures of both."""
    print(f"device: {jax.devices()[0]}")
    key_data, key_order = jax.random.split(jax.random.key(seed))
    data = sample(key_data, points, noise)
    options = {"key": key_order, "epochs": epochs, "batch_size": batch_size}
    figures = {
        "sgd": train(jol.sgd(learning_rate), data, **options),
        "adam": train(jol.adam(learning_rate), data, **options),
    }
    for name, figure in figures.items():
        error = abs(figure["prediction"] - 5)
        assert error < 0.1, f"{name} predicts {figure['prediction']:.3f} at x = 2, expected 5 ± 0.1"
        assert figure["loss"] < 2 * noise**2, f"{name} ends at a loss of {figure['loss']:.4f}"
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=10)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
