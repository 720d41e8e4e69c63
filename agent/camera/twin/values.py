"""libcamera's plain values, as its Python bindings offer them."""

from dataclasses import dataclass, field
from enum import Enum, IntEnum, auto


@dataclass(unsafe_hash=True)
class Size:
    """Width and height."""

    width: int = 0
    height: int = 0

    def bounded_to_aspect_ratio(self, ratio: "Size") -> "Size":
        """Return the largest size of that ratio inside."""
        if self.width * ratio.height > self.height * ratio.width:
            return Size(self.height * ratio.width // ratio.height, self.height)
        return Size(self.width, self.width * ratio.height // ratio.width)


@dataclass(unsafe_hash=True)
class Rectangle:
    """Position and size."""

    x: int = 0
    y: int = 0
    width: int = 0
    height: int = 0

    @property
    def size(self) -> Size:
        """Return its size alone."""
        return Size(self.width, self.height)

    def bounded_to(self, other: "Rectangle") -> "Rectangle":
        """Return what both have in common."""
        left, top = max(self.x, other.x), max(self.y, other.y)
        right = min(self.x + self.width, other.x + other.width)
        bottom = min(self.y + self.height, other.y + other.height)
        return Rectangle(left, top, max(0, right - left), max(0, bottom - top))


class Transform:
    """A flip or turn; libraries give it an equality of their own."""

    def __init__(
        self,
        other: "Transform | None" = None,
        *,
        hflip: int = 0,
        vflip: int = 0,
        transpose: int = 0,
    ) -> None:
        """Copy, or begin with no turn."""
        self.hflip: bool = bool(hflip if other is None else other.hflip)
        self.vflip: bool = bool(vflip if other is None else other.vflip)
        self.transpose: bool = bool(transpose if other is None else other.transpose)

    def __str__(self) -> str:
        return f"<libcamera.Transform {self.hflip} {self.vflip} {self.transpose}>"


class ColorSpace:
    """How numbers become colours; libraries give it an equality of their own."""

    class YcbcrEncoding(Enum):
        """How colour is told from brightness."""

        Null, Rec601, Rec709 = range(3)

    class Range(Enum):
        """Whether all numbers are used."""

        Full, Limited = range(2)

    def __init__(self, other: "ColorSpace | None" = None, primaries: str = "Raw") -> None:
        """Copy, or begin with these primaries."""
        self.primaries: str = primaries if other is None else other.primaries
        self.transferFunction: str = primaries if other is None else other.transferFunction
        self.ycbcrEncoding = ColorSpace.YcbcrEncoding.Rec601
        self.range = ColorSpace.Range.Full

    def __str__(self) -> str:
        return f"<libcamera.ColorSpace {self.primaries}>"

    @classmethod
    def Sycc(cls) -> "ColorSpace":  # noqa: N802 - libcamera's name.
        """Return the usual one of pictures."""
        return cls(primaries="Sycc")

    @classmethod
    def Smpte170m(cls) -> "ColorSpace":  # noqa: N802
        """Return the one of old television."""
        return cls(primaries="Smpte170m")

    @classmethod
    def Rec709(cls) -> "ColorSpace":  # noqa: N802
        """Return the one of new television."""
        return cls(primaries="Rec709")

    @classmethod
    def Raw(cls) -> "ColorSpace":  # noqa: N802
        """Return that of the sensor's own numbers."""
        return cls(primaries="Raw")


@dataclass(frozen=True)
class PixelFormat:
    """A name of how pixels lie in memory."""

    name: str = ""

    def __str__(self) -> str:
        return self.name


class StreamRole(Enum):
    """What a stream is for."""

    Raw, StillCapture, VideoRecording, Viewfinder = range(4)


class Orientation(Enum):
    """How the picture lies."""

    Rotate0 = 1
    Rotate0Mirror = auto()
    Rotate180 = auto()
    Rotate180Mirror = auto()
    Rotate90Mirror = auto()
    Rotate270 = auto()
    Rotate270Mirror = auto()
    Rotate90 = auto()


class ControlType(Enum):
    """What a control's value is."""

    Null, Bool, Byte, Integer32, Integer64, Float, String, Rectangle, Size, Point = range(10)


@dataclass(frozen=True)
class ControlId:
    """The name of a control or of a property."""

    id: int
    name: str
    type: ControlType = ControlType.Integer32


@dataclass(frozen=True)
class ControlInfo:
    """What a control takes."""

    min: object
    max: object
    default: object


class NoiseReductionModeEnum(IntEnum):
    """How much noise is taken out of pictures."""

    Off, Fast, HighQuality, Minimal, ZSL = range(5)


class ColorFilterArrangementEnum(IntEnum):
    """How the colour filters lie on the sensor."""

    RGGB, GRBG, GBRG, BGGR, RGB, MONO = range(6)


@dataclass
class SensorConfiguration:
    """Which mode of the sensor is wanted."""

    bit_depth: int = 0
    output_size: Size = field(default_factory=Size)
