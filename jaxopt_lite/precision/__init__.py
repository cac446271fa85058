"""Optimizer state in 1-2 bytes a value, and 16-bit parameters that do not stall, for any transformation."""

from jaxopt_lite.precision.blockwise import (
    fp8_codec,
    fp8_sqrt_codec,
    int4_codec,
    int8_codec,
    uint4_sqrt_codec,
    uint8_sqrt_codec,
)
from jaxopt_lite.precision.codec import Codec, cast_codec, codec, identity_codec
from jaxopt_lite.precision.low_memory import low_memory_adamw
from jaxopt_lite.precision.master import kahan, master_weights
from jaxopt_lite.precision.quantized import quantize_state, state_bytes
from jaxopt_lite.precision.rounding import stochastic_rounding

__all__ = [
    "Codec",
    "cast_codec",
    "codec",
    "fp8_codec",
    "fp8_sqrt_codec",
    "identity_codec",
    "int4_codec",
    "int8_codec",
    "kahan",
    "low_memory_adamw",
    "master_weights",
    "quantize_state",
    "state_bytes",
    "stochastic_rounding",
    "uint4_sqrt_codec",
    "uint8_sqrt_codec",
]
