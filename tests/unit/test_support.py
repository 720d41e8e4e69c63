"""No secret gets into a support bundle, and what is none stays."""

from pathlib import Path

import pytest

from controller import support
from shared.errors import StorageError

KEY = "MC4CAQAwBQYDK2VwBCIEIJ0Kx1xkq0000000000000000000000000000000000"
PEM = f"-----BEGIN PRIVATE KEY-----\n{KEY}\n-----END PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"before\n{PEM}\nafter", KEY),
        (f"cut off: -----BEGIN ENCRYPTED PRIVATE KEY-----\n{KEY}", KEY),
        ("broker: {url: mqtts://user:hunter22@broker.lan:8883}", "hunter22"),
        ("mqtt://onlyname@broker.lan", "onlyname"),
        ('{"password": "hunter22", "user": "me"}', "hunter22"),
        ("passphrase = hunter22", "hunter22"),
        ("  enroll_token: hunter22  # once", "hunter22"),
        ("API-KEY: 'hunter 22'", "hunter 22"),
    ],
)
def test_secrets_are_taken_out(text: str, secret: str) -> None:
    after = support.scrubbed(text)

    assert secret not in after
    assert "[removed]" in after


@pytest.mark.parametrize(
    "text",
    [
        "broker: {url: mqtts://broker.lan:8883, ca: ca.pem}",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        '{"device": "cam-1", "labels": {"role": "door"}}',
        "expected the passphrase of the release key",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert support.scrubbed(text) == text


def test_a_part_of_a_key_file_is_found_wherever_it_got_in(tmp_path: Path) -> None:
    (tmp_path / "controller.pem").write_text(PEM)

    support._check_no_keys(tmp_path, {"fleet.yaml": "fleet: site-a"})
    with pytest.raises(StorageError, match=r"rollouts.json would hold a part of controller.pem"):
        support._check_no_keys(tmp_path, {"rollouts.json": f'{{"text": "{KEY}"}}'})
