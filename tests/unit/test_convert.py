import io
import json
import stat
import zipfile
from pathlib import Path

import pytest

from controller.export.convert import (
    LINE_CHARACTERS_MAX,
    REPORT_BYTES_MAX,
    XML_BYTES_MAX,
    ZIP_BYTES_MAX,
    convert,
    memory_bytes,
    memory_report,
    network_name,
    normalise_zip,
    output_shapes,
)
from shared.errors import ExportError

# As version 3.19 prints them.
LINES = """\
2026-11-24 13:54:13,490 INFO : Running version 3.19.0 [/opt/uni/common/logger.py:179]

2026-11-24 13:54:25.023 INFO : CODE: [START] Starting SDSPconv
2026-11-24 13:55:04.586 INFO : DspConvParser runs: 2901 [msec]
"""
ISM = "[ISM] Not enough memory, available: 8.00MB , required: 11.38MB"
TOO_LARGE = """\
2026-11-24 14:02:53.207 INFO : CODE: [START] Starting SDSPconv
2026-11-24 14:06:18.151 ERROR: CODE: [ISM] Not enough memory, available: 8.00MB , required: 11.38MB
2026-11-24 14:06:20.522 INFO : CODE: [IMCF] ConvFe failed with insufficient memory
2026-11-24 14:06:25.333 ERROR: CODE: [ISM] Not enough memory, available: 8.00MB , required: 11.38MB
Exception in thread "main" java.lang.IllegalArgumentException
	at sdsp.app.AppKt.main(App.kt:27)
2026-11-24 14:06:26,020 ERROR : sdspconv exited with error code: 1 [/opt/converter.py:88]
"""
UNSUPPORTED = """\
2026-11-24 13:58:52,846 ERROR : CODE: [USOP] The network contains unsupported ops: CumSum, Erf [/l]
"""
UNREADABLE = """\
2026-11-24 13:53:47,200 ERROR : CODE: [EXEC] Failed to load n1.onnx [/opt/logger.py:191]
Traceback (most recent call last):
RuntimeError: Failed to load n1.onnx
2026-11-24 13:53:47,214 ERROR : CODE: [EXEC] Failed to load n1.onnx [/opt/logger.py:185]
"""
REPORT = {
    "Memory Usage": "1245824B",
    "Total Memory Available On Chip": "8388480B",
    "Fit In Chip": True,
}


def converter(folder: Path, script: str) -> Path:
    """Write a program that stands where Sony's would, and say where."""
    path = folder / "imxconv-pt"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def failure(folder: Path, script: str) -> str:
    with pytest.raises(ExportError) as caught:
        convert(
            folder / "n1.onnx", folder, told=lambda _: None, converter=converter(folder, script)
        )
    return str(caught.value)


def xml(outputs: str, *, name: str = "n0123456789ab") -> bytes:
    network = f'<network name="{name}" ordinal="0">{outputs}</network>'
    return f"<dnnParams><networks>{network}</networks></dnnParams>".encode()


def output(ordinal: object, *sizes: object) -> str:
    sides = "".join(f'<dimension size="{size}" ordinal="{i}"/>' for i, size in enumerate(sizes))
    return f'<outputTensor ordinal="{ordinal}"><dimensions>{sides}</dimensions></outputTensor>'


def report(**changes: object) -> bytes:
    return json.dumps({"Memory Report": {"Name": "n0", **REPORT, **changes}}).encode()


def archive(**entries: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in entries.items():
            target.writestr(name.replace("_", "."), data)
    return file.getvalue()


def test_the_converter_gets_the_network_and_the_folder_and_is_heard(tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "lines").write_text(LINES)
    program = converter(tmp_path, f'cat {tmp_path}/lines; echo "$@" >&2')

    convert(tmp_path / "n1.onnx", tmp_path / "out", told=told.append, converter=program)

    assert told[:3] == [
        "Running version 3.19.0", "[START] Starting SDSPconv", "DspConvParser runs: 2901 [msec]",
    ]  # fmt: skip
    assert told[3].startswith(f"-i {tmp_path}/n1.onnx -o {tmp_path}/out ")


def test_an_endless_line_and_bytes_that_are_no_text_are_cut_and_replaced(tmp_path: Path) -> None:
    told: list[str] = []
    program = converter(tmp_path, "printf '\\377'; head -c 100000 /dev/zero | tr '\\0' x")

    convert(tmp_path / "n1.onnx", tmp_path, told=told.append, converter=program)

    assert [len(line) for line in told] == [LINE_CHARACTERS_MAX]


@pytest.mark.parametrize(
    ("lines", "ending", "reason", "said"),
    [
        (
            TOO_LARGE, "exit 1", "does not fit the sensor",
            f"{ISM} | sdspconv exited with error code: 1",
        ),
        (
            UNSUPPORTED, "exit 2", "an operation that the sensor cannot do",
            "[USOP] The network contains unsupported ops: CumSum, Erf",
        ),
        ("lost", "exit 3", "an operation that the sensor cannot do", "lost"),
        (UNREADABLE, "exit 1", "exit code 1", "[EXEC] Failed to load n1.onnx"),
        (LINES, "exit 7", "exit code 7", "DspConvParser runs: 2901 [msec]"),
        ("lost", "kill -9 $$", "signal 9", "lost"),
        ("lost", "exit 137", "signal 9", "lost"),
    ],
)  # fmt: skip
def test_how_it_ended_and_what_it_called_an_error_become_a_reason(
    lines: str, ending: str, reason: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "lines").write_text(lines)

    text = failure(tmp_path, f"cat {tmp_path}/lines; {ending}")

    assert reason in text
    assert text.endswith(said)
    assert ("fit the sensor" in text) is (lines == TOO_LARGE)


def test_a_converter_that_is_not_there_is_a_reason(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="does not start"):
        convert(
            tmp_path / "n1.onnx", tmp_path, told=lambda _: None, converter=tmp_path / "imxconv-pt"
        )


def test_name_and_shapes_are_read_in_the_network_s_order(tmp_path: Path) -> None:
    path = tmp_path / "dnnParams.xml"
    path.write_bytes(xml(output(2, 300) + output(1, 7) + output(10, 1) + output(0, 300, 4)))

    assert network_name(path) == "n0123456789ab"
    assert output_shapes(path) == ((300, 4), (7,), (300,), (1,))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<dnnParams>",
        b"\xff\xfe",
        b"<dnnParams/>",
        xml("", name=""),
        xml("") + b" " * XML_BYTES_MAX,
    ],
)
def test_a_description_that_does_not_read_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "dnnParams.xml"
    path.write_bytes(data)

    for read in (network_name, output_shapes):
        with pytest.raises(ExportError, match=r"dnnParams\.xml"):
            read(path)


@pytest.mark.parametrize(
    "outputs",
    [
        "",
        output(0),
        output(0, 0),
        output(0, -1),
        output(0, "many"),
        output("first", 300),
        output(0, "9" * 5000),
    ],
)
def test_outputs_without_a_shape_are_refused(outputs: str, tmp_path: Path) -> None:
    path = tmp_path / "dnnParams.xml"
    path.write_bytes(xml(outputs))

    with pytest.raises(ExportError):
        output_shapes(path)


def test_entities_that_multiply_are_not_unfolded(tmp_path: Path) -> None:
    path = tmp_path / "dnnParams.xml"
    levels = "".join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(9))
    path.write_bytes(
        f'<!DOCTYPE d [<!ENTITY e0 "{"x" * 10}">{levels}]><dnnParams>&e9;</dnnParams>'.encode()
    )

    with pytest.raises(ExportError, match="no readable"):
        network_name(path)


def test_the_memory_that_the_network_takes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "MemoryReport.json"
    path.write_bytes(report())

    assert memory_bytes(path) == 1_245_824


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (report(**{"Fit In Chip": False}), "smaller model"),
        (report(**{"Memory Usage": "1.19MB"}), "expected bytes"),
        (report(**{"Memory Usage": 1245824}), "no readable memory report"),
        (b"{}", "no readable memory report"),
        (b"\xff", "no readable memory report"),
        (b" " * (REPORT_BYTES_MAX + 1), "at most"),
    ],
)
def test_a_report_that_does_not_say_that_it_fits_is_refused(
    data: bytes, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "MemoryReport.json"
    path.write_bytes(data)

    with pytest.raises(ExportError, match=expected):
        memory_bytes(path)


def test_two_archives_that_differ_in_dates_alone_become_one(tmp_path: Path) -> None:
    dates = ["Tue Nov 24 12:49:01 2026", "Tue Nov 24 12:50:12 2026"]
    targets = []
    for i, date in enumerate(dates):
        manifest = json.dumps({"Date Info": date, "Network Name": "n0"}).encode()
        source, target = tmp_path / f"{i}.zip", tmp_path / f"{i}.new.zip"
        with zipfile.ZipFile(source, "w") as given:
            for name in ("manifest.json", "b.bin")[:: 1 - 2 * i]:  # The order differs, too.
                entry = zipfile.ZipInfo(name, (2026, 11, 24, 12, 49 + i, 0))
                given.writestr(entry, manifest if name == "manifest.json" else b"1")
        normalise_zip(source, target)
        targets.append(target.read_bytes())

    assert targets[0] == targets[1]
    with zipfile.ZipFile(io.BytesIO(targets[0])) as fresh:
        assert json.loads(fresh.read("manifest.json")) == {"Date Info": "", "Network Name": "n0"}
        assert fresh.read("b.bin") == b"1"


def test_an_archive_is_bounded_before_it_is_unpacked(tmp_path: Path) -> None:
    source = tmp_path / "packerOut.zip"
    source.write_bytes(archive(a_bin=bytes(ZIP_BYTES_MAX), b_bin=b"1"))

    with pytest.raises(ExportError, match="at most"):
        normalise_zip(source, tmp_path / "new.zip")


def test_an_archive_that_unpacks_to_more_than_it_says_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "packerOut.zip"
    honest = archive(a_bin=bytes(100_000))
    source.write_bytes(honest.replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))

    with pytest.raises(ExportError, match="no readable"):
        normalise_zip(source, tmp_path / "new.zip")


@pytest.mark.parametrize("data", [None, b"", b"no zip", archive(a_bin=bytes(100_000))[:-40]])
def test_an_archive_that_is_not_whole_is_refused(data: bytes | None, tmp_path: Path) -> None:
    source = tmp_path / "packerOut.zip"
    if data is not None:
        source.write_bytes(data)

    with pytest.raises(ExportError, match=r"packerOut\.zip"):
        normalise_zip(source, tmp_path / "new.zip")


WRITTEN = """{"Memory Report": {"Memory Usage": "%dB", "Total Memory Available On Chip": "8388480B",
 "Fit In Chip": %s, "Networks": [{"Model Memory Physical Size": "9614112B"}]}}"""


@pytest.mark.parametrize(
    ("used", "fits", "code"), [(11_407_136, "false", 1), (4_000_000, "true", 0)]
)
def test_the_fit_is_read_from_the_report_even_where_the_converter_fails(
    tmp_path: Path, used: int, fits: str, code: int
) -> None:
    said = "2026-01-01 00:00:00.1 ERROR: Not enough memory, available: 8.00MB" if code else "well"
    converter = tmp_path / "converter"
    report = tmp_path / "n1_MemoryReport.json"
    converter.write_text(
        f"#!/bin/sh\nfor one in $*; do test $one = --memory-report && ok=1; done\n"
        f"test $ok && echo '{WRITTEN % (used, fits)}' > {report}\necho '{said}'\nexit {code}\n"
    )
    converter.chmod(0o755)

    fit = memory_report(tmp_path / "n1.onnx", tmp_path, converter=converter)

    assert fit.is_fit == (fits == "true")
    assert f"{used:,}" in fit.words
    if not fit.is_fit:
        over = used - 8_388_480
        share = 1 - over / 9_614_112
        assert share - 0.05 < fit.weights_share < share
