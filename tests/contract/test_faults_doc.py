"""docs/faults.md: every fault names the test that shows it, and that test exists."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "faults.md"


def rows() -> list[list[str]]:
    lines = (line.strip().strip("|") for line in PAGE.read_text().splitlines() if line[:2] == "| ")
    cells = [[cell.strip() for cell in line.split(" | ")] for line in lines]
    return [row for row in cells if row[0] != "fault"]


def test_every_fault_says_what_happens_and_names_its_test() -> None:
    assert len(rows()) > 60
    for row in rows():
        assert len(row) == 3, row
        assert all(row), row


def test_every_test_that_the_page_names_exists() -> None:
    for *_, named in rows():
        file, _, name = named.strip("`").partition("::")
        text = (TESTS / file).read_text()
        assert re.search(rf"^def {name}\(", text, re.MULTILINE), named
