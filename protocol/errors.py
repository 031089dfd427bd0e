"""Everything that can go wrong, by who is to blame.

ThinwireError
+-- ConfigError            the operator's mistake: one clear line, exit code 2
+-- LocalProtocolError     our own bug: we misused a machine
+-- RemoteError            they broke the rules; we refuse and go on
|   +-- MalformedMessage   bytes that are no message
|   +-- BadSignature         signed by somebody else, or altered
|   +-- RunMismatch          another run, or another manifest
|   +-- LimitExceeded        larger, longer or more than the manifest allows
+-- TransportError         weather: nobody's fault, try again or elsewhere
    +-- NotAvailable       the other side does not have it (any more, or yet)
    +-- PeerSilent         the other side does not even answer a ping
"""


class ThinwireError(Exception):
    """Base of all errors that thinwire raises on purpose."""


class ConfigError(ThinwireError):
    """The operator's mistake; the message is one line that says what to change."""


class LocalProtocolError(ThinwireError):
    """We misused a state machine: a bug of ours."""


class RemoteError(ThinwireError):
    """Another peer broke the rules."""


class MalformedMessage(RemoteError):
    """Bytes that cannot be parsed."""


class BadSignature(RemoteError):
    """Signed by somebody else, or altered on the way."""


class RunMismatch(RemoteError):
    """A peer of another run, or with another manifest."""


class LimitExceeded(RemoteError):
    """Larger, longer or more than the manifest allows."""


class TransportError(ThinwireError):
    """The network failed; nobody broke a rule."""


class NotAvailable(TransportError):
    """The other side does not have what was asked for."""


class PeerSilent(TransportError):
    """Nothing comes from the other side, which does not even answer a ping."""


class PeerGone(TransportError):
    """The other side's machine answers that no such process runs there."""
