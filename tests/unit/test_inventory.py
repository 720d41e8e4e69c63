"""fleet.yaml: what is right is read, and each error of its page has its line and its mending."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from controller.gates.rules import Gates
from controller.inventory import (
    FLEET_YAML_BYTES,
    Fleet,
    cameras_of,
    identity_of,
    load_fleet,
    main,
    parse_fleet,
    reference,
)
from controller.rollout import Retry
from controller.strategies import DAYS
from shared.assignment import Window
from shared.errors import InventoryError, OperatorError

ROOT = Path(__file__).parents[2]
HEAD = "version: 1\nfleet: site-a\nbroker: {embedded: true}\n"
DEVICES = "devices:\n  gate-01: {labels: {role: door}}\n  gate-02: {labels: {role: dock}}\n"


def errors_of(text: str) -> list[str]:
    with pytest.raises(InventoryError) as caught:
        parse_fleet(text)
    return str(caught.value).splitlines()


def fleet_of(text: str) -> Fleet:
    return parse_fleet(HEAD + DEVICES + text)


def test_the_page_s_example_is_read() -> None:
    fleet = parse_fleet(
        HEAD.replace("{embedded: true}", '{url: "mqtts://broker.site-a.lan:8883", ca: ca.pem}')
        + """
defaults:
  camera: auto
  timezone: Europe/Berlin
  telemetry: {encoding: json, rate_hz: 5, threshold: 0.5, home_assistant: false}
  bounds: {threshold: [0.2, 0.8], rate_hz: [1, 10]}
  privacy: {images: "off"}
  labels: {site: a}
devices:
  gate-01: {labels: {role: door}}
  gate-02:
    labels: {role: door}
    cameras: {0: {}, 1: {labels: {view: rear}}}
  dock-[01:20]: {labels: {role: dock}, telemetry: {rate_hz: 1}}
strategies:
  careful:
    waves:
      - {pins: [gate-01], bake: 30m}
      - {fraction: 10%, bake: 2h, approve: true}
      - {ramp: {from: 20%, factor: 2}, bake: 30m}
      - {fraction: 100%}
    max_failed: 5%
    min_healthy: 90%
    probe: {seconds: 60s, valid_rate: 90%}
    deadlines: {activation: 12m, progress: 30m}
    gates: {dnn_ms: 60, golden: 95%, restarts: 1, detections_change: 50%, scores_change: 50%, \
false_abort: 1%}
    retry: {attempts: 2, after: 1h, causes: [camera, interrupted]}
    on_failure: revert
    on_inconclusive: pause
    window: {days: [mon, tue, wed, thu], from: "22:00", to: "05:00"}
rollouts:
  doors: {release: helmet@8, selector: "role=door", strategy: careful, deny: []}
"""
    )

    dock = fleet.devices["dock-07"]
    identity = identity_of(fleet.name, dock, version=3, at=datetime.now(UTC))

    assert len(fleet.devices) == 22
    assert [camera.labels for camera in cameras_of(fleet.devices["gate-02"])] == [
        {"site": "a", "role": "door", "camera": "0"},
        {"site": "a", "role": "door", "view": "rear", "camera": "1"},
    ]
    assert [wave.permille for wave in fleet.strategies["careful"].waves] == [
        0, 100, 200, 400, 800, 1000,
    ]  # fmt: skip
    assert identity.labels == {"site": "a", "role": "dock"}
    assert (identity.settings.telemetry.rate_hz, identity.timezone) == (1, "Europe/Berlin")
    assert identity.settings.bounds.threshold_permille == (200, 800)


def test_a_strategy_has_its_ramp_approvals_retry_and_window() -> None:
    fleet = fleet_of(
        "strategies:\n  s:\n    waves: [{fraction: 10%, approve: true},"
        " {ramp: {from: 20%, factor: 2}, bake: 1h}, {fraction: 100%}]\n"
        "    retry: {attempts: 3, after: 1h}\n    window: {from: '22:00', to: '05:00'}\n"
    )

    strategy = fleet.strategies["s"]
    rules = strategy.rules()
    assert [wave.permille for wave in strategy.waves] == [100, 200, 400, 800, 1000]
    assert rules.bake_seconds == (0.0, 3600.0, 3600.0, 3600.0, 0.0)
    assert [rules.needs_approval(wave) for wave in range(6)] == [True, *[False] * 5]
    assert rules.retry == Retry(3, 3600.0, frozenset({"camera", "interrupted"}))
    assert strategy.window == Window(frozenset(DAYS), 22 * 60, 5 * 60)


def test_gates_are_what_fleet_yaml_says_and_absent_where_it_says_none() -> None:
    fleet = fleet_of(
        "strategies:\n  s:\n    probe: {valid_rate: 80%}\n"
        "    gates: {dnn_ms: 60, golden: 95%, restarts: 1, detections_change: 50%, "
        "scores_change: 25%, false_abort: 0.5%}\n  plain: {}\n  some: {gates: {restarts: 0}}\n"
    )

    assert fleet.strategies["s"].rules().gates == Gates(
        valid_rate_permille=800, dnn_ms=60, golden_permille=950, restarts=1,
        detections_permille=500, scores_permille=250, false_abort_permille=5,
    )  # fmt: skip
    assert fleet.strategies["plain"].rules().gates is None
    assert fleet.strategies["some"].rules().gates == Gates(restarts=0)


STRATEGY = "strategies:\n  s:\n    "
PINNED = "strategies: {s: {waves: [{pins: [gate-01]}, {fraction: 100%}]}}\n"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("defualts: {}", "7:1: unknown key 'defualts' in fleet.yaml; did you mean 'defaults'?"),
        ("defaults: {camera: 3}", "7:20: expected text, got 3, which YAML reads as int"),
        ("defaults: {camera: modlip}", "7:20: expected auto | modlib | picamera2 | sim"),
        ("defaults: {camera: modlip}", "simulated, got 'modlip'; did you mean 'modlib'?"),
        ("defaults: {privacy: {images: off}}", "7:30: expected text, got off, which YAML rea"),
        ("defaults: {privacy: {images: off}}", 'which YAML reads as bool: write "off"'),
        ("defaults: {telemetry: {home_assistant: yes}}", "7:40: expected true or false, got 'yes'"),
        ("defaults: {telemetry: {rate_hz: 5.5}}", "7:33: expected a whole number from 1 to 30"),
        ("defaults: {bounds: {threshold: [0.8, 0.2]}}", "7:32: expected [lowest, highest]"),
        ("defaults: {timezone: Europe/Berln}", "did you mean 'Europe/Berlin'?"),
        ("defaults: {labels: {site: no}}", "7:27: expected text, got no, which YAML reads as"),
        ("defaults: {labels: {site: no}}", 'which YAML reads as bool: write "no"'),
        ("defaults: {labels: [a]}", "7:20: expected a mapping (key: value), got a list"),
        (STRATEGY + "waves: [{fraction: 10%}, {fraction: 10%}, {fraction: 100%}]",
            "9:30: expected more than 10 %, or new pins: each wave must grow, got 10 %"),
        (STRATEGY + "waves: [{fraction: 10%}]", "expected a last wave of {fraction: 100%}, got 10"),
        (STRATEGY + "waves: []", "expected a last wave of {fraction: 100%}, got no wave"),
        (STRATEGY + "waves: [{pins: [gate-03]}, {fraction: 100%}]",
            "9:21: expected a pin that names a declared device, got 'gate-03'; did you mean"),
        (STRATEGY + "waves: [{bake: 30}, {fraction: 100%}]", "a duration with its unit, e.g. 30s"),
        (STRATEGY + "max_failed: 5.5", "9:17: expected a whole number from 0 to 100000, got '5.5'"),
        (STRATEGY + "min_healthy: 90", "9:18: expected a percentage, e.g. 90%, got '90'"),
        (STRATEGY + "on_failure: undo", "9:17: expected revert | stop, got 'undo'"),
        (STRATEGY + "window: {from: 22:00, to: 05:00}",
            '9:20: expected text, got 22:00, which YAML reads as int: write "22:00"'),
        (STRATEGY + "gates: {dnnms: 60}", "unknown key 'dnnms' in gates; did you mean 'dnn_ms'?"),
        (STRATEGY + "gates: {dnn_ms: 0}", "9:21: expected a whole number from 1 to 1000, got '0'"),
        (STRATEGY + "gates: {golden: 95}", "9:21: expected a percentage, e.g. 95%, got '95'"),
        (STRATEGY + "gates: {golden: 0%}", "9:21: expected a percentage from 0.1% to 100%, got '"),
        (STRATEGY + "gates: {restarts: -1}", "9:23: expected a whole number from 0 to 1000, got "),
        (STRATEGY + "gates: {detections_change: 0%}",
            "9:32: expected a percentage from 1% to 100%, got '0%'"),
        (STRATEGY + "gates: {scores_change: 120%}", "9:28: expected a percentage (10%), got '120%"),
        (STRATEGY + "gates: {false_abort: 50%}", "expected a percentage from 0.1% to 20%, got '50"),
        (STRATEGY + "gates: {false_abort: 0%}", "expected a percentage from 0.1% to 20%, got '0%'"),
        (STRATEGY + "gates: [dnn_ms]", "9:12: expected a mapping (key: value), got a list"),
        ("defaults: {telemetry: {encoding: xml}}", "7:34: expected json | packed, got 'xml'"),
        ("defaults: {telemetry: {threshold: 1.5}}", "7:35: expected a number from 0 to 1"),
        ("defaults: {telemetry: {rate: 5}}", "unknown key 'rate' in telemetry; did you mean 'rat"),
        ("defaults: {frame_rate: fast}", "7:24: expected a whole number from 1 to 120, got 'fast'"),
        ("home_assistant_install: on", "7:25: expected true or false, got 'on'"),
        (STRATEGY + "wave: []", "unknown key 'wave' in a strategy; did you mean 'waves'?"),
        (STRATEGY + "waves: [{pins: [gate-01]}, {pins: [gate-01]}, {fraction: 100%}]",
            "9:32: expected more than 0 %, or new pins: each wave must grow, got 0 %"),
        (STRATEGY + "waves: [{fraction: 150%}]", "9:24: expected a percentage (10%), got '150%'"),
        (STRATEGY + "waves: [{fraction: 10%, ramp: {from: 20%, factor: 2}}, {fraction: 100%}]",
            "9:13: expected fraction or ramp, not both"),
        (STRATEGY + "waves: [{ramp: {from: 20%, factor: 1}}, {fraction: 100%}]",
            "9:40: expected a whole number from 2 to 10, got '1'"),
        (STRATEGY + "waves: [{bake: 1h}, {fraction: 100%}]", "expected pins, fraction or ramp in "),
        (STRATEGY + "waves: [{pins: [gate-01, gate-01]}, {fraction: 100%}]",
            "9:30: 'gate-01' comes twice in this list"),
        (STRATEGY + f"waves: [{'{fraction: 1%}, ' * 33}]", "expected at most 32 waves, got 33"),
        (STRATEGY + "on_inconclusive: stop", "9:22: expected pause | continue, got 'stop'"),
        (STRATEGY + "deadlines: {activation: 12}", "9:29: expected a duration with its unit, e.g."),
        (STRATEGY + "retry: {causes: [camera, ghosts]}", "9:30: expected release | camera | tra"),
        (STRATEGY + "retry: {attempts: 0}", "9:23: expected a whole number from 1 to 10, got '0'"),
        (STRATEGY + "window: {days: [monday], from: '22:00', to: '05:00'}", "did you mean 'mon'?"),
        (STRATEGY + "window: {from: '25:00', to: '05:00'}", '9:20: expected a time, "22:00"'),
        (STRATEGY + "window: {days: [mon], to: '05:00'}", "expected from in window, got none"),
        (STRATEGY + "window: {from: '05:00', to: '05:00'}", "expected a window of some length"),
        (STRATEGY + "window: {days: [], from: '05:00', to: '06:00'}", "expected at least one day"),
        (STRATEGY + "waves: [{fraction: 0%}, {fraction: 100%}]", "expected more than 0 %"),
        (STRATEGY + "waves: [{fraction: 10%}, {fraction: 101%}]", "expected a percentage (10%)"),
        (STRATEGY + "waves: [{fraction: -5%}, {fraction: 100%}]", "expected a percentage (10%)"),
        ("strategies: {S: {}}", "7:14: expected a name of a-z, 0-9 and '-', got 'S'"),
        ("rollouts: {r: {release: a@1, selector: '*', strategy: s, deny: [gate-3]}}",
            "7:65: expected a declared device, got 'gate-3'; did you mean 'gate-02'?"),
        ("rollouts: {r: {release: a@0, selector: '*', strategy: s}}", "7:25: expected name@"),
        ("rollouts: {a/#: {release: a@1, selector: '*', strategy: s}}", "7:12: expected a name"),
        ("rollouts: {r: {release: a, selector: '*', strategy: s}}", "expected name@version"),
        ("rollouts: {r: {release: a@1, selector: 'role=dor', strategy: s}}",
            "7:40: expected a selector that matches at least one device, got 'role=dor'"),
        ("rollouts: {r: {release: a@1, selector: 'role', strategy: s}}", "selector: expected key="),
        ("rollouts: {r: {release: a@1, selector: '*'}}", "expected strategy in a rollout, got"),
        ("strategies: {canary: {}}\nrollouts: {r: {release: a@1, selector: '*', strategy: canar}}",
            "8:55: expected one of strategies, got 'canar'; did you mean 'canary'?"),
        (PINNED + "rollouts: {r: {release: a@1, selector: role=dock, strategy: s}}",
            "8:40: pin 'gate-01' of strategy s is outside 'role=dock'"),
    ],
)  # fmt: skip
def test_an_error_has_its_place_what_was_expected_and_what_came(text: str, error: str) -> None:
    errors = errors_of(HEAD + DEVICES + text)

    assert any(error in line for line in errors), errors


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "1:1: expected a mapping, got an empty file"),
        ("version: 1\n  fleet: [", "2:8: expected YAML"),
        ("a\n---\nb", "expected YAML"),
        ("version: 2\nfleet: a\nbroker: {embedded: true}\ndevices: {a: {}}", "1:10: expected vers"),
        ("fleet: a\nbroker: {embedded: true}\ndevices: {a: {}}", "expected version in fleet.yaml"),
        (HEAD + "devices: {a: {}, a: {}}", "4:18: 'a' comes twice, first in line 4"),
        (HEAD + "devices:\n  d-[01:03]: {}\n  d-02: {}", "6:3: device 'd-02' comes twice"),
        (HEAD + "devices:\n  d-[3:1]: {}", "5:3: expected a range that goes up"),
        (HEAD + "devices:\n  d-[1:999999]: {}", "5:3: expected a range that goes up, of 1 to"),
        (HEAD + "devices:\n  Gate/+: {}", "5:3: expected a name of a-z"),
        (HEAD + "devices: {}", "4:10: expected at least one device"),
        (
            HEAD + "devices: {a: {label: {}}}",
            "unknown key 'label' in a device; did you mean 'labels'",
        ),
        (HEAD + "devices: {a: {labels: {ro le: x}}}", "4:24: expected a label's name of a-z"),
        (HEAD + "devices: {a: {cameras: {0: {kind: modlib}}}}", "unknown key 'kind' in a camera"),
        (HEAD + "devices: {a: {cameras: {}}}", "4:24: expected at least one camera"),
        (HEAD + "devices: {'a#': {}, '+': {}, a.b: {}}", "4:11: expected a name of a-z"),
        (HEAD + "devices: [a]", "4:10: expected a mapping (key: value), got a list"),
        (
            "version: 1\nfleet: Site/A\nbroker: {embedded: true}\ndevices: {a: {}}",
            "2:8: expected a na",
        ),
        (
            "version: 1\nfleet: a\nbroker: {embedded: true, url: 'mqtt://x'}\ndevices: {a: {}}",
            "3:9: expected either url or `embedded: true`",
        ),
        (HEAD + "devices:\n  a: {cameras: {9: {}}}", "5:17: expected a whole number from 0 to 3"),
        ("version: 1\nfleet: a\nbroker: {}\ndevices: {a: {}}", "3:9: expected either url or"),
        (
            "version: 1\nfleet: a\nbroker: {url: tcp://x}\ndevices: {a: {}}",
            "3:15: expected mqtt://",
        ),
        (HEAD + "devices: &d\n  a: *d", "in a device"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_says_so(text: str, error: str) -> None:
    errors = errors_of(text)

    assert any(error in line for line in errors), errors


def test_all_errors_of_a_file_are_told_at_once() -> None:
    errors = errors_of(
        HEAD + DEVICES + "defualts: {}\nstrategies: {s: {max_failed: x, probe: {n: 1}}}"
    )

    assert [line.split(": ")[0] for line in errors] == [
        "fleet.yaml:7:1",
        "fleet.yaml:8:30",
        "fleet.yaml:8:41",
    ]


def test_ranges_expand_as_in_ansible() -> None:
    fleet = parse_fleet(HEAD + "devices:\n  a-[8:10]: {}\n  b-[01:03:2]: {}\n  c[a:b]-[1:2]x: {}\n")

    assert list(fleet.devices) == [
        "a-8", "a-9", "a-10", "b-01", "b-03", "ca-1x", "ca-2x", "cb-1x", "cb-2x",
    ]  # fmt: skip


def test_the_reference_is_what_the_types_say() -> None:
    assert (ROOT / "docs/reference/fleet-yaml.md").read_text() == reference()


def test_the_root_s_fleet_is_the_demo_s_and_its_strategies_can_be_used() -> None:
    fleet = load_fleet(ROOT / "fleet.yaml")

    assert (fleet.name, list(fleet.devices)) == ("demo", ["cam-1", "cam-2", "cam-3"])
    assert all(strategy.waves for strategy in fleet.strategies.values())


def test_a_file_that_is_no_text_or_too_long_is_an_error_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"

    path.write_bytes(b"fleet: \xff")
    with pytest.raises(InventoryError, match="1:1: expected UTF-8"):
        load_fleet(path)
    path.write_bytes(b"#" * (FLEET_YAML_BYTES + 1))
    assert main([str(path)]) == 1


def test_a_missing_file_is_an_error_of_the_operator_s(tmp_path: Path) -> None:
    assert main([str(tmp_path / "fleet.yaml")]) == 1
    with pytest.raises(OperatorError, match="fleetctl init"):
        load_fleet(tmp_path / "fleet.yaml")
