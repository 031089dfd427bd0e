import tomllib
from itertools import combinations

import pytest

from peer.demo.experts import script
from peer.demo.picture import COLOURS
from peer.demo.script import METHODS
from peer.experts.settings import undivided
from peer.train.recipes import files_of
from protocol.errors import ConfigError


@pytest.mark.parametrize("method", script.METHODS)
@pytest.mark.parametrize("steps", [script.FEWEST_STEPS, script.DEFAULT_STEPS])
def test_the_settings_describe_three_domains(method: str, steps: int) -> None:
    settings = tomllib.loads(script.run_toml(method, seed=7, steps=steps))
    found = undivided(settings | {"founder": "somebody"})
    assert [domain.name for domain in found.manifest.domains] == [d.name for d in script.DOMAINS]
    assert {domain.inner.total_steps for domain in found.manifest.domains} == {steps}
    assert {domain.method.codec.name for domain in found.manifest.domains} == {
        METHODS[method].codec
    }
    assert found.unknown(found.manifest.experts.division) == [d.name for d in script.DOMAINS]
    assert found.manifest.seed == 7


def test_no_file_is_in_two_domains() -> None:
    files = [{path for _, path in files_of(domain.recipe)[0]} for domain in script.DOMAINS]
    assert all(files)
    assert all(one.isdisjoint(other) for one, other in combinations(files, 2))


@pytest.mark.parametrize(("method", "steps"), [("adam", 800), ("diloco", 100)])
def test_what_cannot_be_played_is_refused(method: str, steps: int) -> None:
    with pytest.raises(ConfigError, match="the demo"):
        script.run_toml(method, seed=0, steps=steps)


def test_every_peer_has_a_colour() -> None:
    assert set(script.PEERS) <= COLOURS.keys()
