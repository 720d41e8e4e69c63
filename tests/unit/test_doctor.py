"""What doctor judges, and what it reads: pure judgement on facts, probes on folders and sockets."""

import socket
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from agent import probes
from agent.doctor import Facts, Finding, exit_code, judge, lines
from agent.host import Power, PowerMeter, parse_throttled
from agent.status import BrokerNote, Note, Status
from agent.status import judge as judge_status
from shared.card import Broker, Card
from shared.messages import CameraReported, Reported
from tests.making import FLEET

MIB = 1024**2
CARD = Card(fleet=FLEET, device="gate-01", broker=Broker(url="mqtt://127.0.0.1:1"), root="{}")
REPORT = Reported(
    at="2026-11-24T03:00:00.000Z", clock="synced", boot="b", run="card-1", seq=1,
    agent_version="0.1.0", plan_version=1, plan_sha256=None, identity_version=1,
)  # fmt: skip


def noted(*, state: str = "streaming", starts: int = 1, is_connected: bool = True) -> Status:
    camera = CameraReported(kind="modlib", state=state, release="helmet@8", starts=starts)  # type: ignore[arg-type]
    note = Note(
        pid=1,
        broker=BrokerNote(is_connected=is_connected, since="2026-11-24T03:00:00.000Z"),
        children={},
        reported=msgspec.structs.replace(REPORT, cameras={"0": camera}),
    )
    return judge_status(CARD, note, is_running=True)


WELL = Facts(
    model="Raspberry Pi 5 Model B Rev 1.0",
    kernel="6.12.47+rpt-rpi-2712",
    has_driver=True,
    packages={
        "python3-libcamera": "0.6.0+rpt20251202-1",
        "imx500-all": "1.0",
        "imx500-tools": "1.0",
    },
    modules={"libcamera": True, "modlib": True},
    user="fleet-agent",
    groups=frozenset({"fleet-agent", "video", "render"}),
    sensors=("imx500 10-001a",),
    broker_url="mqtts://broker.lan:8883",
    is_clock_synchronised=True,
    state="/var/lib/fleet-agent",
    free_bytes=20_000 * MIB,
    memory_bytes=8_000 * MIB,
    power=Power(
        is_throttled=False, is_under_voltage=False, was_throttled=False, was_under_voltage=False
    ),
    celsius=51.0,
    service="active",
    status=noted(),
)


def wrong(facts: Facts) -> dict[str, Finding]:
    return {finding.what: finding for finding in judge(facts) if finding.level != "ok"}


def test_a_pi_that_is_well_has_no_finding() -> None:
    assert wrong(WELL) == {}
    assert exit_code(judge(WELL)) == 0


FAULTS: dict[str, tuple[Facts, str, str, str]] = {
    "an old kernel": (replace(WELL, kernel="6.1.21-v8+"), "kernel", "error", "full-upgrade"),
    "no driver": (replace(WELL, has_driver=False), "kernel", "error", "full-upgrade"),
    "no libcamera": (
        replace(WELL, packages={**WELL.packages, "python3-libcamera": None},
                modules={"modlib": True}),
        "libcamera", "error", "python3-libcamera",
    ),
    "an old libcamera": (
        replace(WELL, packages={**WELL.packages, "python3-libcamera": "0.3.2+rpt20241119"}),
        "libcamera", "warning", "full-upgrade",
    ),
    "no firmware": (
        replace(WELL, packages={**WELL.packages, "imx500-all": None}),
        "imx500-all", "error", "apt install imx500-all",
    ),
    "no packer": (
        replace(WELL, packages={**WELL.packages, "imx500-tools": None}),
        "imx500-tools", "error", "apt install imx500-tools",
    ),
    "no library": (
        replace(WELL, modules={"libcamera": True}), "driver", "error", "fleet-agent-modlib"
    ),
    "a library that does not load": (
        replace(WELL, load_errors={"modlib": "ImportError: libcamera.so.0.6"}),
        "driver", "error", "full-upgrade",
    ),
    "the better library does not load": (
        replace(WELL, modules={"libcamera": True, "modlib": True, "picamera2": True},
                load_errors={"modlib": "ImportError: libcamera.so.0.6"}),
        "driver", "warning", "full-upgrade",
    ),
    "not in video": (
        replace(WELL, groups=frozenset({"render"})), "groups", "error", "usermod -aG video"
    ),
    "no camera": (replace(WELL, sensors=()), "camera", "error", "cable"),
    "a dead bridge": (
        replace(WELL, status=noted(state="needs_reboot", starts=20)),
        "camera 0", "error", "sudo reboot",
    ),
    "a spent start budget": (
        replace(WELL, status=noted(starts=15)), "camera 0", "error", "sudo reboot"
    ),
    "a missing camera": (
        replace(WELL, status=noted(state="missing")), "camera 0", "error", "cable"
    ),
    "a weak supply": (
        replace(WELL, power=Power(is_under_voltage=True)), "power", "error", "official supply"
    ),
    "a supply that was weak": (
        replace(WELL, power=Power(is_under_voltage=False, was_under_voltage=True)),
        "power", "warning", "official supply",
    ),
    "throttling": (
        replace(WELL, power=Power(is_throttled=True)), "throttling", "warning", "cooler"
    ),
    "heat": (replace(WELL, celsius=84.0), "heat", "warning", "cooler"),
    "little memory": (replace(WELL, memory_bytes=415 * MIB), "memory", "warning", "rpk"),
    "a full disk": (replace(WELL, free_bytes=90 * MIB), "disk", "error", "room"),
    "no clock": (replace(WELL, is_clock_synchronised=False), "clock", "error", "timedatectl"),
    "no card": (replace(WELL, card_error="card: there is no x"), "card", "error", "device add"),
    "a card that was not taken": (
        replace(WELL, has_card_on_boot=True), "card", "error", "fleet-agent enroll"
    ),
    "a state of root's": (
        replace(WELL, state_error="journal.json is not its owner's"), "state", "error", "chown"
    ),
    "no broker": (
        replace(WELL, broker_error="Connection refused", status=noted(is_connected=False)),
        "broker", "error", "resolve",
    ),
    "a service that failed": (replace(WELL, service="failed"), "service", "error", "journalctl"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_with_its_remedy_and_nothing_else_is(fault: str) -> None:
    facts, what, level, remedy = FAULTS[fault]

    found = wrong(facts)

    assert found[what].level == level
    assert remedy in str(found[what].remedy)
    assert set(found) <= {what, "agent"}
    assert any(str(found[what].remedy) in line for line in lines(judge(facts)))
    assert exit_code(judge(facts)) == {"warning": 0, "error": 6 if what == "broker" else 1}[level]


def test_a_device_whose_cameras_are_simulated_needs_no_sensor() -> None:
    facts = replace(
        WELL, needs_sensor=False, model=None, kernel="5.0", packages={}, sensors=(), groups=None,
        modules={"onnxruntime": True},
    )  # fmt: skip

    assert wrong(facts) == {}
    assert set(wrong(replace(facts, modules={}))) == {"simulation"}


def test_what_could_not_be_found_out_is_no_error() -> None:
    unknown = replace(
        WELL, has_driver=None, groups=None, free_bytes=None, memory_bytes=None, power=Power(),
        celsius=None, service=None, status=None,
    )  # fmt: skip

    assert wrong(unknown) == {}


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("throttled=0x0\n", "0000"),
        ("throttled=0x50005\n", "1111"),
        ("throttled=0x50000\n", "0011"),
        ("throttled=0x80008", "1010"),
        ("throttled=0x2", "1000"),
        ("throttled=0x10001", "0101"),
    ],
)
def test_the_bits_of_the_firmware_are_read(text: str, bits: str) -> None:
    assert parse_throttled(text) == Power(*(bit == "1" for bit in bits))


@pytest.mark.parametrize("text", ["", 'error=1 error_msg="Command not registered"'])
def test_a_firmware_that_does_not_answer_says_nothing(text: str) -> None:
    assert parse_throttled(text) == Power()


def test_the_kernel_s_alarm_is_read_each_time_and_the_firmware_seldom(tmp_path: Path) -> None:
    folder = tmp_path / "hwmon" / "hwmon1"
    folder.mkdir(parents=True)
    (folder / "name").write_text("rpi_volt\n")
    (folder / "in0_lcrit_alarm").write_text("1\n")
    asked = tmp_path / "asked"
    command = tmp_path / "vcgencmd"
    command.write_text(f"#!/bin/sh\necho $1 >> {asked}\necho throttled=0x20002\n")
    command.chmod(0o755)
    meter = PowerMeter(tmp_path / "hwmon", str(command))

    first = meter.read(0.0)
    (folder / "in0_lcrit_alarm").write_text("0\n")
    second = meter.read(5.0)
    meter.read(61.0)

    assert (first.is_under_voltage, second.is_under_voltage) == (True, False)
    assert (second.is_throttled, second.was_throttled) == (True, True)
    assert asked.read_text().split() == ["get_throttled", "get_throttled"]


def test_a_machine_that_is_no_pi_says_nothing_of_its_power(tmp_path: Path) -> None:
    assert PowerMeter(tmp_path, str(tmp_path / "none")).read(0.0) == Power()


def test_the_kernel_s_names_of_subdevices_tell_a_sensor(tmp_path: Path) -> None:
    for number, name in enumerate(["rp1-cfe-csi2_ch0", "imx500 10-001a", "imx219 4-0010"]):
        (tmp_path / f"v4l-subdev{number}").mkdir()
        (tmp_path / f"v4l-subdev{number}" / "name").write_text(f"{name}\n")

    assert probes.sensors(tmp_path) == ("imx500 10-001a",)
    assert probes.sensors(tmp_path / "none") == ()


def test_knocking_tells_who_answers_from_who_does_not() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        there = msgspec.structs.replace(CARD, broker=Broker(url=f"mqtt://127.0.0.1:{port}"))
        assert probes.knock(there) == ""

    assert "refused" in probes.knock(there)
    nowhere = msgspec.structs.replace(CARD, broker=Broker(url="mqtt://no-such-name.invalid"))
    assert probes.knock(nowhere)


def test_a_folder_that_is_not_there_is_told_without_raising(tmp_path: Path) -> None:
    facts = probes.read_facts(tmp_path / "none", is_service=False)

    assert "there is no" in facts.card_error
    assert "there is no" in facts.state_error
    assert {"card", "state"} <= set(wrong(facts))
