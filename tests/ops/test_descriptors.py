"""How many clients a process can have at all."""

import subprocess
import sys

ASK = """
import resource
from ops.cli_process import allow_descriptors

resource.setrlimit(resource.RLIMIT_NOFILE, (256, 700))
allow_descriptors()
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_a_process_takes_the_descriptors_that_it_is_allowed() -> None:
    """In a process of its own: a limit that was lowered cannot be raised again."""
    said = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "(700, 700)"
