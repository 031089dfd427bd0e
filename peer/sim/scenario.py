"""A scenario: a swarm to simulate and what befalls it, read from TOML.

Whatever has a unit may be written with it: `"20M"`, `"90ms"`, `"2h"`, `"1B"`. A bare number is in
bits per second, in seconds, or just a number.
"""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from peer.method import check_method, method_of_run
from peer.presence import REFRESH_S
from peer.settings import method_settings, read_settings
from peer.sim.crowd_scenario import crowd_spec
from peer.sim.faults import Crash, Fault, Join, Leave
from peer.sim.network import LinkSpec
from peer.sim.peer import Seat
from peer.sim.task import Task, TextTask, ToyTask
from peer.sim.wire import scaled_chunk_bytes
from peer.train.model import layout_of_run
from peer.units import format_bytes, format_duration, parse_count, parse_duration_s, parse_rate_bps
from protocol.errors import ConfigError
from protocol.identity import peer_id_of
from protocol.manifest import Manifest, MethodSpec, manifest_from

SCENARIOS = Path(__file__).parent / "scenarios"
"""Those that come with the package."""
FOUNDER = peer_id_of(bytes(32))
_WITH_UNITS = ("at", "for", "reorder", "offset")
"""Of faults: `at = "10min"` is `at_s = 600.0`."""
_MOST_PER_HOUR = 3600.0
"""Of a kind of churn that is drawn beforehand, fault by fault."""

Rate = Annotated[float, BeforeValidator(parse_rate_bps)]
Duration = Annotated[float, BeforeValidator(parse_duration_s)]
Number = Annotated[float, BeforeValidator(parse_count)]
Frac = Annotated[float, Field(ge=0, lt=1)]
PerHour = Annotated[float, Field(ge=0, le=1e6)]


def _with_units(given: Any) -> Any:
    if not isinstance(given, dict):
        return given
    keys = {name: f"{name}_s" for name in _WITH_UNITS if f"{name}_s" not in given}
    return {
        keys.get(name, name): parse_duration_s(value)
        if name in keys and isinstance(value, str)
        else value
        for name, value in given.items()
    }


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Toy(_Table):
    """The toy that `task = "toy"` trains; see `peer.sim.task.ToyTask`."""

    parameters: Annotated[Number, Field(ge=1, le=1e8)] = 100_000.0
    rate: Annotated[float, Field(gt=0, le=1)] = 0.05
    spread: Annotated[float, Field(ge=0)] = 1.0


class Link(_Table):
    """How each peer of a group is connected."""

    up_bps: Rate = Field(default=100e6, alias="up")
    down_bps: Rate = Field(default=100e6, alias="down")
    latency_s: Duration = Field(default=0.01, alias="latency")
    """One way, to the middle of the network."""
    latency_cv: Annotated[float, Field(ge=0, le=10)] = 0.0
    loss: Frac = 0.0
    """Of packets."""

    def spec(self) -> LinkSpec:
        """Returns it as the network knows it."""
        return LinkSpec(
            up_bps=self.up_bps,
            down_bps=self.down_bps,
            latency_s=self.latency_s,
            latency_cv=self.latency_cv,
            loss_frac=self.loss,
        )


class Group(_Table):
    """Peers of a kind."""

    name: Annotated[str, Field(min_length=1, max_length=40)]
    count: Annotated[int, Field(ge=1)] = 1
    region: str = ""
    """Where they are; empty: at a place of the group's name."""
    step_s: Annotated[Duration, Field(gt=0)] = Field(default=0.1, alias="step")
    """The mean time of an inner step."""
    step_cv: Annotated[float, Field(ge=0, le=10)] = 0.0
    joins_s: Duration = Field(default=0.0, alias="joins")
    """When its peers are started."""
    link: Link = Link()

    def seat(self) -> Seat:
        """Returns a seat of this kind."""
        return Seat(
            link=self.link.spec(),
            region=self.region or self.name,
            step_s=self.step_s,
            step_cv=self.step_cv,
        )


class Distance(_Table):
    """What lies between two regions."""

    between: Annotated[list[str], Field(min_length=2, max_length=2)]
    latency_s: Duration = Field(alias="latency")
    """One way, on top of the links'."""


class Churn(_Table):
    """Peers come and go at random times; rates are the whole swarm's."""

    leave_per_hour: PerHour = 0.0
    crash_per_hour: PerHour = 0.0
    join_per_hour: PerHour = 0.0

    def faults(self, seed: int, duration_s: float) -> list[Fault]:
        """Draws a Poisson process; a shorter duration has the same beginning."""
        rates = [self.leave_per_hour, self.crash_per_hour, self.join_per_hour]
        drawn: list[Fault] = []
        rng, at_s = random.Random(f"churn {seed}"), 0.0
        while sum(rates):
            at_s += rng.expovariate(sum(rates) / 3600)
            (kind,) = rng.choices((Leave, Crash, Join), rates)
            if at_s >= duration_s:
                break
            drawn.append(kind(at_s=at_s))
        return drawn


class CrowdHabits(_Table):
    """What only the peers of level `sizes` have; see `peer.sim.crowd`."""

    pace_cv: Annotated[float, Field(ge=0, le=10)] = 0.2
    """Of the peers' mean step times."""
    refresh_s: Annotated[Duration, Field(gt=0)] = Field(default=REFRESH_S, alias="refresh")
    """How often a peer looks who is there; its own record lives for six times as long."""


class Scenario(_Table):
    """See the module docstring, and docs/simulator.md for each setting."""

    title: str = ""
    level: Literal["tensors", "sizes"] = "tensors"
    """What is simulated: whole peers, or of thousands only who exchanges how much with whom."""
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    duration_s: Annotated[Duration, Field(gt=0)] = Field(alias="duration")
    task: Literal["toy", "text"] = "toy"
    toy: Toy = Toy()
    run: dict[str, Any] = {}
    """As in run.toml."""
    stands_for_params: Annotated[Number, Field(ge=1)] | None = None
    """Bulk data weighs as much as if the model had so many parameters."""
    evaluate_every_rounds: Annotated[int, Field(ge=0)] = 1
    evaluation_bytes: Annotated[int, Field(ge=1024)] = 16 * 1024
    groups: Annotated[list[Group], Field(min_length=1)]
    distances: list[Distance] = []
    faults: list[Annotated[Fault, BeforeValidator(_with_units)]] = []
    churn: Churn = Churn()
    crowd: CrowdHabits = CrowdHabits()

    def manifest(self, seed: int) -> Manifest:
        """Returns the run's manifest.

        Raises:
            ConfigError: names the setting that is wrong.
        """
        settings = {"seed": seed} | self.run | {"founder": FOUNDER}
        settings["method"] = method_settings(self.run.get("method", "diloco"))
        return manifest_from(settings)

    def new_task(self, manifest: Manifest) -> Task:
        """Returns what is trained.

        Raises:
            ConfigError: the run's text cannot be had.
        """
        if self.task == "text":
            return TextTask(manifest)
        size, toy = self.num_elements(manifest), self.toy
        return ToyTask(manifest, num_elements=size, rate=toy.rate, spread=toy.spread)

    def num_elements(self, manifest: Manifest) -> int:
        """Returns the number of parameters of what is trained."""
        if self.task == "text":
            return layout_of_run(manifest).num_elements
        fragments = manifest.method.schedule.fragments
        return fragments * math.ceil(self.toy.parameters / fragments)

    def byte_scale(self, manifest: Manifest) -> float:
        """Returns how many times its length bulk data weighs."""
        if self.stands_for_params is None:
            return 1.0
        return self.stands_for_params / self.num_elements(manifest)

    def all_faults(self, seed: int) -> list[Fault]:
        """Returns the planned faults and those that are drawn, in order of time."""
        drawn = self.churn.faults(seed, self.duration_s)
        return sorted([*self.faults, *drawn], key=lambda fault: fault.at_s)

    def check(self) -> None:
        """Refuses what each setting alone does not show.

        Raises:
            ConfigError: names the setting.
        """
        try:
            manifest = self.manifest(self.seed)
            method_of_run(manifest)
            if self.task == "text":
                check_method(manifest)
        except ConfigError as error:
            raise ConfigError(f"run.{error}") from None
        if self.level == "sizes":
            crowd_spec(self, manifest)
        else:
            self._check_places()
            self._check_churn()
            self._check_pieces(manifest)

    def _check_places(self) -> None:
        names = [group.name for group in self.groups]
        if len(set(names)) < len(names):
            raise ConfigError(f"groups: two have the same name, of {', '.join(names)}")
        regions = {group.region or group.name for group in self.groups}
        for index, distance in enumerate(self.distances):
            if unknown := set(distance.between) - regions:
                raise ConfigError(
                    f"distances[{index}].between: nobody is in {min(unknown)!r}; there are "
                    f"{', '.join(sorted(regions))}"
                )

    def _check_churn(self) -> None:
        if "crowd" in self.model_fields_set:
            raise ConfigError("crowd: does nothing at level tensors; leave it out")
        for name, per_hour in self.churn:
            if per_hour > _MOST_PER_HOUR:
                raise ConfigError(
                    f"churn.{name}: more than one in a second is for level sizes, got {per_hour:g}"
                )

    def _check_pieces(self, manifest: Manifest) -> None:
        """Refuses a stand-in so small that its smallest pieces are too heavy for the links."""
        byte_scale = self.byte_scale(manifest)
        piece_bytes = byte_scale * scaled_chunk_bytes(manifest.limits.chunk_bytes, byte_scale)
        slowest_bps = min(min(group.link.up_bps, group.link.down_bps) for group in self.groups)
        piece_s = 8 * piece_bytes * self._num_streams(manifest.method) / slowest_bps
        if piece_bytes > manifest.limits.chunk_bytes and piece_s > manifest.round.progress_s:
            raise ConfigError(
                f"stands_for_params: {self.num_elements(manifest):,} parameters stand for so many "
                f"that the least that travels weighs {format_bytes(piece_bytes)} and takes up to "
                f"{format_duration(piece_s)}, more than run.round.progress_s; let more parameters "
                "stand for them, or set that higher"
            )

    def _num_streams(self, method: MethodSpec) -> int:
        """Returns how many streams may share one peer's link in one direction."""
        num_peers = sum(group.count for group in self.groups)
        if method.mixing == "all":
            return max(1, num_peers - 1)
        members = min(method.group_size, num_peers) if method.mixing == "groups" else 2
        return 2 * max(1, members - 1)


def read_scenario(name: str) -> Scenario:
    """Returns the scenario in a file, or one that comes with the package, by its name.

    Raises:
        ConfigError: one line that names file and setting.
    """
    path = Path(name)
    if not path.exists() and path.name == name and not path.suffix:
        path = SCENARIOS / f"{name}.toml"
        if not path.exists():
            raise ConfigError(f"there is no file and no scenario {name!r}; {_known()}")
    settings = read_settings(path)
    try:
        scenario = Scenario.model_validate(settings)
        scenario.check()
    except ValidationError as error:
        raise ConfigError(f"{path}: {_one_line(error)}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return scenario


def packaged() -> list[Path]:
    """Returns the scenarios that come with the package."""
    return sorted(SCENARIOS.glob("*.toml"))


def _known() -> str:
    return f"there are {', '.join(path.stem for path in packaged())}"


def _one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = _where(first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{where}: there is no such setting"
    if first["type"] == "missing":
        return f"{where}: is missing"
    message = first["msg"].removeprefix("Value error, ")
    is_said = first["type"] == "value_error"
    return f"{where}: {message}" + ("" if is_said else f", got {first['input']!r:.60}")


def _where(loc: Sequence[str | int]) -> str:
    """Returns `groups[0].link.up`; of faults without their kind, which is no key."""
    parts = [*loc[:2], *loc[3:]] if loc and loc[0] == "faults" else loc
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.lstrip(".") or "scenario"
