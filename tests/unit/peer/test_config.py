import pytest

from peer.config import parse_listen
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
