"""What an item may claim. A law about a claim runs only where the claim is made; nothing is guessed.

``claims`` is a set of names from the tables below, written with spaces, hyphens or underscores alike, and
budgets such as ``"temporaries<=2"``.
"""

from collections.abc import Iterable
from typing import NamedTuple

TRANSFORMATION_CLAIMS = {
    "elementwise": "every entry's update depends on that entry's own gradients and parameter only",
    "leafwise": "every leaf's update depends on that leaf only",
    "odd": "negating gradients and parameters negates the updates",
    "scale_invariant": "gradients a thousand times larger give the same updates",
    "linear": "updates are a linear function of the gradients",
    "decays": "parameters shrink without a gradient (weight decay): zero-gradient laws run at zero parameters",
    "nan_stays": "a NaN stays in its leaf (elementwise: in its entry)",
    "nan_spreads": "one NaN in a gradient makes every update NaN",
    "skips_nonfinite": "a non-finite gradient is skipped: zero update, later steps as if it had not been",
    "pickles": "pickles, and the copy equals the original",
    "strict": "gradients of another shape or tree than the parameters are a ValueError",
    "gradient_dtype": "updates come back in the gradient's dtype even where the parameter's differs",
    "part": "a part of a chain: its updates point along the gradient, not against it",
}
LOSS_CLAIMS = {
    "non_negative": "never below zero",
    "zero_at_target": "zero, and stationary, where the predictions are the targets",
    "convex": "convex in the first argument",
    "shift_invariant": "the same when a constant is added along the last axis of the first argument",
    "couples_examples": "an example's loss depends on other examples (contrastive losses)",
    "logits": "a logit of minus infinity is an absent class",
    "probabilities": "the first argument lies in 0 … 1, its last axis sums to one",
    "log_probabilities": "the first argument holds log-probabilities",
    "log_targets": "the targets hold log-probabilities too",
    "positive": "the first argument is positive",
    "float32_result": "16-bit inputs give a float32 loss",
}
BUDGETS = {
    "temporaries": "temporary bytes of a compiled step over the bytes of the parameters (or loss inputs)",
    "collectives": "communicating instructions in a step compiled for a mesh of eight devices",
}


class Claims(NamedTuple):
    """Checked claims: names, and budgets by name."""

    names: frozenset[str]
    budgets: dict[str, float]

    def __contains__(self, name: object) -> bool:
        return name in self.names


def parse_claims(claims: Iterable[str], known: dict[str, str]) -> Claims:
    """Check the spelling of claims and split the budgets off.

    >>> parse_claims({"scale-invariant", "temporaries <= 2"}, TRANSFORMATION_CLAIMS)
    Claims(names=frozenset({'scale_invariant'}), budgets={'temporaries': 2.0})
    """
    if isinstance(claims, str):
        raise TypeError(f"claims is the string {claims!r}, expected a set of names")
    names, budgets = set(), {}
    for claim in claims:
        name, is_budget, limit = claim.partition("<=")
        name = name.strip().lower().replace(" ", "_").replace("-", "_")
        table = BUDGETS if is_budget else known
        if name not in table:
            raise ValueError(f"unknown claim {claim!r}, expected one of {', '.join(table)}")
        if is_budget:
            budgets[name] = float(limit)
        else:
            names.add(name)
    return Claims(frozenset(names), budgets)
