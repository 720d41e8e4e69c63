"""Labels are changed in the text that people wrote, and nothing else of it is."""

import pytest

from controller.inventory import parse_fleet
from controller.labelling import parse_changes, relabelled
from shared.errors import InventoryError, OperatorError

HEAD = """\
version: 1
fleet: site-a   # the first one
broker: {embedded: true}
defaults: {labels: {site: a}}
devices:
"""
TAIL = """
# strategies follow
strategies: {}
"""

BLOCK = """\
  cam-1:
    labels:
      role: door # a door
      view: rear
    # the camera
    camera: simulated"""
BLOCK_AFTER = """\
  cam-1:
    labels:
      {role: dock, view: rear}
    # the camera
    camera: simulated"""


def changed(written: str, **changes: str | None) -> str:
    """Return what becomes of the devices' lines when cam-1 gets other labels."""
    after = relabelled(HEAD + written + TAIL, "cam-1", changes)
    assert after.startswith(HEAD)
    assert after.endswith(TAIL)
    return after[len(HEAD) : -len(TAIL)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("  cam-1: {}  # new", "  cam-1: {labels: {role: dock}}  # new"),
        ("  cam-1: {camera: simulated}", "  cam-1: {labels: {role: dock}, camera: simulated}"),
        (
            "  cam-1: {labels: {role: door, view: rear}} # old",
            "  cam-1: {labels: {role: dock, view: rear}} # old",
        ),
        (BLOCK, BLOCK_AFTER),
        (
            "  cam-1:\n    # its camera\n    camera: simulated",
            "  cam-1:\n    # its camera\n    labels: {role: dock}\n    camera: simulated",
        ),
    ],
)
def test_only_the_labels_change(before: str, after: str) -> None:
    assert changed(before, role="dock") == after


def test_a_label_is_taken_away_and_words_that_yaml_misreads_are_quoted() -> None:
    after = changed("  cam-1: {labels: {role: door}}", role=None, light="off", row="7")

    assert after == '  cam-1: {labels: {light: "off", row: "7"}}'
    fleet = parse_fleet(HEAD + after + TAIL)
    assert fleet.devices["cam-1"].settings.labels == {"site": "a", "light": "off", "row": "7"}


@pytest.mark.parametrize(
    ("written", "changes", "text"),
    [
        ("  cam-[1:3]: {}", {"role": "dock"}, "only by a range"),
        ("  cam-1: {}", {"site": None}, "one of `defaults` can only be changed there"),
        ("  cam-1: {}", {"role": "Front door"}, "label's value"),
        ("  a: &x {labels: {role: door}}\n  cam-1: *x", {"role": "dock"}, "cannot be edited"),
    ],
)
def test_what_cannot_be_done_is_refused(
    written: str, changes: dict[str, str | None], text: str
) -> None:
    with pytest.raises((OperatorError, InventoryError), match=text):
        changed(written, **changes)


def test_changes_are_written_as_key_value_and_key_minus() -> None:
    assert parse_changes(("role=door", "view-", "a-b=c")) == {
        "role": "door", "view": None, "a-b": "c"
    }  # fmt: skip
    for wrong in ("role", "=door", "role=", "-"):
        with pytest.raises(OperatorError, match="expected key=value"):
            parse_changes((wrong,))
