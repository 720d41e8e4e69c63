"""Frames in few bytes: the payload of the topic ``packed``, as docs/protocol.md has it.

Little endian; columns rather than rows, so that a reader takes them as typed arrays or with a
DataView. Scores are 255ths, sides of boxes and keypoints 65,535ths: rounded to the four digits of
the JSON message, a side comes back as it was. Pure, and without numpy: a Pi's parent has none.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain, takewhile

import msgspec
from msgspec import UNSET

from shared.detections import Class, Detections, Mask, Object
from shared.errors import LimitError, MalformedError
from shared.limits import DETECTIONS_BYTES, OBJECTS_PER_FRAME_MAX, PACKED_FRAMES_MAX
from shared.messages import parse_time, time_text

VERSION = 1
TASKS = ("detect", "pose", "segment", "classify")  # By the number that stands for them.
WIDE = 1  # Flag: classes take two bytes each.
SCORE_STEPS, BOX_STEPS = 255, 65_535
SCORE_DIGITS, BOX_DIGITS = 3, 4
NO_DNN_MS = 65_535
OFFSET_MS_MAX = 65_535
_HEAD = struct.Struct("<BBBBHHQHHBBH")
_FRAME = struct.Struct("<IIHHHH")
_LABEL = struct.Struct("<HH")
_EPOCH = datetime.fromtimestamp(0, UTC)
_U32 = 0xFFFFFFFF

Things = tuple[Object, ...] | tuple[Class, ...]


@dataclass(frozen=True, slots=True)
class Packed:
    """A payload, and how many of the frames it holds: the newest ones."""

    payload: bytes
    frames: int


def encode_packed(frames: Sequence[Detections], *, bytes_max: int = DETECTIONS_BYTES) -> Packed:
    """Return frames of one release and run, oldest first, as one payload.

    What does not fit loses its oldest frames; a frame that does not fit alone loses its
    worst-scored objects and says so.
    """
    assert 0 < len(frames) <= PACKED_FRAMES_MAX, "a message has one frame at least"
    whole = list(map(_whole, frames))
    for first in range(len(whole)):
        payload = _payload(whole[first:])
        if len(payload) <= bytes_max:
            return Packed(payload, len(whole) - first)
    return Packed(_shortened(whole[-1], bytes_max), 1)


def decode_packed(data: bytes) -> tuple[Detections, ...]:
    """Return the frames in a payload.

    Raises:
        LimitError: It is longer than any message.
        MalformedError: It is no payload of this version.
    """
    if len(data) > DETECTIONS_BYTES:
        raise LimitError(f"expected at most {DETECTIONS_BYTES} bytes, got {len(data)}")
    try:
        return _Reader(data).frames()
    except (struct.error, UnicodeDecodeError, IndexError, KeyError, OverflowError) as error:
        raise MalformedError(f"packed: expected frames, got {error!r:.80}") from error


def _things(frame: Detections) -> Things:
    if isinstance(frame.objects, tuple):
        return frame.objects
    return frame.classes if isinstance(frame.classes, tuple) else ()


def _whole(frame: Detections) -> Detections:
    """Return the frame without the objects that came without their keypoints or mask.

    Those are the worst ones of a frame that no JSON message can carry (shared/decode/columns.py).
    """
    wanted = {"pose": "keypoints", "segment": "mask"}.get(frame.task)
    things = _things(frame)
    if wanted is None:
        return frame
    kept = sum(1 for _ in takewhile(lambda one: getattr(one, wanted) is not None, things))
    return frame if kept == len(things) else _cut(frame, kept)


def _shortened(frame: Detections, bytes_max: int) -> bytes:
    kept, lost = 0, len(_things(frame))
    while lost - kept > 1:
        middle = (kept + lost) // 2
        if len(_payload([_cut(frame, middle)])) <= bytes_max:
            kept = middle
        else:
            lost = middle
    return _payload([_cut(frame, kept)])


def _cut(frame: Detections, kept: int) -> Detections:
    before = frame.truncated if isinstance(frame.truncated, int) else 0
    truncated = before + len(_things(frame)) - kept
    if isinstance(frame.objects, tuple):
        return msgspec.structs.replace(frame, objects=frame.objects[:kept], truncated=truncated)
    assert isinstance(frame.classes, tuple)
    return msgspec.structs.replace(frame, classes=frame.classes[:kept], truncated=truncated)


def _payload(frames: Sequence[Detections]) -> bytes:
    things: list[Object | Class] = list(chain.from_iterable(map(_things, frames)))
    labels = sorted({thing.class_: thing.label for thing in things}.items())
    is_wide = bool(labels) and labels[-1][0] > 255  # noqa: PLR2004 - What a byte holds.
    began = min(map(_milliseconds, frames))
    height, width = _mask_size(things)
    run, release = frames[0].run.encode(), frames[0].release.encode()
    head = _HEAD.pack(
        VERSION,
        TASKS.index(frames[0].task),
        WIDE if is_wide else 0,
        len(frames),
        _keypoints(things),
        len(labels),
        began,
        height,
        width,
        len(run),
        len(release),
        0,
    )
    texts = (_LABEL.pack(class_, len(text := label.encode())) + text for class_, label in labels)
    bodies = (_body(frame, began, is_wide=is_wide) for frame in frames)
    return b"".join([head, run, release, *texts, *bodies])


def _body(frame: Detections, began: int, *, is_wide: bool) -> bytes:
    things = _things(frame)
    dnn = frame.dnn_ms
    is_told = dnn is not None and 0 <= dnn < NO_DNN_MS / 10 - 1  # NaN is not between them either.
    head = _FRAME.pack(
        frame.seq & _U32,
        frame.frame & _U32,
        min(_milliseconds(frame) - began, OFFSET_MS_MAX),
        round(dnn * 10) if dnn is not None and is_told else NO_DNN_MS,
        len(things),
        frame.truncated if isinstance(frame.truncated, int) else 0,
    )
    classes = struct.pack(f"<{len(things)}{'H' if is_wide else 'B'}", *(o.class_ for o in things))
    scores = _column((o.score for o in things), SCORE_STEPS)
    objects = [thing for thing in things if isinstance(thing, Object)]
    sides = [_column((o.box[side] for o in objects), BOX_STEPS) for side in range(4)]
    return b"".join([head, classes, scores, *sides, *_extras(objects)])


def _extras(objects: Sequence[Object]) -> Iterator[bytes]:
    """Return the columns of keypoints or masks."""
    points = [point for o in objects for point in o.keypoints or ()]
    for side in range(2):
        yield _column((point[side] for point in points), BOX_STEPS)
    yield _column((point[2] for point in points), SCORE_STEPS)
    texts = [o.mask.counts.encode("ascii") for o in objects if o.mask is not None]
    yield struct.pack(f"<{len(texts)}H", *map(len, texts))
    yield b"".join(texts)


def _column(shares: Iterator[float], steps: int) -> bytes:
    whole = [round(min(max(share, 0.0), 1.0) * steps) for share in shares]
    return struct.pack(f"<{len(whole)}{'B' if steps == SCORE_STEPS else 'H'}", *whole)


def _milliseconds(frame: Detections) -> int:
    """Return when a frame was captured; a device without a clock may think it is before 1970."""
    return max(0, (parse_time(frame.at) - _EPOCH) // timedelta(milliseconds=1))


def _mask_size(things: Sequence[Object | Class]) -> tuple[int, int]:
    sizes = (o.mask.size for o in things if isinstance(o, Object) and o.mask is not None)
    return next(sizes, (0, 0))


def _keypoints(things: Sequence[Object | Class]) -> int:
    return next((len(o.keypoints or ()) for o in things if isinstance(o, Object)), 0)


class _Reader:
    """Reads a payload from its beginning to its end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def frames(self) -> tuple[Detections, ...]:
        (version, task, flags, number, points, labels, began, height, width, run, release, _) = (
            self._unpack(_HEAD)
        )
        if version != VERSION or flags & ~WIDE or not 0 < number <= PACKED_FRAMES_MAX:
            raise MalformedError(f"packed: expected version {VERSION}, got {version}")
        self._task, self._points, self._size = TASKS[task], points, (height, width)
        self._class_format = "H" if flags & WIDE else "B"
        self._began = _EPOCH + timedelta(milliseconds=began)
        self._run, self._release = self._text(run), self._text(release)
        self._labels = dict(self._label() for _ in range(labels))
        frames = tuple(self._frame() for _ in range(number))
        if self._at != len(self._data):
            raise MalformedError(f"packed: {len(self._data) - self._at} bytes too many")
        return frames

    def _unpack(self, form: struct.Struct) -> tuple[int, ...]:
        values = form.unpack_from(self._data, self._at)
        self._at += form.size
        return values

    def _numbers(self, number: int, form: str) -> tuple[int, ...]:
        return self._unpack(struct.Struct(f"<{number}{form}"))

    def _text(self, length: int) -> str:
        (data,) = struct.unpack_from(f"{length}s", self._data, self._at)
        self._at += length
        return str(data.decode())

    def _label(self) -> tuple[int, str]:
        class_, length = self._unpack(_LABEL)
        return class_, self._text(length)

    def _frame(self) -> Detections:
        seq, frame, offset, dnn, number, truncated = self._unpack(_FRAME)
        if number > OBJECTS_PER_FRAME_MAX:
            raise MalformedError(f"packed: expected {OBJECTS_PER_FRAME_MAX} objects, got {number}")
        is_classify = self._task == "classify"
        classes = tuple(self._classes(number)) if is_classify else UNSET
        objects = UNSET if is_classify else tuple(self._objects(number))
        return Detections(
            at=time_text(self._began + timedelta(milliseconds=offset)),
            run=self._run,
            seq=seq,
            frame=frame,
            release=self._release,
            task=self._task,
            dnn_ms=None if dnn == NO_DNN_MS else dnn / 10,
            objects=objects,
            classes=classes,
            truncated=truncated or UNSET,
        )

    def _classes(self, number: int) -> Iterator[Class]:
        classes = self._numbers(number, self._class_format)
        for class_, score in zip(classes, self._scores(number), strict=True):
            yield Class(label=self._labels[class_], class_=class_, score=score)

    def _objects(self, number: int) -> Iterator[Object]:
        classes, scores = self._numbers(number, self._class_format), self._scores(number)
        boxes = list(zip(*(self._sides(number) for _ in range(4)), strict=True))
        keypoints, masks = self._keypoints(number), self._masks(number)
        for row in range(number):
            yield Object(
                label=self._labels[classes[row]],
                class_=classes[row],
                score=scores[row],
                box=boxes[row],
                keypoints=keypoints[row],
                mask=masks[row],
            )

    def _keypoints(self, number: int) -> list[tuple[tuple[float, float, float], ...] | None]:
        if self._task != "pose":
            return [None] * number
        each = self._points
        total = number * each
        points = list(zip(self._sides(total), self._sides(total), self._scores(total), strict=True))
        return [tuple(points[row * each : (row + 1) * each]) for row in range(number)]

    def _masks(self, number: int) -> list[Mask | None]:
        if self._task != "segment":
            return [None] * number
        return [
            Mask(size=self._size, counts=self._text(length))
            for length in self._numbers(number, "H")
        ]

    def _sides(self, number: int) -> list[float]:
        return [round(side / BOX_STEPS, BOX_DIGITS) for side in self._numbers(number, "H")]

    def _scores(self, number: int) -> list[float]:
        return [round(score / SCORE_STEPS, SCORE_DIGITS) for score in self._numbers(number, "B")]
