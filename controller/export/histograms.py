"""MCT's statistics of activations, with the same numbers, in less memory and time. Imports torch.

MCT 2.5.1 takes two histograms of each tensor and batch: one plain, one weighted by Hessians, which
without Hessians (`hmse` is the only method that has them) is the plain one over again, by the slow
way. It keeps them all until they are merged, and every copy of the graph copies all of them. Here
the second is the first, and a copy merges before it copies: it is the merged histogram that anybody
reads. tests/export/test_histograms.py holds that the numbers stay the same.
"""

from copy import deepcopy
from typing import Any

import numpy as np
from model_compression_toolkit.core.common.collectors.histogram_collector import HistogramCollector
from model_compression_toolkit.core.common.collectors.statistics_collector import StatsCollector

_update_statistics = StatsCollector.update_statistics


def collect_lean() -> None:
    """Have MCT compute and keep each histogram once, from now on."""
    StatsCollector.update_statistics = _updated
    HistogramCollector.__deepcopy__ = _merged_copy


def _updated(collector: Any, x: Any, weights: Any = None) -> None:  # noqa: ANN401 - no types.
    if weights is not None:
        _update_statistics(collector, x, weights)
        return
    values = np.atleast_1d(x.astype(np.float64))
    collector.hc.update(values)
    counts, bins = collector.hc._histogram_per_iteration[-1]  # noqa: SLF001
    collector.weighted_hc._histogram_per_iteration.append((counts, bins))  # noqa: SLF001
    collector.mc.update(values)
    collector.mpcc.update(values)


def _merged_copy(collector: Any, memo: dict[int, Any]) -> Any:  # noqa: ANN401
    if collector._histogram_per_iteration:  # noqa: SLF001
        if collector._bins is None:  # noqa: SLF001
            collector._merge_histograms()  # noqa: SLF001
        collector._histogram_per_iteration = []  # noqa: SLF001
    copy = object.__new__(type(collector))
    memo[id(collector)] = copy
    copy.__dict__ = deepcopy(collector.__dict__, memo)
    return copy
