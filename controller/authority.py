"""The broker's two certificate authorities, and the certificates that they issue.

``site`` vouches for brokers and accounts (fleetctl, dashboards), ``devices`` for devices only: a
broker can tell by the authority alone who may use which listener, whatever name a device has. So
that no device is ever taken for an account, accounts' names hold a '.', which no device's may.

Keys of authorities are encrypted under the fleet's passphrase, as all its keys are. A device's key
is made here, goes onto its card, and is kept nowhere else. P-256, because browsers and every TLS
library take it. Nothing is valid only from today: a Pi without a clock lives in the past.
"""

import ipaddress
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, get_args

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared.errors import LimitError, OperatorError, StorageError, UnsignedError
from shared.files import read_bounded, write_atomically
from shared.topics import checked_name

AuthorityName = Literal["site", "devices"]
Account = Literal["controller", "reader", "operator", "homeassistant"]
ACCOUNTS: tuple[Account, ...] = get_args(Account)
VALID_FROM = datetime(2020, 1, 1, tzinfo=UTC)  # A Pi that lost its clock says 1970 or its image's.
AUTHORITY_DAYS = 30 * 365
CERTIFICATE_DAYS = 10 * 365  # Longer than a Pi lives: nobody drives to a device for a renewal.
PEM_BYTES = 16_384  # A certificate with its key takes 1.2 KB.
HOSTS_MAX = 32
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,250}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key, both in PEM; the key is not encrypted."""

    certificate: str
    key: str

    @property
    def both(self) -> str:
        """Return the text that TLS libraries read from one file."""
        return self.certificate + self.key


@dataclass(frozen=True, slots=True)
class Authority:
    """One authority with its key open."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class Authorities:
    """Where a fleet keeps its authorities: keys among the fleet's keys, the rest beside them."""

    keys: Path
    tls: Path

    @property
    def is_there(self) -> bool:
        """Say whether they were made."""
        return all(self.certificate_path(name).is_file() for name in get_args(AuthorityName))

    def certificate_path(self, name: AuthorityName) -> Path:
        """Return where an authority's certificate lies; everybody may read it."""
        return self.tls / ("ca.pem" if name == "site" else "devices-ca.pem")

    def certificate(self, name: AuthorityName) -> str:
        """Return an authority's certificate.

        Raises:
            OperatorError: The fleet has none.
        """
        return _read(self.certificate_path(name)).decode()

    @property
    def controller_path(self) -> Path:
        """Return where fleetctl's own certificate and key lie."""
        return self.tls / "controller.pem"

    def create(self, fleet: str, passphrase: str | None) -> None:
        """Make both authorities and fleetctl's own certificate; what is there stays.

        Raises:
            StorageError: They cannot be written.
        """
        with suppress(FileExistsError):
            self.tls.mkdir(mode=0o700, parents=True)
        for name in get_args(AuthorityName):
            if not self.certificate_path(name).is_file():
                self._create(name, checked_name(fleet), passphrase)
        if not self.controller_path.is_file():
            issued = issue_account(self.open("site", passphrase), "controller", datetime.now(UTC))
            write_atomically(self.controller_path, issued.both.encode(), mode=0o600)

    def open(self, name: AuthorityName, passphrase: str | None) -> Authority:
        """Open an authority.

        Raises:
            OperatorError: The fleet has none.
            UnsignedError: The passphrase does not open its key.
        """
        certificate = x509.load_pem_x509_certificate(_read(self.certificate_path(name)))
        data = _read(self._key_path(name))
        secret = passphrase.encode() if passphrase is not None and b"ENCRYPTED" in data else None
        try:
            key = load_pem_private_key(data, secret)
        except (ValueError, TypeError) as error:
            raise UnsignedError(
                f"the passphrase does not open the key of the broker's authority {name}"
            ) from error
        assert isinstance(key, ec.EllipticCurvePrivateKey), "we made it"
        return Authority(certificate, key)

    def needs_passphrase(self, name: AuthorityName) -> bool:
        """Say whether opening an authority takes a passphrase."""
        return b"ENCRYPTED" in _read(self._key_path(name))

    def _key_path(self, name: AuthorityName) -> Path:
        return self.keys / f"broker-{name}.pem"

    def _create(self, name: AuthorityName, fleet: str, passphrase: str | None) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        title = _name(f"imxfleet {fleet} {name}")
        builder = _builder(title, title, key.public_key(), datetime.now(UTC), AUTHORITY_DAYS)
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(is_authority=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        encryption: KeySerializationEncryption = (
            NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase.encode())
        )
        write_atomically(self._key_path(name), _key_pem(key, encryption), mode=0o600)
        write_atomically(self.certificate_path(name), _pem(certificate), mode=0o644)


def issue_device(authority: Authority, device: str, now: datetime) -> Issued:
    """Return a new certificate of a device; its name is the device's id."""
    return _issue(authority, checked_name(device), now, usages=[ExtendedKeyUsageOID.CLIENT_AUTH])


def issue_account(authority: Authority, account: Account, now: datetime) -> Issued:
    """Return a new certificate of an account."""
    name = account_name(account)
    return _issue(authority, name, now, usages=[ExtendedKeyUsageOID.CLIENT_AUTH])


def issue_server(authority: Authority, hosts: Iterable[str], now: datetime) -> Issued:
    """Return a new certificate of a broker; nodes of a cluster show it to each other, too.

    Raises:
        OperatorError: A host is neither a name nor an address.
    """
    names = tuple(dict.fromkeys(hosts))
    if not 0 < len(names) <= HOSTS_MAX:
        raise OperatorError(f"expected 1 to {HOSTS_MAX} hosts, got {len(names)}")
    alternatives = x509.SubjectAlternativeName([_general_name(host) for host in names])
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return _issue(authority, f"broker.{names[0]}"[:64], now, usages=usages, hosts=alternatives)


def pkcs12(issued: Issued, name: str) -> bytes:
    """Return a certificate as browsers import it; the file's own mode is what protects it."""
    certificate = x509.load_pem_x509_certificate(issued.certificate.encode())
    key = load_pem_private_key(issued.key.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey), "we made it"
    return serialize_key_and_certificates(name.encode(), key, certificate, None, NoEncryption())


def account_name(account: Account) -> str:
    """Return the name that a broker knows an account by: no device can have it."""
    return f"account.{account}"


def _issue(
    authority: Authority,
    common_name: str,
    now: datetime,
    *,
    usages: list[x509.ObjectIdentifier],
    hosts: x509.SubjectAlternativeName | None = None,
) -> Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.certificate.subject
    builder = _builder(_name(common_name), issuer, key.public_key(), now, CERTIFICATE_DAYS)
    if hosts is not None:
        builder = builder.add_extension(hosts, critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    certificate = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(is_authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(identifier, critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    return Issued(_pem(certificate).decode(), _key_pem(key, NoEncryption()).decode())


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(VALID_FROM)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if _HOST.fullmatch(host) is None:
        raise OperatorError(f"expected a host name or an address, got {host!r}")
    return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey, encryption: KeySerializationEncryption) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def _read(path: Path) -> bytes:
    try:
        data = read_bounded(path, PEM_BYTES)
    except LimitError as error:
        raise StorageError(str(error)) from error
    if data is None:
        raise OperatorError(
            f"expected the broker's authority, found no {path.name} in {path.parent}; "
            "`fleetctl broker config` makes it"
        )
    return data
