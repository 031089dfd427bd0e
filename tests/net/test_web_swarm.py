"""The page of a swarm of real processes: what it shows is what `thinwire status` says."""

import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.net.swarm import Swarm, wait_for
from tests.net.test_web_page import CHROMIUM, Tab, assert_shows, browser, is_ready

pytest.importorskip("playwright.sync_api", reason="playwright is of the extra `dev`")
from playwright.sync_api import APIResponse, Browser, Page, Route

pytestmark = [
    pytest.mark.net,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here"),
]

__all__ = ["browser"]
PEERS = 3
MAX_STEPS = 80
OF_PEER = ("role", "step", "round", "tokens", "behind_rounds", "has_report", "contribution")
OF_SWARM = ("name", "run_id", "method", "parameters", "num_training", "round", "tokens")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


class Watched:
    """Three peers that stand still once they are done, and two pages: the node's and a peer's."""

    def __init__(self, folder: Path) -> None:
        self.ports = {"bootstrap": free_port(), "peer0": free_port()}
        web = {name: ("--web", f"127.0.0.1:{port}") for name, port in self.ports.items()}
        self.swarm = Swarm(folder, "diloco", "int8", node_options=web["bootstrap"])
        options = ("--max-steps", str(MAX_STEPS), "--evaluation-bytes", "1024")
        for number in range(PEERS):
            name = f"peer{number}"
            self.swarm.join(name, *options, *web.get(name, ()))

    def status(self, whose: str) -> dict[str, Any] | None:
        url = f"http://127.0.0.1:{self.ports[whose]}/status.json"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return dict(json.load(answer))
        except OSError:
            return None

    def is_still(self, whose: str) -> bool:
        """Whether all that will ever be done is done, and is known there."""
        peers = [p for p in (self.status(whose) or {"peers": []})["peers"] if p["has_report"]]
        return len(peers) == PEERS and all(
            peer["role"] == "holder" and peer["step"] == MAX_STEPS for peer in peers
        )


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    made = Watched(tmp_path_factory.mktemp("swarm"))
    try:
        for whose in made.ports:
            wait_for("the last step", partial(made.is_still, whose), *made.swarm.actors.values())
        yield made
    finally:
        made.swarm.end()


def test_it_is_for_this_machine_and_says_where(watched: Watched) -> None:
    for whose, port in watched.ports.items():
        log = watched.swarm.actors[whose].log
        assert f"http://127.0.0.1:{port}/" in log
        assert "whoever can reach this port" not in log


def test_the_pages_their_status_and_the_command_agree(watched: Watched, browser: Browser) -> None:
    command = [sys.executable, "-m", "thinwire", "status", watched.swarm.ticket, "--json"]
    done = subprocess.run(command, check=True, capture_output=True, timeout=120)
    told = what_stands_still(json.loads(done.stdout))
    roles = sorted(peer["role"] for peer in told["peers"].values())
    assert roles == ["bootstrap"] + PEERS * ["holder"]
    for peer in told["peers"].values():
        assert peer["role"] == "bootstrap" or peer["contribution"]["used_tokens"] > 0
    for whose, port in watched.ports.items():
        seen = watched.status(whose)
        assert seen is not None
        assert what_stands_still(seen) == told, whose
        tab = Tab(browser, f"http://127.0.0.1:{port}/")
        page = tab.open()
        is_ready(page)
        assert_shows_one_status(page)
        page.close()
        assert not tab.complaints


def what_stands_still(status: dict[str, Any]) -> dict[str, Any]:
    """Returns of a status what does not change any more once nobody trains."""
    swarm = {field: status[field] for field in OF_SWARM}
    peers = {peer["peer_id"]: {field: peer[field] for field in OF_PEER} for peer in status["peers"]}
    return swarm | {"peers": peers}


def assert_shows_one_status(page: Page) -> None:
    """Asserts that the page shows a status that the node answered with, in all its parts."""
    answers: list[APIResponse] = []

    def answer(route: Route) -> None:
        if not answers:
            answers.append(route.fetch())
        route.fulfill(response=answers[0])  # the same again, for as long as we compare

    page.route("**/status.json", answer)
    page.reload()
    is_ready(page)
    assert_shows(page, answers[0].json())
