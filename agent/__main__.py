"""``fleet-agent``: run the agent of one device; enrol it; say how it is."""

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

from agent import host
from agent.config import Options, is_on_boot, options_of
from agent.enroll import claim, enroll
from agent.journal import JournalFile, from_text
from agent.service import AGENT_VERSION, Agent, Leaving, OwnEvent
from agent.slots import BUDGET_BYTES
from shared.card import read_card
from shared.errors import FleetError
from shared.inbox import Inbox
from shared.limits import HEARTBEAT_SECONDS

logger = logging.getLogger("agent")

STATE = Path("/var/lib/fleet-agent")
CARD = Path("/boot/firmware/fleet-agent.yaml")


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
    path = arguments.state / "journal.json"
    saved = from_text(path.read_bytes()) if path.exists() else JournalFile(arguments.state).saved
    print(f"install {saved.install}, run {saved.runs}, plan {saved.trust.version}")  # noqa: T201
    for number, document in saved.cameras.items():
        print(f"camera {number}: {bytes(document).decode()}")  # noqa: T201
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    """Say what stands in the way of this device."""
    findings: list[tuple[bool, str]] = []
    try:
        card = read_card(arguments.state / "card.yaml")
        findings.append((True, f"card: {card.device} of {card.fleet}, broker {card.broker.url}"))
    except FleetError as error:
        findings.append((False, str(error)))
    is_synchronised = host.is_clock_synchronised()
    findings.append((is_synchronised, f"clock synchronised: {is_synchronised}"))
    for is_well, text in findings:
        print(f"{'ok  ' if is_well else 'FAIL'} {text}")  # noqa: T201
    return 0 if all(is_well for is_well, _ in findings) else 1


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
    run.add_argument("--allow-reboot", action="store_true", help="may reboot this machine")
    enroll_command = commands.add_parser("enroll", help="keep a card, without running")
    _add_state(enroll_command)
    enroll_command.add_argument("--wipe-card", action="store_true", help="as for run")
    enroll_command.add_argument("file", type=Path)
    for name, text in (("status", "what the journal says"), ("doctor", "what stands in the way")):
        _add_state(commands.add_parser(name, help=text))
    return parser


def _add_state(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--state", type=Path, default=STATE, help="everything durable")
    parser.add_argument("--demo", action="store_true", help="accept the root of a demo")


if __name__ == "__main__":
    main()
