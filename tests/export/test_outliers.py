"""A level of a head that puts out hundreds takes nothing away from the others."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from controller.export.facts import Facts
from shared.graph import Graph
from shared.release import Input

pytestmark = [
    pytest.mark.export,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),
]
SIDE = 96
FAR = -600.0
LOGITS = (2.0, 1.0, 0.0)


def best_score(folder: Path, *, is_clipped: bool) -> float:
    """Return the best score that the quantised graph of an untrained pose network gives."""
    import torch  # noqa: PLC0415

    from controller.export.lower import lower  # noqa: PLC0415
    from controller.export.outliers import clip_outliers  # noqa: PLC0415
    from tests.export import anchors  # noqa: PLC0415

    folder.mkdir()

    def prepare(model: torch.nn.Module) -> None:
        head = model.model[-1]
        torch.nn.init.constant_(head.cv3[2][-1].bias, FAR)
        head.cv3[0][-1].bias.data[:] = torch.tensor(LOGITS)
        if is_clipped:
            clipped = clip_outliers(model, batches, side_pixels=SIDE)
            assert clipped == ("scores of level 2 at 600",)
            assert clip_outliers(model, batches, side_pixels=SIDE) == ()

    def batches() -> Iterator[list[torch.Tensor]]:
        yield [torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))]

    network, _ = anchors.quantised(
        "v8/yolov8-pose", folder, height=SIDE, width=SIDE, prepare=prepare
    )
    facts = Facts(
        task="pose",
        network_name=network.stem,
        input=Input(width=SIDE, height=SIDE, color="RGB"),
        outputs=(),
        threshold_permille=1,
        memory_bytes=0,
        provenance={},
    )
    lower(network, folder / "lowered", facts=facts, labels=("a",))
    picture = next(batches())[0][0].permute(1, 2, 0).numpy()
    outputs = Graph((folder / "lowered").read_bytes()).run(np.rint(picture * 255).astype(np.uint8))
    return float(outputs[1].max())


def test_scores_survive_a_level_that_is_far_out(tmp_path: Path) -> None:
    expected = 1 / (1 + np.exp(-max(LOGITS)))

    spoilt = best_score(tmp_path / "spoilt", is_clipped=False)
    clipped = best_score(tmp_path / "clipped", is_clipped=True)

    assert abs(spoilt - expected) > 0.05
    assert abs(clipped - expected) < 0.01
