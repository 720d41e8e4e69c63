"""``fleet-agent``: run the agent of one device; enrol it; say how it is."""

import argparse
import functools
import logging
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec

from agent import doctor, probes, status, walking
from agent.config import Options, is_on_boot, options_of
from agent.enroll import claim, enroll
from agent.service import AGENT_VERSION, Agent, Leaving, OwnEvent
from agent.slots import BUDGET_BYTES
from shared.card import read_card
from shared.errors import FleetError
from shared.inbox import Inbox
from shared.limits import HEARTBEAT_SECONDS

logger = logging.getLogger("agent")

STATE = probes.STATE
CARD = probes.BOOT_CARD


def main() -> None:
    """Do what the command line says; exit 1 with one line where it cannot be done."""
    arguments = _parser().parse_args()
    logging.basicConfig(
        level=logging.DEBUG if arguments.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    try:
        code = {"run": _run, "enroll": _enroll, "status": _status, "doctor": _doctor}[
            arguments.command
        ](arguments)
    except FleetError as error:
        print(f"fleet-agent: {error}", file=sys.stderr)  # noqa: T201
        code = 1
    sys.exit(code)


def _run(arguments: argparse.Namespace) -> int:
    has_card = (arguments.state / "card.yaml").exists()
    if arguments.card is None and not has_card and CARD.exists():
        arguments.card = CARD
    options = options_of(arguments)
    card = enroll(options)
    claim(options.state)
    inbox: Inbox[OwnEvent] = Inbox()
    agent = Agent(options, card, inbox)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: agent.stop())
    why = agent.run()
    if why in {Leaving.RESTART, Leaving.SIMULATED_REBOOT}:
        # In place, so that whoever started us still has the same process.
        os.execv(sys.executable, [sys.executable, "-m", "agent", *sys.argv[1:]])  # noqa: S606
    return 0


def _enroll(arguments: argparse.Namespace) -> int:
    options = Options(
        state=arguments.state,
        card=arguments.file,
        is_demo=arguments.demo,
        wipes_card=arguments.wipe_card or is_on_boot(arguments.file),
    )
    card = enroll(options)
    print(f"{card.device} of {card.fleet}: enrolled in {options.state}")  # noqa: T201
    return 0


def _status(arguments: argparse.Namespace) -> int:
    found = probes.read_status(arguments.state, read_card(arguments.state / "card.yaml"))
    assert found is not None, "there is a card"
    _show(arguments, msgspec.json.encode(found), status.lines(found))
    return status.exit_of(found)


def _doctor(arguments: argparse.Namespace) -> int:
    """Say what stands in the way of this device, or walk a person through it."""
    if arguments.hardware:
        report = arguments.report or Path("fleet-agent-hardware.json")
        say = functools.partial(print, flush=True)
        return walking.walk(arguments.state, arguments.camera, report, say)
    is_service = probes.is_service(arguments.state)
    findings = doctor.judge(probes.read_facts(arguments.state, is_service=is_service))
    _show(arguments, msgspec.json.encode(findings), doctor.lines(findings))
    return doctor.exit_code(findings)


def _show(arguments: argparse.Namespace, document: bytes, lines: Iterable[str]) -> None:
    text = document.decode() if arguments.output == "json" else "\n".join(lines)
    print(text)  # noqa: T201


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fleet-agent", description=__doc__)
    parser.add_argument("--version", action="version", version=AGENT_VERSION)
    parser.add_argument("--verbose", action="store_true", help="log for developers, too")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run until SIGTERM")
    _add_state(run)
    run.add_argument("--card", type=Path, default=None, help="read once, kept in the state")
    run.add_argument("--wipe-card", action="store_true", help="always so for a card below /boot")
    run.add_argument("--assume-clock", action="store_true", help="believe the clock")
    run.add_argument("--simulate", type=Path, help="YAML or JSON: scene and faults of cameras")
    run.add_argument("--heartbeat", type=float, default=HEARTBEAT_SECONDS, metavar="SECONDS")
    run.add_argument("--disk-budget", type=int, default=BUDGET_BYTES, metavar="BYTES")
    run.add_argument("--inject-golden", action="store_true", help="golden sets by data injection")
    run.add_argument("--allow-reboot", action="store_true", help="may reboot this machine")
    enroll_command = commands.add_parser("enroll", help="keep a card, without running")
    _add_state(enroll_command)
    enroll_command.add_argument("--wipe-card", action="store_true", help="as for run")
    enroll_command.add_argument("file", type=Path)
    _add_output(commands.add_parser("status", help="what runs; exit 3: no agent, 4: not well"))
    check = commands.add_parser("doctor", help="what stands in the way; exit 6: the broker alone")
    _add_output(check)
    check.add_argument("--hardware", action="store_true", help="walk through a Pi's trial")
    check.add_argument("--camera", type=int, default=0, help="which one to try")
    check.add_argument("--report", type=Path, help="./fleet-agent-hardware.json; goes on with it")
    return parser


def _add_output(parser: argparse.ArgumentParser) -> None:
    _add_state(parser)
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")


def _add_state(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--state", type=Path, default=STATE, help="everything durable")
    parser.add_argument("--demo", action="store_true", help="accept the root of a demo")


if __name__ == "__main__":
    main()
