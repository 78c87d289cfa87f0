"""Reader of `.ts` files, the text form of the UEA and UCR archives.

A file is a header of `@tag value` lines, `@data`, and one case per line: channels
separated by `:`, values by `,`, the label last. With `@timeStamps true` every value is
`(stamp,value)`. A pair `NAME_TRAIN.ts`, `NAME_TEST.ts` gives the official parts.
"""

import gzip
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import numpy as np

from nde.data.errors import DataError, unknown_name
from nde.data.series import FloatArray, Part, Reading, SeriesDataset
from nde.data.stamps import stamp_seconds

_MISSING = {"?", "nan", ""}
_PAIR = re.compile(r"^(?P<stem>.+)_(?P<part>TRAIN|TEST)(?P<end>\.ts(\.gz)?)$", re.I)
# A colon that does not stand inside a parenthesis: stamps hold colons of their own.
_CHANNEL_GAP = re.compile(r":(?![^()]*\))")
_TUPLE = re.compile(r"\(([^()]*)\)")


@dataclass(frozen=True)
class _Header:
    """Tags of one file, with the defaults of tags that files leave out."""

    dimensions: int | None = None
    timestamps: bool = False
    equal_length: bool = False
    classes: tuple[str, ...] | None = None  # None: no @classLabel line yet


@dataclass(frozen=True, eq=False)
class _Case:
    times: FloatArray
    values: FloatArray
    label: str | None


def read_ts(path: Path) -> Reading:
    """Read a `.ts` file, and the other file of its pair when there is one.

    `path` is a `.ts` or `.ts.gz` file, or a folder or prefix `NAME` that holds
    `NAME_TRAIN.ts` and `NAME_TEST.ts`. Raises `DataError` naming file and line.
    """
    files = _pair(path)
    warnings: list[str] = []
    read = [(part, *_read_one(file, warnings)) for part, file in files]
    header = read[0][1]
    for _, other, _ in read[1:]:
        if (other.dimensions, other.classes) != (header.dimensions, header.classes):
            raise DataError(
                f"{files[0][1].name} and {files[1][1].name} do not belong together: "
                f"{header.dimensions} and {other.dimensions} dimensions, "
                f"classes {header.classes} and {other.classes}"
            )
    name = _name(files[0][1])
    cases = [case for _, _, found in read for case in found]
    parts = [part for part, _, found in read for _ in found]
    ids = [
        f"{part or 'case'}-{number}"
        for part, _, found in read
        for number in range(1, len(found) + 1)
    ]
    labels, classes = None, header.classes or ()
    if classes:
        place = {label: i for i, label in enumerate(classes)}
        labels = np.array([place[str(case.label)] for case in cases], dtype=np.int64)
    dataset = SeriesDataset(
        name=name,
        ids=tuple(ids),
        times=tuple(case.times for case in cases),
        values=tuple(case.values for case in cases),
        channels=tuple(f"x{i + 1}" for i in range(header.dimensions or 1)),
        labels=labels,
        classes=classes,
        parts=tuple(p for p in parts if p) if all(parts) else None,
        time_unit="seconds" if header.timestamps else "steps",
    )
    clock = "stamps in the file" if header.timestamps else "0, 1, 2, ... steps"
    notes = (
        f"files: {', '.join(str(file) for _, file in files)}",
        f"time: {clock}",
        f"label: {len(classes)} classes" if classes else "label: none",
    )
    return Reading(dataset, notes, tuple(warnings))


def holds_ts(folder: Path) -> bool:
    """Whether `folder` holds a `_TRAIN.ts` file."""
    matches = (_PAIR.match(file.name) for file in folder.iterdir())
    return any(match and match["part"].upper() == "TRAIN" for match in matches)


def is_ts_prefix(path: Path) -> bool:
    """Whether `path` is no file but what `_TRAIN.ts` has to be appended to."""
    return bool(path.name) and path.with_name(path.name + "_TRAIN.ts").is_file()


def _pair(path: Path) -> list[tuple[Part | None, Path]]:
    """The files to read, each with the part its name gives."""
    if path.is_dir():
        trains = sorted(
            file
            for file in path.iterdir()
            if (match := _PAIR.match(file.name)) and match["part"].upper() == "TRAIN"
        )
        named = [file for file in trains if _name(file) == path.resolve().name]
        trains = named or trains
        if len(trains) != 1:
            found = ", ".join(file.name for file in trains) or "none"
            raise DataError(f"{path}: expected one *_TRAIN.ts file in it, got {found}")
        path = trains[0]
    elif not path.exists():
        path = path.with_name(path.name + "_TRAIN.ts")
    match = _PAIR.match(path.name)
    if match is None:
        return [(None, path)]
    files: list[tuple[Part | None, Path]] = []
    names: tuple[tuple[Part, str], ...] = (("train", "TRAIN"), ("test", "TEST"))
    for part, word in names:
        same = word == match["part"].upper()
        word = match["part"] if same else word
        file = path.with_name(f"{match['stem']}_{word}{match['end']}")
        if file.exists():
            files.append((part, file))
    # Half a pair says nothing about parts: the usual split applies.
    return files if len(files) == 2 else [(None, path)]


def _name(file: Path) -> str:
    match = _PAIR.match(file.name)
    return match["stem"] if match else file.name.split(".")[0]


def _read_one(path: Path, warnings: list[str]) -> tuple[_Header, list[_Case]]:
    raw = path.read_bytes()
    try:
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
        text = raw.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as .ts text ({error})") from None
    header = _Header()
    cases: list[_Case] = []
    in_data = unsorted = unequal = False
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line[0] in "#%":
            continue
        place = f"{path}, line {number}"
        if in_data:
            if header.classes is None:
                raise DataError(f"{place}: data, but no @classLabel line before it")
            case, sorted_now = _case(line, header, place)
            header = replace(header, dimensions=case.values.shape[1])
            cases.append(case)
            unsorted |= not sorted_now
            unequal |= len(case.times) != len(cases[0].times)
            if not np.isfinite(case.values).any():
                warnings.append(f"{place}: a case with every value missing")
        elif line.lower() == "@data":
            in_data = True
        elif line.startswith("@"):
            header = _tag(line, header, place)
        else:
            raise DataError(f"{place}: data before the @data line")
    if not in_data:
        raise DataError(f"{path}: no @data line; not a .ts file, or cut short")
    if not cases:
        raise DataError(f"{path}: no cases after @data, the file is empty")
    if unsorted:
        warnings.append(f"{path}: times out of order were sorted")
    if unequal and header.equal_length:
        warnings.append(f"{path}: @equalLength is true but lengths differ")
    return header, cases


def _tag(line: str, header: _Header, place: str) -> _Header:
    words = line[1:].split()
    tag, rest = (words[0].lower() if words else ""), words[1:]
    first = rest[0].lower() if rest else ""
    if tag == "dimensions":
        if not first.isdigit() or int(first) < 1:
            raise DataError(f"{place}: @dimensions needs a number, got {first!r}")
        return replace(header, dimensions=int(first))
    if tag == "univariate" and first == "true":
        return replace(header, dimensions=header.dimensions or 1)
    if tag == "timestamps":
        return replace(header, timestamps=first == "true")
    if tag == "equallength":
        return replace(header, equal_length=first == "true")
    if tag == "classlabel":
        if first == "true" and len(rest) < 2:
            raise DataError(f"{place}: @classLabel true lists no classes")
        return replace(header, classes=tuple(rest[1:]) if first == "true" else ())
    if tag == "targetlabel" and first == "true":
        raise DataError(
            f"{place}: @targetLabel true is a regression file; "
            "only class labels can be read"
        )
    return header


def _case(line: str, header: _Header, place: str) -> tuple[_Case, bool]:
    """Parse one line; also says whether its times were in order."""
    fields = [part.strip() for part in _CHANNEL_GAP.split(line)]
    label = None
    if header.classes:
        label = fields.pop()
        if label not in header.classes:
            raise DataError(
                f"{place}: the last field is no class of the header: "
                f"{unknown_name('label', label[:40], header.classes)}"
            )
    if len(fields) != (header.dimensions or len(fields)):
        raise DataError(
            f"{place}: {len(fields)} channels, expected {header.dimensions} dimensions"
        )
    if header.timestamps:
        times, values, in_order = _stamped(fields, place)
        return _Case(times, values, label), in_order
    columns = [_numbers(text.split(","), i, place) for i, text in enumerate(fields)]
    lengths = {len(column) for column in columns}
    if len(lengths) != 1:
        raise DataError(f"{place}: channels of unequal length {sorted(lengths)}")
    values = np.stack(columns, axis=1)
    return _Case(np.arange(len(values), dtype=np.float64), values, label), True


def _stamped(fields: list[str], place: str) -> tuple[FloatArray, FloatArray, bool]:
    """Channels of `(stamp,value)` pairs on the union of their times."""
    channels: list[dict[float, float]] = []
    in_order = True
    for i, text in enumerate(fields):
        pairs = [pair.rpartition(",") for pair in _TUPLE.findall(text)]
        if not pairs or _TUPLE.sub("", text).strip(", "):
            raise DataError(
                f"{place}, channel {i + 1}: expected (stamp,value) pairs, "
                "since @timeStamps is true"
            )
        times = [_stamp(stamp, i, place) for stamp, _, _ in pairs]
        in_order &= times == sorted(times)
        if len(set(times)) != len(times):
            raise DataError(f"{place}, channel {i + 1}: a duplicate time")
        values = _numbers([value for _, _, value in pairs], i, place)
        channels.append(dict(zip(times, values.tolist(), strict=True)))
    grid = sorted(set().union(*channels))
    values = np.array([[c.get(time, np.nan) for c in channels] for time in grid])
    return np.array(grid), values, in_order


def _stamp(text: str, channel: int, place: str) -> float:
    try:
        return stamp_seconds(text.strip())
    except ValueError:
        raise DataError(
            f"{place}, channel {channel + 1}: {text!r} is neither a number nor a date"
        ) from None


def _numbers(texts: list[str], channel: int, place: str) -> FloatArray:
    numbers = np.empty(len(texts))
    for i, text in enumerate(texts):
        word = text.strip()
        if word.lower() in _MISSING:
            numbers[i] = np.nan
            continue
        try:
            numbers[i] = float(word)
        except ValueError:
            _refuse(place, channel, word, "is not a number")
        if np.isinf(numbers[i]):
            _refuse(place, channel, word, "is not finite")
    return numbers


def _refuse(place: str, channel: int, word: str, why: str) -> NoReturn:
    raise DataError(f"{place}, channel {channel + 1}: {word[:40]!r} {why}")
