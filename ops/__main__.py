"""`python -m ops`: the `seonchak` command."""

from ops.command import main

main()
