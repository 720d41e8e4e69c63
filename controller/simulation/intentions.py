"""The operator of a history: anything that a person might ask for, in any order."""

from dataclasses import replace

from controller import planning
from controller.obeying import obey
from controller.planning import RefusedError, State
from controller.rollout import Allowed, Rules
from controller.simulation.state import (
    BEGUN,
    HEARTBEAT_SECONDS,
    ROUND_SECONDS,
    TRUTHS,
    History,
    Truth,
    Violation,
)
from controller.store import Intention, Record
from shared.assignment import Probe, Window
from shared.errors import OperatorError

RELEASES_MIN = 2  # Somebody may want to go back.
SELECTORS = ("*", "*", "role=door", "role=dock", "role!=door", "view=rear")
Waves = tuple[tuple[tuple[str, ...], int], ...]  # Pins and permille, as a record has them.
STRATEGIES: tuple[Waves, ...] = (
    (((), 1000),),
    (((), 100), ((), 1000)),
    ((("d-03",), 0), ((), 300), ((), 1000)),
    (((), 50), ((), 100), ((), 500), ((), 1000)),
)
_RULES = Rules(
    max_failed=Allowed(permille=200),
    quiet_seconds=HEARTBEAT_SECONDS,
    bake_seconds=(ROUND_SECONDS,),
)
RULES = (
    *[_RULES] * 3,
    replace(_RULES, on_failure="stop"),
    replace(_RULES, on_inconclusive="continue", max_failed=Allowed(count=1)),
)


class Operator:
    """A person at ``fleetctl``."""

    def __init__(self, history: History) -> None:
        """Act on this history."""
        self.history = history

    def operate(self) -> None:
        """Do something random that a person might ask for."""
        verbs = (
            self.starts,
            self.starts,
            self.starts,
            self.aborts,
            self.undoes,
            self.retries,
            self.revokes,
            self.pauses,
            self.resumes,
            self.promotes,
            self.relabels,
            self.delists,
        )
        try:
            self.history.random.choice(verbs)()
        except (RefusedError, OperatorError):
            return

    def goes_on(self) -> None:
        """End the pauses, as somebody who comes back on Monday."""
        for live in self.history.book:
            reason = self.history.site.records[live.entry.rollout].reason
            if live.state is State.PAUSED:
                verb = "promote" if reason == "inconclusive" else "resume"
                self.asks(verb, live.entry.rollout)

    def asks(self, verb: str, rollout: str, **arguments: object) -> None:
        """Have the controller do something."""
        intention = Intention(0, verb, rollout, arguments)
        self.history.site = obey(self.history.site_now(), intention)

    def some_rollout(self, *states: State) -> str:
        """Return a rollout of the book in one of these states."""
        names = [r.entry.rollout for r in self.history.book if r.state in states]
        if not names:
            raise RefusedError("expected a rollout in the right state")
        return self.history.random.choice(names)

    def launch(self, release: str, selector: str, waves: Waves) -> None:
        """Start a rollout, as carefully as somebody feels."""
        history = self.history
        denied = history.draws(0.2)
        deny = (f"d-{history.random.randrange(len(history.devices)):02}",) if denied else ()
        rules = history.random.choice(RULES)
        is_over, has_window = history.draws(0.5), history.draws(0.2)
        name = self.begin(release, selector, waves, rules, deny=deny, is_over=is_over)
        if has_window:
            self.narrow(name)

    def begin(
        self,
        release: str,
        selector: str,
        waves: Waves,
        rules: Rules,
        *,
        deny: tuple[str, ...] = (),
        is_over: bool = True,
    ) -> str:
        """Start a rollout; return its name."""
        history = self.history
        name = f"r-{history.rollouts_started}"
        record = Record(
            rollout=name,
            name="m",
            release=release,
            selector=selector,
            strategy="",
            waves=waves,
            rules=rules,
            probe=Probe(),
            deny=deny,
            started_at=BEGUN,
        )
        before = history.site
        history.site = replace(before, records={**before.records, name: record})
        try:
            self.asks("start", name, over=is_over)
        except OperatorError:
            history.site = before
            raise
        history.rollouts_started += 1
        history.release_of[name] = release
        return name

    def narrow(self, name: str) -> None:
        """Give a rollout a window: strategies get them with the rollout engine."""
        window = Window(frozenset({"mon"}), 0, 60)
        book = tuple(
            replace(r, entry=replace(r.entry, window=window)) if r.entry.rollout == name else r
            for r in self.history.book
        )
        self.history.site = replace(self.history.site, book=book)

    def starts(self) -> None:
        """Start a rollout of a new release, or of an old one again."""
        history = self.history
        if history.listed and history.draws(0.3):
            release = history.random.choice(sorted(history.listed))
        else:
            release = f"m@{len(history.truth) + 1}"
            is_first = not history.truth
            history.truth[release] = Truth.GOOD if is_first else history.random.choice(TRUTHS)
            history.listed[release] = f"sha-{release}"
        selector = history.random.choice(SELECTORS)
        self.launch(release, selector, history.random.choice(STRATEGIES))

    def undoes(self) -> None:
        """Bring back what ran before a rollout."""
        name = self.some_rollout(State.COMPLETED, State.RUNNING, State.ABORTED)
        record = self.history.site.records[name]
        releases = [r for r in record.ran_before if r in self.history.listed]
        if not releases:
            raise RefusedError("expected a listed release that ran before")
        self.launch(
            max(releases, key=record.ran_before.__getitem__), record.selector, STRATEGIES[0]
        )

    def aborts(self) -> None:
        """Abort a rollout, with or without reverting its devices."""
        name = self.some_rollout(State.RUNNING, State.PAUSED)
        self.asks("abort", name, no_revert=not self.history.draws(0.75))

    def retries(self) -> None:
        """Name a rollout anew."""
        name = self.some_rollout(*State)
        self.asks("retry", name)
        if planning.find(self.history.book, name).entry.tried in self.history.named:
            self.history.violations.add(Violation.RETRY_OLD)

    def revokes(self) -> None:
        """Delist a release; the first one stays, so that somebody may go back to it."""
        if len(self.history.listed) < RELEASES_MIN or self.history.draws(0.3):
            raise RefusedError("expected a second release")
        release = self.history.random.choice(sorted(self.history.listed))
        book = planning.revoke(self.history.book, release, self.history.bundle.version + 1)
        self.history.site = replace(self.history.site, book=book)
        del self.history.listed[release]
        self.history.revoked.add(release)

    def delists(self) -> None:
        """Sign targets without a release that the plan may still name: another hand did it."""
        if len(self.history.listed) < RELEASES_MIN or not self.history.draws(0.3):
            raise RefusedError("expected a second release")
        del self.history.listed[self.history.random.choice(sorted(self.history.listed))]

    def pauses(self) -> None:
        """Pause a rollout."""
        self.asks("pause", self.some_rollout(State.RUNNING))

    def resumes(self) -> None:
        """Resume a rollout."""
        self.asks("resume", self.some_rollout(State.PAUSED))

    def promotes(self) -> None:
        """Go on after a wave that was inconclusive."""
        self.asks("promote", self.some_rollout(State.PAUSED))

    def relabels(self) -> None:
        """Sign other labels for a device."""
        device = self.history.random.choice(self.history.devices)
        self.history.sign_labels(device, {"role": self.history.random.choice(("door", "dock"))})
