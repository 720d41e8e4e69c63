"""What a strategy's ``gates`` allow, and how sure a verdict has to be.

A good release is stopped with at most the probability ``false_abort``, all gates, waves and looks
together: every single test gets an equal part of it, which was fixed before the first one, so the
union bound holds whatever depends on what (Bonferroni's spending of alpha, after Lan and DeMets,
Biometrika 70 (1983) 659-663).
"""

from dataclasses import dataclass

LOOKS_A_WAVE = 3  # Two while it bakes, the last at its end.
SURE_TO_PASS = 2 / 3  # Two to one: what passes wrongly is judged again in the next wave.
PERMILLE = 1000


@dataclass(frozen=True, slots=True)
class Gates:
    """Bounds; None: not asked for. Changes are permille, old release to new.

    Attributes:
        valid_rate_permille: The probe's: it must hold after the probe, too.
        dnn_ms: Highest median inference time.
        restarts: Most restarts of one camera's stream.
        false_abort_permille: How often a good release may be stopped by all of these together.
    """

    valid_rate_permille: int = 900
    dnn_ms: int | None = None
    golden_permille: int | None = None
    restarts: int | None = None
    detections_permille: int | None = None
    scores_permille: int | None = None
    false_abort_permille: int = 10

    @property
    def names(self) -> tuple[str, ...]:
        """Return the gates that were asked for, as fleet.yaml writes them."""
        bounds = {
            "valid_rate": self.valid_rate_permille,
            "dnn_ms": self.dnn_ms,
            "golden": self.golden_permille,
            "restarts": self.restarts,
            "detections_change": self.detections_permille,
            "scores_change": self.scores_permille,
        }
        return tuple(name for name, bound in bounds.items() if bound is not None)

    @property
    def is_comparing(self) -> bool:
        """Say whether a gate compares treated cameras with others."""
        return not (self.detections_permille is None and self.scores_permille is None)

    def level(self, waves: int) -> float:
        """Return the probability with which one test may fail a good release."""
        tests = len(self.names) * LOOKS_A_WAVE * max(waves, 1)
        return self.false_abort_permille / PERMILLE / tests
