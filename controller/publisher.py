"""Bring what is signed to the broker, and believe it only when the broker hands it back.

    offline --connected--> looking --ours--> checking -----------------+
       ^                      |  older, absent, not verifiable         | a block came back
       | disconnected         v                                        v
    (any stage)           uploading -> reading back -> announcing -> serving --every 60 s--> looks
                              ^ blocks, manifests         | bundle      | identities, rollouts
                              +---------- a block did not come back ----+ trust absent or older

    failed   something cannot be had (not echoed, refused, no room): tried again after a while
    stopped  another controller signs for this fleet: nothing is sent until `resume`

A PUBACK proves nothing (docs/protocol.md, delivery rule 3): brokers acknowledge what they drop. So
a plan counts as published when a new subscription to ``trust`` returns the same SHA-256, and an
upload when one of its blocks comes back. The broker's store can be lost or old (rule 5): ``trust``
is read on each connect and every 60 s; where it is absent or older than ours, all goes out again.
That it is ours also says that the blocks it names are there, because they went out before it.

The class decides and does nothing else: it reads no clock, and each call returns effects for
``carry_out``. It calls two functions that it is given: one judges bytes, one reads a block. The
service feeds it every event of its inbox and ``tick`` at least once a second:

    news = carry_out((*publisher.handle(event, now), *publisher.tick(now)), bus)
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from typing import Protocol

from controller.publishing import (
    Alerted,
    Beginning,
    Desired,
    Effect,
    Failed,
    Held,
    News,
    Published,
    Repairing,
    Send,
    Subscribe,
    Unsubscribe,
)
from controller.sending import (
    STALLED_SECONDS,
    BlockParcel,
    BundleParcel,
    Line,
    ReadBlock,
    StateParcel,
)
from shared.errors import (
    AnotherControllerError,
    BrokerRefusedError,
    BrokerUnreachableError,
    FleetError,
    NotEchoedError,
    RefusedError,
)
from shared.inbox import (
    Acknowledged,
    Connected,
    ConnectionFailed,
    Disconnected,
    Oversized,
    Received,
    Subscribed,
    SubscriptionRefused,
)
from shared.limits import BLOCK_BYTES, BUNDLE_BYTES
from shared.topics import Topics

ABSENT_SECONDS = 2.0  # Nothing so long after the SUBACK, twice: the broker has none.
ABSENT_LOOKS = 2
ECHO_SECONDS = 10.0
ASK_AGAIN_SECONDS = (2.0, 5.0)  # A broker that has just started answers the second time.
LOOK_EVERY_SECONDS = 60.0
RETRY_SECONDS, RETRY_SECONDS_MAX = 10.0, 300.0
OVERWRITE_SECONDS_MAX = 300.0
PAYLOAD_LIMITS_MAX = 3  # A broker that restarts in an upload looks like one, once.

JudgeVersion = Callable[[bytes], int]  # Version of a bundle that our root vouches for, or raises.


class Stage(Enum):
    """How far the publisher is; drawn above."""

    OFFLINE = "offline"
    LOOKING = "looking"
    CHECKING = "checking"
    UPLOADING = "uploading"
    READING_BACK = "reading_back"
    ANNOUNCING = "announcing"
    SERVING = "serving"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Progress:
    """For whoever watches: how far the upload is, and what it has cost since the start."""

    stage: Stage
    blocks_held: int
    blocks_needed: int
    bytes_sent: int
    messages_sent: int


@dataclass(slots=True)
class _Asking:
    """A retained message that was asked for.

    Attributes:
        topic: Where it is.
        since: When it was first asked for.
        granted_at: When the broker granted the last question, or None.
        times: How often it was asked.
    """

    topic: str
    since: float
    granted_at: float | None = None
    times: int = 1


class Publisher:
    """Keeps what is desired at one broker.

    Attributes:
        held: Names of the blocks that the broker holds, as far as we know.
        version_echoed: The version that the broker last handed back, or None.
    """

    def __init__(
        self,
        topics: Topics,
        *,
        judge_version: JudgeVersion,
        read_block: ReadBlock,
        held: Held | None = None,
    ) -> None:
        """Start offline, with nothing desired."""
        known = held or Held()
        self.held = set(known.blocks)
        self.version_echoed: int | None = None
        self._topics = topics
        self._judge_version = judge_version
        self._line = Line(topics, read_block)
        self._digest = ""
        self._stage = Stage.OFFLINE
        self._is_connected = False
        self._trust: _Asking | None = None  # A look at `trust`.
        self._block: _Asking | None = None  # A block that is read back.
        self._sent: list[str] = []  # Blocks of this upload.
        self._states_held = dict(known.states)  # SHA-256 by topic.
        self._known = known
        self._deadline = 0.0  # Of announcing, and of waiting in `failed`.
        self._failures = 0
        self._overwrites = 0
        self._overwrite_at = 0.0
        self._payload_limits = 0
        self._echoed_at: float | None = None

    # What the service says.

    def want(self, desired: Desired, now: float) -> tuple[Effect, ...]:
        """Replace what is desired; a version never falls."""
        before, self._line.desired = self._line.desired, desired
        assert before is None or desired.version >= before.version, "signed versions only rise"
        self._digest = sha256(desired.bundle).hexdigest()
        if not self._is_connected or self._stage in (Stage.LOOKING, Stage.STOPPED):
            return ()
        if self._stage in (Stage.OFFLINE, Stage.FAILED):
            return self._look(now, Stage.LOOKING)
        is_same_plan = before is not None and before.bundle == desired.bundle
        is_there = is_same_plan and self.held.issuperset(desired.needed)
        if self._stage is Stage.SERVING and is_there:
            return self._queue_states(now)
        return self._upload(now)

    def resume(self, now: float) -> tuple[Effect, ...]:
        """Go on after `adopt`, with a desired version above the other controller's."""
        if self._stage is not Stage.STOPPED:
            return ()
        self._stage = Stage.OFFLINE
        return self._look(now, Stage.LOOKING) if self._is_connected else ()

    def republish(self, blocks: Iterable[str], now: float) -> tuple[Effect, ...]:
        """Send blocks that a device has waited for; each at most once in ``RESEND_SECONDS``."""
        needed = set(self._needed)
        self._line.resend((BlockParcel(block) for block in blocks if block in needed), now)
        return self._pump(now)

    def republish_state(self, topic: str, now: float) -> tuple[Effect, ...]:
        """Send one of the desired documents again, e.g. the identity of a device that lacks it."""
        self._line.resend([StateParcel(topic)], now)
        return self._pump(now)

    def clear_blocks(self, blocks: Iterable[str], now: float) -> tuple[Effect, ...]:
        """Take blocks from the broker that nothing needs (controller/clearing.py)."""
        gone = set(blocks).difference(self._needed)
        self.held.difference_update(gone)
        return self.clear_topics(map(self._topics.block, sorted(gone)), now)

    def clear_topics(self, topics: Iterable[str], now: float) -> tuple[Effect, ...]:
        """Clear retained topics that are desired no more, e.g. those of a removed device."""
        cleared = tuple(topics)
        for topic in cleared:
            self._states_held.pop(topic, None)
        self._line.clear(cleared)
        return self._pump(now)

    # What is known.

    @property
    def stage(self) -> Stage:
        """Return how far it is."""
        return self._stage

    @property
    def progress(self) -> Progress:
        """Return the numbers for whoever watches."""
        needed, line = self._needed, self._line
        held = sum(block in self.held for block in needed)
        return Progress(self._stage, held, len(needed), line.bytes_sent, line.messages_sent)

    @property
    def holding(self) -> Held:
        """Return what the broker holds of what is desired."""
        states = self._line.desired.states if self._line.desired else {}
        return Held(
            self._known.broker,
            self.version_echoed or self._known.version,
            frozenset(self.held.intersection(self._needed)),
            {topic: digest for topic, digest in self._states_held.items() if topic in states},
        )

    @property
    def is_idle(self) -> bool:
        """Say whether everything that is desired is there, and what was cleared has gone."""
        return self._stage is Stage.SERVING and self._line.is_idle

    def is_echoing(self, now: float) -> bool:
        """Say whether our own bundle has come back lately: else no clock of a rollout may run."""
        is_lately = (
            self._echoed_at is not None
            and now - self._echoed_at <= LOOK_EVERY_SECONDS + ECHO_SECONDS
        )
        return self._is_connected and is_lately

    # What happens.

    def handle(self, event: object, now: float) -> tuple[Effect, ...]:
        """Take an event of the inbox; those of others change nothing."""
        match event:
            case Connected():
                return self._connected(now)
            case Disconnected():
                return self._disconnected(event, now)
            case ConnectionFailed():
                self._payload_limits = 0  # It was a broker going down.
                return ()
            case Acknowledged(token):
                return self._acknowledged(token, now)
            case Subscribed(topic) | SubscriptionRefused(topic):
                return self._answered(topic, now, is_granted=isinstance(event, Subscribed))
            case Received() | Oversized():
                return self._heard(event, now)
            case _:
                return ()

    def tick(self, now: float) -> tuple[Effect, ...]:
        """Do what time alone brings about."""
        if not self._is_connected or self._line.desired is None:
            return ()
        match self._stage:
            case Stage.LOOKING:
                return self._tick_look(now)
            case Stage.SERVING:
                return self._tick_look(now) + self._tick_line(now)
            case Stage.UPLOADING:
                return self._tick_line(now)
            case Stage.CHECKING | Stage.READING_BACK:
                return self._tick_block(now)
            case Stage.ANNOUNCING:
                return self._tick_echo(now)
            case Stage.FAILED if now >= self._deadline:
                return self._look(now, Stage.LOOKING)
            case _:
                return ()

    def _connected(self, now: float) -> tuple[Effect, ...]:
        self._is_connected = True
        self._line.lose()
        if self._line.desired is None or self._stage is Stage.STOPPED:
            return ()
        if self._stage is Stage.FAILED and now < self._deadline:
            return ()
        return self._look(now, Stage.LOOKING)

    def _disconnected(self, event: Disconnected, now: float) -> tuple[Effect, ...]:
        self._is_connected = False
        self._line.lose()
        self._trust = self._echoed_at = None
        stop = self._forget_block()
        if self._stage in (Stage.FAILED, Stage.STOPPED):
            return stop
        self._stage = Stage.OFFLINE
        self._payload_limits = self._payload_limits + 1 if event.is_payload_limit else 0
        if self._payload_limits < PAYLOAD_LIMITS_MAX:
            return stop
        self._payload_limits = 0
        error = BrokerRefusedError(f"broker payload limit: {event.text}")
        return (*stop, *self._fail(error, now))

    # Looking at trust.

    def _look(self, now: float, stage: Stage) -> tuple[Effect, ...]:
        self._stage = stage
        self._trust = _Asking(self._topics.trust, now)
        return (Subscribe(self._topics.trust, BUNDLE_BYTES),)

    def _tick_look(self, now: float) -> tuple[Effect, ...]:
        look = self._trust
        assert look is not None, "looking and serving are about trust"
        if look.times == 0:  # It has been heard; the next look is due later.
            is_due = now - look.since >= LOOK_EVERY_SECONDS
            return self._look(now, self._stage) if is_due else ()
        if look.granted_at is None:
            is_lost = now - look.since >= ECHO_SECONDS
            return self._look(now, self._stage) if is_lost else ()
        if now - look.granted_at < ABSENT_SECONDS:
            return ()
        if look.times < ABSENT_LOOKS:
            look.times, look.granted_at = look.times + 1, None
            return (Subscribe(self._topics.trust, BUNDLE_BYTES),)
        is_first = not self._known.version and self.version_echoed is None
        return self._repair(
            Beginning() if is_first else Repairing("the broker holds no bundle"), now
        )

    def _heard(self, event: Received | Oversized, now: float) -> tuple[Effect, ...]:
        if self._line.desired is None or self._stage is Stage.STOPPED:
            return ()
        is_of_block = self._block is not None and event.topic == self._block.topic
        match event:
            case Received(topic, payload) if topic == self._topics.trust:
                return self._heard_trust(payload, now, is_retained=event.is_retained)
            case Received(_, payload) if is_of_block:
                return self._heard_block(payload, now)
            case Oversized(topic, length) if topic == self._topics.trust:
                return self._overwrite(f"{length} bytes on trust are no bundle", now)
            case _:
                return ()

    def _heard_trust(self, payload: bytes, now: float, *, is_retained: bool) -> tuple[Effect, ...]:
        if sha256(payload).hexdigest() == self._digest:
            return self._heard_ours(now, is_retained=is_retained)
        is_deciding = self._stage in (Stage.LOOKING, Stage.SERVING)
        if not payload:
            lost = Repairing("somebody cleared the bundle")
            return self._repair(lost, now) if is_deciding else ()
        try:
            version = self._judge_version(payload)
        except RefusedError as error:
            text = f"bytes on trust that our root does not vouch for: {error.text}"
            return self._overwrite(text, now)
        if version >= self._version:
            return self._stop(version)
        if not is_deciding:
            return ()
        return self._heard_older(version, now, is_retained=is_retained)

    def _heard_ours(self, now: float, *, is_retained: bool) -> tuple[Effect, ...]:
        if self._stage is Stage.ANNOUNCING:  # Handed on is not yet kept.
            return self._published(now) if is_retained else ()
        self._echoed_at = now
        is_look = self._trust is not None and self._trust.times > 0
        if self._stage is Stage.SERVING and is_look:
            self._trust = _Asking(self._topics.trust, now, times=0)
            self._overwrites = 0
        if self._stage is not Stage.LOOKING:
            return ()
        self.held.update(self._needed)  # They went out before it did.
        self.version_echoed = self._version
        return self._check(now)

    def _heard_older(self, version: int, now: float, *, is_retained: bool) -> tuple[Effect, ...]:
        is_looking = self._stage is Stage.LOOKING
        if is_looking and version >= (self.version_echoed or self._known.version):
            return self._check(now)
        if is_looking or is_retained:  # What we have seen there has been undone.
            return self._repair(Repairing(f"the broker went back to version {version}"), now)
        return self._overwrite(f"somebody published version {version} again", now)

    def _overwrite(self, text: str, now: float) -> tuple[Effect, ...]:
        """Replace what somebody wrote, but not in a race with whoever writes it."""
        if self._stage not in (Stage.LOOKING, Stage.SERVING):
            return ()  # It is about to be replaced, or its time has not come.
        if now < self._overwrite_at:
            self._stage, self._deadline = Stage.FAILED, self._overwrite_at
            return ()
        self._overwrites += 1
        self._overwrite_at = now + min(2.0**self._overwrites, OVERWRITE_SECONDS_MAX)
        return (Alerted(text), *self._upload(now))

    def _stop(self, version: int) -> tuple[Effect, ...]:
        self._stage = Stage.STOPPED
        self._line.lose()
        text = f"version {version} on the broker is not ours, and ours is {self._version}"
        return (Failed(AnotherControllerError(f"another controller drives this fleet: {text}")),)

    def _repair(self, news: News, now: float) -> tuple[Effect, ...]:
        """Begin anew with a broker that has lost its store, or some of it, or never had one."""
        self.held.clear()
        self._states_held.clear()
        return (news, *self._upload(now))

    # Blocks.

    def _check(self, now: float) -> tuple[Effect, ...]:
        """Read one block back that the broker should have; else believe nothing of it."""
        believed = [block for block in self._needed if block in self.held]
        if not believed:
            return self._checked(now)
        self._stage = Stage.CHECKING
        return self._ask_block(believed[self._version % len(believed)], now)

    def _checked(self, now: float) -> tuple[Effect, ...]:
        is_whole = self._echoed_at is not None and self.version_echoed == self._version
        return self._serve(now) if is_whole else self._upload(now)

    def _upload(self, now: float) -> tuple[Effect, ...]:
        stop = self._forget_block()
        self._stage = Stage.UPLOADING
        self._sent = [block for block in self._needed if block not in self.held]
        on_its_way = self._line.parcels_in_flight
        parcels = map(BlockParcel, self._sent)
        self._line.upload((parcel for parcel in parcels if parcel not in on_its_way), now)
        return (*stop, *self._pump(now))

    def _uploaded(self, now: float) -> tuple[Effect, ...]:
        if not self._sent:
            return self._announce(now)
        self._stage = Stage.READING_BACK
        return self._ask_block(self._sent[0], now)  # A file's first block has the full length.

    def _ask_block(self, block: str, now: float) -> tuple[Effect, ...]:
        self._block = _Asking(self._topics.block(block), now)
        return (Subscribe(self._block.topic, BLOCK_BYTES),)

    def _forget_block(self) -> tuple[Effect, ...]:
        asked, self._block = self._block, None
        return (Unsubscribe(asked.topic),) if asked else ()

    def _heard_block(self, payload: bytes, now: float) -> tuple[Effect, ...]:
        assert self._block is not None
        if self._topics.block(sha256(payload).hexdigest()) != self._block.topic:
            return ()  # Another may come; the deadline decides.
        stop = self._forget_block()
        if self._stage is Stage.READING_BACK:
            return (*stop, *self._announce(now))
        assert self._stage is Stage.CHECKING, "a block is asked for in two stages"
        return (*stop, *self._checked(now))

    def _tick_block(self, now: float) -> tuple[Effect, ...]:
        asked = self._block
        assert asked is not None, "checking and reading back are about a block"
        if now - asked.since < ECHO_SECONDS:
            return self._ask_again(asked, now, BLOCK_BYTES)
        stop = self._forget_block()
        if self._stage is Stage.CHECKING:
            return (*stop, *self._repair(Repairing("the broker lost a block"), now))
        self.held.difference_update(self._sent)
        text = f"{asked.topic} was acknowledged, but the broker does not hand it back"
        return (*stop, *self._fail(NotEchoedError(text), now))

    # The bundle.

    def _announce(self, now: float) -> tuple[Effect, ...]:
        self._stage = Stage.ANNOUNCING
        self._trust = None  # Asked for once the broker has acknowledged it.
        self._deadline = now + ECHO_SECONDS
        self._line.upload([BundleParcel()], now)
        return self._pump(now)

    def _tick_echo(self, now: float) -> tuple[Effect, ...]:
        if now < self._deadline:
            return self._ask_again(self._trust, now, BUNDLE_BYTES) if self._trust else ()
        text = f"version {self._version} was sent, but the broker does not hand it back"
        return self._fail(NotEchoedError(text), now)

    def _published(self, now: float) -> tuple[Effect, ...]:
        self._echoed_at = now
        self.version_echoed = self._version
        self._failures = self._payload_limits = 0
        return (Published(self._version), *self._serve(now))

    def _serve(self, now: float) -> tuple[Effect, ...]:
        self._stage = Stage.SERVING
        self._trust = _Asking(self._topics.trust, now, times=0)
        return self._queue_states(now)

    def _queue_states(self, now: float) -> tuple[Effect, ...]:
        states = self._line.desired.states if self._line.desired else {}
        held = self._states_held
        changed = [topic for topic, data in states.items() if held.get(topic) != _digest(data)]
        self._line.upload(map(StateParcel, changed), now)
        return self._pump(now)

    # The line.

    def _pump(self, now: float) -> tuple[Effect, ...]:
        is_sending = self._stage in (Stage.UPLOADING, Stage.ANNOUNCING, Stage.SERVING)
        if not is_sending:
            return ()
        try:
            sends = self._line.take(now)
        except FleetError as error:  # Our own store does not have a block.
            return self._fail(error, now)
        is_over = self._stage is Stage.UPLOADING and self._line.is_uploaded
        return (*sends, *(self._uploaded(now) if is_over else ()))

    def _acknowledged(self, token: str, now: float) -> tuple[Effect, ...]:
        sent = self._line.acknowledged(token, now)
        if sent is None:
            return ()
        self._payload_limits = 0
        effects: tuple[Effect, ...] = ()
        match sent.parcel:
            case BlockParcel(block):
                self.held.add(block)
            case StateParcel(topic):
                self._states_held[topic] = _digest(sent.payload)
            case BundleParcel() if self._stage is Stage.ANNOUNCING:
                effects = self._ask_echo(now)
            case _:
                pass
        return (*effects, *self._pump(now))

    def _ask_echo(self, now: float) -> tuple[Effect, ...]:
        self._trust = _Asking(self._topics.trust, now)
        self._deadline = now + ECHO_SECONDS
        return (Subscribe(self._topics.trust, BUNDLE_BYTES),)

    def _tick_line(self, now: float) -> tuple[Effect, ...]:
        if not self._line.is_stalled(now):
            return ()
        text = f"the broker acknowledged nothing for {STALLED_SECONDS:.0f} s"
        return self._fail(BrokerUnreachableError(text), now)

    def _fail(self, error: FleetError, now: float) -> tuple[Effect, ...]:
        self._stage = Stage.FAILED
        self._deadline = now + min(RETRY_SECONDS * 2.0**self._failures, RETRY_SECONDS_MAX)
        self._failures += 1
        self._line.lose()
        return (*self._forget_block(), Failed(error))

    def _answered(self, topic: str, now: float, *, is_granted: bool) -> tuple[Effect, ...]:
        for asking in (self._trust, self._block):
            if asking is None or asking.topic != topic:
                continue
            if not is_granted:
                return self._fail(BrokerRefusedError(f"the broker refused us {topic}"), now)
            if asking.granted_at is None:
                asking.granted_at = now
        return ()

    def _ask_again(self, asking: _Asking, now: float, bytes_max: int) -> tuple[Effect, ...]:
        done = asking.times - 1
        if done >= len(ASK_AGAIN_SECONDS) or now - asking.since < ASK_AGAIN_SECONDS[done]:
            return ()
        asking.times += 1
        return (Subscribe(asking.topic, bytes_max),)

    @property
    def _needed(self) -> tuple[str, ...]:
        return self._line.desired.needed if self._line.desired else ()

    @property
    def _version(self) -> int:
        assert self._line.desired is not None, "nothing happens before something is desired"
        return self._line.desired.version


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()


class Publishes(Protocol):
    """What the publisher needs of a ``Bus``."""

    def subscribe(self, topic: str, *, bytes_max: int) -> None:
        """Ask for a topic."""

    def unsubscribe(self, topic: str) -> None:
        """Stop asking."""

    def publish(
        self,
        topic: str,
        payload: bytes,
        qos: int,
        retain: bool,  # noqa: FBT001 - MQTT's word
        token: str | None,
        /,
    ) -> bool:
        """Send a message."""
        ...


def carry_out(effects: Iterable[Effect], bus: Publishes) -> tuple[News, ...]:
    """Do on the bus what the publisher decided, and return what it says."""
    news: list[News] = []
    for effect in effects:
        match effect:
            case Subscribe(topic, bytes_max):
                bus.subscribe(topic, bytes_max=bytes_max)
            case Unsubscribe(topic):
                bus.unsubscribe(topic)
            case Send(topic, payload, token):
                bus.publish(topic, payload, 1, True, token)  # noqa: FBT003 - MQTT's retain
            case _:
                news.append(effect)
    return tuple(news)
