"""The operator of a history: anything that a person might ask for, in any order."""

from collections import Counter
from collections.abc import Callable

from controller import planning
from controller.planning import Book, RefusedError, State, Wave
from controller.simulation.state import History, Truth
from shared.assignment import SHARE_ALL, Action, Entry, Window, covers, parse_selector

RELEASES_MIN = 2  # Somebody may want to go back.
SELECTORS = tuple(
    map(parse_selector, ("*", "*", "role=door", "role=dock", "role!=door", "view=rear"))
)
STRATEGIES = (
    (Wave(1000),),
    (Wave(100), Wave(1000)),
    (Wave(0, frozenset({"d-03"})), Wave(300), Wave(1000)),
    (Wave(50), Wave(100), Wave(500), Wave(1000)),
)
TRUTHS = (*[Truth.GOOD] * 7, *Truth)


class Operator:
    """A person at ``fleetctl``."""

    def __init__(self, history: History) -> None:
        """Act on this history."""
        self.history = history

    def operate(self) -> None:
        """Do something random that a person might ask for."""
        verbs: tuple[Callable[[], None], ...] = (
            self.starts,
            self.starts,
            self.starts,
            self.aborts,
            self.undoes,
            self.retries,
            self.revokes,
            self.pauses,
            self.resumes,
            self.relabels,
            self.delists,
        )
        try:
            self.history.random.choice(verbs)()
        except RefusedError:
            return

    def some_rollout(self, *states: State) -> str:
        """Return a rollout of the book in one of these states."""
        names = [r.entry.rollout for r in self.history.book if r.state in states]
        if not names:
            raise RefusedError("expected a rollout in the right state")
        return self.history.random.choice(names)

    def new_entry(self, release: str) -> Entry:
        """Return the entry of a new rollout."""
        name = f"r-{self.history.rollouts_started}"
        selector = self.history.random.choice(SELECTORS)
        denied = self.history.draws(0.2)
        deny = frozenset(
            {f"d-{self.history.random.randrange(len(self.history.devices)):02}"} if denied else ()
        )
        window = Window(frozenset({"mon"}), 0, 60) if self.history.draws(0.2) else None
        return Entry(
            rollout=name,
            attempt=1,
            action=Action.RUN,
            release=release,
            manifest_sha256=f"sha-{release}",
            selector=selector,
            pins=frozenset(),
            salt=name,
            share=0,
            deny=deny,
            window=window,
        )

    def launch(self, entry: Entry, start: Callable[[Entry], Book]) -> None:
        """Start a rollout, and note what its devices ran before, as the store does."""
        everyone = Entry("", 1, Action.RUN, "", "", entry.selector, frozenset(), "", SHARE_ALL)
        seen = [r.camera for r in self.history.all_reports() if covers(everyone, r.camera)]
        ran = Counter(c.active.release for c in seen if c.active is not None)
        self.history.book = start(entry)
        self.history.rollouts_started += 1
        self.history.release_of[entry.rollout] = entry.release
        if ran:
            self.history.before[entry.rollout] = ran.most_common(1)[0][0]

    def starts(self) -> None:
        """Start a rollout of a new release, or of an old one again."""
        if self.history.listed and self.history.draws(0.3):
            release = self.history.random.choice(sorted(self.history.listed))
        else:
            release = f"m@{len(self.history.truth) + 1}"
            self.history.truth[release] = (
                Truth.GOOD if not self.history.truth else self.history.random.choice(TRUTHS)
            )
            self.history.listed[release] = f"sha-{release}"
        waves, over = self.history.random.choice(STRATEGIES), self.history.draws(0.5)
        self.launch(
            self.new_entry(release),
            lambda entry: planning.start(
                self.history.book, entry, waves, self.history.inventory, over=over
            ),
        )

    def undoes(self) -> None:
        """Bring back what ran before a rollout."""
        name = self.some_rollout(State.COMPLETED, State.RUNNING, State.ABORTED)
        release = self.history.before.get(name)
        if release not in self.history.listed:
            raise RefusedError("expected a listed release that ran before")
        over = self.history.draws(0.5)
        self.launch(
            self.new_entry(release),
            lambda entry: planning.undo(
                self.history.book, name, entry, STRATEGIES[0], self.history.inventory, over=over
            ),
        )

    def aborts(self) -> None:
        """Abort a rollout, with or without reverting its devices."""
        name = self.some_rollout(State.RUNNING, State.PAUSED)
        revert = self.history.draws(0.75)
        self.history.book = planning.abort(
            self.history.book, name, self.history.bundle.version + 1, revert=revert
        )

    def retries(self) -> None:
        """Name a rollout anew."""
        name = self.some_rollout(*State)
        self.history.book = planning.retry(self.history.book, name)
        if planning.find(self.history.book, name).entry.tried in self.history.named:
            self.history.violations.add("stands: a retry names nothing anew")

    def revokes(self) -> None:
        """Delist a release; the first one stays, so that somebody may go back to it."""
        if len(self.history.listed) < RELEASES_MIN or self.history.draws(0.3):
            raise RefusedError("expected a second release")
        release = self.history.random.choice(sorted(self.history.listed))
        self.history.book = planning.revoke(
            self.history.book, release, self.history.bundle.version + 1
        )
        del self.history.listed[release]
        self.history.revoked.add(release)

    def delists(self) -> None:
        """Sign targets without a release that the plan may still name: another hand did it."""
        if len(self.history.listed) < RELEASES_MIN or not self.history.draws(0.3):
            raise RefusedError("expected a second release")
        del self.history.listed[self.history.random.choice(sorted(self.history.listed))]

    def pauses(self) -> None:
        """Pause a rollout."""
        self.history.book = planning.pause(self.history.book, self.some_rollout(State.RUNNING))

    def resumes(self) -> None:
        """Resume a rollout."""
        self.history.book = planning.resume(self.history.book, self.some_rollout(State.PAUSED))

    def relabels(self) -> None:
        """Sign other labels for a device."""
        device = self.history.random.choice(self.history.devices)
        device.labels = {"role": self.history.random.choice(("door", "dock"))}
