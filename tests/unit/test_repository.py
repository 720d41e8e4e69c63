import json
from dataclasses import replace
from datetime import timedelta

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import TargetFile, Targets

from controller.repository import (
    Repository,
    add_release,
    bundle_bytes,
    create,
    delist_release,
    repository_from_dict,
    rotate_controller,
    sign_plan,
)
from shared.assignment import Action, Probe, Window, parse_selector
from shared.errors import MalformedError, OperatorError, UnsignedError
from shared.limits import BUNDLE_BYTES, ENTRIES_MAX, RELEASES_LISTED_MAX
from tests.making import NOW, Site, digest_of, entry, forged, new_keys

DAY = timedelta(days=1)


def test_a_plan_comes_back_as_it_was_signed() -> None:
    site = Site.make()
    site.list_releases("helmet@8")
    plan = (
        entry(
            selector=parse_selector("role=door,site!=b"),
            pins=frozenset({"gate-02/1", "gate-01"}),
            deny=frozenset({"gate-09"}),
            window=Window(frozenset({"sun", "mon"}), 22 * 60, 5 * 60 + 30),
            probe=Probe(5, 800, 30),
            share=2**30,
        ),
        entry(rollout="r-0", action=Action.KEEP),
    )

    judged = site.judge(site.plan(*plan))

    assert judged.plan == plan
    assert judged.version == 2
    assert judged.listed == {"helmet@8": digest_of("helmet@8")}


def test_a_signed_entry_is_the_json_of_the_page() -> None:
    site = Site.make()
    window = Window(frozenset({"mon"}), 22 * 60, 5 * 60)
    site.plan(entry(selector=parse_selector("role=door"), window=window))

    signed = json.loads(site.files["timestamp.json"])["signed"]["x-imxfleet"]

    assert signed["fleet"] == "site-a"
    assert signed["plan"] == [
        {
            "rollout": "r-1",
            "attempt": 1,
            "action": "run",
            "release": "helmet@8",
            "manifest_sha256": digest_of("helmet@8"),
            "selector": "role=door",
            "pins": [],
            "salt": "r-1",
            "share": 2**32,
            "deny": [],
            "window": {"days": ["mon"], "from": "22:00", "to": "05:00"},
            "probe": {"seconds": 60, "valid_rate_permille": 900, "activation_seconds": 720},
        }
    ]


def test_each_signature_raises_the_version_and_renews_the_expiry() -> None:
    site = Site.make()
    first = site.repository

    site.plan(now=NOW + DAY)

    assert site.repository.version == first.version + 1
    assert first.expires == NOW + 90 * DAY
    assert site.repository.expires == NOW + 91 * DAY
    assert site.repository.at == NOW + DAY


def test_a_new_release_waits_for_the_next_plan() -> None:
    site = Site.make()
    site.list_releases("helmet@8")

    waiting = site.judge(site.bundle)
    taken_up = site.judge(site.plan())

    assert waiting.listed == {}
    assert list(taken_up.listed) == ["helmet@8"]


def test_several_releases_may_wait() -> None:
    site = Site.make()
    site.list_releases("helmet@8", "helmet@9", "belt@1")

    assert site.judge(site.bundle).listed == {}
    assert sorted(site.judge(site.plan()).listed) == ["belt@1", "helmet@8", "helmet@9"]


def test_a_signed_name_never_changes() -> None:
    site = Site.make()
    site.list_releases("helmet@8")
    other = digest_of("other")

    with pytest.raises(OperatorError, match="higher version"):
        add_release(site.repository, "helmet@8", other, 9, site.keys.release, NOW)

    again = add_release(
        site.repository, "helmet@8", digest_of("helmet@8"), 9, site.keys.release, NOW
    )
    assert again is site.repository


def test_the_name_of_a_delisted_release_stays_taken_even_in_the_store() -> None:
    site = Site.make()
    site.list_releases("helmet@8")
    site.plan(entry())
    delisted = delist_release(site.repository, "helmet@8", site.keys.release, NOW)

    kept = repository_from_dict(json.loads(json.dumps(delisted.to_dict())))

    with pytest.raises(OperatorError):
        add_release(kept, "helmet@8", digest_of("helmet@8"), 9, site.keys.release, NOW)


def test_a_revoked_release_is_delisted_and_reverted_in_one_bundle() -> None:
    site = Site.make()
    site.list_releases("helmet@8")
    before = site.plan(entry())
    site.repository = delist_release(site.repository, "helmet@8", site.keys.release, site.now)

    judged = site.judge(site.plan(entry(action=Action.REVERT)), before)

    assert judged.listed == {}
    assert judged.plan[0].action is Action.REVERT


@pytest.mark.parametrize("release", ["helmet", "helmet@0", "Helmet@1", "helmet@1/..", "@1", ""])
def test_a_name_that_is_no_release_is_not_signed(release: str) -> None:
    site = Site.make()

    with pytest.raises(OperatorError):
        add_release(site.repository, release, digest_of("x"), 9, site.keys.release, NOW)


def test_no_more_releases_are_signed_than_agents_take() -> None:
    site = Site.make()

    def fill(targets: Targets) -> None:
        for number in range(1, RELEASES_LISTED_MAX + 1):
            name = f"x@{number}"
            targets.targets[name] = TargetFile(9, {"sha256": digest_of(name)}, name)

    full = Repository("site-a", forged(site.files, site.keys, targets=fill), {})

    with pytest.raises(OperatorError, match="500"):
        add_release(full, "helmet@8", digest_of("x"), 9, site.keys.release, NOW)
    assert len(site.judge(bundle_bytes(full)).listed) == RELEASES_LISTED_MAX
    assert len(bundle_bytes(full)) < BUNDLE_BYTES // 2


def test_a_clock_behind_the_last_plan_signs_nothing() -> None:
    site = Site.make()
    site.plan(now=NOW + DAY)

    with pytest.raises(OperatorError, match="clock"):
        sign_plan(site.repository, (), site.keys.controller, NOW)


def test_a_key_that_the_root_does_not_name_signs_nothing() -> None:
    site = Site.make()
    stranger = CryptoSigner.generate_ed25519()

    with pytest.raises(UnsignedError):
        sign_plan(site.repository, (), stranger, site.now)
    with pytest.raises(UnsignedError):
        add_release(site.repository, "helmet@8", digest_of("x"), 9, stranger, NOW)
    with pytest.raises(UnsignedError):
        add_release(site.repository, "helmet@8", digest_of("x"), 9, site.keys.controller, NOW)
    with pytest.raises(UnsignedError):
        rotate_controller(
            site.repository,
            root_signers=site.keys.root[:1],
            controller_signer=stranger,
            now=site.now,
        )


def test_a_key_is_not_rotated_to_itself() -> None:
    site = Site.make()

    with pytest.raises(OperatorError):
        rotate_controller(
            site.repository,
            root_signers=site.keys.root,
            controller_signer=site.keys.controller,
            now=site.now,
        )


def test_two_of_three_root_keys_rotate() -> None:
    site = Site.make()
    before = site.bundle
    site.keys = replace(site.keys, root=site.keys.root[1:])

    assert site.judge(site.rotate(), before).root_version == 2


def test_a_plan_that_no_agent_would_take_is_not_signed() -> None:
    site = Site.make()
    many = [entry(rollout=f"r-{n}") for n in range(ENTRIES_MAX + 1)]
    crowded = entry(pins=frozenset(f"device-with-a-long-name-{n}" for n in range(3000)))

    for plan in (many, [entry(), entry()], [entry(share=-1)], [entry(salt="a b")], [crowded]):
        with pytest.raises(OperatorError):
            site.plan(*plan)


def test_a_full_plan_fits() -> None:
    site = Site.make()
    full = [entry(rollout=f"r-{n}") for n in range(ENTRIES_MAX)]

    assert len(site.judge(site.plan(*full)).plan) == ENTRIES_MAX


def test_a_repository_comes_back_from_the_store() -> None:
    site = Site.make()
    site.list_releases("helmet@8")
    site.plan(entry())
    site.list_releases("helmet@9")

    kept = repository_from_dict(json.loads(json.dumps(site.repository.to_dict())))

    assert kept == site.repository


@pytest.mark.parametrize("stored", [None, {}, {"fleet": "site-a", "files": {}, "retired": {}}])
def test_a_store_without_a_repository_is_malformed(stored: object) -> None:
    with pytest.raises(MalformedError):
        repository_from_dict(stored)


def test_a_demo_s_root_says_so() -> None:
    demo, real = Site.make(is_demo=True), Site.make()

    assert demo.judge(demo.bundle).is_demo
    assert not real.judge(real.bundle).is_demo


def test_two_fleets_share_no_key() -> None:
    one, two = create(new_keys(), now=NOW), create(new_keys(), now=NOW)

    keys = [set(json.loads(r.root)["signed"]["keys"]) for r in (one, two)]

    assert keys[0].isdisjoint(keys[1])
