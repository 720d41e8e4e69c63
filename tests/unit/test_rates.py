"""The rates' columns say what the real gates say, and their tables show what is claimed."""

from math import log, log1p

import numpy as np
import pytest

from controller.gates.gathering import Stratum
from controller.gates.judging import PRIOR_SPREAD, allowed_change, estimate, kind_of_change
from controller.simulation import rates
from controller.simulation.rates import Play, Row, Scene, estimates, misses_to_fail, summary

ROLLOUTS = 20
PRIOR = PRIOR_SPREAD["detections"]


@pytest.mark.parametrize("fleet", [3, 10, 60])
def test_columns_and_the_real_estimate_agree_at_every_look_of_every_wave(fleet: int) -> None:
    play = Play(np.random.default_rng(fleet), Scene(fleet), ROLLOUTS)
    compared = 0

    for number, wave in enumerate(play.waves):
        for look in range(len(rates.LOOK_HOURS)):
            found = play.changes[number][look]
            for one in range(ROLLOUTS):
                strata = [
                    Stratum(tuple(w.treated[-1][one]), tuple(w.controls[-1][one]))
                    for w in play.waves[:number]
                ]
                strata.append(
                    Stratum(tuple(wave.treated[look][one]), tuple(wave.controls[look][one]))
                )
                real = estimate(strata, PRIOR)
                assert real is not None
                assert found.value[one] == pytest.approx(real.value, abs=1e-9)
                assert found.error[one] == pytest.approx(real.error, rel=1e-9)
                assert found.freedom == real.freedom
                compared += 1

    assert compared == len(play.waves) * len(rates.LOOK_HOURS) * ROLLOUTS


@pytest.mark.parametrize("effect", [0.0, -0.5, -0.75, 1.0])
def test_columns_and_the_real_verdict_agree(effect: float) -> None:
    random = np.random.default_rng(5)
    treated, controls = random.normal(0, 0.4, (200, 6)), random.normal(0, 0.4, (200, 9))
    found = estimates([summary(treated, controls, PRIOR)], PRIOR)

    failed, passed = rates.verdicts(found, log1p(effect), 500, 0.01)

    for one in range(200):
        shifted = Stratum(tuple(treated[one] + log1p(effect)), tuple(controls[one]))
        real = estimate([shifted], PRIOR)
        assert real is not None
        kind = kind_of_change(real, allowed_change(500), 0.01)
        assert (kind == "fail", kind == "pass") == (failed[one], passed[one])


def test_good_releases_complete_and_those_that_see_next_to_nothing_do_not() -> None:
    play = Play(np.random.default_rng(1), Scene(100), 300)
    good, blind = Row(), Row()

    good.add(play, 0.0, 0.0)
    blind.add(play, log(0.01), 0.0)

    assert good.aborted < 0.03 * good.rollouts
    assert good.paused < 0.3 * good.rollouts
    assert blind.aborted > 0.95 * blind.rollouts
    assert blind.aborted + blind.paused == blind.rollouts


def test_the_threshold_rules_are_those_of_the_design_page() -> None:
    """10 % of 10 things stop a release that fails on 3 % about once in four."""
    play = Play(np.random.default_rng(2), Scene(10, has_canary=False), 4000)

    _, aws = play.rivals(0.0, 0.03)

    assert 0.23 < aws.mean() < 0.30


def test_chance_is_never_blamed_on_a_release() -> None:
    assert misses_to_fail(1, 1e-4) == 2  # One camera of one is no proof.
    assert misses_to_fail(4, 2e-4) == 4
    assert 12 < misses_to_fail(50, 1e-4) < 20


def test_the_table_has_a_row_for_each_fleet_and_release(capsys: pytest.CaptureFixture[str]) -> None:
    assert rates.main(["--rollouts", "20"]) == 0

    said = capsys.readouterr().out
    rows = [line for line in said.splitlines() if line.startswith("| 3 ")]
    assert len(rows) == len(rates.EFFECTS) + 3
    assert all(line.count("|") == 10 for line in rows)
