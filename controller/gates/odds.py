"""Two distributions, to the accuracy that a verdict needs (1e-6): Student's t and the binomial.

Written here because the alternative is 40 MB of scipy for two numbers; a test compares both with
printed tables.
"""

from functools import lru_cache
from math import atan, cos, exp, lgamma, log, log1p, pi, sqrt, tan

_STEPS = 400  # Of Simpson's rule; even.
_RANGE = range(_STEPS + 1)
_HALVINGS = 60
_WIDTH = 16.0  # Standard deviations of the tail that are integrated; the rest is below 1e-50.
_NEGLIGIBLE = 1e-18


def t_tail(value: float, freedom: float) -> float:
    """Return P(T > value) for Student's t; ``value`` at least 0.

    With t = sqrt(freedom) * tan(angle) the density becomes a power of the cosine.
    """
    low = atan(value / sqrt(freedom))
    high = min(pi / 2, low + _WIDTH / sqrt(freedom))
    width = (high - low) / _STEPS
    power = freedom - 1
    heights = [exp(power * log(max(cos(low + width * step), _NEGLIGIBLE))) for step in _RANGE]
    inner = 4 * sum(heights[1:-1:2]) + 2 * sum(heights[2:-1:2])
    area = (heights[0] + inner + heights[-1]) * width / 3
    return area * exp(lgamma((freedom + 1) / 2) - lgamma(freedom / 2)) / sqrt(pi)


@lru_cache(maxsize=4096)
def t_quantile(level: float, freedom: float) -> float:
    """Return the value that Student's t exceeds with probability ``level`` (below a half)."""
    assert 0 < level < 0.5  # noqa: PLR2004 - what the docstring says
    low, high = 0.0, pi / 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        is_beyond = t_tail(sqrt(freedom) * tan(middle), freedom) < level
        low, high = (low, middle) if is_beyond else (middle, high)
    return sqrt(freedom) * tan((low + high) / 2)


def binomial_tail(hits: int, tries: int, share: float) -> float:
    """Return the probability of at least so many hits where each try hits with ``share``."""
    if hits <= 0:
        return 1.0
    if not 0 < share < 1:
        return float(share >= 1)
    total = 0.0
    for count in range(hits, tries + 1):
        ways = lgamma(tries + 1) - lgamma(count + 1) - lgamma(tries - count + 1)
        term = exp(ways + count * log(share) + (tries - count) * log1p(-share))
        total += term
        if term < _NEGLIGIBLE and count > tries * share:
            break
    return min(total, 1.0)
