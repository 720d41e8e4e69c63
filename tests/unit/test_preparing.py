"""A release that is what was signed and yet no good is rejected before the old one stops."""

from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from agent.preparing import Aim, Preparation, Surroundings
from agent.slots import Slots
from agent.steps import Cause, Event, Rejected, Verified
from shared.assignment import Slot
from shared.blocks import split_file
from shared.release import File, Role, encode_manifest
from shared.topics import Topics
from tests.tinygraph import manifest_of, tiny


class Bus:
    """Nothing is asked for: every block is on disk."""

    def subscribe(self, topic: str, *, bytes_max: int) -> None:
        raise AssertionError(f"asked for {topic}, of {bytes_max} bytes")

    def unsubscribe(self, topic: str) -> None:
        raise AssertionError(f"asked for {topic}")


def verified(labels: bytes, folder: Path) -> tuple[Event, ...]:
    """Verify a release with that labels file, all of whose blocks are on disk."""
    slots = Slots(folder)
    contents: dict[str, tuple[Role, bytes]] = {
        "simulator.onnx": ("simulator", tiny().graph()),
        "labels.txt": ("labels", labels),
    }
    files = []
    for name, (role, data) in contents.items():
        cut = split_file(data)
        for block in cut:
            slots.store(block.sha256, block.data)
        files.append(
            File(
                role=role,
                name=name,
                bytes=len(data),
                sha256=sha256(data).hexdigest(),
                blocks=tuple(block.sha256 for block in cut),
            )
        )
    manifest = manifest_of({})
    text = encode_manifest(msgspec.structs.replace(manifest, files=tuple(files)))
    digest = sha256(text).hexdigest()
    slots.store(digest, text)
    slot = Slot(manifest.release, digest, frozenset())
    around = Surroundings(Bus(), Topics("lab"), slots, lambda _: True, lambda _: None)
    return Preparation(0, slot, "simulated", around).begin(Aim.VERIFY, 0.0)


def test_a_release_with_a_name_for_each_class_is_verified(tmp_path: Path) -> None:
    (event,) = verified(b"circle\nsquare\ntriangle\n", tmp_path)

    assert isinstance(event, Verified)


@pytest.mark.parametrize(
    "labels",
    [
        b"circle\nsquare\n",
        b"circle\nsquare\ntriangle\nstar\n",
        b"circle\nsquare\n\ntriangle\n",  # Three names, but `triangle` would be the fourth class's.
        b"circle\nsquare\n\xff\n",
        b"circle\nsquare\n" + b"t" * 65,
    ],
)
def test_a_release_whose_labels_do_not_name_its_classes_is_to_blame(
    labels: bytes, tmp_path: Path
) -> None:
    (event,) = verified(labels, tmp_path)

    assert isinstance(event, Rejected)
    assert (event.cause, event.code) == (Cause.RELEASE, "labels")
