"""Classify scikit-learn's 8x8 handwritten digits with a small network, adamw and early stopping.

python examples/classify_digits.py --hidden 256
"""

import argparse
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import jaxopt_lite as jol
from jaxopt_lite.losses import softmax_cross_entropy_with_integer_labels


def load(seed):
    """Three parts of the 1,797 digits, each with the same share of every class: 70 %, 10 %, 20 %."""
    images, labels = load_digits(return_X_y=True)
    digits = {"image": (images / 16).astype(np.float32), "label": labels.astype(np.int32)}
    rest, test = split(digits, seed, 360)
    train, validation = split(rest, seed, 180)
    return train, validation, test


def split(digits, seed, size):
    """The digits without ``size`` of them, and those."""
    index = np.arange(len(digits["label"]))
    kept, taken = train_test_split(index, test_size=size, random_state=seed, stratify=digits["label"])
    return jax.tree.map(lambda leaf: leaf[kept], digits), jax.tree.map(lambda leaf: leaf[taken], digits)


def init(key, sizes):
    """A multi-layer perceptron: one kernel [in, out] and bias [out] for every layer."""
    layers = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        key, subkey = jax.random.split(key)
        kernel = jax.random.normal(subkey, (fan_in, fan_out)) * jnp.sqrt(2 / fan_in)
        layers.append({"kernel": kernel, "bias": jnp.zeros(fan_out)})
    return layers


def forward(layers, x):
    for layer in layers[:-1]:
        x = jax.nn.relu(jnp.dot(x, layer["kernel"]) + layer["bias"][None])
    return jnp.dot(x, layers[-1]["kernel"]) + layers[-1]["bias"][None]


def loss_fn(params, batch):
    logits = forward(params, batch["image"])
    return softmax_cross_entropy_with_integer_labels(logits, batch["label"], reduction="mean")


def accuracy(params, digits):
    predicted = jnp.argmax(forward(params, digits["image"]), axis=-1)
    return float(jnp.mean(predicted == digits["label"]))


def main(*, hidden=256, epochs=100, batch_size=64, learning_rate=3e-3, weight_decay=0.1, patience=10, seed=0):
    """Train until the validation loss stops improving; returns the accuracies and the steps taken."""
    print(f"device: {jax.devices()[0]}")
    train, validation, test = load(seed)
    key_init, key_order = jax.random.split(jax.random.key(seed))
    params = init(key_init, [64, hidden, hidden, 10])
    decayed = jax.tree.map(lambda leaf: leaf.ndim > 1, params)
    tx = jol.adamw(learning_rate, weight_decay=weight_decay, mask=decayed)
    options = {"batch_size": batch_size, "epochs": epochs, "patience": patience}
    result = jol.fit(loss_fn, params, tx, train, key=key_order, validation_data=validation, **options)

    history = result.history
    best = int(np.nanargmin(history["validation_loss"]))
    parts = {"train": train, "validation": validation, "test": test}
    figures = {name: accuracy(result.params, digits) for name, digits in parts.items()}
    print(f"{result.step} steps{', stopped early' if result.stopped_early else ''}")
    print(f"best validation loss {history['validation_loss'][best]:.4f} after step {history['step'][best]}")
    print("accuracy: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items()))
    assert figures["test"] >= 0.96, f"test accuracy is {figures['test']:.4f}, expected at least 0.96"
    return figures | {"steps": result.step, "stopped_early": result.stopped_early}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--patience", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
