from agent import watch
from agent.watch import LastRun, Rung, Watch

HUNG = LastRun(is_clean=False, manifest_sha256="sha-b", seconds=300.0)


def test_a_stall_climbs_one_rung_at_a_time() -> None:
    first, stream = watch.stalled(Watch(), 10.0, starts=1)
    second, child = watch.stalled(first, 40.0, starts=2)
    _, end = watch.stalled(second, 70.0, starts=3)

    assert [stream, child, end] == [Rung.RESTART_STREAM, Rung.RESTART_CHILD, Rung.EXHAUSTED]


def test_a_stream_that_was_steady_starts_at_the_bottom_again() -> None:
    first, _ = watch.stalled(Watch(), 10.0, starts=1)

    assert watch.stalled(first, 609.0, starts=2)[1] is Rung.RESTART_CHILD
    assert watch.stalled(first, 610.0, starts=2)[1] is Rung.RESTART_STREAM


def test_no_rung_is_climbed_without_starts_left_in_this_boot() -> None:
    assert watch.stalled(Watch(), 10.0, starts=20)[1] is Rung.EXHAUSTED
    assert watch.stalled(Watch(), 10.0, starts=19)[1] is Rung.RESTART_STREAM


def test_five_starts_are_kept_for_the_way_back() -> None:
    assert (watch.has_starts_left(14), watch.has_starts_left(15)) == (True, False)
    assert (watch.may_start_at_all(19), watch.may_start_at_all(20)) == (True, False)


def test_the_back_off_doubles_from_a_minute_to_an_hour() -> None:
    broken = watch.broke(Watch(), 0.0)
    waits = []
    for _ in range(8):
        assert broken.due_at is not None
        waits.append(broken.due_at)
        broken = watch.start_failed(broken, 0.0)

    assert waits == [60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0]


def test_a_camera_is_due_when_its_back_off_is_over_and_at_once_after_a_success() -> None:
    broken = watch.broke(Watch(), 100.0)

    assert (watch.is_due(broken, 159.0), watch.is_due(broken, 160.0)) == (False, True)
    assert watch.is_due(watch.runs(broken), 0.0)


def test_three_unfinished_runs_soon_after_the_same_start_are_a_boot_loop() -> None:
    after_two = watch.begun(watch.begun(Watch(), HUNG, 0.0), HUNG, 0.0)

    assert not watch.is_boot_loop(after_two, "sha-b")
    assert watch.is_boot_loop(watch.begun(after_two, HUNG, 0.0), "sha-b")
    assert not watch.is_boot_loop(watch.begun(after_two, HUNG, 0.0), "sha-a")


def test_a_clean_stop_another_release_or_a_late_end_breaks_the_row() -> None:
    after_two = watch.begun(watch.begun(Watch(), HUNG, 0.0), HUNG, 0.0)
    clean = LastRun(is_clean=True, manifest_sha256="sha-b", seconds=1.0)
    late = LastRun(is_clean=False, manifest_sha256="sha-b", seconds=601.0)
    other = LastRun(is_clean=False, manifest_sha256="sha-c", seconds=1.0)

    assert watch.begun(after_two, clean, 0.0).hangs == 0
    assert watch.begun(after_two, late, 0.0).hangs == 0
    assert watch.begun(after_two, other, 0.0).hangs == 1
    assert watch.forgiven(after_two, "sha-b").hangs == 0


def test_of_two_releases_that_go_down_together_the_older_one_has_a_run_more() -> None:
    old, new = watch.forgiven(Watch(), "sha-b"), Watch()
    for _ in range(watch.BOOT_LOOP_RUNS):
        old, new = watch.begun(old, HUNG, 0.0), watch.begun(new, HUNG, 0.0)

    assert watch.is_boot_loop(new, "sha-b")
    assert not watch.is_boot_loop(old, "sha-b")
    assert watch.is_boot_loop(watch.begun(old, HUNG, 0.0), "sha-b")


def test_a_reboot_of_our_own_happens_once_a_day() -> None:
    assert watch.may_reboot(None)
    assert not watch.may_reboot(86_399.0)
    assert watch.may_reboot(86_400.0)
