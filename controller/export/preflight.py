"""What can be known in seconds before minutes are spent. Imports no torch.

Every finding says what was found, and what to do where it does not do. ``model check`` shows all of
them; ``model build`` ends with the first that is refused. Both look at the same.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from controller.export import machine
from controller.export.checkpoint import WHAT_TO_DO, read_checkpoint
from controller.export.dataset import check_match, open_dataset
from controller.export.finding import Finding, RefusedFindingError, refusal
from controller.export.fit import judge, predict_bytes, side_that_fits, squeezed_bytes
from controller.export.network import TASKS, Network
from controller.export.structure import SUFFIXES, read_structure
from controller.export.wire import KEPT_SUFFIX, BuildRequest
from shared.decode.labels import write_labels
from shared.errors import ExportError, RefusedError
from shared.release import INPUT_PIXELS_MAX, INPUT_PIXELS_MIN, SENSOR_MEMORY_BYTES

STRIDE_PIXELS = 32  # The coarsest grid of a YOLO network.
IMAGES_RECOMMENDED = 300  # By Sony, to calibrate with.
SMALLER = "yolo11n or yolov8n, at full width or less"


def check(request: BuildRequest, *, work: Path) -> None:
    """Refuse a build that cannot succeed.

    Args:
        request: What is to be built.
        work: Where temporary files will lie.

    Raises:
        ExportError: It says which expectation is not met and what to do.
    """
    for finding in examine(request, work=work):
        if finding.verdict == "refused":
            raise ExportError(": ".join(filter(None, (finding.found, finding.remedy))))


def examine(request: BuildRequest, *, work: Path) -> Iterator[Finding]:
    """Yield what is found, the cheap and the likely first.

    Args:
        request: What is to be built; with neither data nor ``out`` it is only looked at.
        work: Where temporary files would lie.
    """
    yield _tried("input size", partial(_check_size, request))
    try:
        network = _read(request.model)
    except ExportError as error:
        yield refusal("model file", error)
    else:
        yield _read_finding(network)
        yield from _examine_network(network, request)
        yield from _examine_data(network, request)
    if request.out:
        yield _tried("output", partial(check_outputs, request))
    yield from _examine_machine(request, work)


def _examine_network(network: Network, request: BuildRequest) -> Iterator[Finding]:
    yield _tried("task", partial(_check_task, network))
    yield _tried("family", partial(_check_family, network))
    yield _tried("classes", partial(_check_classes, network))
    if network.family is not None and network.parameters:
        yield Finding(
            "scale",
            f"{network.called}: {network.parameters:,} parameters, {network.width:g} of full width",
        )
        yield _tried("fit on the chip", partial(_check_fit, network, request))


def _examine_data(network: Network, request: BuildRequest) -> Iterator[Finding]:
    if not (request.data or request.out):
        yield Finding("calibration data", "none named", "warned", "a build needs --data")
        return
    try:
        dataset = open_dataset(request.data)
    except ExportError as error:
        yield refusal("calibration data", error)
        return
    count = len(dataset.images)
    taken = min(round(count * request.fraction), request.calibration_images)
    found = f"{count} pictures, {taken} of them to calibrate with"
    if taken < IMAGES_RECOMMENDED:
        remedy = f"{IMAGES_RECOMMENDED} or more are recommended: fewer may cost accuracy"
        yield Finding("calibration data", found, "warned", remedy)
    else:
        yield Finding("calibration data", found)
    yield _tried("labels", lambda: Finding("labels", check_match(dataset, network)))


def _examine_machine(request: BuildRequest, work: Path) -> Iterator[Finding]:
    pixels = max(request.height, request.width)
    yield _tried("Python", machine.check_python)
    yield _tried("export extra", machine.check_extra)
    yield _tried("Java", machine.check_java)
    yield _tried("memory", partial(machine.check_memory, pixels, machine.memory_available()))
    yield _tried("disk", partial(machine.check_disk, work))


def _tried(what: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except ExportError as error:
        return refusal(what, error)


def _check_size(request: BuildRequest) -> Finding:
    for side in (request.height, request.width):
        if not INPUT_PIXELS_MIN <= side <= INPUT_PIXELS_MAX or side % STRIDE_PIXELS:
            raise RefusedFindingError(
                f"expected an image size of {INPUT_PIXELS_MIN} to {INPUT_PIXELS_MAX} pixels, "
                f"a multiple of {STRIDE_PIXELS}; got {side}",
                f"--imgsz {_nearest_size(side)}",
            )
    return Finding("input size", f"{request.height} high, {request.width} wide")


def _nearest_size(side: int) -> int:
    bounded = min(max(side, INPUT_PIXELS_MIN), INPUT_PIXELS_MAX)
    return round(bounded / STRIDE_PIXELS) * STRIDE_PIXELS


def _read(model: str) -> Network:
    path = Path(model)
    return read_structure(model) if path.suffix in SUFFIXES else read_checkpoint(path)


def _read_finding(network: Network) -> Finding:
    if network.is_trained:
        return Finding("model file", "a checkpoint that runs no foreign code")
    return Finding(
        "model file", "a structure without weights", "warned", f"to detect something: {WHAT_TO_DO}"
    )


def _check_task(network: Network) -> Finding:
    if network.task not in TASKS:
        raise RefusedFindingError(
            f"expected a model for {', '.join(TASKS)}, got one for {network.task.lower()}",
            f"train one of those tasks: {SMALLER}",
        )
    return Finding("task", network.task)


def _check_family(network: Network) -> Finding:
    if network.family is not None:
        return Finding("family", network.family)
    is_end2end = network.layers[-1:] and network.layers[-1].endswith("(end2end)")
    why = (
        "its head chooses its objects itself, without the NMS that the sensor's tools put in"
        if is_end2end
        else "its layers are not those of YOLO11n or YOLOv8n, which the sensor's tools take"
    )
    raise RefusedFindingError(
        f"the model is {network.called}, which cannot be exported: {why}",
        f"train {SMALLER}, with the same data",
    )


def _check_classes(network: Network) -> Finding:
    try:
        write_labels(network.labels)
    except RefusedError as error:
        raise RefusedFindingError(
            f"the model's class names do not do: {error}",
            "rename them in the data set and train again",
        ) from error
    shown = ", ".join(network.labels[:3]) + (", ..." if len(network.labels) > 3 else "")  # noqa: PLR2004
    points = f"; {network.keypoints[0]} keypoints" if network.keypoints else ""
    return Finding("classes", f"{len(network.labels)} ({shown}){points}")


def _check_fit(network: Network, request: BuildRequest) -> Finding:
    what = "fit on the chip"
    predicted = predict_bytes(
        parameters=network.parameters,
        width=network.width,
        height_pixels=request.height,
        width_pixels=request.width,
    )
    found = (
        f"about {predicted:,} of {SENSOR_MEMORY_BYTES:,} bytes "
        f"({predicted / SENSOR_MEMORY_BYTES:.0%}) at 8 bit"
    )
    fits = judge(predicted)
    if fits == "fits":
        return Finding(what, found)
    remedy = _remedy(network)
    if fits == "may not fit":
        return Finding(what, f"{found}: it may not fit", "warned", remedy)
    squeezed = squeezed_bytes(predicted, parameters=network.parameters)
    if request.mixed_precision != "always" or judge(squeezed) == "does not fit":
        raise RefusedFindingError(
            f"{network.called} does not fit the sensor: it needs {found}", remedy
        )
    return Finding(
        what, f"{found}: most weights would get 2 or 4 bits", "warned", "expect a loss of accuracy"
    )


def _remedy(network: Network) -> str:
    side = side_that_fits(parameters=network.parameters, width=network.width, step=STRIDE_PIXELS)
    if side < INPUT_PIXELS_MIN:
        return f"train {SMALLER}, with the same data"
    return f"--imgsz {min(side, INPUT_PIXELS_MAX)} or less, or a narrower network"


def check_outputs(request: BuildRequest) -> Finding:
    """Refuse folders that are in use, or that Ultralytics would not know.

    Raises:
        ExportError: It says which folder.
    """
    """Return where the package goes; refuse what is there already."""
    _check_new(Path(request.out))
    if request.keep is not None:
        if not request.keep.endswith(KEPT_SUFFIX):
            raise ExportError(
                f"expected a folder whose name ends in {KEPT_SUFFIX}, by which Ultralytics knows "
                f"it; got {request.keep}"
            )
        _check_new(Path(request.keep))
    return Finding("output", request.out)


def _check_new(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RefusedFindingError(f"{folder} is already there", "name a new folder")
