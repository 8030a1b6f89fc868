"""What stands behind the seams in tests and in the simulation: the real semantics, in memory, on the loop's time."""
