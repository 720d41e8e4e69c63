"""docs/architecture.md names every module, and none that is not there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("package", ["shared", "agent", "controller"])
def test_the_map_names_every_module_and_no_other(package: str) -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (section,) = re.findall(rf"^## {package}:.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(line for line in section.splitlines() if line.startswith("    "))

    named = re.findall(r"(?<![\w/.])[a-z_/]+\.py\b", lines)

    folder = ROOT / package
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*.py"))
    assert sorted(named) == sorted(name for name in found if not name.endswith("__init__.py"))
