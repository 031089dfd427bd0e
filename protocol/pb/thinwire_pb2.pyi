from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Hello(_message.Message):
    __slots__ = ("protocol_version", "run_id", "invite_proof", "software")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    INVITE_PROOF_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    run_id: bytes
    invite_proof: bytes
    software: str
    def __init__(self, protocol_version: _Optional[int] = ..., run_id: _Optional[bytes] = ..., invite_proof: _Optional[bytes] = ..., software: _Optional[str] = ...) -> None: ...

class HelloReply(_message.Message):
    __slots__ = ("welcome", "reason", "manifest", "signature")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    welcome: bool
    reason: str
    manifest: bytes
    signature: bytes
    def __init__(self, welcome: _Optional[bool] = ..., reason: _Optional[str] = ..., manifest: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Note(_message.Message):
    __slots__ = ("fragment", "ready", "roster", "committed", "propose", "answer", "domain")
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    PROPOSE_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    fragment: int
    ready: Ready
    roster: Roster
    committed: Committed
    propose: Propose
    answer: Answer
    domain: str
    def __init__(self, fragment: _Optional[int] = ..., ready: _Optional[_Union[Ready, _Mapping]] = ..., roster: _Optional[_Union[Roster, _Mapping]] = ..., committed: _Optional[_Union[Committed, _Mapping]] = ..., propose: _Optional[_Union[Propose, _Mapping]] = ..., answer: _Optional[_Union[Answer, _Mapping]] = ..., domain: _Optional[str] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ("round", "tokens", "anchor_digest", "up_bps", "codec", "is_leaving")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    ANCHOR_DIGEST_FIELD_NUMBER: _ClassVar[int]
    UP_BPS_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    IS_LEAVING_FIELD_NUMBER: _ClassVar[int]
    round: int
    tokens: int
    anchor_digest: bytes
    up_bps: int
    codec: int
    is_leaving: bool
    def __init__(self, round: _Optional[int] = ..., tokens: _Optional[int] = ..., anchor_digest: _Optional[bytes] = ..., up_bps: _Optional[int] = ..., codec: _Optional[int] = ..., is_leaving: _Optional[bool] = ...) -> None: ...

class Roster(_message.Message):
    __slots__ = ("round", "exchange_id", "members", "shares", "codec")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_ID_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    round: int
    exchange_id: bytes
    members: _containers.RepeatedCompositeFieldContainer[Member]
    shares: _containers.RepeatedScalarFieldContainer[int]
    codec: int
    def __init__(self, round: _Optional[int] = ..., exchange_id: _Optional[bytes] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., shares: _Optional[_Iterable[int]] = ..., codec: _Optional[int] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("peer_id", "tokens")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    peer_id: str
    tokens: int
    def __init__(self, peer_id: _Optional[str] = ..., tokens: _Optional[int] = ...) -> None: ...

class Committed(_message.Message):
    __slots__ = ("round", "anchor_digest", "exchange_id", "shares", "codec", "base_digest", "tokens")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ANCHOR_DIGEST_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_ID_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    BASE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    round: int
    anchor_digest: bytes
    exchange_id: bytes
    shares: _containers.RepeatedScalarFieldContainer[int]
    codec: int
    base_digest: bytes
    tokens: int
    def __init__(self, round: _Optional[int] = ..., anchor_digest: _Optional[bytes] = ..., exchange_id: _Optional[bytes] = ..., shares: _Optional[_Iterable[int]] = ..., codec: _Optional[int] = ..., base_digest: _Optional[bytes] = ..., tokens: _Optional[int] = ...) -> None: ...

class Propose(_message.Message):
    __slots__ = ("round", "tokens", "exchange_id", "codec", "begun")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_ID_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    BEGUN_FIELD_NUMBER: _ClassVar[int]
    round: int
    tokens: int
    exchange_id: bytes
    codec: int
    begun: bool
    def __init__(self, round: _Optional[int] = ..., tokens: _Optional[int] = ..., exchange_id: _Optional[bytes] = ..., codec: _Optional[int] = ..., begun: _Optional[bool] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("exchange_id", "accepted", "tokens", "codec", "up_bps")
    EXCHANGE_ID_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    UP_BPS_FIELD_NUMBER: _ClassVar[int]
    exchange_id: bytes
    accepted: bool
    tokens: int
    codec: int
    up_bps: int
    def __init__(self, exchange_id: _Optional[bytes] = ..., accepted: _Optional[bool] = ..., tokens: _Optional[int] = ..., codec: _Optional[int] = ..., up_bps: _Optional[int] = ...) -> None: ...

class NoteReply(_message.Message):
    __slots__ = ("taken", "reason")
    TAKEN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    taken: bool
    reason: str
    def __init__(self, taken: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("kind", "fragment", "exchange_id", "part", "offset", "length", "domain")
    KIND_FIELD_NUMBER: _ClassVar[int]
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_ID_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    kind: str
    fragment: int
    exchange_id: bytes
    part: int
    offset: int
    length: int
    domain: str
    def __init__(self, kind: _Optional[str] = ..., fragment: _Optional[int] = ..., exchange_id: _Optional[bytes] = ..., part: _Optional[int] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ..., domain: _Optional[str] = ...) -> None: ...

class FetchHeader(_message.Message):
    __slots__ = ("size_bytes", "round", "refusal", "zstd")
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    ZSTD_FIELD_NUMBER: _ClassVar[int]
    size_bytes: int
    round: int
    refusal: str
    zstd: bool
    def __init__(self, size_bytes: _Optional[int] = ..., round: _Optional[int] = ..., refusal: _Optional[str] = ..., zstd: _Optional[bool] = ...) -> None: ...

class FetchTrailer(_message.Message):
    __slots__ = ("size_bytes",)
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    size_bytes: int
    def __init__(self, size_bytes: _Optional[int] = ...) -> None: ...

class Summons(_message.Message):
    __slots__ = ("tunnel_id", "caller")
    TUNNEL_ID_FIELD_NUMBER: _ClassVar[int]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    tunnel_id: bytes
    caller: str
    def __init__(self, tunnel_id: _Optional[bytes] = ..., caller: _Optional[str] = ...) -> None: ...

class TunnelOpen(_message.Message):
    __slots__ = ("tunnel_id", "dst")
    TUNNEL_ID_FIELD_NUMBER: _ClassVar[int]
    DST_FIELD_NUMBER: _ClassVar[int]
    tunnel_id: bytes
    dst: str
    def __init__(self, tunnel_id: _Optional[bytes] = ..., dst: _Optional[str] = ...) -> None: ...

class DialBack(_message.Message):
    __slots__ = ("addresses",)
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    addresses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, addresses: _Optional[_Iterable[str]] = ...) -> None: ...

class DialBackReply(_message.Message):
    __slots__ = ("reached", "failed", "refusal")
    REACHED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    reached: _containers.RepeatedScalarFieldContainer[str]
    failed: _containers.RepeatedScalarFieldContainer[str]
    refusal: str
    def __init__(self, reached: _Optional[_Iterable[str]] = ..., failed: _Optional[_Iterable[str]] = ..., refusal: _Optional[str] = ...) -> None: ...

class PeerCard(_message.Message):
    __slots__ = ("wire_addresses", "multiaddrs", "role", "step", "round", "tokens", "software", "reach", "relays", "up_bps", "down_bps", "life", "began_unix_s", "domain", "memory_bytes", "flops_per_s", "kept", "stays", "unable")
    WIRE_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    MULTIADDRS_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    REACH_FIELD_NUMBER: _ClassVar[int]
    RELAYS_FIELD_NUMBER: _ClassVar[int]
    UP_BPS_FIELD_NUMBER: _ClassVar[int]
    DOWN_BPS_FIELD_NUMBER: _ClassVar[int]
    LIFE_FIELD_NUMBER: _ClassVar[int]
    BEGAN_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    FLOPS_PER_S_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    STAYS_FIELD_NUMBER: _ClassVar[int]
    UNABLE_FIELD_NUMBER: _ClassVar[int]
    wire_addresses: _containers.RepeatedScalarFieldContainer[str]
    multiaddrs: _containers.RepeatedScalarFieldContainer[str]
    role: str
    step: int
    round: int
    tokens: int
    software: str
    reach: str
    relays: _containers.RepeatedScalarFieldContainer[str]
    up_bps: int
    down_bps: int
    life: bytes
    began_unix_s: float
    domain: str
    memory_bytes: int
    flops_per_s: int
    kept: _containers.RepeatedCompositeFieldContainer[KeptState]
    stays: bool
    unable: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, wire_addresses: _Optional[_Iterable[str]] = ..., multiaddrs: _Optional[_Iterable[str]] = ..., role: _Optional[str] = ..., step: _Optional[int] = ..., round: _Optional[int] = ..., tokens: _Optional[int] = ..., software: _Optional[str] = ..., reach: _Optional[str] = ..., relays: _Optional[_Iterable[str]] = ..., up_bps: _Optional[int] = ..., down_bps: _Optional[int] = ..., life: _Optional[bytes] = ..., began_unix_s: _Optional[float] = ..., domain: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., flops_per_s: _Optional[int] = ..., kept: _Optional[_Iterable[_Union[KeptState, _Mapping]]] = ..., stays: _Optional[bool] = ..., unable: _Optional[_Iterable[str]] = ...) -> None: ...

class KeptState(_message.Message):
    __slots__ = ("domain", "round", "step", "is_final")
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    IS_FINAL_FIELD_NUMBER: _ClassVar[int]
    domain: str
    round: int
    step: int
    is_final: bool
    def __init__(self, domain: _Optional[str] = ..., round: _Optional[int] = ..., step: _Optional[int] = ..., is_final: _Optional[bool] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("key", "at_unix_s", "phase", "domain", "step", "round", "tokens", "tokens_per_s", "loss_bits_per_byte", "validation_bits_per_byte", "validation_round", "utilisation_frac", "sent_bytes", "received_bytes", "num_members", "contribution", "witnesses", "exchanges", "waits", "ties", "notices")
    KEY_FIELD_NUMBER: _ClassVar[int]
    AT_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_S_FIELD_NUMBER: _ClassVar[int]
    LOSS_BITS_PER_BYTE_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_BITS_PER_BYTE_FIELD_NUMBER: _ClassVar[int]
    VALIDATION_ROUND_FIELD_NUMBER: _ClassVar[int]
    UTILISATION_FRAC_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    NUM_MEMBERS_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    WITNESSES_FIELD_NUMBER: _ClassVar[int]
    EXCHANGES_FIELD_NUMBER: _ClassVar[int]
    WAITS_FIELD_NUMBER: _ClassVar[int]
    TIES_FIELD_NUMBER: _ClassVar[int]
    NOTICES_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    at_unix_s: float
    phase: str
    domain: str
    step: int
    round: int
    tokens: int
    tokens_per_s: float
    loss_bits_per_byte: float
    validation_bits_per_byte: float
    validation_round: int
    utilisation_frac: float
    sent_bytes: int
    received_bytes: int
    num_members: int
    contribution: Contribution
    witnesses: _containers.RepeatedCompositeFieldContainer[Witness]
    exchanges: _containers.RepeatedCompositeFieldContainer[Exchanged]
    waits: _containers.RepeatedCompositeFieldContainer[Waiting]
    ties: _containers.RepeatedCompositeFieldContainer[Tie]
    notices: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, key: _Optional[bytes] = ..., at_unix_s: _Optional[float] = ..., phase: _Optional[str] = ..., domain: _Optional[str] = ..., step: _Optional[int] = ..., round: _Optional[int] = ..., tokens: _Optional[int] = ..., tokens_per_s: _Optional[float] = ..., loss_bits_per_byte: _Optional[float] = ..., validation_bits_per_byte: _Optional[float] = ..., validation_round: _Optional[int] = ..., utilisation_frac: _Optional[float] = ..., sent_bytes: _Optional[int] = ..., received_bytes: _Optional[int] = ..., num_members: _Optional[int] = ..., contribution: _Optional[_Union[Contribution, _Mapping]] = ..., witnesses: _Optional[_Iterable[_Union[Witness, _Mapping]]] = ..., exchanges: _Optional[_Iterable[_Union[Exchanged, _Mapping]]] = ..., waits: _Optional[_Iterable[_Union[Waiting, _Mapping]]] = ..., ties: _Optional[_Iterable[_Union[Tie, _Mapping]]] = ..., notices: _Optional[_Iterable[str]] = ...) -> None: ...

class Contribution(_message.Message):
    __slots__ = ("trained_tokens", "used_tokens", "used_rounds", "late_rounds", "refused")
    TRAINED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    USED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    USED_ROUNDS_FIELD_NUMBER: _ClassVar[int]
    LATE_ROUNDS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    trained_tokens: int
    used_tokens: int
    used_rounds: int
    late_rounds: int
    refused: _containers.RepeatedCompositeFieldContainer[Refused]
    def __init__(self, trained_tokens: _Optional[int] = ..., used_tokens: _Optional[int] = ..., used_rounds: _Optional[int] = ..., late_rounds: _Optional[int] = ..., refused: _Optional[_Iterable[_Union[Refused, _Mapping]]] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("reason", "times")
    REASON_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    reason: str
    times: int
    def __init__(self, reason: _Optional[str] = ..., times: _Optional[int] = ...) -> None: ...

class Witness(_message.Message):
    __slots__ = ("key", "rounds", "tokens")
    KEY_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    rounds: int
    tokens: int
    def __init__(self, key: _Optional[bytes] = ..., rounds: _Optional[int] = ..., tokens: _Optional[int] = ...) -> None: ...

class Exchanged(_message.Message):
    __slots__ = ("fragment", "round", "partners", "outcome", "reason", "began_unix_s", "took_s")
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    PARTNERS_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BEGAN_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    TOOK_S_FIELD_NUMBER: _ClassVar[int]
    fragment: int
    round: int
    partners: _containers.RepeatedScalarFieldContainer[bytes]
    outcome: str
    reason: str
    began_unix_s: float
    took_s: float
    def __init__(self, fragment: _Optional[int] = ..., round: _Optional[int] = ..., partners: _Optional[_Iterable[bytes]] = ..., outcome: _Optional[str] = ..., reason: _Optional[str] = ..., began_unix_s: _Optional[float] = ..., took_s: _Optional[float] = ...) -> None: ...

class Waiting(_message.Message):
    __slots__ = ("name", "whom", "for_s")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WHOM_FIELD_NUMBER: _ClassVar[int]
    FOR_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    whom: str
    for_s: float
    def __init__(self, name: _Optional[str] = ..., whom: _Optional[str] = ..., for_s: _Optional[float] = ...) -> None: ...

class Tie(_message.Message):
    __slots__ = ("key", "way", "round_trip_s")
    KEY_FIELD_NUMBER: _ClassVar[int]
    WAY_FIELD_NUMBER: _ClassVar[int]
    ROUND_TRIP_S_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    way: str
    round_trip_s: float
    def __init__(self, key: _Optional[bytes] = ..., way: _Optional[str] = ..., round_trip_s: _Optional[float] = ...) -> None: ...
