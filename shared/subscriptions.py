"""When to subscribe again: the broker is not trusted to deliver. Pure.

"Subscribed and got nothing" means nothing (docs/protocol.md, delivery rule 2): after a restart
NATS gave its first subscribers some of the retained messages or none, and mosquitto delivered
1,020 of 5,000 on a wildcard. A second subscription to the same filter delivers them again.
"""

from dataclasses import dataclass, replace

REPEAT_AFTER_SECONDS = (2.0, 10.0, 60.0)  # A broker that has just started needs no longer.
REPEAT_EVERY_SECONDS = 3_600.0  # What is lost later costs an hour at most.
PASS_SECONDS = 0.7  # Nothing for so long: what the broker wanted to say, it has said.
PASSES_WITHOUT_NEWS = 2
PASSES_MAX = 20  # A fleet that keeps growing is complete enough.


@dataclass(frozen=True, slots=True)
class Schedule:
    """When to repeat a subscription: ``after`` connecting, in seconds, then ``every`` so many."""

    after: tuple[float, ...] = REPEAT_AFTER_SECONDS
    every: float = REPEAT_EVERY_SECONDS

    def repeat_at(self, connected_at: float, count: int) -> float:
        """Return when to subscribe again, having done so ``count`` times since connecting."""
        if count < len(self.after):
            return connected_at + self.after[count]
        last = self.after[-1] if self.after else 0.0
        return connected_at + last + (count - len(self.after) + 1) * self.every


@dataclass(frozen=True, slots=True)
class Sweep:
    """A wildcard subscription, repeated until two passes in a row bring nobody new.

    Attributes:
        pass_ends_at: When the pass is over; what arrives moves it.
        is_news: Somebody new was heard in this pass.
        quiet_passes: Passes in a row without news.
        passes: Passes that are over.
    """

    pass_ends_at: float
    is_news: bool = False
    quiet_passes: int = 0
    passes: int = 0

    @property
    def is_done(self) -> bool:
        """Say whether to believe that everybody has been heard."""
        return self.quiet_passes >= PASSES_WITHOUT_NEWS or self.passes >= PASSES_MAX


def start_sweep(now: float) -> Sweep:
    """Begin with the subscription that is made now."""
    return Sweep(pass_ends_at=now + PASS_SECONDS)


def heard(sweep: Sweep, now: float, *, is_new: bool) -> Sweep:
    """Note a retained message of the sweep; a pass ends only once they have stopped."""
    return replace(sweep, pass_ends_at=now + PASS_SECONDS, is_news=sweep.is_news or is_new)


def ticked(sweep: Sweep, now: float) -> tuple[Sweep, bool]:
    """Return the sweep, and whether to subscribe again now."""
    if sweep.is_done or now < sweep.pass_ends_at:
        return sweep, False
    quiet_passes = 0 if sweep.is_news else sweep.quiet_passes + 1
    after = Sweep(now + PASS_SECONDS, quiet_passes=quiet_passes, passes=sweep.passes + 1)
    return after, not after.is_done
