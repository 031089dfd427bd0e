"""What the containers are told exists: options, files, ports, the user; and their health shows."""

import re
import runpy
import shlex
import socket
import tomllib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from peer.settings import read_settings
from protocol.manifest import manifest_from
from thinwire.commands import app

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())[
    "services"
]


def _thinwire(service: dict[str, Any]) -> list[str] | None:
    """The service's arguments of `thinwire`, if it calls it."""
    command: list[str] = service["command"]
    if "entrypoint" not in service:
        return command
    _, _, called = command[0].partition("thinwire ")
    return shlex.split(called) or None


CALLS = {name: call for name in SERVICES if (call := _thinwire(SERVICES[name]))}


def _options(call: list[str]) -> dict[str, Any]:
    """What the command line makes of it; raises what a wrong one would."""
    commands: Any = typer.main.get_command(app)
    name, *arguments = call
    params: dict[str, Any] = commands.commands[name].make_context(name, arguments).params
    return params


@pytest.mark.parametrize("name", CALLS)
def test_the_command_line_takes_what_compose_says(name: str) -> None:
    _options(CALLS[name])


def test_there_are_a_founder_a_node_and_three_peers() -> None:
    assert sorted(call[0] for call in CALLS.values()) == ["bootstrap", *["join"] * 3, "new"]


def test_ports_are_those_that_are_exposed_and_looked_at() -> None:
    (port,) = re.findall(r"THINWIRE_PORT=(\d+)", DOCKERFILE)
    (exposed,) = re.findall(r"^EXPOSE (.+)$", DOCKERFILE, re.MULTILINE)
    assert exposed.split() == [port, str(int(port) + 1)]
    for call in CALLS.values():
        if "listen" in (options := _options(call)):
            assert options["listen"] == f"0.0.0.0:{port}"


def test_the_nodes_address_and_page_are_where_compose_puts_them() -> None:
    options, service = _options(CALLS["bootstrap"]), SERVICES["bootstrap"]
    assert options["announce"] == service["networks"]["swarm"]["ipv4_address"]
    (published,) = service["ports"]
    assert published.rpartition(":")[2] == options["web"].rpartition(":")[2]
    assert published.startswith("127.0.0.1:")


def test_peers_share_no_volume_but_the_ticket() -> None:
    for name, call in CALLS.items():
        if call[0] == "join":
            assert SERVICES[name]["volumes"] == ["ticket:/ticket:ro", f"{name}:/data"]


def test_the_image_has_all_packages_and_only_files_that_are_let_in() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    assert all((ROOT / source).exists() for source in sources)
    ignore = (ROOT / "docker" / "Dockerfile.dockerignore").read_text().split()
    assert sources == {line[1:] for line in ignore if line.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {package.rstrip("*") for package in packages} <= sources


def test_the_user_is_the_one_that_was_made() -> None:
    (uid,) = re.findall(r"useradd --uid (\d+)", DOCKERFILE)
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE) == [f"{uid}:{uid}"]


def test_its_run_can_be_founded() -> None:
    manifest_from(read_settings(ROOT / "docker" / "run.toml") | {"founder": "12D3KooW"})


def _two_sockets(stack: ExitStack) -> tuple[int, list[socket.socket]]:
    """Two that are bound to neighbouring ports; nobody listens yet."""
    while True:
        first = stack.enter_context(socket.socket())
        second = stack.enter_context(socket.socket())
        first.bind(("127.0.0.1", 0))
        port = int(first.getsockname()[1])
        try:
            second.bind(("127.0.0.1", port + 1))
        except (OSError, OverflowError):  # somebody else's, or there is none
            continue
        return port, [first, second]


def test_health_is_that_both_ports_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main = runpy.run_path(str(ROOT / "docker" / "healthcheck.py"))["main"]
    with ExitStack() as stack:
        port, (wire, directory) = _two_sockets(stack)
        monkeypatch.setenv("THINWIRE_PORT", str(port))
        assert main() == 1
        wire.listen()
        assert main() == 1
        directory.listen()
        assert main() == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in said] == [
        f"nothing answers on port {port}",
        f"nothing answers on port {port + 1}",
    ]
