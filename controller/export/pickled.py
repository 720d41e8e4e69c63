"""What a pickle says, without doing what it says: it imports nothing and calls nothing.

A ``.pt`` file is a zip around a pickle, and a pickle is a program: it names functions and has them
called. ``pickle.load`` runs it; this reads it. Its instructions work on a stack of plain values and
of records of what would have been made, and each name is judged before anything follows from it.

``torch.save`` writes some thirty of the instructions. A pickle with any other is refused, and so is
one with keys that are no plain values (the hash of nested tuples can take longer than the universe
lasts) or with more instructions than any network needs.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field

from shared.errors import LimitError, MalformedError, UntrustedError

PICKLE_BYTES_MAX = 8 * 1024 * 1024  # YOLO11n in training, with its optimiser: 193 KB.
INSTRUCTIONS_MAX = 2_000_000  # The same: 77,000. A million take 1.5 s.
NAME_SHOWN = 80
GETATTR = frozenset({"builtins.getattr", "__builtin__.getattr"})
_CONTAINERS = {
    "collections.OrderedDict": dict,
    "__builtin__.set": list,
    "builtins.set": list,
}  # A set of unhashable records is read as a list.
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PUSHED = frozenset({
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE",
})  # fmt: skip
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that the pickle names."""

    text: str


@dataclass(slots=True, eq=False)
class Made:
    """An object that loading would make.

    Attributes:
        name: What would be called.
        arguments: With what.
        state: What it would be given then.
        items: What would be put into it by key.
    """

    name: str
    arguments: tuple[object, ...] = ()
    state: object = None
    items: dict[object, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stored:
    """Bytes that lie beside the pickle: a tensor's numbers."""

    what: tuple[object, ...]


def read_pickle(data: bytes, *, is_trusted: Callable[[str], bool]) -> object:
    """Return what a pickle describes.

    Args:
        data: The pickle.
        is_trusted: Says whether a name, e.g. ``torch.nn.modules.conv.Conv2d``, may be in it.

    Raises:
        UntrustedError: It names what is not trusted; loading it would run foreign code.
        LimitError: It is larger than a network's.
        MalformedError: It is no pickle, or none that ``torch.save`` writes.
    """
    if len(data) > PICKLE_BYTES_MAX:
        raise LimitError(f"expected a pickle of at most {PICKLE_BYTES_MAX} bytes, got {len(data)}")
    reader = _Reader(is_trusted)
    try:
        for count, (instruction, argument, _) in enumerate(pickletools.genops(data)):
            if count >= INSTRUCTIONS_MAX:
                raise LimitError(f"expected at most {INSTRUCTIONS_MAX} instructions in a pickle")
            reader.step(instruction.name, argument)
        return reader.pop()
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise MalformedError(f"expected a pickle as torch.save writes it: {error}") from error


class _Reader:
    """The stack, and what each instruction does to it."""

    def __init__(self, is_trusted: Callable[[str], bool]) -> None:
        self._is_trusted = is_trusted
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}  # Not a list: an index may be anything.

    def pop(self) -> object:
        value = self._stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value belongs")
        return value

    def step(self, instruction: str, argument: object) -> None:
        if instruction in _PUSHED:
            self._stack.append(argument)
        elif instruction in _CONSTANTS:
            self._stack.append(_CONSTANTS[instruction])
        elif instruction in _TUPLES:
            self._tuple(_TUPLES[instruction])
        else:
            method = _METHODS.get(instruction)
            if method is None:
                raise ValueError(f"it has the instruction {instruction}")
            method(self, argument)

    def _tuple(self, length: int) -> None:
        parts = [self.pop() for _ in range(length)]
        self._stack.append(tuple(reversed(parts)))

    def _since_mark(self) -> list[object]:
        values: list[object] = []
        while (value := self._stack.pop()) is not _MARK:
            values.append(value)
        values.reverse()
        return values

    def nothing(self, _: object) -> None:
        pass

    def mark(self, _: object) -> None:
        self._stack.append(_MARK)

    def dropped(self, _: object) -> None:
        self._stack.pop()

    def dropped_to_mark(self, _: object) -> None:
        self._since_mark()

    def marked_tuple(self, _: object) -> None:
        self._stack.append(tuple(self._since_mark()))

    def empty_tuple(self, _: object) -> None:
        self._stack.append(())

    def empty_list(self, _: object) -> None:
        self._stack.append([])

    def empty_dict(self, _: object) -> None:
        self._stack.append({})

    def remember(self, index: object) -> None:
        assert isinstance(index, int)
        self._memo[index] = self._stack[-1]

    def remember_next(self, _: object) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def recall(self, index: object) -> None:
        assert isinstance(index, int)
        self._stack.append(self._memo[index])

    def global_(self, argument: object) -> None:
        self._name(".".join(str(argument).split(" ", 1)))

    def global_of_stack(self, _: object) -> None:
        attribute, module = self.pop(), self.pop()
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise TypeError("it has a name that is no text")
        self._name(f"{module}.{attribute}")

    def instance(self, argument: object) -> None:
        self.global_(argument)
        raise ValueError("it makes an object as Python 1 did")

    def _name(self, text: str) -> None:
        if not self._is_trusted(text):
            raise UntrustedError(f"it would load and run {text[:NAME_SHOWN]!r}")
        self._stack.append(Name(text))

    def call(self, _: object) -> None:
        arguments, what = self.pop(), self.pop()
        if not isinstance(arguments, tuple) or not isinstance(what, Name):
            raise UntrustedError("it would call what it made itself")
        if what.text in GETATTR:
            _check_getattr(arguments)
        kind = _CONTAINERS.get(what.text)
        self._stack.append(Made(what.text, arguments) if kind is None else kind())

    def stored(self, _: object) -> None:
        what = self.pop()
        self._stack.append(Stored(what if isinstance(what, tuple) else (what,)))

    def state(self, _: object) -> None:
        state, target = self.pop(), self._stack[-1]
        if isinstance(target, Made):
            target.state = state

    def append(self, _: object) -> None:
        self._extend([self.pop()])

    def appends(self, _: object) -> None:
        self._extend(self._since_mark())

    def _extend(self, values: list[object]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, Made):
            raise TypeError("it would append to what is no list")

    def item(self, _: object) -> None:
        value, key = self.pop(), self.pop()
        self._put([key, value])

    def items(self, _: object) -> None:
        self._put(self._since_mark())

    def _put(self, pairs: list[object]) -> None:
        target = self._stack[-1]
        items = target.items if isinstance(target, Made) else target
        if not isinstance(items, dict):
            raise TypeError("it would set a key of what is no dictionary")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, str | int | float | None):
                raise TypeError(f"it has a {type(key).__name__} as a key")
            items[key] = value


_METHODS: dict[str, Callable[[_Reader, object], None]] = {
    "PROTO": _Reader.nothing,
    "FRAME": _Reader.nothing,
    "STOP": _Reader.nothing,
    "MARK": _Reader.mark,
    "POP": _Reader.dropped,
    "POP_MARK": _Reader.dropped_to_mark,
    "EMPTY_TUPLE": _Reader.empty_tuple,
    "TUPLE": _Reader.marked_tuple,
    "EMPTY_LIST": _Reader.empty_list,
    "EMPTY_DICT": _Reader.empty_dict,
    "BINPUT": _Reader.remember,
    "LONG_BINPUT": _Reader.remember,
    "MEMOIZE": _Reader.remember_next,
    "BINGET": _Reader.recall,
    "LONG_BINGET": _Reader.recall,
    "GLOBAL": _Reader.global_,
    "INST": _Reader.instance,
    "STACK_GLOBAL": _Reader.global_of_stack,
    "REDUCE": _Reader.call,
    "NEWOBJ": _Reader.call,
    "BINPERSID": _Reader.stored,
    "BUILD": _Reader.state,
    "APPEND": _Reader.append,
    "APPENDS": _Reader.appends,
    "SETITEM": _Reader.item,
    "SETITEMS": _Reader.items,
}


def _check_getattr(arguments: tuple[object, ...]) -> None:
    """Allow what checkpoints do with it: a plain attribute of a class that is trusted."""
    match arguments:
        case (Name() | Made(), str(attribute)) if not attribute.startswith("_"):
            return
    raise UntrustedError("it would look up an attribute that no network needs")
