"""The one error tree.

FleetError
├── RefusedError             what came from outside is not acted on; ``code`` goes on the wire
│   ├── LimitError           longer or more than its limit
│   ├── MalformedError       not what its schema says
│   ├── UnsupportedError     a signed document says something that this version does not know
│   └── UntrustedError       a signature, expiry, version, fleet or hash is wrong
├── BrokerError
│   ├── BrokerUnreachableError   no connection
│   ├── BrokerRefusedError       the broker said no (credentials, subscription, payload limit)
│   └── NotEchoedError           acknowledged, but not handed back
├── OperatorError            the operator asked for what cannot or must not be done
│   ├── AnotherControllerError   somebody else signs for this fleet with our keys
│   ├── InventoryError       fleet.yaml has errors, all of them listed
│   └── UnsignedError        a release or key is missing its signature or passphrase
├── StorageError             the disk is full, or the store is not ours
├── CameraError              a camera could not be driven
└── ExportError              a model could not be turned into a package
"""


class FleetError(Exception):
    """Anything that this project raises for a caller to handle."""


class RefusedError(FleetError):
    """Input from outside that is not acted on.

    Attributes:
        code: A short word for machines, as it appears on the wire.
        text: What was expected and what came.
    """

    code = "refused"

    def __init__(self, text: str, *, code: str | None = None) -> None:
        """Keep the text, and the code where it differs from the class's own."""
        super().__init__(text)
        self.text = text
        if code is not None:
            self.code = code


class LimitError(RefusedError):
    """Longer, or more, than its limit."""

    code = "limit"


class MalformedError(RefusedError):
    """Not what its schema says."""

    code = "malformed"


class UnsupportedError(RefusedError):
    """A signed document says something that this version does not know."""

    code = "unsupported"


class UntrustedError(RefusedError):
    """A signature, expiry, version, fleet or hash is wrong."""

    code = "untrusted"


class BrokerError(FleetError):
    """The broker did not do its part."""


class BrokerUnreachableError(BrokerError):
    """No connection to the broker."""


class BrokerRefusedError(BrokerError):
    """The broker said no."""


class NotEchoedError(BrokerError):
    """The broker acknowledged a message but did not hand it back."""


class OperatorError(FleetError):
    """The operator asked for what cannot or must not be done."""


class AnotherControllerError(OperatorError):
    """A bundle that our keys signed, that is not ours and not older: `adopt` it, or stop it."""


class InventoryError(OperatorError):
    """fleet.yaml has errors; the text lists all of them, one a line."""


class UnsignedError(OperatorError):
    """A release is not signed, or the key that could sign it cannot be opened."""


class StorageError(FleetError):
    """The disk is full, or what it holds is not ours."""


class CameraError(FleetError):
    """A camera could not be driven."""


class ExportError(FleetError):
    """A model could not be turned into a package."""
