"""The releases on a device's disk: one content-addressed store, and what of it is still needed.

    blocks/<sha256>                 blocks of a release in the making
    releases/<manifest sha256>/     an assembled release: ``manifest`` and ``files/<name>``
    staged/<key>/                   what a packer made of it for the sensor; made again when lost

A release is assembled only from blocks whose hash was compared, into files whose hash was compared,
as a manifest says whose hash the signed plan names; then its blocks go, and a later release finds
them again inside the files. The folder appears under its name only when it is whole and on disk.
Slots of cameras refer to releases by the manifest's hash; what no slot refers to is collected.

A full disk, or the budget reached, is ``StorageError``: the surroundings, never a bad outcome. No
release takes the last of the disk, because the journals need it to follow another plan.
"""

import logging
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from secrets import token_hex

from agent.camera.packer import RPK_NAME, packer_version
from shared.decode.labels import LABELS_BYTES, read_labels
from shared.errors import FleetError, RefusedError, StorageError, UntrustedError
from shared.files import read_bounded, sync_folder, write_atomically
from shared.limits import BLOCK_BYTES, MANIFEST_BYTES
from shared.messages import decode
from shared.release import File, Manifest, block_lengths, open_manifest

logger = logging.getLogger(__name__)

BUDGET_BYTES = 1024 * 1024 * 1024  # Four cameras with three releases of 48 MiB, and room.
RESERVE_BYTES = 8 * 1024 * 1024  # Of the disk: journals and bundle, each beside its old self.
PACKAGE_FACTOR = 3  # What a packer writes beside a network, its scratch files among it.
_MAKING = ".making"


class DamagedError(FleetError):
    """The disk no longer holds what was verified once; it was removed, to be fetched again."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a block lies inside a file of an assembled release."""

    path: Path
    offset: int
    length: int


class Slots:
    """The store of one device."""

    def __init__(
        self, state: Path, *, budget_bytes: int = BUDGET_BYTES, reserve_bytes: int = RESERVE_BYTES
    ) -> None:
        """Open the store, and remove what a power cut left half made."""
        self._blocks, self._releases = state / "blocks", state / "releases"
        self.staged = state / "staged"
        self._budget_bytes, self._reserve_bytes = budget_bytes, reserve_bytes
        for folder in (self._blocks, self._releases, self.staged):
            folder.mkdir(parents=True, exist_ok=True)
        for folder in (self._releases, self.staged):
            for half in folder.glob(f"*{_MAKING}"):
                shutil.rmtree(half, ignore_errors=True)
        self._manifests: dict[str, Manifest] = {}
        self._places: dict[str, _Place] = {}
        self._index()
        self._used_bytes = self._count_bytes()

    def has_block(self, digest: str) -> bool:
        """Say whether the block is here; whether it is whole is said by ``assemble``."""
        return digest in self._places or (self._blocks / digest).exists()

    def missing(self, digests: Collection[str]) -> tuple[str, ...]:
        """Return the blocks that are not here, each once, in order."""
        return tuple(dict.fromkeys(digest for digest in digests if not self.has_block(digest)))

    def store(self, digest: str, data: bytes) -> None:
        """Keep a block whose hash was compared by the caller's machine.

        Raises:
            StorageError: The disk or the budget is full.
        """
        assert sha256(data).hexdigest() == digest
        if self.has_block(digest):
            return
        self._reserve(len(data))
        write_atomically(self._blocks / digest, data)
        self._used_bytes += len(data)

    def manifest(self, *, sha256_expected: str, release: str) -> Manifest:
        """Return a manifest that is here.

        Raises:
            DamagedError: It is not here, or not whole.
            RefusedError: It is what was signed, and is not to be believed.
        """
        assembled = self._releases / sha256_expected / "manifest"
        path = assembled if assembled.exists() else self._blocks / sha256_expected
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DamagedError(f"{release}: its manifest is not on disk") from error
        if sha256(data).hexdigest() != sha256_expected:
            self._forget(sha256_expected)
            raise DamagedError(f"{release}: its manifest was changed on disk")
        return open_manifest(data, sha256_expected=sha256_expected, release=release)

    def manifest_bytes(self, manifest_sha256: str) -> bytes:
        """Return the manifest's exact text of an assembled release."""
        return (self._releases / manifest_sha256 / "manifest").read_bytes()

    def has_manifest(self, manifest_sha256: str) -> bool:
        """Say whether a manifest is here, alone or with its release."""
        folder = self._releases / manifest_sha256
        return (folder / "manifest").exists() or (self._blocks / manifest_sha256).exists()

    def files_of(self, manifest_sha256: str) -> Path:
        """Return the folder with the files of an assembled release."""
        return self._releases / manifest_sha256 / "files"

    def labels(self, manifest: Manifest, *, manifest_sha256: str) -> tuple[str, ...]:
        """Return the names of an assembled release's classes; none where it has no labels file.

        Raises:
            DamagedError: The file is not here.
            RefusedError: It is what was signed, and no list of names.
            StorageError: It is here and cannot be read.
        """
        file = manifest.file("labels")
        if file is None:
            return ()
        data = read_bounded(self.files_of(manifest_sha256) / file.name, LABELS_BYTES)
        if data is None:
            raise DamagedError(f"{manifest.release}: its {file.name} is not on disk")
        return read_labels(data)

    def assemble(self, manifest: Manifest, *, manifest_sha256: str, kind: str) -> Path:
        """Verify every block and file that a kind of camera needs, and return their folder.

        Raises:
            DamagedError: A block is missing or changed; it was removed, to be fetched again.
            UntrustedError: The blocks are right and a file is not: the manifest lies.
            StorageError: The disk or the budget is full.
        """
        if self.is_whole(manifest, manifest_sha256=manifest_sha256, kind=kind):
            return self.files_of(manifest_sha256)
        making = self._releases / f"{manifest_sha256}{_MAKING}"
        shutil.rmtree(making, ignore_errors=True)
        try:
            self._reserve(sum(file.bytes for file in manifest.files_for(kind)))
            self._make(making, manifest, manifest_sha256, kind)
        except OSError as error:
            raise StorageError(f"{manifest.release}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(making, ignore_errors=True)
        self._adopt(manifest_sha256, manifest)
        self._drop_blocks(manifest, manifest_sha256)
        self._used_bytes = self._count_bytes()
        return self.files_of(manifest_sha256)

    def is_whole(self, manifest: Manifest, *, manifest_sha256: str, kind: str) -> bool:
        """Say whether every file that a kind of camera needs is on disk with the hash signed."""
        folder = self.files_of(manifest_sha256)
        return all(_has_hash(folder / file.name, file) for file in manifest.files_for(kind))

    def staged_rpk(self, manifest: Manifest) -> Path:
        """Return where the package of an assembled release is, once there is one."""
        return self.staged / staged_name(manifest) / RPK_NAME

    def is_staged(self, manifest: Manifest, *, kind: str) -> bool:
        """Say whether a kind of camera finds all that has to be packaged on this device."""
        if kind == "simulated" or manifest.file("network") is None:
            return True
        return manifest.file("rpk") is not None or self.staged_rpk(manifest).exists()

    def new_staging(self, manifest: Manifest, network: File) -> Path:
        """Return a folder of its own for one run of the packer, not yet made.

        Two cameras of a device package the same network at the same time, and a run that nobody
        waits for any more goes on beside the next.

        Raises:
            StorageError: The disk or the budget has no room for what it makes.
        """
        self._reserve(PACKAGE_FACTOR * network.bytes)
        return self.staged / f"{staged_name(manifest)}.{token_hex(4)}{_MAKING}"

    def keep_staged(self, rpk: Path, manifest: Manifest) -> None:
        """Keep what a packer made, whole and on disk; from any thread. May raise OSError."""
        target = self.staged_rpk(manifest)
        with rpk.open("rb") as made:
            os.fsync(made.fileno())
        target.parent.mkdir(exist_ok=True)
        rpk.replace(target)
        sync_folder(target.parent)

    def discard(self, manifest_sha256: str) -> None:
        """Remove a release whose files were found changed, so that it is fetched again."""
        self._forget(manifest_sha256)
        self._used_bytes = self._count_bytes()

    def collect(self, *, needed: Collection[str]) -> None:
        """Remove all that the manifests named by slots do not need."""
        unneeded = [folder for folder in self._releases.iterdir() if folder.name not in needed]
        for folder in unneeded:
            logger.info("release %s: no slot refers to it, removed", folder.name[:12])
            self._forget(folder.name)
        if unneeded:
            self._collect_staged()
        kept = set(needed)
        for digest in needed:
            kept.update(self._blocks_of(digest))
        for path in self._blocks.iterdir():
            if path.name not in kept:
                path.unlink(missing_ok=True)
        self._used_bytes = self._count_bytes()

    def _collect_staged(self) -> None:
        """Remove the packages of releases that are not here; what a packer is making stays."""
        kept = {staged_name(manifest) for manifest in self._manifests.values()}
        for folder in self.staged.iterdir():
            if folder.name not in kept and not folder.name.endswith(_MAKING):
                shutil.rmtree(folder, ignore_errors=True)

    def _blocks_of(self, manifest_sha256: str) -> tuple[str, ...]:
        """Return the blocks of a manifest in the making."""
        path = self._blocks / manifest_sha256
        if not path.exists():
            return ()
        try:
            manifest = _unnamed(path.read_bytes(), manifest_sha256)
        except (OSError, RefusedError):
            return ()
        return tuple(digest for file in manifest.files for digest in file.blocks)

    def _make(self, making: Path, manifest: Manifest, manifest_sha256: str, kind: str) -> None:
        (making / "files").mkdir(parents=True)
        manifest_bytes = self._manifest_bytes_anywhere(manifest_sha256)
        for file in manifest.files_for(kind):
            data = b"".join(self._verified_blocks(file))
            if sha256(data).hexdigest() != file.sha256:
                raise UntrustedError(
                    f"{manifest.release}: {file.name} is not the file that was signed", code="hash"
                )
            write_atomically(making / "files" / file.name, data)
        write_atomically(making / "manifest", manifest_bytes)
        target = self._releases / manifest_sha256
        shutil.rmtree(target, ignore_errors=True)
        making.rename(target)
        sync_folder(self._releases)

    def _manifest_bytes_anywhere(self, manifest_sha256: str) -> bytes:
        assembled = self._releases / manifest_sha256 / "manifest"
        return (assembled if assembled.exists() else self._blocks / manifest_sha256).read_bytes()

    def _verified_blocks(self, file: File) -> Iterator[bytes]:
        lengths = block_lengths(file.bytes)
        for digest, length in zip(file.blocks, lengths, strict=True):
            data = self._read(digest)
            if sha256(data).hexdigest() != digest:
                (self._blocks / digest).unlink(missing_ok=True)
                self._places.pop(digest, None)
                raise DamagedError(f"{file.name}: block {digest[:12]} is not whole on disk")
            if len(data) != length:
                raise UntrustedError(
                    f"{file.name}: expected a block of {length} bytes, got {len(data)}", code="hash"
                )
            yield data

    def _read(self, digest: str) -> bytes:
        """Return what lies on disk under a block's name, or nothing."""
        place = self._places.get(digest, _Place(self._blocks / digest, 0, BLOCK_BYTES))
        try:
            with place.path.open("rb") as stream:
                stream.seek(place.offset)
                return stream.read(place.length)
        except OSError:
            return b""

    def _index(self) -> None:
        for folder in self._releases.iterdir():
            try:
                self._adopt(folder.name, _unnamed((folder / "manifest").read_bytes(), folder.name))
            except (OSError, RefusedError) as error:
                logger.warning("release %s is damaged and removed: %s", folder.name[:12], error)
                shutil.rmtree(folder, ignore_errors=True)

    def _adopt(self, manifest_sha256: str, manifest: Manifest) -> None:
        self._manifests[manifest_sha256] = manifest
        folder = self.files_of(manifest_sha256)
        for file in manifest.files:
            if (folder / file.name).exists():
                lengths = block_lengths(file.bytes)
                for number, (digest, length) in enumerate(zip(file.blocks, lengths, strict=True)):
                    self._places[digest] = _Place(folder / file.name, number * BLOCK_BYTES, length)

    def _forget(self, manifest_sha256: str) -> None:
        shutil.rmtree(self._releases / manifest_sha256, ignore_errors=True)
        (self._blocks / manifest_sha256).unlink(missing_ok=True)
        self._manifests.pop(manifest_sha256, None)
        self._places = {}
        for digest, manifest in self._manifests.items():
            self._adopt(digest, manifest)

    def _drop_blocks(self, manifest: Manifest, manifest_sha256: str) -> None:
        for digest in (manifest_sha256, *(d for file in manifest.files for d in file.blocks)):
            if digest in self._places or digest == manifest_sha256:
                (self._blocks / digest).unlink(missing_ok=True)

    def _reserve(self, more_bytes: int) -> None:
        if self._used_bytes + more_bytes > self._budget_bytes:
            raise StorageError(
                f"the disk budget of {self._budget_bytes} bytes is reached: "
                f"{self._used_bytes} are used, {more_bytes} more are needed"
            )
        try:
            free = shutil.disk_usage(self._blocks).free
        except OSError as error:
            raise StorageError(f"{self._blocks}: {error.strerror}") from error
        if free < more_bytes + self._reserve_bytes:
            raise StorageError(
                f"{free} bytes are free on the disk, {more_bytes} more are needed, and"
                f" {self._reserve_bytes} stay free so that another plan can be followed"
            )

    def _count_bytes(self) -> int:
        """Return what our files take; a packer's come and go meanwhile."""
        used_bytes = 0
        for top in (self._blocks, self._releases, self.staged):
            for folder, _, names in os.walk(top):
                for name in names:
                    with suppress(FileNotFoundError):
                        used_bytes += os.lstat(Path(folder, name)).st_size
        return used_bytes


def staged_name(manifest: Manifest) -> str:
    """Return the folder's name of a packaged network: by content, packer and colour order."""
    network = manifest.file("network")
    key = f"{network.sha256 if network else ''}\n{packer_version()}\n{manifest.input.color}"
    return sha256(key.encode()).hexdigest()


def _unnamed(data: bytes, manifest_sha256: str) -> Manifest:
    """Return a manifest of ours by its hash alone; its name was compared when it was fetched."""
    if sha256(data).hexdigest() != manifest_sha256:
        raise UntrustedError("the manifest's bytes have another hash", code="hash")
    release = decode(data, Manifest, bytes_max=MANIFEST_BYTES).release
    return open_manifest(data, sha256_expected=manifest_sha256, release=release)


def _has_hash(path: Path, file: File) -> bool:
    try:
        return sha256(path.read_bytes()).hexdigest() == file.sha256
    except OSError:
        return False
