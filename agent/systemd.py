"""Tell systemd that the loop is ready, alive, or stopping (sd_notify in one datagram)."""

import os
import socket


def notify(state: str) -> None:
    """Send a state, e.g. ``READY=1``, ``WATCHDOG=1`` or ``STOPPING=1``; nothing without systemd.

    Only the parent's loop calls this: a watchdog petted by frames would restart a Pi with a dead
    camera for ever, and burn its starts.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # An abstract socket.
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(state.encode(), address)
    except OSError:
        return  # A missing supervisor must not stop a camera.
