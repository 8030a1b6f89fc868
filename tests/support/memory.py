"""How much memory a process has, and how much it had at the most."""

from pathlib import Path


def memory_mib(pid: int, what: str) -> int:
    """`what`: VmRSS: now; VmHWM: at the most."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) >> 10
    raise AssertionError(f"no {what}")


def forget_peak(pid: int) -> None:
    """VmHWM counts from now on. Source: proc(5), clear_refs."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
