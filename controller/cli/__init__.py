"""fleetctl: one file a noun."""
