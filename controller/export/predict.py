"""What an exported network sees in pictures: its simulator graph, without fleet or torch."""

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import msgspec

from controller.export.convert import read_file
from controller.export.pack import FILE_NAMES, make_release
from controller.export.placing import Located, Pixels, centre_crop, letterbox
from shared.decode.labels import read_labels
from shared.decode.task import decoder_of
from shared.detections import Class
from shared.errors import ExportError, RefusedError
from shared.graph import Graph
from shared.limits import FILE_BYTES
from shared.release import Manifest

MS_DIGITS = 1
_PERMILLE = 1000


@dataclass(frozen=True, slots=True)
class Package:
    """What it takes to predict: the manifest, the simulator graph and the labels' file."""

    manifest: Manifest
    graph: bytes
    labels: bytes


class Prediction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a network sees in one picture.

    Attributes:
        width: Of the picture in pixels.
        height: Of the picture in pixels.
        ms: The graph's time on this machine; a sensor's is another.
        objects: Best first, in the picture's pixels; None for a classifier.
        classes: Best first; None for all but a classifier.
        problems: What is wrong with the network's values; a device would refuse the release.
    """

    width: int
    height: int
    ms: float
    objects: tuple[Located, ...] | None = None
    classes: tuple[Class, ...] | None = None
    problems: tuple[str, ...] = ()


class Predictor:
    """A loaded network.

    Attributes:
        undercut: The score below which the network itself puts nothing out on a sensor, where less
            is shown.
    """

    def __init__(self, package: Package, *, threshold: float | None = None) -> None:
        """Load it.

        Args:
            package: The network.
            threshold: The lowest score that is shown; None: the release's own.

        Raises:
            ExportError: Its simulator graph does not load.
        """
        manifest = package.manifest
        own = manifest.decode.threshold_permille / _PERMILLE
        wanted = own if threshold is None else threshold
        try:
            self._graph = Graph(package.graph, threads=0, score_threshold=min(own, wanted))
            self.labels = read_labels(package.labels)
        except RefusedError as error:
            raise ExportError(f"{manifest.release}: {error.text}") from error
        baked = None if self._graph.nms is None else own
        self.undercut = baked if baked is not None and wanted < baked else None
        self.size = (manifest.input.width, manifest.input.height)
        self._place = centre_crop if manifest.task == "classify" else letterbox
        self._is_bgr = manifest.input.color == "BGR"
        self._decode = decoder_of(manifest, self.labels, threshold=wanted)

    def predict(self, picture: Pixels) -> Prediction:
        """Return what the network sees in a picture (uint8, height x width x 3, RGB).

        Raises:
            ExportError: The graph does not run on it.
        """
        placed = self._place(picture, self.size)
        pixels = placed.pixels[..., ::-1] if self._is_bgr else placed.pixels
        began = perf_counter()
        try:
            tensors = self._graph.run(pixels)
        except RefusedError as error:
            raise ExportError(error.text) from error
        ms = round((perf_counter() - began) * 1000, MS_DIGITS)
        decoded = self._decode(tensors)
        objects = decoded.objects
        return Prediction(
            width=placed.picture[0],
            height=placed.picture[1],
            ms=ms,
            objects=None if objects is None else tuple(map(placed.locate, objects)),
            classes=decoded.classes,
            problems=decoded.problems,
        )


def read_package(folder: Path) -> Package:
    """Return the network of a package's folder, as `fleetctl model build` makes it.

    Raises:
        ExportError: A file is missing, or not what its name says.
    """
    graph, labels = (folder / FILE_NAMES[role] for role in ("simulator", "labels"))
    if not graph.is_file():
        raise ExportError(
            f"expected {graph.name} and {labels.name} in {folder}, or a folder that Ultralytics "
            "exported for the IMX500 (..._imx_model)"
        )
    manifest, _ = make_release({"simulator": graph, "labels": labels}, name="package", version=1)
    contents = [read_file(path, bytes_max=FILE_BYTES) for path in (graph, labels)]
    return Package(manifest, contents[0], contents[1])
