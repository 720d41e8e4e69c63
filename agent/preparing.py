"""Bring one release onto the disk for one camera: fetch, verify, stage; the old model streams on.

What the surroundings cause (no blocks, no room, no packer) is told once and tried again with
back-off; what is wrong with the release itself is a rejection. Blocks arrive through ``received``;
this file subscribes through the bus and answers with events of ``agent.steps``.
"""

import logging
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from agent.camera.packer import NoPackerError, package
from agent.camera.rpk import check_rpk
from agent.camera.wire import Kind
from agent.health import refusal
from agent.slots import DamagedError, Slots
from agent.steps import (
    Cause,
    Event,
    Fetched,
    Obstructed,
    Rejected,
    Staged,
    Verified,
    WaitingFor,
)
from shared import blocks
from shared.assignment import Slot
from shared.blocks import Fetching
from shared.errors import CameraError, FleetError, MalformedError, RefusedError, StorageError
from shared.limits import BLOCK_BYTES, MISSING_BLOCKS_REPORTED_MAX
from shared.messages import Progress
from shared.release import Manifest
from shared.topics import Topics

logger = logging.getLogger(__name__)

RETRY_SECONDS_MIN, RETRY_SECONDS_MAX = 2.0, 3600.0


class Wants(Protocol):
    """The bus, as far as it is needed to ask for blocks."""

    def subscribe(self, topic: str, *, bytes_max: int) -> None:
        """Ask for a topic."""

    def unsubscribe(self, topic: str) -> None:
        """Stop asking."""


@dataclass(frozen=True, slots=True)
class Packaged:
    """The packer's thread has ended: with the release's package, or with an error."""

    camera: int
    manifest_sha256: str
    error: FleetError | None


class Pack(Protocol):
    """What makes a sensor's package of a network, in a new folder."""

    def __call__(self, network: Path, folder: Path, *, color: str) -> Path:
        """Return the package's path, or raise as ``agent.camera.packer.package`` does."""
        ...


class Aim(Enum):
    """What is being done for the release."""

    FETCH = "fetch"
    VERIFY = "verify"
    STAGE = "stage"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a preparation works with."""

    bus: Wants
    topics: Topics
    slots: Slots
    supports: Callable[[Manifest], bool]
    put: Callable[[Packaged], None]
    pack: Pack = package


class Preparation:
    """One release on its way to one camera."""

    def __init__(self, camera: int, slot: Slot, kind: Kind, around: Surroundings) -> None:
        """Prepare; ``fetch`` and the like begin."""
        self.slot = slot
        self.camera = camera
        self.kind = kind
        self._around = around
        self._aim = Aim.DONE
        self._fetching = Fetching()
        self._is_asking = False
        self._is_manifest_only = False
        self._total = 0
        self._obstacle = Obstructed(slot.manifest_sha256, None)
        self._retry_at: float | None = None
        self._retries = 0

    @property
    def is_busy(self) -> bool:
        """Say whether something is under way."""
        return self._aim is not Aim.DONE

    def progress(self) -> Progress | None:
        """Return how many blocks of how many are here, while they are being fetched."""
        if not self._is_asking or self._is_manifest_only:
            return None
        return Progress(self._total - self._fetching.missing_count, self._total, "blocks")

    def missing(self, now: float) -> tuple[str, ...]:
        """Return the blocks that have been waited for too long."""
        if not self._is_asking:
            return ()
        return blocks.overdue(self._fetching, now)[:MISSING_BLOCKS_REPORTED_MAX]

    def begin(self, aim: Aim, now: float) -> tuple[Event, ...]:
        """Fetch, verify or stage; the events are the answers that are there at once."""
        self._aim, self._retries, self._retry_at = aim, 0, None
        return self._go_on(now)

    def received(self, digest: str, data: bytes, now: float) -> tuple[Event, ...]:
        """Take a block from the bus."""
        if not self._is_asking:
            return ()
        return self._applied(blocks.received(self._fetching, digest, data, now), now)

    def ticked(self, now: float) -> tuple[Event, ...]:
        """Ask again for what did not come; try again what was in the way."""
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            return self._go_on(now)
        if not self._is_asking:
            return ()
        events = self._applied(blocks.ticked(self._fetching, now), now)
        late = bool(blocks.overdue(self._fetching, now))
        return (*events, *self._noticed(WaitingFor.BLOCKS if late else None))

    def cancel(self) -> None:
        """Stop asking for anything."""
        self._fetching, effects = blocks.stop(self._fetching)
        self._is_asking, self._aim, self._retry_at = False, Aim.DONE, None
        for effect in effects:
            if isinstance(effect, blocks.Unsubscribe):
                self._around.bus.unsubscribe(self._around.topics.block(effect.sha256))

    def packaged(self, done: Packaged, now: float) -> tuple[Event, ...]:
        """Take the packer's answer; that there was none is not the release's fault."""
        if self._aim is not Aim.STAGE or done.manifest_sha256 != self.slot.manifest_sha256:
            return ()
        if isinstance(done.error, NoPackerError | StorageError):
            return self._blocked(done.error, now)
        self._aim = Aim.DONE
        if done.error is not None:
            return (self._rejected(Cause.RELEASE, "package", str(done.error)),)
        return (Staged(self.slot.manifest_sha256),)

    def _go_on(self, now: float) -> tuple[Event, ...]:
        try:
            return self._attempt(now)
        except DamagedError as error:
            logger.warning("camera %d: %s; fetched again", self.camera, error)
            return self._ask_again(now)
        except RefusedError as error:
            self.cancel()
            return (self._rejected(Cause.TRUST, error.code, error.text),)
        except StorageError as error:
            return self._blocked(error, now)

    def _attempt(self, now: float) -> tuple[Event, ...]:
        match self._aim:
            case Aim.FETCH:
                return self._ask(now)
            case Aim.VERIFY:
                return self._verify()
            case Aim.STAGE:
                return self._stage()
            case Aim.DONE:
                return ()

    def _ask(self, now: float) -> tuple[Event, ...]:
        """Ask for the manifest, and then for the blocks that it names."""
        slots, digest = self._around.slots, self.slot.manifest_sha256
        self._is_manifest_only = not slots.has_manifest(digest)
        needed: tuple[str, ...] = (digest,)
        if not self._is_manifest_only:
            manifest = self._manifest()
            if not self._around.supports(manifest):
                self._aim = Aim.DONE
                return (Obstructed(digest, WaitingFor.REQUIRES),)
            files = manifest.files_for(self.kind)
            needed = tuple(dict.fromkeys(block for file in files for block in file.blocks))
            self._total = len(needed)
        missing = needed if self._is_manifest_only else slots.missing(needed)
        self._is_asking = True
        return self._applied(blocks.start(missing, now), now)

    def _applied(self, step: blocks.Step, now: float) -> tuple[Event, ...]:
        self._fetching, effects = step
        bus, topics = self._around.bus, self._around.topics
        is_done = False
        for effect in effects:
            match effect:
                case blocks.Subscribe(digest):
                    bus.subscribe(topics.block(digest), bytes_max=BLOCK_BYTES)
                case blocks.Unsubscribe(digest):
                    bus.unsubscribe(topics.block(digest))
                case blocks.Store(digest, data):
                    try:
                        self._around.slots.store(digest, data)
                    except StorageError as error:
                        return self._blocked(error, now)
                case blocks.ReportWrong(digest):
                    logger.warning("block %s came with other bytes and is ignored", digest[:12])
                case blocks.Done():
                    is_done = True
        return self._arrived(now) if is_done else ()

    def _arrived(self, now: float) -> tuple[Event, ...]:
        self._is_asking = False
        if self._is_manifest_only:
            return self._ask_again(now)
        events = self._noticed(None)
        if self._aim is Aim.FETCH:
            self._aim = Aim.DONE
            return (*events, Fetched(self.slot.manifest_sha256))
        return (*events, *self._go_on(now))

    def _ask_again(self, now: float) -> tuple[Event, ...]:
        """Ask for what is missing now: with a manifest, or without one that was damaged."""
        try:
            return self._ask(now)
        except RefusedError as error:
            self.cancel()
            return (self._rejected(Cause.TRUST, error.code, error.text),)
        except DamagedError as error:
            return self._blocked(StorageError(str(error)), now)

    def _verify(self) -> tuple[Event, ...]:
        manifest, digest = self._manifest(), self.slot.manifest_sha256
        slots = self._around.slots
        slots.assemble(manifest, manifest_sha256=digest, kind=self.kind)
        self._aim = Aim.DONE
        try:
            labels = slots.labels(manifest, manifest_sha256=digest)
        except RefusedError as error:  # Signed as it is: no thief's work, a bad release.
            return (self._rejected(Cause.RELEASE, "labels", error.text),)
        try:
            self._check_ready_rpk(manifest)
        except MalformedError as error:
            return (self._rejected(Cause.RELEASE, "package", error.text),)
        verdict = refusal(manifest, kind=self.kind, labels=len(labels))
        if verdict is not None:
            return (self._rejected(Cause.RELEASE, verdict.code, verdict.text),)
        return (*self._noticed(None), Verified(digest))

    def _check_ready_rpk(self, manifest: Manifest) -> None:
        """See that a package that came with the release is one for it."""
        file = manifest.file("rpk")
        if file is None or file not in manifest.files_for(self.kind):
            return
        path = self._around.slots.files_of(self.slot.manifest_sha256) / file.name
        check_rpk(path.read_bytes(), manifest)

    def _stage(self) -> tuple[Event, ...]:
        manifest, digest = self._manifest(), self.slot.manifest_sha256
        network, slots = manifest.file("network"), self._around.slots
        if network is None or slots.is_staged(manifest, kind=self.kind):
            self._aim = Aim.DONE
            return (Staged(digest),)
        making = slots.new_staging(manifest, network)
        source = slots.files_of(digest) / network.name

        def pack() -> None:
            error: FleetError | None = None
            try:
                rpk = self._around.pack(source, making, color=manifest.input.color)
                check_rpk(rpk.read_bytes(), manifest)
                slots.keep_staged(rpk, manifest)
            except MalformedError as failure:
                error = CameraError(f"what the packer made: {failure.text}")
            except CameraError as failure:
                error = failure
            except OSError as failure:
                error = StorageError(f"{manifest.release}: {failure.strerror or failure}")
            finally:
                shutil.rmtree(making, ignore_errors=True)
            self._around.put(Packaged(self.camera, digest, error))

        threading.Thread(target=pack, name=f"packer-{self.camera}", daemon=True).start()
        return ()

    def _manifest(self) -> Manifest:
        return self._around.slots.manifest(
            sha256_expected=self.slot.manifest_sha256, release=self.slot.release
        )

    def _blocked(self, error: NoPackerError | StorageError, now: float) -> tuple[Event, ...]:
        """Wait for room or for a packer; everything that is asked for would only come in vain."""
        aim = self._aim
        self.cancel()
        self._aim = aim
        wait = min(RETRY_SECONDS_MIN * 2.0 ** min(self._retries, 11), RETRY_SECONDS_MAX)
        self._retries += 1
        self._retry_at = now + wait
        logger.warning("camera %d: %s; again in %.0f s", self.camera, error, wait)
        if isinstance(error, NoPackerError):
            return self._noticed(WaitingFor.REQUIRES, "packer", str(error))
        return self._noticed(WaitingFor.DISK)

    def _noticed(
        self, obstacle: WaitingFor | None, code: str = "", text: str = ""
    ) -> tuple[Event, ...]:
        noticed = Obstructed(self.slot.manifest_sha256, obstacle, code, text)
        if noticed == self._obstacle:
            return ()
        self._obstacle = noticed
        return (noticed,)

    def _rejected(self, cause: Cause, code: str, text: str) -> Rejected:
        return Rejected(self.slot.manifest_sha256, cause, code, text)
