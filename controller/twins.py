"""What a demo or a test on twins needs of a workstation: a network that a twin's sensor runs.

A twin (agent/camera/twin) is a sensor of software below the real camera library. It runs the
simulator graph of a release, which therefore travels in the release's packerOut.zip and is packaged
on the device, by a stand-in for Sony's packer, as Sony's network is.
"""

import shutil
import stat
import sys
import zipfile
from pathlib import Path

from controller.export.pack import FILE_NAMES

PACKER_VARIABLE = "FLEET_AGENT_PACKER"
_PACKER = "agent.camera.twin.packager"
_DATE = (1980, 1, 1, 0, 0, 0)  # A fixed one: the same network is the same bytes.


def write_network(folder: Path, *, graph: Path, network: Path | None = None) -> Path:
    """Write a packerOut.zip for a twin: the graph beside what the network's own zip has."""
    path = folder / FILE_NAMES["network"]
    if network is not None:
        shutil.copyfile(network, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(FILE_NAMES["simulator"], _DATE), graph.read_bytes())
    return path


def write_packer(folder: Path) -> Path:
    """Write a program that stands in for ``imx500-package``, and return its path."""
    path = folder / "imx500-package"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {_PACKER} "$@"\n', encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path
