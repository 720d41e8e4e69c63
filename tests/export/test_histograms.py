"""MCT's histograms in less memory and time: a network quantised with them is the same."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.export, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("method", ["mse", "noclipping"])
def test_a_network_is_the_same_with_mcts_own_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    from controller.export import histograms, quantise  # noqa: PLC0415 - import torch.
    from tests.export import sonys  # noqa: PLC0415

    made = {}
    for name in ("lean", "stock"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "stock":
            monkeypatch.setattr(quantise, "collect_lean", lambda: None)
            own = histograms._update_statistics
            monkeypatch.setattr(histograms.StatsCollector, "update_statistics", own)
            monkeypatch.delattr(histograms.HistogramCollector, "__deepcopy__")
        path = sonys.exported(sonys.Detector(), folder, batch=1, method=method)
        made[name] = path.read_bytes()

    assert made["lean"] == made["stock"]


@pytest.mark.parametrize("is_weighted", [False, True])
def test_a_collector_and_its_copy_hold_what_mcts_own_would(*, is_weighted: bool) -> None:
    from controller.export import histograms  # noqa: PLC0415 - imports torch.

    histograms.collect_lean()
    lean, stock = histograms.StatsCollector(1), histograms.StatsCollector(1)
    random = np.random.default_rng(0)
    for scale in (1, 3, 2):
        values = random.normal(0, scale, (2, 4, 8, 8)).astype(np.float32)
        weights = random.uniform(0, 1, values.shape) if is_weighted else None
        lean.update_statistics(values, weights)
        histograms._update_statistics(stock, values, weights)

    copy = deepcopy(lean)

    assert [len(held._histogram_per_iteration) for held in (copy.hc, copy.weighted_hc)] == [0, 0]
    assert copy.get_min_max_values() == stock.get_min_max_values()
    np.testing.assert_array_equal(copy.get_mean(), stock.get_mean())
    for held, kept in ((copy.hc, stock.hc), (copy.weighted_hc, stock.weighted_hc)):
        for got, expected in zip(held.get_histogram(), kept.get_histogram(), strict=True):
            np.testing.assert_array_equal(got, expected)
