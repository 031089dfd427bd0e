"""The public door: every name that it promises is there, and is loaded only when used."""

import subprocess
import sys

import thinwire


def test_every_public_name_can_be_had() -> None:
    assert set(thinwire.__all__) == set(thinwire._HOMES)
    for name in thinwire.__all__:
        assert getattr(thinwire, name) is not None


def test_the_command_answers_without_loading_torch() -> None:
    code = "import sys, thinwire.commands; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_ctrl_c_while_the_command_still_loads_leaves_without_a_word() -> None:
    code = """
import sys
class Interrupted:
    def find_spec(self, name, path, target=None):
        if name == "thinwire.commands":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
from thinwire.__main__ import main
main()
"""
    left = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (left.returncode, left.stderr) == (130, b"")
