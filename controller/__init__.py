"""What runs on the workstation: export, sign, publish, roll out, watch."""
