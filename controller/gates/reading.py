"""Read ``gates`` of a strategy in fleet.yaml."""

from yaml.nodes import Node

from controller.document import Fields, Key, Problems, Reader, Section, integer, percentage
from controller.gates.rules import Gates

DNN_MS_MAX = 1_000  # A release below one frame a second is no release for this sensor.
RESTARTS_MAX = 1_000
FALSE_ABORT_MAX = 200  # Permille; above it, a coin would do.

GATES = Section(
    "gates",
    (
        Key("dnn_ms", "number", "highest median inference time"),
        Key("golden", "percentage", "least golden objects found again"),
        Key("restarts", "count", "most restarts of the stream"),
        Key("detections_change", "percentage", "most change of detections a frame, old to new, "
            "beyond that of cameras that changed nothing"),
        Key("scores_change", "percentage", "the same of the mean score"),
        Key("false_abort", "percentage", "how often all of these together may stop a good release",
            "1%"),
    ),
)  # fmt: skip


def read_gates(node: Node, problems: Problems, *, valid_rate_permille: int) -> Gates:
    """Return the gates; the probe's rate of valid outputs is one of them wherever any is."""
    fields = Fields(node, problems, GATES)
    none: int | None = None
    default = Gates()
    return Gates(
        valid_rate_permille=valid_rate_permille,
        dnn_ms=fields.take("dnn_ms", integer(1, DNN_MS_MAX), none),
        golden_permille=fields.take("golden", _between(1, 1000), none),
        restarts=fields.take("restarts", integer(0, RESTARTS_MAX), none),
        detections_permille=fields.take("detections_change", _between(10, 1000), none),
        scores_permille=fields.take("scores_change", _between(10, 1000), none),
        false_abort_permille=fields.take(
            "false_abort", _between(1, FALSE_ABORT_MAX), default.false_abort_permille
        ),
    )


def _between(low: int, high: int) -> Reader[int]:
    """Read a percentage that means something: 0 % would stop every release, or none."""

    def read(node: Node, problems: Problems) -> int | None:
        found = percentage(node, problems)
        if found is not None and not low <= found <= high:
            problems.expected(node, f"a percentage from {low / 10:g}% to {high / 10:g}%")
            return None
        return found

    return read
