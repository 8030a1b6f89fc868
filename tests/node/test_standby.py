"""A standby's replicas over the real `file` journal code and a disk in memory."""
