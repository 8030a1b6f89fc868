"""What a test has measured (`record_property`) stands at the end of the run's output, also when it passes."""

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    measured = {report.nodeid: report.user_properties for report in reports if report.user_properties}
    if measured:
        terminalreporter.section("measured")
    for test, figures in sorted(measured.items()):
        terminalreporter.write_line(test)
        for name, figure in figures:
            terminalreporter.write_line(f"  {name}: {figure}")
