import pytest

from peer.config import parse_listen, parse_metrics
from protocol.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.0.0.0", ("0.0.0.0", 0)),
        ("0.0.0.0:7000", ("0.0.0.0", 7000)),
        (":7000", ("127.0.0.1", 7000)),
        ("", ("127.0.0.1", 0)),
        ("host:65534", ("host", 65534)),
    ],
)
def test_host_and_port_may_be_left_out(text: str, expected: tuple[str, int]) -> None:
    assert parse_listen(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "host:http",
        "host:-1",
        "host:70000",
        "host:65535",  # the directory needs the next one
        "host:80:81",
        "::1",
        "host:\u00b2",
    ],
)
def test_a_port_that_cannot_be_is_refused_with_what_was_typed(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--listen .*below 65535") as refused:
        parse_listen(text)
    assert text in str(refused.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9100", ("127.0.0.1", 9100)),
        (":9100", ("127.0.0.1", 9100)),
        ("0.0.0.0:9100", ("0.0.0.0", 9100)),
        ("[::1]:9100", ("::1", 9100)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_metrics_are_for_this_machine_unless_told_otherwise(
    text: str, expected: tuple[str, int]
) -> None:
    assert parse_metrics(text) == expected


@pytest.mark.parametrize(
    "text", ["", "host", "host:", "0", "host:65536", "-1", "9100:host", "\u00b2"]
)
def test_metrics_without_a_port_that_can_be_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--metrics .*\[HOST:\]PORT") as refused:
        parse_metrics(text)
    assert text in str(refused.value)
