"""Build the Debian packages: ``python packaging/build.py --arch arm64 --arch amd64``.

A package holds a virtual environment that is ready to run: nothing is fetched, compiled or resolved
on the device, and dpkg knows every file. pip takes wheels for the device's processor and Python,
which need not be this machine's; nfpm packs them. What only cameras need comes in packages of its
own, each in a folder beside the environment that a ``.pth`` file adds to it.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from string import Template

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent
HOME = "/opt/fleet-agent"
# Debian's name, the wheels', and the newest glibc that Debian 12 can run.
MACHINES = {"arm64": "aarch64", "amd64": "x86_64"}
GLIBC = ("2014", "_2_24", "_2_27", "_2_28", "_2_31", "_2_34", "_2_35", "_2_36")
NOT_FOR_DEVICES = ("bin", "controller")  # Scripts name this machine's Python.


@dataclass(frozen=True, slots=True)
class Overlay:
    """What one kind of camera needs: an extra of pyproject.toml, and Debian's packages."""

    name: str
    extra: str
    description: str
    depends: tuple[str, ...] = ()
    architectures: tuple[str, ...] = tuple(MACHINES)


OVERLAYS = (
    Overlay(
        "modlib",
        "camera",
        "Lets fleet-agent run the AI Camera through Sony's modlib",
        depends=("libgl1", "libglib2.0-0", "libarchive13"),
        architectures=("arm64",),
    ),
    Overlay("simulated", "sim", "Lets fleet-agent simulate a camera, without any hardware"),
)


@dataclass(frozen=True, slots=True)
class Target:
    """What a set of packages is built for."""

    arch: str
    python: str  # major.minor
    versions: tuple[str, ...]
    stage: Path
    out: Path

    @property
    def wheels(self) -> list[str]:
        """Return pip's arguments for wheels of this target."""
        machine = MACHINES[self.arch]
        platforms = [f"--platform=manylinux{glibc}_{machine}" for glibc in GLIBC]
        which = [f"--python-version={self.python}", "--implementation=cp", "--only-binary=:all:"]
        return [*which, *platforms, f"--constraint={HERE / 'constraints.txt'}"]


def main() -> None:
    """Build what was asked for."""
    arguments = _parser().parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    versions = tuple(arguments.version or [project["version"]])
    arguments.out.mkdir(parents=True, exist_ok=True)
    for arch in arguments.arch or MACHINES:
        stage = ROOT / "build" / "deb" / arch
        shutil.rmtree(stage, ignore_errors=True)
        target = Target(arch, arguments.python, versions, stage, arguments.out)
        _build_agent(target)
        for overlay in OVERLAYS:
            is_wanted = overlay.name in arguments.overlays and arch in overlay.architectures
            if is_wanted:
                wanted = project["optional-dependencies"][overlay.extra]
                _build_overlay(target, overlay, wanted)


def _build_agent(target: Target) -> None:
    venv = target.stage / "venv"
    packages = venv / "lib" / f"python{target.python}" / "site-packages"
    _run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir",
         str(target.stage), str(ROOT))  # fmt: skip
    (wheel,) = target.stage.glob("imxfleet-*.whl")
    _install(target, packages, [str(wheel)])
    (venv / "pyvenv.cfg").write_text(
        # The system's libcamera and picamera2 are to be seen, after what is ours.
        f"home = /usr/bin\ninclude-system-site-packages = true\nversion = {target.python}\n"
    )
    (venv / "bin").mkdir()
    launcher = venv / "bin" / "fleet-agent"
    shutil.copyfile(HERE / "fleet-agent.launcher", launcher)
    launcher.chmod(0o755)
    _pack(target, "fleet-agent.yaml", {})


def _build_overlay(target: Target, overlay: Overlay, wanted: list[str]) -> None:
    shutil.rmtree(target.stage / "overlay", ignore_errors=True)
    _install(target, target.stage / "overlay", wanted)
    (target.stage / "overlay.pth").write_text(f"{HOME}/{overlay.name}\n")
    depends = json.dumps(["fleet-agent (= ${VERSION})", *overlay.depends])
    words = {"OVERLAY": overlay.name, "DESCRIPTION": overlay.description, "DEPENDS": depends}
    _pack(target, "overlay.yaml", words)


def _install(target: Target, folder: Path, wanted: list[str]) -> None:
    _run(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         "--no-compile", f"--target={folder}", *target.wheels, *wanted)  # fmt: skip
    for name in NOT_FOR_DEVICES:
        shutil.rmtree(folder / name, ignore_errors=True)
    for path in folder.glob("*.dist-info/direct_url.json"):  # Where it lay on this machine.
        path.unlink()


def _pack(target: Target, template: str, words: dict[str, str]) -> None:
    major, minor = target.python.split(".")
    common = {
        "ARCH": target.arch,
        "PYTHON": target.python,
        "PYTHON_NEXT": f"{major}.{int(minor) + 1}",
        "STAGE": str(target.stage),
    }
    text = Template((HERE / template).read_text(encoding="utf-8")).safe_substitute(common | words)
    nfpm = Path(sys.executable).with_name("nfpm")
    config = target.stage / template
    for version in target.versions:
        config.write_text(Template(text).substitute(VERSION=version), encoding="utf-8")
        _run(str(nfpm), "package", "--packager=deb", f"--config={config}", f"--target={target.out}")


def _run(*command: str) -> None:
    subprocess.run(command, cwd=ROOT, check=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="packaging/build.py", description=__doc__)
    parser.add_argument("--arch", action="append", choices=MACHINES, help="default: all")
    parser.add_argument("--python", default="3.11", help="the device's; Debian 12: %(default)s")
    parser.add_argument("--version", action="append", help="default: the project's")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    names = [overlay.name for overlay in OVERLAYS]
    parser.add_argument("--overlays", nargs="*", choices=names, default=names)
    return parser


if __name__ == "__main__":
    main()
