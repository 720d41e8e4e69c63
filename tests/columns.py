"""Objects as a decoder's columns, for tests of what is made of these."""

import numpy as np

from shared.decode.columns import BOX_STEPS, SCORE_STEPS, Columns
from shared.detections import Object


def columns_of(objects: tuple[Object, ...], labels: tuple[str, ...] = ()) -> Columns:
    """Return the columns of objects; ``labels``: where other classes have names, too."""
    named = {o.class_: o.label for o in objects}
    number = max(named, default=-1) + 1
    points = [o.keypoints for o in objects if o.keypoints is not None]
    masks = tuple(o.mask for o in objects if o.mask is not None)
    steps = np.array([BOX_STEPS, BOX_STEPS, SCORE_STEPS])
    return Columns(
        labels=labels or tuple(named.get(class_, f"{class_}") for class_ in range(number)),
        rows=np.arange(len(objects)),
        pixels=np.zeros((len(objects), 4)),
        classes=np.array([o.class_ for o in objects], np.intp),
        numbers=np.rint(
            np.array([(*o.box, o.score) for o in objects]).reshape(-1, 5)
            * [*[BOX_STEPS] * 4, SCORE_STEPS]
        ).astype(np.intp),
        keypoints=np.rint(np.array(points) * steps).astype(np.intp) if points else None,
        masks=masks or None,
    )
