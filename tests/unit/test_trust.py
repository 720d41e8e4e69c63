"""What an honest fleet and an honest device see."""

from datetime import timedelta

import pytest

from shared.assignment import parse_selector
from shared.errors import UntrustedError
from shared.limits import REFUSED_ENTRIES_REPORTED_MAX
from shared.plan import refused_entries, selector_text
from shared.trust import has_rotated, open_bundle, open_journal, open_root
from tests.making import FLEET, NOW, Site, digest_of, entry


def test_the_first_bundle_is_judged_by_the_card_s_root() -> None:
    site = Site.make()

    first = site.judge(site.bundle)

    assert (first.version, first.plan, first.listed, first.root_version) == (1, (), {}, 1)
    assert first.root == site.card_root
    assert first.expires == NOW + timedelta(days=90)


def test_versions_may_be_missed() -> None:
    site = Site.make()
    journal = site.bundle
    for _ in range(5):
        newest = site.plan()

    assert site.judge(newest, journal).version == 6


def test_many_plans_in_a_row_are_accepted_each_over_the_one_before() -> None:
    site = Site.make()
    journal = site.judge(site.bundle).data

    for number in range(1, 6):
        site.list_releases(f"helmet@{number}")
        judged = site.judge(site.plan(entry(f"helmet@{number}")), journal)
        journal = judged.data

    assert judged.listed == {f"helmet@{n}": digest_of(f"helmet@{n}") for n in range(1, 6)}
    assert open_journal(journal, fleet=FLEET, card_root=site.card_root) == judged


def test_a_journal_opens_long_after_it_expired_and_says_so() -> None:
    site = Site.make(now=NOW - timedelta(days=1000))

    opened = open_journal(site.bundle, fleet=FLEET, card_root=site.card_root)

    assert opened.version == 1
    assert opened.is_expired(NOW)
    assert not opened.is_expired(None)


def test_without_a_clock_a_bundle_is_as_old_as_its_signature() -> None:
    site = Site.make()

    judged = site.judge(site.bundle, now=None)

    assert not judged.is_expired(None)
    assert judged.is_expired(judged.expires)
    assert not judged.is_expired(NOW - timedelta(days=3000))


def test_a_controller_reads_a_stranger_s_bundle_whatever_its_version() -> None:
    site = Site.make()
    twin = Site(site.keys, site.repository, site.now)
    site.plan(entry())
    for _ in range(3):
        twin.plan()

    theirs = open_bundle(twin.bundle, fleet=FLEET, root=site.repository.root)

    assert theirs.version > site.repository.version
    assert theirs.data != site.bundle


def test_a_root_tells_its_fleet() -> None:
    site = Site.make(is_demo=True)

    root = open_root(site.card_root, fleet=FLEET)

    assert (root.version, root.fleet, root.is_demo) == (1, FLEET, True)
    with pytest.raises(UntrustedError) as caught:
        open_root(site.card_root, fleet="site-b")
    assert caught.value.code == "fleet"


def test_the_same_root_has_not_rotated() -> None:
    site = Site.make()
    first = site.repository.root
    site.rotate()

    assert not has_rotated(first, first)
    assert has_rotated(first, site.repository.root)


def test_no_more_refused_entries_are_reported_than_fit() -> None:
    plan = [entry("ghost@1", f"r-{n}") for n in range(20)]

    assert len(refused_entries(plan, {})) == REFUSED_ENTRIES_REPORTED_MAX


@pytest.mark.parametrize("text", ["*", "role=door", "a!=b,role=door"])
def test_a_selector_has_one_text(text: str) -> None:
    assert selector_text(parse_selector(text)) == text
    assert parse_selector(selector_text(parse_selector(text))) == parse_selector(text)
