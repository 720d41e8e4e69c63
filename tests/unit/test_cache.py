"""What makes a build another one, and what is kept of it."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from controller.export import cache
from controller.export.wire import BuildRequest


@dataclass
class Bench:
    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir()
        (self.folder / "best.pt").write_bytes(b"weights")
        (self.folder / "data" / "val").mkdir(parents=True)
        (self.folder / "data" / "val" / "0.png").write_bytes(b"picture")
        (self.folder / "shapes.yaml").write_text("path: data\nval: val\nnames: [circle]\n")

    def request(self, **changes: object) -> BuildRequest:
        fields = {"model": self.folder / "best.pt", "data": self.folder / "shapes.yaml", "out": "o"}
        named = {name: str(value) for name, value in fields.items()}
        return BuildRequest(**{**named, **changes})  # type: ignore[arg-type]

    def key(self, **changes: object) -> str:
        key = cache.key_of(self.request(**changes))
        assert key is not None
        return key


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cache, "tools", lambda: {"torch": "1"})  # Not installed here.
    return Bench(tmp_path / "bench")


def package(bench: Bench, text: str) -> Path:
    folder = bench.folder / text
    folder.mkdir()
    (folder / "labels.txt").write_text(text)
    return folder


@pytest.mark.parametrize(
    "changes", [{"height": 64}, {"threshold_permille": 1}, {"seed": 1}, {"golden_images": 0},
                {"eval_images": 7}, {"method": "gptq"}],
)  # fmt: skip
def test_another_option_is_another_build(bench: Bench, changes: dict[str, object]) -> None:
    assert bench.key(**changes) != bench.key()


@pytest.mark.parametrize("changes", [{"out": "x"}, {"keep": "x_imx_model"}, {"seconds_max": 9}])
def test_where_it_goes_and_how_long_it_may_take_is_not(
    bench: Bench, changes: dict[str, object]
) -> None:
    assert bench.key(**changes) == bench.key()


def test_other_weights_or_data_are_another_build(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [bench.key()]
    (bench.folder / "best.pt").write_bytes(b"others!")
    keys.append(bench.key())
    picture = bench.folder / "data" / "val" / "0.png"
    os.utime(picture, ns=(1, 1))
    keys.append(bench.key())
    (bench.folder / "data" / "val" / "1.png").write_bytes(b"picture")
    keys.append(bench.key())
    monkeypatch.setattr(cache, "tools", lambda: {"torch": "2"})
    keys.append(bench.key())

    assert len(set(keys)) == len(keys)


def test_what_ultralytics_writes_beside_the_pictures_changes_nothing(bench: Bench) -> None:
    before = bench.key()

    (bench.folder / "data" / "val.cache").write_bytes(b"labels")

    assert bench.key() == before


def test_a_data_set_that_is_not_there_has_no_key(bench: Bench) -> None:
    assert cache.key_of(bench.request(data=str(bench.folder / "none.yaml"))) is None


def test_a_package_is_found_again_with_the_folder_that_it_was_kept_with(bench: Bench) -> None:
    key = bench.key()
    assert cache.find(key, needs_kept=False) is None

    cache.keep(key, package(bench, "one"), None)

    found = cache.find(key, needs_kept=False)
    assert found is not None
    assert (found / cache.PACKAGE / "labels.txt").read_text() == "one"
    assert cache.find(key, needs_kept=True) is None

    cache.keep(key, package(bench, "two"), package(bench, "kept"))

    found = cache.find(key, needs_kept=True)
    assert found is not None
    assert (found / cache.PACKAGE / "labels.txt").read_text() == "two"
    assert (found / cache.KEPT / "labels.txt").read_text() == "kept"


def test_only_the_newest_are_kept(bench: Bench) -> None:
    one = package(bench, "one")
    for number in range(cache.PACKAGES_MAX + 2):
        cache.keep(f"{number:064}", one, None)
        place = cache.find(f"{number:064}", needs_kept=False)
        assert place is not None
        os.utime(place, ns=(number * 10**9, number * 10**9))

    left = sorted(place.name for place in place.parent.iterdir())

    assert left == [f"{number:064}" for number in range(2, cache.PACKAGES_MAX + 2)]
