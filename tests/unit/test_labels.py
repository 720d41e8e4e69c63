import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.decode.labels import LABELS_BYTES, read_labels, write_labels
from shared.errors import LimitError, MalformedError
from shared.limits import LABELS_MAX, NAME_CHARACTERS_MAX

NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=64)


@given(st.lists(NAMES.filter(lambda name: bool(name.strip())), min_size=1, max_size=30))
def test_what_is_written_is_read(names: list[str]) -> None:
    assert read_labels(write_labels(names)) == tuple(names)


def test_the_last_line_may_lack_its_end() -> None:
    assert (
        read_labels(b"circle\nsquare") == read_labels(b"circle\nsquare\n") == ("circle", "square")
    )


def test_two_classes_may_share_a_name() -> None:
    assert read_labels(b"crane\ncrane\n") == (
        "crane",
        "crane",
    )  # ImageNet has a bird and a machine.


def test_as_many_and_as_long_as_the_limits_say() -> None:
    longest = "\N{GRINNING FACE}" * NAME_CHARACTERS_MAX
    data = write_labels([longest] * LABELS_MAX)

    assert len(data) == LABELS_BYTES
    assert len(read_labels(data)) == LABELS_MAX


@pytest.mark.parametrize(
    "data",
    [
        b"a" * (NAME_CHARACTERS_MAX + 1),
        b"a\n" * (LABELS_MAX + 1),
        b"\xff" * (LABELS_BYTES + 1),  # Counted before it is read.
    ],
)
def test_more_than_a_limit_is_refused(data: bytes) -> None:
    with pytest.raises(LimitError):
        read_labels(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"circle\n\nsquare\n",  # Skipped, it would give `square` another class.
        b"circle\n  \n",
        b"circle\tsquare\n",
        b"circle\nsquare\n\n",
        b"circle\r\nsquare\r\n",
        "circle\x85square\n".encode(),  # Where str.splitlines ends a line, too.
        "circle\u2028square\n".encode(),
        b"circle\x1csquare\n",
        b"\x1b[31mcircle\n",
        b"\xffcircle\n",
    ],
)
def test_what_is_no_list_of_names_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        read_labels(data)


@pytest.mark.parametrize("names", [[], [""], ["circle\nsquare"], ["circle\r"]])
def test_a_name_that_would_not_read_back_is_not_written(names: list[str]) -> None:
    with pytest.raises(MalformedError):
        write_labels(names)
