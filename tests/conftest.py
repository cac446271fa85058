"""Strict settings for every test: no silent rank promotion, warnings are errors, fixed hypothesis profiles."""

import os

import hypothesis
import jax

jax.config.update("jax_numpy_rank_promotion", "raise")

COMMON = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("dev", max_examples=20, **COMMON)
hypothesis.settings.register_profile("ci", max_examples=100, derandomize=True, **COMMON)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")
