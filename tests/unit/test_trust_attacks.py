"""Every row of the attack table: what a thief, a broker or a power cut may do to a bundle."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Root, TargetFile

from shared.assignment import Action
from shared.errors import LimitError, RefusedError, UnsupportedError, UntrustedError
from shared.limits import BUNDLE_BYTES, ENTRIES_MAX, RELEASES_LISTED_MAX
from shared.messages import time_text
from shared.plan import plan_to_plain, refused_entries
from shared.release import open_manifest
from shared.trust import FIELD, has_rotated, open_bundle, open_journal
from tests.making import (
    FLEET,
    NOW,
    Site,
    bundle_of,
    digest_of,
    entry,
    forged,
    new_keys,
    sign_again,
)

DAY = timedelta(days=1)


@pytest.fixture
def site() -> Site:
    """A fleet with two releases and a plan of version 2."""
    made = Site.make()
    made.list_releases("helmet@7", "helmet@8")
    made.plan(entry("helmet@7"))
    return made


def refusal(act: Callable[[], object]) -> str:
    """Return the code with which something is refused."""
    with pytest.raises(RefusedError) as caught:
        act()
    return caught.value.code


def to_version(number: int) -> Callable[..., None]:
    def change(signed: Root) -> None:
        signed.version = number

    return change


# Bytes changed on the way.


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_changed_bytes_in_each_metadata_file_are_refused(site: Site, role: str) -> None:
    files = site.files
    name = next(name for name in files if role in name)
    files[name] = re.sub(r'"expires":"(\d{4})', '"expires":"2099', files[name])

    assert refusal(lambda: site.judge(bundle_of(files))) in {"signature", "hash", "root"}


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_a_bundle_without_one_of_its_files_is_refused(site: Site, role: str) -> None:
    files = {name: text for name, text in site.files.items() if role not in name}

    assert refusal(lambda: site.judge(bundle_of(files))) in {"malformed", "root"}


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0), flip=st.integers(1, 255))
def test_no_single_changed_byte_yields_another_plan(at: int, flip: int) -> None:
    data = bytearray(BYTES_SITE.bundle)
    data[at % len(data)] ^= flip

    try:
        judged = BYTES_SITE.judge(bytes(data))
    except RefusedError:
        return

    honest = BYTES_SITE.judge(BYTES_SITE.bundle)
    assert (judged.plan, judged.listed, judged.version) == (
        honest.plan, honest.listed, honest.version,
    )  # fmt: skip


BYTES_SITE = Site.make()
BYTES_SITE.list_releases("helmet@8")
BYTES_SITE.plan(entry("helmet@8"), entry("helmet@8", "r-2", action=Action.HOLD))


@settings(max_examples=100, deadline=None)
@given(
    text=st.text(max_size=60), role=st.sampled_from(["root", "timestamp", "snapshot", "targets"])
)
def test_whatever_stands_in_a_file_is_refused_in_our_own_words(text: str, role: str) -> None:
    files = BYTES_SITE.files
    name = next(name for name in files if role in name)
    at = len(text) * 7 % len(files[name])
    files[name] = files[name][:at] + text.encode(errors="replace").decode() + files[name][at:]

    try:
        judged = BYTES_SITE.judge(bundle_of(files))
    except RefusedError:
        return

    assert judged.plan == BYTES_SITE.repository.plan


@pytest.mark.parametrize(
    "data",
    [
        b"", b"null", b"[]", b"{", b"\xff\xfe", b'{"v":2,"fleet":"site-a","files":{}}',
        b'{"v":1,"fleet":"site-a","files":{}}', b'{"v":1,"fleet":"site-a","files":{"x":"y"}}',
        b'{"v":1,"fleet":"site-a","files":{"timestamp.json":7}}', b"[" * 100_000,
        b'{"v":1,"fleet":"site-a","files":{"timestamp.json":"{}","../1.root.json":"{}"}}',
    ],
)  # fmt: skip
def test_what_is_no_bundle_is_malformed(site: Site, data: bytes) -> None:
    assert refusal(lambda: site.judge(data)) == "malformed"


# Endless data.


def test_a_bundle_over_its_limit_is_refused_before_it_is_parsed(site: Site) -> None:
    with pytest.raises(LimitError):
        site.judge(b"{" * (BUNDLE_BYTES + 1))


def test_a_timestamp_over_its_limit_is_refused(site: Site) -> None:
    files = site.files
    files["timestamp.json"] += " " * 65_536

    assert refusal(lambda: site.judge(bundle_of(files))) == "limit"


def test_a_plan_of_too_many_entries_is_refused(site: Site) -> None:
    one = plan_to_plain([entry()])[0]

    def crowd(signed: Root) -> None:
        many = [{**one, "rollout": f"r-{n}"} for n in range(ENTRIES_MAX + 1)]
        signed.unrecognized_fields[FIELD]["plan"] = many

    files = forged(site.files, site.keys, timestamp=crowd)

    assert refusal(lambda: site.judge(bundle_of(files))) == "limit"


def test_too_many_listed_releases_are_refused(site: Site) -> None:
    def crowd(signed: Root) -> None:
        for number in range(1, RELEASES_LISTED_MAX + 1):
            name = f"x@{number}"
            signed.targets[name] = TargetFile(9, {"sha256": digest_of(name)}, name)

    files = forged(site.files, site.keys, targets=crowd)

    assert refusal(lambda: site.judge(bundle_of(files))) == "limit"


# Expiry, and clocks that are wrong.


def test_expired_metadata_is_refused(site: Site) -> None:
    bundle = site.bundle

    assert refusal(lambda: site.judge(bundle, now=NOW + 91 * DAY)) == "expired"


def test_metadata_that_python_tuf_knows_to_be_expired_is_refused() -> None:
    old = Site.make(now=NOW - 100 * DAY)

    assert refusal(lambda: old.judge(old.bundle, now=None)) == "expired"


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_the_earliest_expiry_of_all_roles_counts(site: Site, role: str) -> None:
    def soon(signed: Root) -> None:
        signed.expires = NOW + 2 * DAY

    files = forged(site.files, site.keys, **{role: soon})
    bundle = bundle_of(files)

    assert site.judge(bundle).expires == NOW + 2 * DAY
    assert refusal(lambda: site.judge(bundle, now=NOW + 2 * DAY)) == "expired"


def test_a_device_without_a_clock_takes_the_floor_for_now(site: Site) -> None:
    def until(days: int, at: int) -> Callable[..., None]:
        def change(signed: Root) -> None:
            signed.version += 1
            signed.expires = NOW + days * DAY
            signed.unrecognized_fields[FIELD]["at"] = time_text(NOW + at * DAY)

        return change

    def long(signed: Root) -> None:
        signed.version += 1
        signed.expires = NOW + 200 * DAY

    ahead = forged(site.files, site.keys, snapshot=long, timestamp=until(200, at=100))
    accepted = site.judge(bundle_of(ahead), now=None).data

    late = bundle_of(forged(ahead, site.keys, timestamp=until(90, at=101)))

    assert refusal(lambda: site.judge(late, accepted, now=None)) == "expired"


def test_a_controller_whose_clock_is_a_day_ahead_is_refused(site: Site) -> None:
    ahead = site.plan(now=NOW + DAY + timedelta(seconds=1))

    assert refusal(lambda: site.judge(ahead)) == "clock"
    assert site.judge(ahead, now=NOW + timedelta(minutes=1)).version == site.repository.version


def test_a_controller_whose_clock_goes_back_is_refused(site: Site) -> None:
    accepted = site.bundle

    def earlier(signed: Root) -> None:
        signed.version += 1
        signed.unrecognized_fields[FIELD]["at"] = "2020-01-01T00:00:00.000Z"

    files = forged(site.files, site.keys, timestamp=earlier)

    assert refusal(lambda: site.judge(bundle_of(files), accepted)) == "clock"


def test_an_expired_journal_is_still_a_floor_and_locks_nobody_out() -> None:
    site = Site.make(now=NOW - 200 * DAY)
    older, expired = site.plan(), site.plan()
    fresh = site.plan(now=NOW)

    assert refusal(lambda: site.judge(older, expired)) in {"replayed", "expired"}
    assert site.judge(fresh, expired).version == site.repository.version


def test_a_valid_older_bundle_is_refused_over_an_expired_journal() -> None:
    site = Site.make(now=NOW - 10 * DAY)
    older = site.plan()

    def short(signed: Root) -> None:
        signed.version += 1
        signed.expires = NOW - DAY

    expired = bundle_of(forged(site.files, site.keys, timestamp=short))

    assert refusal(lambda: site.judge(older, expired)) == "replayed"


# Replay and equivocation.


def test_an_older_version_replayed_is_refused(site: Site) -> None:
    older = site.bundle
    newer = site.plan(entry("helmet@8"))

    assert refusal(lambda: site.judge(older, newer)) == "replayed"


def test_an_old_release_that_is_still_listed_comes_back_only_by_a_newer_plan(site: Site) -> None:
    before = site.bundle
    after = site.plan(entry("helmet@8", "r-2"))

    undone = site.plan(entry("helmet@7", "r-3"))

    assert refusal(lambda: site.judge(before, after)) == "replayed"
    assert site.judge(undone, after).plan[0].release == "helmet@7"


def test_the_same_version_with_other_bytes_is_equivocation(site: Site) -> None:
    accepted = site.bundle

    def other(signed: Root) -> None:
        signed.unrecognized_fields[FIELD]["plan"] = plan_to_plain([entry("helmet@8", "r-9")])

    files = forged(site.files, site.keys, timestamp=other)

    assert refusal(lambda: site.judge(bundle_of(files), accepted)) == "equivocation"


def test_a_file_that_python_tuf_does_not_look_at_gets_into_no_journal(site: Site) -> None:
    accepted = site.bundle
    files = forged(site.files, site.keys, timestamp=to_version(site.repository.version + 1))
    snapshot = next(name for name in files if "snapshot" in name)
    files[snapshot] = "garbage"

    assert refusal(lambda: site.judge(bundle_of(files), accepted)) == "equivocation"


def test_other_releases_under_the_version_of_a_snapshot_are_equivocation(site: Site) -> None:
    accepted = site.bundle

    def without(signed: Root) -> None:
        signed.targets.pop("helmet@8")

    files = forged(
        site.files,
        site.keys,
        targets=without,
        timestamp=to_version(site.repository.version + 1),
    )

    assert refusal(lambda: site.judge(bundle_of(files), accepted)) == "equivocation"


def test_targets_that_go_back_are_refused() -> None:
    first = Site.make()
    keys, old = first.keys, first.files
    first.list_releases("helmet@8")
    accepted = first.plan()
    version = first.repository.version
    snapshot = json.loads(next(text for name, text in first.files.items() if "snapshot" in name))[
        "signed"
    ]["version"]

    files = forged(
        {**first.files, "x.targets.json": old["1.targets.json"]},
        keys,
        snapshot=to_version(snapshot + 1),
        timestamp=to_version(version + 1),
    )

    assert refusal(lambda: first.judge(bundle_of(files), accepted)) == "replayed"


def test_the_journal_s_own_bytes_are_no_news_even_when_they_have_expired(site: Site) -> None:
    bundle = site.bundle

    assert site.judge(bundle, bundle, now=NOW + 400 * DAY).version == site.repository.version


def test_a_refused_bundle_moves_no_counter(site: Site) -> None:
    accepted = site.bundle

    def far(signed: Root) -> None:
        signed.version = 10**9
        signed.unrecognized_fields[FIELD]["plan"] = [{"what": "is this"}]

    files = forged(site.files, site.keys, timestamp=far)
    honest = site.plan(entry("helmet@8"))

    assert refusal(lambda: site.judge(bundle_of(files), accepted)) == "unsupported"
    assert site.judge(honest, accepted).version == site.repository.version


# Journals after a power cut.


@pytest.mark.parametrize("part", [0, 1, 2, 3])
def test_a_truncated_journal_is_refused_and_nothing_is_judged_over_it(
    site: Site, part: int
) -> None:
    older = site.bundle
    newer = site.plan()
    cut = newer[: len(newer) * part // 4]

    assert refusal(lambda: open_journal(cut, fleet=FLEET, card_root=site.card_root)) == "journal"
    assert refusal(lambda: site.judge(older, cut)) == "journal"


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_a_journal_with_other_content_is_refused(site: Site, role: str) -> None:
    files = site.files
    name = next(name for name in files if role in name)
    files[name] = re.sub(r'"expires":"(\d{4})', '"expires":"2099', files[name])

    with pytest.raises(UntrustedError) as caught:
        open_journal(bundle_of(files), fleet=FLEET, card_root=site.card_root)

    assert caught.value.code == "journal"


@pytest.mark.parametrize("role", ["snapshot", "targets"])
def test_a_file_is_bound_byte_for_byte_though_its_signature_holds(site: Site, role: str) -> None:
    files = site.files
    name = next(name for name in files if role in name)
    files[name] += " "

    assert refusal(lambda: site.judge(bundle_of(files))) in {"hash", "limit"}
    assert refusal(
        lambda: open_journal(bundle_of(files), fleet=FLEET, card_root=site.card_root)
    ) == "journal"  # fmt: skip


# Other fleets and other keys.


def test_a_bundle_of_another_fleet_is_refused(site: Site) -> None:
    assert refusal(lambda: site.judge(Site.make("site-b").bundle)) == "root"


def test_a_fleet_of_the_same_name_with_other_keys_is_refused(site: Site) -> None:
    other = Site.make()
    files = {**other.files, "1.root.json": site.files["1.root.json"]}

    assert refusal(lambda: site.judge(other.bundle)) == "root"
    assert refusal(lambda: site.judge(bundle_of(files))) == "signature"


def test_a_plan_of_another_fleet_under_the_same_keys_is_refused(site: Site) -> None:
    def rename(signed: Root) -> None:
        signed.unrecognized_fields[FIELD]["fleet"] = "site-b"

    files = forged(site.files, site.keys, timestamp=rename)

    assert refusal(lambda: site.judge(bundle_of(files))) == "fleet"


def test_the_hint_about_the_fleet_is_not_trusted(site: Site) -> None:
    assert site.judge(bundle_of(site.files, fleet="site-b")).fleet == FLEET


def test_a_release_signed_by_an_unknown_key_is_refused(site: Site) -> None:
    thief = replace(site.keys, release=CryptoSigner.generate_ed25519())

    def add(signed: Root) -> None:
        signed.version += 1
        signed.targets["evil@1"] = TargetFile(9, {"sha256": digest_of("evil@1")}, "evil@1")

    files = forged(site.files, thief, targets=add)

    assert refusal(lambda: site.judge(bundle_of(files))) == "signature"


def test_a_stolen_controller_key_lists_no_release(site: Site) -> None:
    thief = replace(site.keys, release=site.keys.controller)

    def add(signed: Root) -> None:
        signed.version += 1
        signed.targets["evil@1"] = TargetFile(9, {"sha256": digest_of("evil@1")}, "evil@1")

    files = forged(site.files, thief, targets=add)

    assert refusal(lambda: site.judge(bundle_of(files))) == "signature"


def test_a_stolen_release_key_assigns_nothing(site: Site) -> None:
    thief = replace(site.keys, controller=site.keys.release)
    files = forged(site.files, thief, timestamp=to_version(99))

    assert refusal(lambda: site.judge(bundle_of(files))) == "signature"


def test_other_content_under_a_signed_name_is_not_what_the_plan_binds(site: Site) -> None:
    accepted = site.plan(entry("helmet@8"))
    evil = b'{"v":1,"name":"helmet","version":8}'

    def swap(signed: Root) -> None:
        signed.version += 1
        signed.targets["helmet@8"].hashes["sha256"] = sha256(evil).hexdigest()

    files = forged(
        site.files, site.keys, targets=swap, snapshot=to_version(90), timestamp=to_version(90)
    )
    judged = site.judge(bundle_of(files), accepted)

    assert [refused.code for refused in refused_entries(judged.plan, judged.listed)] == ["unlisted"]
    bound = judged.plan[0].manifest_sha256
    with pytest.raises(UntrustedError):
        open_manifest(evil, sha256_expected=bound, release="helmet@8")


def test_an_entry_of_an_unlisted_release_does_not_refuse_the_rest(site: Site) -> None:
    bundle = site.plan(entry("ghost@1", "r-2"), entry("helmet@8"))

    judged = site.judge(bundle)

    assert [e.rollout for e in judged.plan] == ["r-2", "r-1"]
    refused = refused_entries(judged.plan, judged.listed)
    assert [(r.rollout, r.code) for r in refused] == [("r-2", "unlisted")]


def test_a_revert_works_though_its_release_is_not_listed(site: Site) -> None:
    judged = site.judge(site.plan(entry("ghost@1", action=Action.REVERT)))

    assert refused_entries(judged.plan, judged.listed) == ()


# Rotation.


def test_a_fast_forward_by_a_stolen_controller_key_ends_with_its_rotation(site: Site) -> None:
    def far(signed: Root) -> None:
        signed.version = 10**9
        signed.unrecognized_fields[FIELD]["at"] = "2090-01-01T00:00:00.000Z"

    files = forged(site.files, site.keys, timestamp=far, snapshot=to_version(10**8))
    stuck = bundle_of(files)
    honest = site.plan(entry("helmet@8"))
    assert refusal(lambda: site.judge(honest, stuck)) == "replayed"

    rotated = site.rotate()

    judged = site.judge(rotated, stuck)
    assert judged.version == site.repository.version
    assert has_rotated(site.card_root, judged.root)
    assert site.judge(site.plan(), rotated).version == site.repository.version


def test_a_rotated_away_key_is_refused_when_the_new_root_is_left_out(site: Site) -> None:
    old_keys, old_files = site.keys, site.files
    rotated = site.rotate()

    stolen = bundle_of(forged(old_files, old_keys, timestamp=to_version(50)))

    assert refusal(lambda: site.judge(stolen, rotated)) == "root"


def test_a_rotated_away_key_is_refused_beside_the_new_root(site: Site) -> None:
    old_keys, old_files = site.keys, site.files
    rotated = site.rotate()

    files = forged(old_files, old_keys, timestamp=to_version(50))
    files["2.root.json"] = site.files["2.root.json"]

    assert refusal(lambda: site.judge(bundle_of(files), rotated)) == "signature"
    assert refusal(lambda: site.judge(bundle_of(files))) == "signature"


def test_a_bundle_without_its_first_root_is_refused(site: Site) -> None:
    site.rotate()
    files = site.files
    del files["1.root.json"]

    assert refusal(lambda: site.judge(bundle_of(files))) == "root"


def test_an_old_root_that_was_changed_is_refused_though_nobody_needs_it(site: Site) -> None:
    rotated = site.rotate()
    site.plan()
    files = site.files
    files["1.root.json"] = "{}"

    assert refusal(lambda: site.judge(bundle_of(files), rotated)) == "root"


@pytest.mark.parametrize("signers", [0, 1])
def test_a_new_root_below_the_threshold_is_refused(site: Site, signers: int) -> None:
    files = site.files
    root = sign_again(files["1.root.json"], site.keys.root[:signers], to_version(2))
    files["2.root.json"] = root

    assert refusal(lambda: site.judge(bundle_of(files))) == "signature"


@pytest.mark.parametrize(
    ("accepted", "next_version", "code"),
    [(10**9, 50, "replayed"), (50, 50, "equivocation"), (50, 51, None)],
)
def test_a_root_that_keeps_the_snapshot_key_keeps_the_floors(
    site: Site, accepted: int, next_version: int, code: str | None
) -> None:
    journal = bundle_of(forged(site.files, site.keys, timestamp=to_version(accepted)))
    new = CryptoSigner.generate_ed25519()

    def only_timestamp(signed: Root) -> None:
        signed.version = 2
        signed.roles["timestamp"].keyids.clear()
        signed.add_key(new.public_key, "timestamp")

    files = site.files
    files["2.root.json"] = sign_again(files["1.root.json"], site.keys.root, only_timestamp)
    files["timestamp.json"] = sign_again(files["timestamp.json"], [new], to_version(next_version))
    bundle = bundle_of(files)

    if code is None:
        assert site.judge(bundle, journal).root_version == 2
    else:
        assert refusal(lambda: site.judge(bundle, journal)) == code


def test_a_device_with_the_first_card_follows_every_rotation(site: Site) -> None:
    for _ in range(3):
        rotated = site.rotate()

    judged = site.judge(rotated)

    assert judged.root_version == 4
    assert open_journal(rotated, fleet=FLEET, card_root=site.card_root) == judged
    assert open_bundle(rotated, fleet=FLEET, root=site.repository.root) == judged


def test_a_newer_card_than_the_journal_counts(site: Site) -> None:
    journal = site.bundle
    rotated = site.rotate()

    site_of_new_card = replace(site)
    site_of_new_card.__class__ = type("NewCard", (Site,), {"card_root": site.repository.root})

    assert site_of_new_card.judge(rotated, journal).root_version == 2


# Signed fields that this version does not know.


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_an_unknown_field_in_signed_metadata_is_unsupported(site: Site, role: str) -> None:
    def add(signed: Root) -> None:
        signed.unrecognized_fields["surprise"] = 1

    files = forged(site.files, site.keys, **{role: add})

    with pytest.raises(UnsupportedError):
        site.judge(bundle_of(files))


def test_an_unknown_field_in_root_is_unsupported(site: Site) -> None:
    def add(signed: Root) -> None:
        signed.version = 2
        signed.unrecognized_fields["surprise"] = 1

    files = site.files
    files["2.root.json"] = sign_again(files["1.root.json"], site.keys.root, add)

    with pytest.raises(UnsupportedError):
        site.judge(bundle_of(files))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"surprise": 1}, "unsupported"),
        ({"action": "dance"}, "malformed"),
        ({"share": 2**32 + 1}, "malformed"),
        ({"share": -1}, "malformed"),
        ({"share": True}, "malformed"),
        ({"attempt": 0}, "malformed"),
        ({"rollout": "a/b"}, "malformed"),
        ({"salt": ""}, "malformed"),
        ({"release": "helmet"}, "malformed"),
        ({"manifest_sha256": "00"}, "malformed"),
        ({"selector": ""}, "malformed"),
        ({"pins": ["gate-01/"]}, "malformed"),
        ({"pins": ["#"]}, "malformed"),
        ({"deny": ["gate-01/1"]}, "malformed"),
        ({"window": {"days": [], "from": "22:00", "to": "05:00"}}, "malformed"),
        ({"window": {"days": ["mon"], "from": "24:00", "to": "05:00"}}, "malformed"),
        ({"window": {"days": ["mon"], "from": "05:00", "to": "05:00"}}, "malformed"),
        ({"window": {"days": ["mon"], "from": "22:00", "to": "05:00", "x": 1}}, "unsupported"),
        ({"probe": {"seconds": 60, "valid_rate_permille": 900}}, "malformed"),
        ({"deny": None}, "malformed"),
    ],
)
def test_an_entry_out_of_its_schema_refuses_the_plan(
    site: Site, change: dict[str, object], code: str
) -> None:
    plan = [{**plan_to_plain([entry()])[0], **change}]

    def put(signed: Root) -> None:
        signed.unrecognized_fields[FIELD]["plan"] = plan

    files = forged(site.files, site.keys, timestamp=put)

    assert refusal(lambda: site.judge(bundle_of(files))) == code


def test_a_root_of_other_keys_signs_nothing_here() -> None:
    assert refusal(
        lambda: open_bundle(Site.make().bundle, fleet=FLEET, root=Site.make().card_root)
    ) == "root"  # fmt: skip
    assert new_keys().release.public_key.keyid != new_keys().release.public_key.keyid
