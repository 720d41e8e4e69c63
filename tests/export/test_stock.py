"""What `yolo export format=imx` leaves can be looked at, and becomes a release."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from controller.export.convert import network_name
from controller.export.foreign import foreign_package, is_foreign, read_foreign
from controller.export.placing import centre_crop, letterbox
from controller.export.predict import Predictor
from controller.export.sources import open_source
from shared.errors import ExportError
from shared.graph import Graph
from tests.export.conftest import DETECTOR_PIXELS
from tests.export.matching import Seen, pairs_of
from tests.export.project import Built, Site, say, ultralytics_says

pytestmark = [
    pytest.mark.export,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore"),
]

PIXELS = DETECTOR_PIXELS
WIDTH, HEIGHT = 160, 120  # Of the pictures: the network sees them smaller, with grey around.
THRESHOLD = 0.25
PICTURES = 8
SIZES = [(640, 480), (1920, 1080), (77, 31), (33, 32), (64, 64), (1000, 40), (3, 3000)]
# Pixels and score apart, and the share of objects that are nearer. One level of grey apart, as both
# place an oblong picture, numbers fall on other steps of the quantised network.
SAME, NEAR = (1.0, 0.05, 0.95), (6.0, 0.1, 0.7)
DNN_PARAMS = (
    """<dnnParams><networks><network name="model_imx">{}</network></networks></dnnParams>"""
)
TENSOR = '<outputTensor ordinal="{}"><dimension ordinal="0" size="{}"/></outputTensor>'


@pytest.fixture(scope="session")
def stock(detector: Built, folder: Path) -> Path:
    """Return the folder that Ultralytics reads of the detector, named as it names all of them.

    Plain Ultralytics would take ten minutes to make one: `make bench-export` has it do so.
    """
    place = folder / "stock" / "shapes_imx_model"
    shutil.copytree(detector.folder, place)
    (network,) = place.glob("*.onnx")
    network.rename(place / "model_imx.onnx")
    parameters = place / "dnnParams.xml"
    own = detector.manifest.network_name.encode()
    parameters.write_bytes(parameters.read_bytes().replace(own, b"model_imx"))
    return place


@pytest.fixture(scope="session")
def pictures(detector: Built, folder: Path) -> Path:
    """Return a folder of held-out pictures that are no squares."""
    place = folder / "oblong"
    place.mkdir()
    held_out = sorted((detector.data.parent / "images" / "test").iterdir())[:PICTURES]
    for number, path in enumerate(held_out):
        with Image.open(path) as image:
            image.convert("RGB").crop((0, 0, WIDTH, HEIGHT)).save(place / f"{number}.png")
    return place


@pytest.fixture(scope="session")
def imported(site: Site, stock: Path) -> dict[str, object]:
    done = site.fleetctl(
        "model", "import", str(stock), "--name", "stock", "--version", "1", "-o", "json"
    )
    assert done.code == 0, done.said[-3000:]
    status: dict[str, object] = json.loads(done.out)
    return status


@pytest.mark.parametrize("form", ["square", "oblong"])
def test_a_stock_folder_shows_what_ultralytics_sees_in_it(
    site: Site, stock: Path, pictures: Path, tmp_path: Path, form: str
) -> None:
    given = pictures if form == "oblong" else _placed(pictures, tmp_path)
    pixels, score, share = NEAR if form == "oblong" else SAME

    ours, theirs = _predicted(site, str(stock), given), _ultralytics(stock, given)

    pairs = [pair for a, b in zip(ours, theirs, strict=True) for pair in pairs_of(a, b)]
    apart = [
        (max(abs(x - y) for x, y in zip(a.box, b.box, strict=True)), abs(a.score - b.score))
        for a, b, _ in pairs
    ]
    together = sum(p <= pixels and s <= score for p, s in apart)
    number = sum(len(a) + len(b) for a, b in zip(ours, theirs, strict=True)) - len(pairs)
    say(
        f"predict and Ultralytics on a stock folder: {together} of {number} objects together, the "
        f"worst pair {max(p for p, _ in apart):.2f} px, {max(s for _, s in apart):.3f}"
    )
    assert number >= PICTURES // 2
    assert together / number >= share


def test_an_imported_release_has_a_name_of_its_own_everywhere(
    site: Site, stock: Path, imported: dict[str, object]
) -> None:
    assert network_name(stock / "dnnParams.xml") == "model_imx"
    manifest, files = site.stored("stock@1")

    name = manifest.network_name
    assert imported["is_signed"]
    assert re.fullmatch("n[0-9a-f]{12}", name)
    assert f'name="{name}"'.encode() in files["dnn_params"]
    assert b"model_imx" not in files["dnn_params"]
    assert Graph(files["simulator"]).network_name == name
    assert manifest.provenance["onnx_sha256"] == read_foreign(stock).sha256
    assert manifest.provenance["imported_from"] == "model_imx.onnx"
    assert manifest.memory_bytes > 0
    assert site.fleetctl("release", "verify", "stock@1").code == 0


def test_a_name_that_stands_for_something_else_is_refused_at_once(
    site: Site, detector: Built, stock: Path
) -> None:
    name = detector.manifest.name

    done = site.fleetctl("model", "import", str(stock), "--name", name, "--version", "1")

    assert done.code == 1
    assert f"{name}@1 is already in the store with other content" in done.said
    assert "convert" not in done.out


def test_an_imported_release_sees_what_its_folder_saw(
    site: Site, stock: Path, imported: dict[str, object], pictures: Path
) -> None:
    assert imported["release"] == "stock@1"

    assert _predicted(site, "stock@1", pictures) == _predicted(site, str(stock), pictures)


@pytest.mark.parametrize("picture", SIZES)
@pytest.mark.parametrize("size", [(320, 320), (640, 384), (64, 96)])
def test_a_picture_is_placed_as_ultralytics_places_it(
    picture: tuple[int, int], size: tuple[int, int]
) -> None:
    from ultralytics.data.augment import LetterBox, classify_transforms  # noqa: PLC0415

    pixels = np.random.default_rng(1).integers(0, 256, (*picture[::-1], 3), np.uint8)

    boxed = LetterBox(size[::-1])(image=pixels).astype(int) - letterbox(pixels, size).pixels
    transform = classify_transforms(size[0] if size[0] == size[1] else size[::-1])
    cropped = (transform(Image.fromarray(pixels)).numpy() * 255).round().transpose(1, 2, 0)

    assert np.abs(boxed).max() <= 1
    assert np.abs(boxed).mean() < 0.2
    assert (cropped == centre_crop(pixels, size).pixels).all()


def test_a_video_is_seen_frame_by_frame_in_its_colours(tmp_path: Path) -> None:
    import cv2  # noqa: PLC0415 - the export extra has it.

    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for level in (0, 100, 200):
        frame = np.full((48, 64, 3), level, np.uint8)
        frame[..., 2] = 255  # Red, as OpenCV counts.
        writer.write(frame)
    writer.release()

    source = open_source(clip)
    pictures = list(source.pictures)

    assert source.count == len(pictures) == 3
    assert [one.name for one in pictures] == [f"clip.avi frame {n}" for n in (1, 2, 3)]
    assert len({one.file_name for one in pictures}) == 3
    for picture, level in zip(pictures, (0, 100, 200), strict=True):
        red, green, blue = picture.pixels.reshape(-1, 3).mean(axis=0)
        assert (red, green, blue) == pytest.approx((255, level, level), abs=8)


def test_coordinates_that_are_off_are_shown_with_a_warning(tmp_path: Path) -> None:
    from tests.export import sonys  # noqa: PLC0415 - imports torch.

    folder = _tiny(tmp_path / "off", sonys.exported(sonys.Detector(moved_cells=0.01), tmp_path))

    package, warnings = foreign_package(folder, tmp_path)

    assert len(warnings) == 1
    assert "off by 0.0" in warnings[0]
    assert "fleetctl model build" in warnings[0]
    seen = Predictor(package).predict(np.full((32, 48, 3), 90, np.uint8))
    assert seen.problems == ()


def test_exact_coordinates_need_no_warning(tmp_path: Path) -> None:
    from tests.export import sonys  # noqa: PLC0415 - imports torch.

    folder = _tiny(tmp_path / "exact", sonys.exported(sonys.Detector(), tmp_path))

    assert is_foreign(folder)
    assert foreign_package(folder, tmp_path)[1] == ()


def test_a_folder_that_is_no_export_is_refused(tmp_path: Path) -> None:
    import onnx  # noqa: PLC0415

    from tests.export import sonys  # noqa: PLC0415 - imports torch.

    good = _tiny(tmp_path / "good", sonys.exported(sonys.Detector(), tmp_path))

    def broken(how: str) -> str:
        folder = tmp_path / how.replace(" ", "-")
        shutil.copytree(good, folder)
        network = folder / "model_imx.onnx"
        model = onnx.load(network)
        match how:
            case "no network":
                network.write_bytes(b"not one")
            case "two networks":
                shutil.copyfile(network, folder / "other.onnx")
            case "no parameters":
                (folder / "dnnParams.xml").unlink()
            case "another task":
                onnx.helper.set_model_props(model, {"task": "obb", "names": "{0: 'a'}"})
                onnx.save(model, network)
            case "code for names":
                onnx.helper.set_model_props(model, {"task": "detect", "names": "__import__('os')"})
                onnx.save(model, network)
        with pytest.raises(ExportError) as raised:
            read_foreign(folder)
        return str(raised.value)

    assert "is not an ONNX file" in broken("no network")
    assert "expected one .onnx file" in broken("two networks")
    assert "there is no" in broken("no parameters")
    assert "got the task 'obb'" in broken("another task")
    assert "metadata names does not read" in broken("code for names")


def _predicted(site: Site, network: str, pictures: Path) -> list[list[Seen]]:
    done = site.fleetctl(
        "model", "predict", network, str(pictures), "--conf", str(THRESHOLD), "-o", "json"
    )
    assert done.code == 0, done.said[-3000:]
    return [
        [Seen(one["label"], tuple(one["box"]), one["score"]) for one in document["objects"]]
        for document in json.loads(done.out)
    ]


def _placed(pictures: Path, folder: Path) -> Path:
    for path in pictures.iterdir():
        with Image.open(path) as image:
            placed = letterbox(np.asarray(image.convert("RGB")), (PIXELS, PIXELS))
        Image.fromarray(placed.pixels).save(folder / path.name)
    return folder


def _ultralytics(stock: Path, pictures: Path) -> list[list[Seen]]:
    frames = []
    for path in sorted(pictures.iterdir()):
        with Image.open(path) as image:
            frames.append(np.asarray(image.convert("RGB")))
    answers = ultralytics_says(stock, frames, imgsz=PIXELS, threshold=THRESHOLD)
    height, width = frames[0].shape[:2]
    scale = (width, height, width, height)
    return [
        [
            Seen(
                str(one["label"]),
                tuple(a * b for a, b in zip(one["box"], scale, strict=True)),  # type: ignore[call-overload]
                float(str(one["score"])),
            )
            for one in answer
        ]
        for answer in answers
    ]


def _tiny(folder: Path, network: Path) -> Path:
    """Make such a folder of a tiny network: what stock export writes beside it, in short."""
    import onnx  # noqa: PLC0415

    folder.mkdir()
    model = onnx.load(network)
    names = "{0: 'circle', 1: 'square', 2: 'triangle'}"
    onnx.helper.set_model_props(model, {"task": "detect", "names": names})
    onnx.save(model, folder / "model_imx.onnx")
    tensors = "".join(TENSOR.format(n, size) for n, size in enumerate((24, 6, 6, 1)))
    (folder / "dnnParams.xml").write_text(DNN_PARAMS.format(tensors))
    return folder
