"""The store of releases: nothing unverified is assembled, nothing needed is removed."""

import random
from hashlib import sha256
from pathlib import Path

import pytest

from agent.slots import DamagedError, Slots
from shared.blocks import split_file
from shared.errors import MalformedError, StorageError, UntrustedError
from shared.limits import BLOCK_BYTES
from shared.release import Decode, File, Input, Manifest, Output, Requires, encode_manifest


def file_of(role: str, name: str, data: bytes) -> File:
    blocks = tuple(block.sha256 for block in split_file(data))
    digest = sha256(data).hexdigest()
    return File(role=role, name=name, bytes=len(data), sha256=digest, blocks=blocks)


def manifest_of(version: int, *files: File) -> Manifest:
    return Manifest(
        name="helmet",
        version=version,
        task="detect",
        frame_rate=16,
        network_name="n0123456789ab",
        input=Input(width=320, height=320, color="RGB"),
        outputs=(Output(name="boxes", shape=(1, 300, 4), dtype="float32"),),
        decode=Decode(threshold_permille=250),
        labels=2,
        requires=Requires(agent="0.1.0"),
        memory_bytes=1000,
        golden=None,
        receipt=None,
        provenance={},
        files=files,
    )


class Made:
    """One release with its bytes."""

    def __init__(self, version: int, seed: int, blocks: int = 3) -> None:
        self.graph = random.Random(seed).randbytes(blocks * BLOCK_BYTES - 5)
        self.labels = b"circle\nsquare\n"
        self.manifest = manifest_of(
            version,
            file_of("simulator", "simulator.onnx", self.graph),
            file_of("labels", "labels.txt", self.labels),
            file_of("network", "packerOut.zip", b"for the sensor only"),
        )
        self.text = encode_manifest(self.manifest)
        self.sha256 = sha256(self.text).hexdigest()

    def store(self, slots: Slots) -> None:
        slots.store(self.sha256, self.text)
        for data in (self.graph, self.labels):
            for block in split_file(data):
                slots.store(block.sha256, block.data)

    def assemble(self, slots: Slots) -> Path:
        return slots.assemble(self.manifest, manifest_sha256=self.sha256, kind="simulated")


def test_a_release_is_assembled_with_the_files_that_the_camera_needs(tmp_path: Path) -> None:
    slots, made = Slots(tmp_path), Made(1, seed=1)
    made.store(slots)

    folder = made.assemble(slots)

    assert (folder / "simulator.onnx").read_bytes() == made.graph
    assert sorted(path.name for path in folder.iterdir()) == ["labels.txt", "simulator.onnx"]
    assert list((tmp_path / "blocks").iterdir()) == []
    assert slots.manifest_bytes(made.sha256) == made.text


def test_a_changed_block_on_disk_is_removed_and_missing_again(tmp_path: Path) -> None:
    slots, made = Slots(tmp_path), Made(1, seed=1)
    made.store(slots)
    digest = made.manifest.files[0].blocks[1]
    path = tmp_path / "blocks" / digest
    path.write_bytes(path.read_bytes()[:-1] + b"x")

    with pytest.raises(DamagedError):
        made.assemble(slots)

    assert slots.missing(made.manifest.files[0].blocks) == (digest,)
    assert not slots.files_of(made.sha256).exists()


def test_a_file_whose_blocks_are_right_and_whose_hash_is_not_is_untrusted(tmp_path: Path) -> None:
    slots, made = Slots(tmp_path), Made(1, seed=1)
    lie = file_of("simulator", "simulator.onnx", made.graph)
    lie = File(role=lie.role, name=lie.name, bytes=lie.bytes, sha256="0" * 64, blocks=lie.blocks)
    manifest = manifest_of(2, lie)
    text = encode_manifest(manifest)
    digest = sha256(text).hexdigest()
    made.store(slots)
    slots.store(digest, text)

    with pytest.raises(UntrustedError, match="not the file that was signed"):
        slots.assemble(manifest, manifest_sha256=digest, kind="simulated")

    assert not slots.files_of(digest).exists()


def test_a_block_shared_with_a_release_on_disk_is_not_missing(tmp_path: Path) -> None:
    slots, first, second = Slots(tmp_path), Made(1, seed=1), Made(2, seed=1)
    first.store(slots)
    first.assemble(slots)

    slots.store(second.sha256, second.text)
    missing = slots.missing([d for file in second.manifest.files for d in file.blocks])

    assert missing == second.manifest.files[2].blocks  # Only what the camera never fetched.
    assert (second.assemble(slots) / "simulator.onnx").read_bytes() == first.graph


def test_what_no_slot_refers_to_is_collected_and_the_rest_stays(tmp_path: Path) -> None:
    slots, active, old, making = Slots(tmp_path), Made(1, 1), Made(2, 2), Made(3, 3)
    for made in (active, old):
        made.store(slots)
        made.assemble(slots)
    making.store(slots)

    slots.collect(needed={active.sha256, making.sha256})

    assert slots.files_of(active.sha256).exists()
    assert not slots.files_of(old.sha256).exists()
    assert slots.missing(old.manifest.files[0].blocks) == old.manifest.files[0].blocks
    assert making.assemble(slots).exists()


def test_a_full_budget_is_the_surroundings_and_keeps_what_is_there(tmp_path: Path) -> None:
    slots, made = Slots(tmp_path, budget_bytes=2 * BLOCK_BYTES), Made(1, seed=1)

    with pytest.raises(StorageError, match="budget"):
        made.store(slots)

    assert slots.has_block(made.sha256)
    roomy = Slots(tmp_path, budget_bytes=20 * BLOCK_BYTES)
    made.store(roomy)
    assert made.assemble(roomy).exists()


def test_no_release_takes_the_last_of_the_disk(tmp_path: Path) -> None:
    more_than_any_disk = 2**60
    slots, made = Slots(tmp_path, reserve_bytes=more_than_any_disk), Made(1, seed=1)

    with pytest.raises(StorageError, match="stay free"):
        made.store(slots)


def test_a_disk_that_refuses_a_write_is_the_surroundings(tmp_path: Path) -> None:
    slots, made = Slots(tmp_path), Made(1, seed=1)
    digest = made.manifest.files[0].blocks[0]
    (tmp_path / "blocks" / f"{digest}.part").mkdir()  # The temporary name cannot be written.

    with pytest.raises(StorageError):
        made.store(slots)

    assert not slots.has_block(digest)


def test_what_a_power_cut_left_half_made_is_removed_and_made_again(tmp_path: Path) -> None:
    made = Made(1, seed=1)
    made.store(Slots(tmp_path))
    half = tmp_path / "releases" / f"{made.sha256}.making"
    (half / "files").mkdir(parents=True)
    (half / "files" / "simulator.onnx").write_bytes(made.graph[:1000])

    slots = Slots(tmp_path)

    assert not half.exists()
    assert (made.assemble(slots) / "simulator.onnx").read_bytes() == made.graph


def test_an_assembled_file_changed_on_disk_is_found_before_a_start(tmp_path: Path) -> None:
    slots, made = Slots(tmp_path), Made(1, seed=1)
    made.store(slots)
    path = made.assemble(slots) / "simulator.onnx"
    path.write_bytes(b"x" + path.read_bytes()[1:])

    is_whole = slots.is_whole(made.manifest, manifest_sha256=made.sha256, kind="simulated")

    assert not is_whole
    slots.discard(made.sha256)
    assert slots.missing(made.manifest.files[0].blocks) == made.manifest.files[0].blocks


def test_a_store_opened_again_knows_its_releases(tmp_path: Path) -> None:
    made = Made(1, seed=1)
    first = Slots(tmp_path)
    made.store(first)
    made.assemble(first)

    again = Slots(tmp_path)

    assert again.missing(made.manifest.files[0].blocks) == ()
    assert again.manifest(sha256_expected=made.sha256, release="helmet@1") == made.manifest


def test_a_manifest_that_is_not_there_is_damage_not_trust(tmp_path: Path) -> None:
    with pytest.raises(DamagedError):
        Slots(tmp_path).manifest(sha256_expected="0" * 64, release="helmet@1")


def test_the_labels_of_a_release_are_its_file_s_lines_or_a_reason(tmp_path: Path) -> None:
    slots, made = Slots(tmp_path), Made(1, seed=1)
    made.store(slots)
    file = made.assemble(slots) / "labels.txt"
    nameless = manifest_of(2, file_of("simulator", "simulator.onnx", made.graph))

    assert slots.labels(made.manifest, manifest_sha256=made.sha256) == ("circle", "square")
    assert slots.labels(nameless, manifest_sha256=made.sha256) == ()
    file.write_bytes(b"circle\n\n")
    with pytest.raises(MalformedError):
        slots.labels(made.manifest, manifest_sha256=made.sha256)
    file.unlink()
    with pytest.raises(DamagedError):
        slots.labels(made.manifest, manifest_sha256=made.sha256)
