"""Reading a .pt file runs nothing of it, ends in bounded time, and finds what the network is."""

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest

from controller.export import checkpoint, pickled
from controller.export.checkpoint import is_trusted, read_checkpoint
from controller.export.network import layers_of
from controller.export.pickled import Made, read_pickle
from shared.errors import ExportError, LimitError, MalformedError, UntrustedError
from tests import checkpoints
from tests.checkpoints import Call


def refused(path: Path) -> str:
    with pytest.raises(ExportError) as caught:
        read_checkpoint(path)
    return str(caught.value)


def read(value: object) -> object:
    return read_pickle(checkpoints.pickled(value), is_trusted=is_trusted)


@pytest.mark.parametrize("task", ["detect", "segment", "pose", "classify"])
@pytest.mark.parametrize("family", ["YOLO11", "YOLOv8"])
def test_a_checkpoint_says_what_its_network_is(tmp_path: Path, task: str, family: str) -> None:
    keypoints = (4, 3) if task == "pose" else None
    path = checkpoints.checkpoint(
        tmp_path / "best.pt", task=task, family=family, keypoints=keypoints, parameters=2_500_000
    )

    network = read_checkpoint(path)

    assert (network.task, network.family, network.called) == (task, family, f"{family}n")
    assert (network.parameters, network.width, network.channels) == (2_500_000, 0.25, 16)
    assert (network.labels, network.keypoints) == (checkpoints.LABELS, keypoints)
    assert network.trained_pixels == 160


def test_the_averaged_network_is_the_one_that_is_exported(tmp_path: Path) -> None:
    whole = checkpoints.document(parameters=1_000_000)
    whole["ema"] = checkpoints.document(parameters=2_000_000)["model"]
    path = checkpoints.write(tmp_path / "last.pt", checkpoints.pickled(whole))

    assert read_checkpoint(path).parameters == 2_000_000


def test_a_parameter_of_two_layers_is_counted_once(tmp_path: Path) -> None:
    whole = checkpoints.document(parameters=1_000_000)
    layers = vars(vars(whole["model"])["_modules"]["model"])["_modules"]
    layers["1"] = layers["0"]
    path = checkpoints.write(tmp_path / "best.pt", checkpoints.pickled(whole))

    assert read_checkpoint(path).parameters == 1_000_000


@pytest.mark.parametrize(
    ("fields", "called"),
    [
        ({"channels": 8, "parameters": 810_649}, "YOLO11 of width 0.125"),
        ({"channels": 32, "parameters": 9_458_752, "named_as": "yolo11s.yaml"}, "YOLO11s"),
    ],
)
def test_a_width_of_the_family_is_told_by_its_channels(
    tmp_path: Path, fields: dict[str, object], called: str
) -> None:
    network = read_checkpoint(checkpoints.checkpoint(tmp_path / "best.pt", **fields))

    assert (network.family, network.called) == ("YOLO11", called)


@pytest.mark.parametrize(
    ("change", "name", "called"),
    [
        ({"end2end": True}, "yolo26n.yaml", "YOLO26n"),
        ({"layers": ("Conv", "C3k2(C3k)", "Detect")}, "yolo11m.yaml", "YOLO11m"),
        ({"layers": ("Conv", "A2C2f(ABlock)", "Detect")}, "yolo12n.yaml", "YOLO12n"),
        ({"layers": ("Conv", "Detect")}, "mine.yaml", "an unknown family"),
    ],
)
def test_other_layers_are_no_family_of_ours_but_named_as_their_owner_knows_them(
    tmp_path: Path, change: dict[str, object], name: str, called: str
) -> None:
    path = checkpoints.checkpoint(tmp_path / "best.pt", named_as=name, **change)

    network = read_checkpoint(path)

    assert (network.family, network.called) == (None, called)


@pytest.mark.parametrize(
    "name",
    [
        "os.system", "posix.system", "nt.system", "subprocess.Popen", "builtins.eval",
        "builtins.exec", "__builtin__.eval", "builtins.__import__", "importlib.import_module",
        "runpy.run_path", "pickle.loads", "torch.load", "torch.hub.load",
        "torch.nn.modules.os.system", "torch.nn.modules.module.warnings",
        "ultralytics.utils.checks.check_requirements",
        "ultralytics.nn.tasks.attempt_load_weights", "webbrowser.open", "collections.OrderedDict.x",
        "torch._utils._rebuild_tensor_v2.__globals__", "torch.nn.modules.conv.Conv2d\nos", "",
    ],
)  # fmt: skip
def test_a_name_that_is_no_layer_is_refused_before_anything_is_called(
    tmp_path: Path, name: str
) -> None:
    assert not is_trusted(name)
    body = {"model": Call(name.replace("\n", " "), "touch ran")}
    path = checkpoints.write(tmp_path / "best.pt", checkpoints.pickled(body))

    text = refused(path)

    assert f"{path} would run foreign code: it would load and run " in text
    assert "A .pt file is a pickle, and loading one runs what it says: only layers of torch" in text


class Touch:
    """Runs a program when it is loaded, as every text about pickles shows."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_pickle_that_runs_a_program_does_not_run_it_here(tmp_path: Path, protocol: int) -> None:
    ran = tmp_path / "ran"
    data = pickle.dumps({"model": Touch(ran)}, protocol=protocol)
    pickle.loads(data)  # noqa: S301 - the attack works on who does not look.
    assert ran.exists()
    ran.unlink()

    text = refused(checkpoints.write(tmp_path / "best.pt", data))

    assert not ran.exists()
    if protocol >= 2:
        assert "would run foreign code: it would load and run 'posix.system'" in text


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (Call("builtins.getattr", Call("torch.Size"), "__class__"), "attribute that no network"),
        (Call("builtins.getattr", "text", "format"), "attribute that no network"),
        (Call("builtins.getattr", checkpoints.named("torch.Size"), 7), "attribute that no network"),
    ],
)
def test_an_attribute_is_looked_up_of_a_layer_only_and_never_a_private_one(
    value: object, why: str
) -> None:
    with pytest.raises(UntrustedError, match=why):
        read(value)


def test_what_older_checkpoints_look_up_is_read() -> None:
    detect = checkpoints.named("ultralytics.nn.modules.head.Detect")

    made = read(Call("builtins.getattr", detect, "forward"))

    assert isinstance(made, Made)
    assert made.name == "builtins.getattr"


def test_what_a_pickle_made_is_never_called() -> None:
    inner = pickle.GLOBAL + b"torch\nSize\n" + pickle.EMPTY_TUPLE + pickle.REDUCE

    with pytest.raises(UntrustedError, match="would call what it made itself"):
        read_pickle(
            pickle.PROTO + b"\x02" + inner + pickle.EMPTY_TUPLE + pickle.REDUCE + pickle.STOP,
            is_trusted=is_trusted,
        )


def test_nested_keys_whose_hash_would_never_end_are_refused() -> None:
    nest = b"(t" + (pickle.BINPUT + b"\x00" + pickle.BINGET + b"\x00" + pickle.TUPLE2) * 200
    data = pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + nest + pickle.NONE + pickle.SETITEM + b"."

    with pytest.raises(MalformedError, match="it has a tuple as a key"):
        read_pickle(data, is_trusted=is_trusted)


def test_a_name_of_nested_tuples_is_never_written_out() -> None:
    nest = b"(t" + (pickle.BINPUT + b"\x00" + pickle.BINGET + b"\x00" + pickle.TUPLE2) * 200
    data = pickle.PROTO + b"\x04" + nest + pickle.NONE + pickle.STACK_GLOBAL + b"."

    with pytest.raises(MalformedError, match="a name that is no text"):
        read_pickle(data, is_trusted=is_trusted)


def test_a_memory_of_two_billion_places_takes_one() -> None:
    data = pickle.PROTO + b"\x02" + pickle.NONE + pickle.LONG_BINPUT + b"\xff\xff\xff\x7f" + b"."

    assert read_pickle(data, is_trusted=is_trusted) is None


def test_a_text_of_four_gigabytes_that_is_not_there_is_refused() -> None:
    data = pickle.PROTO + b"\x02" + pickle.BINUNICODE + b"\xff\xff\xff\xff" + b"short."

    with pytest.raises(MalformedError):
        read_pickle(data, is_trusted=is_trusted)


def test_a_pickle_has_a_largest_size_and_a_most_instructions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(LimitError, match=f"at most {pickled.PICKLE_BYTES_MAX} bytes"):
        read_pickle(b"N" * (pickled.PICKLE_BYTES_MAX + 1), is_trusted=is_trusted)
    monkeypatch.setattr(pickled, "INSTRUCTIONS_MAX", 100)
    with pytest.raises(LimitError, match="at most 100 instructions"):
        read_pickle(b"N0" * 51 + b"N.", is_trusted=is_trusted)


@pytest.mark.parametrize(
    "data",
    [b"", b".", b"pickled", b"\x80\x02", b"(.", b"\x80\x02]K\x01s.", b"h\x00.", b"\x80\x02N",
     b"]NNe."],
)  # fmt: skip
def test_what_is_no_pickle_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError, match=r"expected a pickle as torch\.save writes it"):
        read_pickle(data, is_trusted=is_trusted)


@pytest.mark.parametrize("content", [None, 3, "text", [1], {"model": None}, {"weights": [1.0]}])
def test_a_pickle_without_a_network_holds_tensors_only(tmp_path: Path, content: object) -> None:
    path = checkpoints.write(tmp_path / "best.pt", checkpoints.pickled(content))

    assert "holds tensors but no network" in refused(path)


@pytest.mark.parametrize(
    "state",
    [
        {}, {"yaml": 3, "names": 4}, {"names": {}, "yaml": {"nc": 1 << 62}},
        {"kpt_shape": ["a", 3]},
        {"names": {0: ["nested"]}, "yaml": {"nc": -1, "yaml_file": ["x"]}},
    ],
)  # fmt: skip
def test_a_network_with_strange_state_is_still_described(
    tmp_path: Path, state: dict[str, object]
) -> None:
    whole = checkpoints.document()
    vars(whole["model"]).pop("names")
    vars(whole["model"]).update({"yaml": None, **state})
    path = checkpoints.write(tmp_path / "best.pt", checkpoints.pickled(whole))

    network = read_checkpoint(path)

    assert len(network.labels) <= checkpoint.LABELS_MAX
    assert network.layers == layers_of("YOLO11", "detect")


def test_a_network_of_its_own_parts_ends(tmp_path: Path) -> None:
    whole = checkpoints.document(parameters=1_000_000)
    vars(whole["model"])["_modules"]["again"] = whole["model"]
    path = checkpoints.write(tmp_path / "best.pt", checkpoints.pickled(whole))

    assert read_checkpoint(path).parameters == 1_000_000


def test_a_zip_that_unpacks_to_gigabytes_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("best/data.pkl", bytes(4 * pickled.PICKLE_BYTES_MAX))

    assert f"at most {pickled.PICKLE_BYTES_MAX} bytes" in refused(path)


def test_a_directory_that_would_fill_memory_is_not_read(tmp_path: Path) -> None:
    size = checkpoint.DIRECTORY_BYTES_MAX + 1
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, size, 0, 0)
    path = tmp_path / "best.pt"
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(size)
        file.write(end)

    assert f"a directory of {size} bytes" in refused(path)


def test_a_file_larger_than_any_model_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    with path.open("wb") as file:
        file.truncate(checkpoint.FILE_BYTES_MAX + 1)

    assert "expected a model of at most" in refused(path)


def test_an_archive_of_torchscript_is_named(tmp_path: Path) -> None:
    path = checkpoints.checkpoint(tmp_path / "best.pt")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("best/constants.pkl", b"")

    assert "is a TorchScript archive, already exported" in refused(path)


def test_every_cut_and_every_flipped_byte_ends_in_a_description_or_an_error() -> None:
    data = checkpoints.pickled(checkpoints.document())
    for place in range(0, len(data), 211):
        for damaged in (
            data[:place],
            data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :],
        ):
            file = io.BytesIO(damaged).getvalue()
            try:
                read_pickle(file, is_trusted=is_trusted)
            except (MalformedError, UntrustedError, LimitError):
                continue


def test_the_pickles_of_these_tests_use_the_instructions_of_torch() -> None:
    used = checkpoints.instructions(checkpoints.pickled(checkpoints.document()))

    assert {"GLOBAL", "NEWOBJ", "BUILD", "REDUCE", "BINPERSID", "SETITEMS"} <= used
