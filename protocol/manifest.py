"""The run's manifest: everything that must be equal on every peer.

It is data, never code: recipes, models and rules are named, and a peer that does not know a name
refuses the run. Canonical bytes (sorted JSON without spaces) are hashed into the run id, and signed
by the founder, so whoever holds a ticket can check a manifest that a stranger hands over.
"""

import hashlib
import json
from typing import Annotated, Any, Literal, NewType

from pydantic import Field, ValidationError, model_validator

from protocol.errors import ConfigError, MalformedMessage, RunMismatch
from protocol.identity import Identity, PeerId, verify
from protocol.models import KINDS, AnyModelSpec, ModelSpec, OwnSpec, Spec

RunId = NewType("RunId", str)

MAX_MANIFEST_BYTES = 64 * 1024
MAX_FRAGMENTS = 1024
_SIGNATURE_DOMAIN = b"thinwire manifest 1\0"

Frac = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class DataSpec(Spec):
    """Where the text comes from, and what the common validation text must be."""

    recipe: Annotated[str, Field(min_length=1, max_length=4096)] = "stdlib"
    """Which text; see `peer.train.recipes`."""
    tokenizer: Annotated[str, Field(pattern=r"^(bytes|file:[\w.\-]{1,64})$")] = "bytes"
    """`bytes`, or `file:NAME` for one of the run's files, in the format of `tokenizers`."""
    vocab_size: Annotated[int, Field(ge=0, le=1 << 24)] = 0
    """Of a tokenizer from a file; 0 for bytes, of which there are 256. Set by `thinwire new`."""
    validation_frac: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    validation_bytes: Annotated[int, Field(ge=0)] = 0
    validation_digest: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """SHA-256 of the validation text; written by `thinwire new`."""


class InnerSpec(Spec):
    """The inner optimizer and one inner step's size."""

    optimizer: Literal["adamw", "muon", "sgd"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 3e-3
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """The betas are those of adamw, and of muon for what is no hidden matrix."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Of muon and sgd."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    total_steps: Count = 2000
    final_lr_frac: Frac = 0.1
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    batch_sequences: Count = 8

    @model_validator(mode="after")
    def _warmup_ends(self) -> "InnerSpec":
        if self.warmup_steps > self.total_steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} is more than total_steps {self.total_steps}"
            )
        return self


class ScheduleSpec(Spec):
    """Which part leaves when, and lands when."""

    interval_steps: Count = 100
    """H, inner steps between two departures of one fragment."""
    fragments: Annotated[int, Field(ge=1, le=MAX_FRAGMENTS)] = 1
    overlap_steps: Annotated[int, Field(ge=0)] = 0
    """tau: a landing waits at least so many steps; 0 lands as soon as it is there, and so do rules
    that go ahead (eager, co2)."""
    pattern: Literal["balanced", "sequential", "strided"] = "balanced"
    """How tensors are dealt to fragments."""
    separate_embeddings: bool = False
    """The last fragment is embedding and head alone."""
    merge_alpha: Frac | None = None
    """What theta keeps of itself at a landing; null: all steps since departure."""


CodecName = Annotated[str, Field(min_length=1, max_length=32)]


class CodecSpec(Spec):
    """What bits go over the wire."""

    name: CodecName = "fp32"
    block: Annotated[int, Field(ge=8, le=65536)] | None = None
    """Values that share a scale; null: the codec's own."""
    rounding: Literal["nearest", "stochastic"] = "nearest"
    kept: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Of topk: values kept of a block; null: the codec's own."""
    feedback: Annotated[float, Field(gt=0, le=1)] | None = None
    """Error feedback: the decay of what a codec left out; null: none."""
    cheaper: Annotated[list[CodecName], Field(max_length=4)] = Field(default_factory=list)
    """Codecs for links too thin for `name`, cheaper one by one; partners agree on one."""


class OuterSpec(Spec):
    """What becomes of the average."""

    rule: Annotated[str, Field(min_length=1, max_length=32)] = "nesterov"
    constants: dict[str, float | str] = Field(default_factory=dict)


class MethodSpec(Spec):
    """A point on the four axes."""

    preset: str = ""
    """The name that the point was given as; for people only."""
    mixing: Literal["all", "pairs", "groups"] = "all"
    group_size: Annotated[int, Field(ge=2, le=64)] = 4
    """Of mixing groups: at most so many average together."""
    schedule: ScheduleSpec = ScheduleSpec()
    codec: CodecSpec = CodecSpec()
    outer: OuterSpec = OuterSpec()


class RoundSpec(Spec):
    """How long a round waits, and for whom."""

    quorum_frac: Annotated[float, Field(ge=0.5, le=1)] = 0.5
    """A roster needs more than this part of the live peers."""
    grace_s: Annotated[float, Field(gt=0)] = 3.0
    """After quorum, how long the roster stays open for the others; of groups, after each guest."""
    exchange_s: Annotated[float, Field(gt=0)] = 600.0
    """A backstop: an exchange that is not through by then is given up, even if bytes still come."""
    progress_s: Annotated[float, Field(gt=0)] = 3.0
    """A transfer that brings less than 4 KiB for so long is given up."""


class LimitSpec(Spec):
    """What a peer may cost another."""

    max_peers: Annotated[int, Field(ge=2, le=256)] = 128
    """Of one roster, so of a whole swarm that mixes `all`; other mixings have no such limit."""
    chunk_bytes: Annotated[int, Field(ge=1024, le=1 << 20)] = 256 * 1024
    max_message_bytes: Annotated[int, Field(ge=1024, le=1 << 20)] = 64 * 1024
    max_streams_per_peer: Annotated[int, Field(ge=1, le=64)] = 32


class MembershipSpec(Spec):
    """Who may take part."""

    policy: Literal["open", "invite"] = "open"
    invite_digest: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """SHA-256 of the secret in the ticket, for policy `invite`."""


MAX_DOMAINS = 24
MAX_DOMAIN_CHARS = 32
DomainName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=MAX_DOMAIN_CHARS)]


class DomainSpec(Spec):
    """One domain of text and the expert that learns it, in a sub-swarm with its own rounds."""

    name: DomainName
    data: DataSpec = DataSpec()
    model: ModelSpec = ModelSpec()
    inner: InnerSpec = InnerSpec()
    """Its `total_steps` are the domain's budget, on the run's count."""
    method: MethodSpec = MethodSpec()
    difficulty: Annotated[float, Field(gt=0)] | None = None
    """Bits per byte of a probe, or any number that grows with difficulty; for people only."""
    branch_from: DomainName | Literal[""] = ""
    """The domain whose last anchor is this one's first: branch-train-merge."""
    is_expert: bool = True
    """Whether it is part of the ensemble; a seed that others branch from need not be."""


class ExpertsSpec(Spec):
    """How a run with domains was divided, for people, and how its states are kept."""

    division: Literal["equal", "steps", "size", "both"] = "equal"
    spread: Annotated[float, Field(ge=1, le=64)] = 5 / 3
    """Compute of the hardest domain over that of the easiest, unless `equal`."""
    budget_flops: Annotated[float, Field(gt=0)] | None = None
    """What was divided; null when each domain's budget was given."""
    copy_every_s: Annotated[float, Field(gt=0)] = 60.0
    """How old the copy of a small domain's state may be that peers of other domains keep."""


INITIAL = "initial.safetensors"
"""The run's file that holds theta_0, where the seed does not make it."""
MAX_FILE_BYTES = 1 << 40


class FileSpec(Spec):
    """A file that every peer of the run needs; who has the manifest gets it from any peer."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][\w.\-]{0,63}$")]
    size_bytes: Annotated[int, Field(ge=1, le=MAX_FILE_BYTES)]
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """BLAKE3 of its bytes."""


class Manifest(Spec):
    """What all peers of a run agree on. See the module docstring."""

    version: Literal[1] = 1
    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\w .\-]+$")] = "run"
    founder: str
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    model: AnyModelSpec = ModelSpec()
    data: DataSpec = DataSpec()
    inner: InnerSpec = InnerSpec()
    method: MethodSpec = MethodSpec()
    round: RoundSpec = RoundSpec()
    limits: LimitSpec = LimitSpec()
    membership: MembershipSpec = MembershipSpec()
    experts: ExpertsSpec = ExpertsSpec()
    domains: Annotated[list[DomainSpec], Field(max_length=MAX_DOMAINS)] = Field(
        default_factory=list
    )
    """Empty: one model. Else `model`, `data`, `inner` and `method` above are nobody's."""
    files: Annotated[list[FileSpec], Field(max_length=16)] = Field(default_factory=list)
    """What peers fetch from one another before they begin."""

    @model_validator(mode="after")
    def _domains_fit(self) -> "Manifest":
        if self.experts != ExpertsSpec() and not self.domains:
            raise ValueError("experts are of domains, and there are none")
        seen: dict[str, DomainSpec] = {}
        for domain in self.domains:
            if domain.name in seen:
                raise ValueError(f"two domains are called {domain.name}")
            if domain.branch_from:
                if domain.branch_from not in seen:
                    raise ValueError(
                        f"domain {domain.name} branches from {domain.branch_from}, which is no "
                        "domain before it"
                    )
                if seen[domain.branch_from].model != domain.model:
                    raise ValueError(
                        f"domain {domain.name} branches from {domain.branch_from}, whose model "
                        "has another shape"
                    )
            seen[domain.name] = domain
        experts = [domain for domain in self.domains if domain.is_expert]
        if self.domains and not experts:
            raise ValueError("none of the domains is an expert")
        if any(domain.data.tokenizer.startswith("file:") for domain in self.domains):
            raise ValueError("domains read bytes; a tokenizer from a file is for one model")
        if len({domain.data.tokenizer for domain in experts}) > 1:
            raise ValueError("experts share one tokenizer, and these domains have several")
        return self

    @model_validator(mode="after")
    def _files_fit(self) -> "Manifest":
        names = [file.name for file in self.files]
        if len(set(names)) < len(names):
            raise ValueError("two files have one name")
        if self.files and self.domains:
            raise ValueError("a run with domains has no files")
        tokenizer = self.data.tokenizer.removeprefix("file:")
        has_file = tokenizer != self.data.tokenizer
        if has_file != (self.data.vocab_size > 0):
            raise ValueError("data.vocab_size goes with a tokenizer from a file")
        if has_file and tokenizer not in names:
            raise ValueError(f"data.tokenizer is the file {tokenizer}, which is not in files")
        if isinstance(self.model, OwnSpec) and INITIAL not in names:
            raise ValueError(f"a model of its owner's loop needs the file {INITIAL}")
        return self

    @property
    def transformer(self) -> ModelSpec:
        """The model, where it must be a transformer of our own kind.

        Raises:
            ConfigError: it is of another kind.
        """
        if not isinstance(self.model, ModelSpec):
            raise ConfigError(f"this is not for a model of kind {self.model.kind!r}")
        return self.model

    @property
    def context(self) -> int:
        """Tokens predicted in a window.

        Raises:
            ConfigError: only the owner of the model's loop knows.
        """
        if isinstance(self.model, OwnSpec):
            raise ConfigError("this is not for a model that its owner's loop trains")
        return self.model.context

    def file_named(self, name: str) -> FileSpec | None:
        """Returns one of the run's files; None if there is none of that name."""
        return next((file for file in self.files if file.name == name), None)

    def to_bytes(self) -> bytes:
        """Returns the canonical bytes, of which `run_id` is the hash.

        What a run does not have is absent, so that later versions leave its id as it is.
        """
        absent: dict[str, Any] = {} if self.domains else {"domains": True, "experts": True}
        if not self.files:
            absent["files"] = True
        without = {"vocab_size"}
        absent["data"] = without if not self.data.vocab_size else set()
        absent["domains"] = absent.get("domains") or {"__all__": {"data": without}}
        settings = self.model_dump(mode="json", exclude=absent)
        return json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()

    @property
    def run_id(self) -> RunId:
        """SHA-256 of the canonical bytes, in hex."""
        return RunId(hashlib.sha256(self.to_bytes()).hexdigest())


def manifest_from(settings: dict[str, Any]) -> Manifest:
    """Returns the manifest that an operator's settings describe.

    Raises:
        ConfigError: names the first setting that is wrong, and why.
    """
    try:
        return Manifest.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(_one_line(error)) from None


def parse_manifest(data: bytes) -> Manifest:
    """Returns the manifest with these canonical bytes.

    Raises:
        MalformedMessage: not the canonical bytes of a manifest we understand.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise MalformedMessage(f"a manifest has at most {MAX_MANIFEST_BYTES} bytes")
    try:
        manifest = Manifest.model_validate(json.loads(data))
    except ValidationError as error:
        raise MalformedMessage(f"not a manifest that we understand: {_one_line(error)}") from None
    except (ValueError, RecursionError):
        raise MalformedMessage("not a manifest: no JSON") from None
    if manifest.to_bytes() != data:
        raise MalformedMessage("the manifest's bytes are not canonical")
    return manifest


def sign_manifest(manifest: Manifest, founder: Identity) -> bytes:
    """Returns the founder's signature of a manifest."""
    return founder.sign(_SIGNATURE_DOMAIN + manifest.to_bytes())


def verify_manifest(data: bytes, signature: bytes, *, run_id: str, founder: PeerId) -> Manifest:
    """Returns a manifest received from a stranger, if it is the one that the ticket promised.

    Raises:
        RunMismatch: it is another run's.
        BadSignature: the founder did not sign it.
        MalformedMessage: it is no manifest.
    """
    found = hashlib.sha256(data).hexdigest()
    if found != run_id:
        raise RunMismatch(f"the manifest is that of run {found[:12]}, not of {run_id[:12]}")
    verify(founder, signature, _SIGNATURE_DOMAIN + data)
    manifest = parse_manifest(data)
    if manifest.founder != founder:
        raise RunMismatch(f"the manifest names founder {manifest.founder}, the ticket {founder}")
    return manifest


def manifest_diff(ours: Manifest, theirs: Manifest) -> list[str]:
    """Returns one line for each setting that differs, as `key: ours != theirs`."""
    left, right = _flat(ours.model_dump(mode="json")), _flat(theirs.model_dump(mode="json"))
    return [
        f"{key}: {left.get(key)!r} here, {right.get(key)!r} there"
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key)
    ]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    loc = [part for part in first["loc"] if part not in KINDS]
    where = ".".join(str(part) for part in loc) or "manifest"
    where = where[:80] if where.isprintable() else ascii(where)[:80]  # a stranger's keys
    if first["type"] == "extra_forbidden":
        return f"{where}: there is no such setting"
    if first["type"] == "union_tag_invalid":
        return f"{where}.kind: it is one of {', '.join(KINDS)}"
    return f"{where}: {first['msg']}, got {first.get('input')!r:.80}"
