import shutil
import zipfile
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import pytest

from controller.export.facts import FACTS_KEY, Facts, read_facts
from controller.export.goldens import golden_of
from controller.export.pack import (
    FILE_NAMES,
    GOLDEN_TOLERANCE_PERMILLE,
    collect,
    files_of,
    make_release,
)
from controller.export.receipt import encode_receipt
from shared.errors import ExportError, LimitError, MalformedError, RefusedError
from shared.graph import Graph
from shared.limits import BLOCK_BYTES, FILE_BYTES, RELEASE_BYTES
from shared.release import Golden, Input, Output, Receipt, Role, encode_manifest
from tests.receipts import receipt_of
from tests.tinygraph import LABELS, NETWORK_NAME, SIDE, tiny

FACTS = Facts(
    task="detect",
    network_name=NETWORK_NAME,
    input=Input(width=SIDE, height=SIDE, color="RGB"),
    outputs=tuple(
        Output(name=name, shape=shape, dtype=dtype)
        for name, shape, dtype in (
            ("boxes", (1, 300, 4), "float32"),
            ("scores", (1, 300), "float32"),
            ("labels", (1, 300), "int32"),
            ("n_valid", (1, 1), "float32"),
        )
    ),
    threshold_permille=250,
    memory_bytes=1_245_824,
    provenance={"licence": "AGPL-3.0"},
)


def graph_of(facts: str) -> bytes:
    graph = tiny()
    graph.metadata[FACTS_KEY] = facts
    return graph.graph()


def dnn_params(*names: str) -> bytes:
    networks = "".join(f'<network name="{name}" ordinal="0"/>' for name in names)
    return f"<dnnParams><networks>{networks}</networks></dnnParams>".encode()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package as the exporter leaves it, but for what Sony's files hold."""
    folder = tmp_path / "package"
    folder.mkdir()
    contents: dict[Role, bytes] = {
        "network": bytes(BLOCK_BYTES + 1),
        "dnn_params": dnn_params(NETWORK_NAME),
        "labels": "".join(f"{label}\n" for label in LABELS).encode(),
        "memory_report": b"{}",
        "simulator": graph_of(msgspec.json.encode(FACTS).decode()),
        "golden": golden_of(
            [np.full((SIDE, SIDE, 3), 128, np.uint8)], graph=Graph(tiny().graph()), count=1
        ),
        "receipt": encode_receipt(receipt_of()),
    }
    for role, data in contents.items():
        (folder / FILE_NAMES[role]).write_bytes(data)
    return folder


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    """What a release takes of the converter's files, and one that it leaves."""
    folder = tmp_path / "converted"
    folder.mkdir()
    with zipfile.ZipFile(folder / "packerOut.zip", "w") as archive:
        archive.writestr("l2staticData.bin", b"weights")
    (folder / "dnnParams.xml").write_bytes(dnn_params(NETWORK_NAME))
    (folder / f"{NETWORK_NAME}_MemoryReport.json").write_bytes(b"{}")
    (folder / f"{NETWORK_NAME}.pbtxt").write_bytes(b"not for a device")
    return folder


def test_a_release_is_every_file_of_the_package_and_what_its_graph_tells(package: Path) -> None:
    manifest, contents = make_release(package, name="shapes", version=7, frame_rate=30)

    assert manifest.release == "shapes@7"
    assert {file.role: file.name for file in manifest.files} == FILE_NAMES
    assert contents == {path.name: path.read_bytes() for path in package.iterdir()}
    for file in manifest.files:
        data = contents[file.name]
        assert (file.bytes, file.sha256) == (len(data), sha256(data).hexdigest())
    network = manifest.file("network")
    assert network is not None
    assert network.blocks == (
        sha256(bytes(BLOCK_BYTES)).hexdigest(),
        sha256(bytes(1)).hexdigest(),
    )
    assert manifest.network_name == NETWORK_NAME
    assert (manifest.task, manifest.input, manifest.outputs) == (
        FACTS.task, FACTS.input, FACTS.outputs,
    )  # fmt: skip
    assert manifest.decode.threshold_permille == FACTS.threshold_permille
    assert manifest.memory_bytes == FACTS.memory_bytes
    assert manifest.provenance == FACTS.provenance
    assert (manifest.labels, manifest.frame_rate) == (len(LABELS), 30)


def test_a_release_says_what_was_measured_and_what_its_probe_must_find(package: Path) -> None:
    manifest, _ = make_release(package, name="shapes", version=1)

    assert manifest.receipt == Receipt(
        metric="mAP50-95", float_permille=537, quantised_permille=521
    )
    assert manifest.golden == Golden(tolerance_permille=GOLDEN_TOLERANCE_PERMILLE)


@pytest.mark.parametrize("role", ["golden", "receipt"])
def test_a_package_without_proof_is_a_release_without_claims(role: Role, package: Path) -> None:
    (package / FILE_NAMES[role]).unlink()

    manifest, _ = make_release(package, name="shapes", version=1)

    assert getattr(manifest, role) is None
    assert manifest.file(role) is None


def test_the_receipt_of_another_network_is_refused(package: Path) -> None:
    other = encode_receipt(receipt_of(network_name="nba9876543210"))
    (package / "receipt.json").write_bytes(other)

    with pytest.raises(ExportError, match=f"receipt of {NETWORK_NAME}, got that of nba9876543210"):
        make_release(package, name="shapes", version=1)


def test_a_receipt_that_does_not_read_is_refused(package: Path) -> None:
    (package / "receipt.json").write_bytes(b"{}")

    with pytest.raises(ExportError, match="not a receipt"):
        make_release(package, name="shapes", version=1)


@pytest.mark.parametrize("side", [SIDE, SIDE + 32])
def test_a_golden_set_that_an_agent_could_not_read_is_refused(side: int, package: Path) -> None:
    graph = Graph(tiny().graph())
    data = golden_of([np.full((SIDE, SIDE, 3), 128, np.uint8)], graph=graph, count=1)
    shapes = msgspec.structs.replace(
        FACTS,
        input=Input(width=side, height=side, color="RGB"),
        outputs=(*FACTS.outputs, *FACTS.outputs[: int(side == SIDE)]),
    )
    (package / "golden.npz").write_bytes(data)
    (package / "simulator.onnx").write_bytes(graph_of(msgspec.json.encode(shapes).decode()))

    with pytest.raises(MalformedError, match="golden"):
        make_release(package, name="shapes", version=1)


def test_graph_and_labels_alone_are_a_release_for_simulated_cameras(package: Path) -> None:
    source: dict[Role, Path] = {
        "simulator": package / "simulator.onnx",
        "labels": package / "labels.txt",
    }

    manifest, contents = make_release(source, name="shapes", version=1)

    assert {file.role for file in manifest.files} == {"simulator", "labels"}
    assert set(contents) == {"simulator.onnx", "labels.txt"}


def test_what_has_no_role_is_not_packed(package: Path) -> None:
    for name in ("n0123456789ab.onnx", "n0123456789ab.pbtxt", "best.pt"):
        (package / name).write_bytes(b"not for a device")
    (package / "packerOut.zip").unlink()
    (package / "packerOut.zip").mkdir()

    assert set(files_of(package)) == set(FILE_NAMES) - {"network"}


def test_one_package_is_one_manifest(package: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "else where"
    shutil.copytree(package, elsewhere)

    first, _ = make_release(package, name="shapes", version=1)
    second, _ = make_release(elsewhere, name="shapes", version=1)

    assert encode_manifest(first) == encode_manifest(second)


@pytest.mark.parametrize("role", ["simulator", "labels"])
def test_a_package_without_graph_or_labels_is_refused(role: Role, package: Path) -> None:
    (package / FILE_NAMES[role]).unlink()

    with pytest.raises(ExportError, match=FILE_NAMES[role]):
        make_release(package, name="shapes", version=1)


@pytest.mark.parametrize("role", sorted(FILE_NAMES))
def test_a_file_that_is_too_large_is_refused(role: Role, package: Path) -> None:
    with (package / FILE_NAMES[role]).open("r+b") as file:
        file.truncate(FILE_BYTES + 1)

    with pytest.raises(ExportError, match="at most"):
        make_release(package, name="shapes", version=1)


def test_a_release_that_is_too_large_as_a_whole_is_refused(package: Path) -> None:
    (package / "labels.txt").write_bytes(b"circle\n")
    for role in ("network", "memory_report"):
        with (package / FILE_NAMES[role]).open("r+b") as file:
            file.truncate(FILE_BYTES)
    make_release(package, name="shapes", version=1)
    with (package / "dnnParams.xml").open("ab") as file:
        file.write(b" " * (1024 * 1024 - file.tell()))
    with (package / "simulator.onnx").open("ab") as file:
        file.write(field_to_skip(RELEASE_BYTES - 2 * FILE_BYTES - 1024 * 1024 - file.tell()))

    with pytest.raises(LimitError, match="in all"):
        make_release(package, name="shapes", version=1)


def field_to_skip(length: int) -> bytes:
    """Return about that many bytes that a reader of protobuf passes over: an unknown field."""
    body, size = length - 6, bytearray()
    while body > 127:
        size.append(body & 127 | 128)
        body >>= 7
    size.append(body)
    return bytes([0xFA, 0x3E, *size]) + bytes(length - 6)


@pytest.mark.parametrize(
    "graph",
    [
        b"",
        b"not a graph",
        tiny().graph(),  # Not ours: it tells nothing of itself.
        graph_of("{}"),
        graph_of('{"task":'),
        graph_of(msgspec.json.encode(FACTS).decode().replace("detect", "guess")),
        graph_of(msgspec.json.encode(FACTS).decode().replace('"task"', '"more":1,"task"')),
    ],
)
def test_a_graph_that_does_not_tell_what_it_is_is_refused(graph: bytes, package: Path) -> None:
    (package / "simulator.onnx").write_bytes(graph)

    with pytest.raises(ExportError, match=r"simulator\.onnx"):
        make_release(package, name="shapes", version=1)


def test_the_facts_in_a_graph_are_read_back(package: Path) -> None:
    assert read_facts(package / "simulator.onnx") == FACTS


@pytest.mark.parametrize(
    "data",
    [
        dnn_params("nba9876543210"),
        dnn_params(),
        dnn_params(NETWORK_NAME, NETWORK_NAME),
        b"<dnnParams>",
        b"",
    ],
)
def test_a_network_that_does_not_carry_its_release_s_name_is_refused(
    data: bytes, package: Path
) -> None:
    (package / "dnnParams.xml").write_bytes(data)

    with pytest.raises(ExportError):
        make_release(package, name="shapes", version=1)


@pytest.mark.parametrize("labels", [b"", b"circle\n\nsquare\n", b"\xff\n"])
def test_labels_that_are_no_names_are_refused(labels: bytes, package: Path) -> None:
    (package / "labels.txt").write_bytes(labels)

    with pytest.raises(MalformedError, match="labels"):
        make_release(package, name="shapes", version=1)


@pytest.mark.parametrize(
    ("name", "version"), [("Shapes", 1), ("", 1), ("a/b", 1), ("a" * 65, 1), ("a", 0), ("a", -1)]
)
def test_a_name_that_is_none_is_refused(name: str, version: int, package: Path) -> None:
    with pytest.raises(RefusedError):
        make_release(package, name=name, version=version)


@pytest.mark.parametrize(
    "changes",
    [
        {"outputs": ()},
        {"network_name": ""},
        {"threshold_permille": 1001},
        {"memory_bytes": -1},
        {"task": "pose"},
    ],
)
def test_what_an_agent_would_refuse_is_refused_here(
    changes: dict[str, object], package: Path
) -> None:
    facts = msgspec.structs.replace(FACTS, **changes)
    (package / "simulator.onnx").write_bytes(graph_of(msgspec.json.encode(facts).decode()))
    for role in ("dnn_params", "golden", "receipt"):  # They would be refused first.
        (package / FILE_NAMES[role]).unlink()

    with pytest.raises(RefusedError):
        make_release(package, name="shapes", version=1)


def test_of_the_converters_files_a_package_takes_three(converted: Path, tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()

    collect(converted, package, network=NETWORK_NAME)

    assert set(files_of(package)) == {"network", "dnn_params", "memory_report"}
    assert len(list(package.iterdir())) == 3
    assert (package / "dnnParams.xml").read_bytes() == dnn_params(NETWORK_NAME)


@pytest.mark.parametrize(
    "name", ["packerOut.zip", "dnnParams.xml", f"{NETWORK_NAME}_MemoryReport.json"]
)
def test_a_file_that_the_converter_did_not_write_is_named(
    name: str, converted: Path, tmp_path: Path
) -> None:
    (converted / name).unlink()

    with pytest.raises(ExportError, match=name):
        collect(converted, tmp_path, network=NETWORK_NAME)


def test_another_network_s_files_are_not_taken(converted: Path, tmp_path: Path) -> None:
    (converted / "dnnParams.xml").write_bytes(dnn_params("model_imx"))

    with pytest.raises(ExportError, match="model_imx"):
        collect(converted, tmp_path, network=NETWORK_NAME)
