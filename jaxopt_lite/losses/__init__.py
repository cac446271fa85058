"""losses."""

from jaxopt_lite.losses.classification import (
    cross_entropy,
    hinge_loss,
    sigmoid_binary_cross_entropy,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
)
from jaxopt_lite.losses.regression import (
    absolute_error,
    cosine_distance,
    cosine_similarity,
    gaussian_nll,
    huber_loss,
    l2_loss,
    log_cosh,
    poisson_nll,
    quantile_loss,
    squared_error,
)

__all__ = [
    "absolute_error",
    "cosine_distance",
    "cosine_similarity",
    "cross_entropy",
    "gaussian_nll",
    "hinge_loss",
    "huber_loss",
    "l2_loss",
    "log_cosh",
    "poisson_nll",
    "quantile_loss",
    "sigmoid_binary_cross_entropy",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
    "squared_error",
]
