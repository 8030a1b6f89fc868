"""`python -m chaos.node`: a node as `seonchak node` runs it, on a machine whose clock and disk the harness has in hand.

Its settings are SEONCHAK_* variables; CONTROL_VARIABLE names its control file.
"""

import os
from collections.abc import Callable
from pathlib import Path

from chaos.control import CONTROL_VARIABLE, Control
from chaos.machine import FailingDisk, SkewedClock
from cluster.clock import SystemClock
from node.config import NodeSettings
from node.member import NodeIdInUse
from node.process import run_node
from ops.cli_process import configure_logging, read_settings, serve


def main() -> None:
    settings = read_settings("node", NodeSettings, [])
    configure_logging(as_json=settings.log_json)
    control = Control(Path(os.environ[CONTROL_VARIABLE]))

    async def run(settings: NodeSettings, on_ready: Callable[[str], None]) -> None:
        await run_node(
            settings,
            on_ready,
            clock=SkewedClock(SystemClock(), control),
            wrap_disk=lambda disk: FailingDisk(disk, control),
        )

    serve("node", run, settings, refusals=(NodeIdInUse,))


if __name__ == "__main__":
    main()
