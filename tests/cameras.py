"""The kinds of camera that the same tests run on, and what a twin of the sensor needs.

The simulated camera runs everywhere; modlib and picamera2 on a twin need the extra `twin`
(``make test-twin``).
"""

import io
import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from agent.camera.twin.packager import GRAPH_NAME, rpk_of
from agent.camera.wire import Job, Kind
from shared.blocks import split_file
from shared.errors import MalformedError
from shared.release import File, Role, encode_manifest
from tests.fleet import Release, make_release

SIMULATED = "simulated"
TWINS: tuple[Kind, ...] = ("modlib", "picamera2")
KINDS = (SIMULATED, *(pytest.param(kind, marks=pytest.mark.twin) for kind in TWINS))


def on_kind(job: Job, kind: Kind) -> Job:
    """Return a job for a simulated camera as one for a camera of that kind, on a twin."""
    if kind == SIMULATED:
        return job
    folder = Path(job.folder)
    rpk = folder / "network.rpk"
    color = msgspec.json.decode(job.manifest)["input"]["color"]
    graph = (folder / "simulator.onnx").read_bytes()
    try:
        rpk.write_bytes(rpk_of(graph, color=color))
    except MalformedError:
        rpk.write_bytes(graph)  # What the packer would never have made.
    simulation = msgspec.structs.replace(job.simulation, twin=True)
    return msgspec.structs.replace(job, kind=kind, rpk=str(rpk), simulation=simulation)


def release_for(kind: Kind, version: int = 1, **changes: object) -> Release:
    """Return a release that a camera of that kind can run."""
    release = make_release(version, **changes)  # type: ignore[arg-type]
    if kind == SIMULATED:
        return release
    return with_file(release, "network", "packerOut.zip", network_of(graph_of(release)))


def graph_of(release: Release) -> bytes:
    file = release.manifest.file("simulator")
    assert file is not None
    return b"".join(release.blocks[digest] for digest in file.blocks)


def network_of(graph: bytes) -> bytes:
    """Return a packerOut.zip that a twin runs (controller/twins.py writes the same)."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(zipfile.ZipInfo(GRAPH_NAME, (1980, 1, 1, 0, 0, 0)), graph)
    return made.getvalue()


def with_file(release: Release, role: Role, name: str, data: bytes) -> Release:
    """Return the release with one more file."""
    cut = split_file(data)
    blocks = tuple(block.sha256 for block in cut)
    digest = sha256(data).hexdigest()
    file = File(role=role, name=name, bytes=len(data), sha256=digest, blocks=blocks)
    manifest = msgspec.structs.replace(release.manifest, files=(*release.manifest.files, file))
    more = {block.sha256: block.data for block in cut}
    return replace(
        release,
        manifest=manifest,
        text=encode_manifest(manifest),
        blocks={**release.blocks, **more},
    )
