"""The controller: one fleet's store, keys, plan and broker behind one class. The CLI only renders.

Commands write intentions to the store; whoever holds the lease acts on them (``driving.py``). So
two ``fleetctl`` at once are one driver and one watcher.

    controller = Controller.open(Path("."))
    rollout = controller.start_rollout("helmet@8", selector="role=door", strategy="careful")
    status = controller.drive(rollout, on_change=show)      # foreground; Ctrl-C detaches
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from controller.status import (
    DeviceStatus,
    DriverStatus,
    FleetStatus,
    ReleaseStatus,
    RolloutStatus,
)
from shared.release import Manifest

OnChange = Callable[[FleetStatus], None]
Passphrase = Callable[[str], str | None]  # role -> passphrase; None: the key is plain (demo).


class Controller:
    """One fleet. Every method may raise OperatorError, StorageError and BrokerError."""

    @classmethod
    def init_fleet(cls, project: Path, *, passphrase: str | None, home: Path | None = None) -> "Controller":
        """Make keys, root and store for the fleet of ``project/fleet.yaml``; never overwrites.

        Args:
            project: The folder with fleet.yaml.
            passphrase: For all keys; None writes plain keys and a root marked demo.
            home: Instead of ``$XDG_DATA_HOME/imxfleet``.
        """
        raise NotImplementedError

    @classmethod
    def open(cls, project: Path, *, home: Path | None = None, passphrase: Passphrase | None = None,
             timing: "Timing | None" = None, broker_url: str | None = None) -> "Controller":
        """Open a fleet that ``init_fleet`` made. ``broker_url`` replaces fleet.yaml's."""
        raise NotImplementedError

    def close(self) -> None: raise NotImplementedError

    # Properties: fleet (inventory.Fleet), folder (Path of the fleet's state), is_demo (bool), broker_url (str)

    def add_device(self, device: str) -> "Card": """Sign its identity and return its card; again: the same card."""
    def list_devices(self) -> tuple[DeviceStatus, ...]: ...
    def show_device(self, device: str) -> DeviceStatus: ...

    def import_release(self, manifest: Manifest, files: Mapping[str, bytes]) -> ReleaseStatus: """Unsigned, into the store."""
    def sign_release(self, release: str, passphrase: str | None) -> ReleaseStatus: ...
    def verify_release(self, release: str) -> ReleaseStatus: """Hash every byte, check the signature; UnsignedError, RefusedError."""
    def list_releases(self) -> tuple[ReleaseStatus, ...]: ...
    def show_release(self, release: str) -> tuple[ReleaseStatus, Manifest]: ...

    # Rollouts. `rollout` is an id (r-7) or a name (its newest). All only write intentions, checked at once.
    def start_rollout(self, release: str, *, selector: str, strategy: str | None = None,
                      over: bool = False, name: str | None = None, deny: tuple[str, ...] = ()) -> str: ...
    def pause(self, rollout: str) -> None: ...
    def resume(self, rollout: str) -> None: ...
    def promote(self, rollout: str) -> None: ...
    def retry(self, rollout: str) -> None: ...
    def abort(self, rollout: str, *, no_revert: bool = False) -> None: ...
    def undo(self, rollout: str, *, strategy: str | None = None, over: bool = False) -> str: """Return the id of the new rollout."""
    def status(self, rollout: str | None = None) -> RolloutStatus: """From the store alone; None: the newest."""
    def fleet_status(self) -> FleetStatus: ...
    def history(self) -> tuple[RolloutStatus, ...]: """Newest first."""
    def driver(self) -> DriverStatus: ...

    def drive(self, rollout: str | None = None, *, until: Callable[[FleetStatus], bool] | None = None,
              on_change: OnChange | None = None, timeout_seconds: float | None = None) -> RolloutStatus | None:
        """Drive all rollouts (or watch, while another process holds the lease) until done.

        Default ``until``: the rollout is completed, aborted or paused; with None: forever.
        Raises TimeoutError past ``timeout_seconds``, BrokerUnreachableError, NotEchoedError,
        AnotherControllerError. KeyboardInterrupt detaches: the lease is given back.
        """
        raise NotImplementedError
