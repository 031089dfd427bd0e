"""The public door: every name that it promises is there, and is loaded only when used."""

import subprocess
import sys

import thinwire


def test_every_public_name_can_be_had() -> None:
    assert set(thinwire.__all__) == set(thinwire._HOMES)
    for name in thinwire.__all__:
        assert getattr(thinwire, name) is not None


def test_the_command_answers_without_loading_torch() -> None:
    code = "import sys, thinwire.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
