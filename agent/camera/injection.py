"""The golden set through the real sensor, by modlib's data injection.

A stream of its own before the camera's, and so a start of its own: instead of what the lens shows
the sensor infers the images that are written into it, in the sensor's own numbers. modlib 1.5 has
it, picamera2 calls the same feature finicky, and no sensor has shown it to us yet: it is asked for
by ``--inject-golden``, and where it cannot be had the release is judged without.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition
from typing import Any

import numpy as np

from agent.camera.aicamera import failed, open_device
from agent.camera.arrivals import INFO_KEY, OUTPUT_KEY, parse_info, split_tensors
from agent.camera.camera import FailedError, Pixels
from agent.camera.wire import Job
from shared.decode.results import Tensors
from shared.errors import CameraError
from shared.release import Manifest

TRIES_MAX = 20  # For one image: the bridge is busy, or the frame was missed.
AGAIN_SECONDS = 0.05
ANSWER_SECONDS = 5.0
ERRNO_AGAIN = 121  # EREMOTEIO: "retry", says modlib.
COUNT_MODULUS = 256
ANSWERS_KEPT = 32

Answer = tuple[int, Tensors]


class NoInjectionError(CameraError):
    """This machine cannot inject, which says nothing of the network."""


@contextmanager
def injecting(job: Job, manifest: Manifest) -> Iterator[Callable[[Pixels], Tensors]]:
    """Give what infers an image on the sensor, for the duration of one stream.

    Raises:
        NoInjectionError: It cannot be had here.
    """
    answers = _Answers()
    try:
        device, model = open_device(job, manifest, answers.take, injects=True)
        device.deploy(model)
        device.start()
    except (FailedError, RuntimeError, ValueError, OSError) as error:
        raise NoInjectionError(f"no injection here: {error}"[:300]) from error
    try:
        yield lambda image: _infer(device, model, answers, image)
    finally:
        device.stop()


class _Answers:
    """What the sensor inferred last, by the sensor's own count."""

    def __init__(self) -> None:
        self._answers: deque[Answer] = deque(maxlen=ANSWERS_KEPT)
        self._arrived = Condition()

    def take(self, request: Any) -> None:  # noqa: ANN401 - A request of modlib.
        """Take one request, on modlib's thread."""
        numbers, raw = request.metadata.get(OUTPUT_KEY), request.metadata.get(INFO_KEY)
        if not numbers or not raw:
            return
        info = parse_info(bytes(raw))
        if info.count is not None:
            tensors = split_tensors(np.fromiter(numbers, np.float32), info)
            with self._arrived:
                self._answers.append((info.count, tensors))
                self._arrived.notify_all()

    def clear(self) -> None:
        """Forget what came before."""
        with self._arrived:
            self._answers.clear()

    def of(self, count: int) -> Tensors | None:
        """Return the answer with that count, or None where it was missed or does not come."""
        with self._arrived:
            self._arrived.wait_for(lambda: any(_is_due(c, count) for c, _ in self._answers),
                                   ANSWER_SECONDS)  # fmt: skip
            return next((tensors for c, tensors in self._answers if c == count), None)


def _infer(device: Any, model: Any, answers: _Answers, image: Pixels) -> Tensors:  # noqa: ANN401
    """Return the network's outputs for an image in the network's own order of colours."""
    from modlib.devices.imx500.isp import prepare_tensor_like_isp  # noqa: PLC0415

    tensor, _ = prepare_tensor_like_isp(image, model, src_color_format=model.color_format)
    for _ in range(TRIES_MAX):
        answers.clear()
        try:
            count = device.inject_input_tensor(tensor.tobytes())
        except RuntimeError as error:
            if getattr(error, "errno", None) != ERRNO_AGAIN:
                raise failed(error, code="crashed") from error
            time.sleep(AGAIN_SECONDS)
            continue
        found = answers.of(count % COUNT_MODULUS)
        if found is not None:
            return found
    raise NoInjectionError(f"no injection here: no answer in {TRIES_MAX} tries")


def _is_due(count: int, wanted: int) -> bool:
    """Say whether a frame is the wanted one, or a later one of the eight bits' circle."""
    return (count - wanted) % COUNT_MODULUS < COUNT_MODULUS // 2
