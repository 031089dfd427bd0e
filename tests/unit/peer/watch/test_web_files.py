"""The files of the page, and who may ask for them."""

from importlib.resources import files

import pytest

from peer.watch.web.server import FILES
from peer.watch.web.visitors import is_for_us


def test_no_file_of_the_package_is_forgotten() -> None:
    there = {each.name for each in files("peer.watch.web").iterdir()}
    assert {name for name in there if not name.endswith((".py", "__"))} == set(FILES)


def test_the_page_asks_nobody_else_for_anything() -> None:
    texts = [files("peer.watch.web").joinpath(name).read_text() for name in FILES]
    assert not [text for text in texts if "://" in text.replace("http://www.w3.org/", "")]
    assert not [text for text in texts if "innerHTML" in text or "insertAdjacent" in text]


@pytest.mark.parametrize(
    ("hosts", "is_us"),
    [
        (["swarm.example"], True),
        (["Swarm.Example:8080"], True),
        (["localhost:1"], True),
        (["10.0.0.7"], True),
        (["[fe80::1]:80"], True),
        (["other.example"], False),
        (["swarm.example.other.example"], False),
        (["swarm.example", "swarm.example"], False),
        ([], False),
        (["swarm.example/"], False),
        (["swarm.example:http"], False),
    ],
)
def test_the_name_that_it_listens_on_is_its_own_and_no_other(hosts: list[str], is_us: bool) -> None:
    assert is_for_us(hosts, "swarm.example") is is_us


def test_listening_everywhere_gives_it_no_name() -> None:
    assert not is_for_us([""], "")
    assert not is_for_us(["."], "")
