"""Hits, reports and failures as text for a terminal or another program; nothing is printed here."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mmsearch.encoders.tuned import base_name
from mmsearch.errors import InvalidQuery
from mmsearch.storage.place import index_place
from mmsearch.types import Failure, Hit, Report, Span

if TYPE_CHECKING:
    from mmsearch.encoders.family import ModelRow

COLUMNS = ("rank", "score", "path", "span", "caption")


_HIDDEN = re.compile(
    r"[\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
"""What JSON may hold as it is, and a terminal may obey: C1 controls, marks of direction."""


def json_line(value: Any) -> str:
    """A plain value on one line."""
    return _as_json(value)


def _as_json(value: Any, indent: int | None = None) -> str:
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def jsonl(values: Iterable[Any]) -> str:
    """A plain value a line."""
    return "".join(f"{json_line(value)}\n" for value in values)


def as_pretty_json(value: Any) -> str:
    """A plain value, indented."""
    return _as_json(value, indent=2) + "\n"


def tsv(rows: Iterable[Iterable[str]]) -> str:
    r"""A row a line, tabs between its cells; tabs and line ends in them stand as \t and \n."""
    return "".join("\t".join(map(visible, row)) + "\n" for row in rows)


def for_index(text: str, index: str | None) -> str:
    """A text whose commands, in backticks, are about the index that the user named by `-i`."""
    if index is None:
        return text
    option = f" -i {shlex.quote(shown_index(index))}"
    return re.sub(r"`mmsearch (\w+)", lambda found: found[0] + option, text)


def shown_index(index: str) -> str:
    """An index as the user named it; an address without its password."""
    return index_place(index).address if "://" in index else index


def lines(texts: Iterable[str], form: str) -> str:
    """A text a line, paths say, as they are; in the form "paths0" each ended by a NUL."""
    end = "\0" if form == "paths0" else "\n"
    return "".join(text + end for text in texts)


def visible(text: str) -> str:
    r"""Text on one line, safe to show: control characters as \n, \t, \x1b and so on."""
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def printable(text: str) -> str:
    """Text of several lines, safe to show."""
    return "".join(char if char in "\n\t" else visible(char) for char in text)


def _escaped(char: str) -> str:
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"  # a byte that is not UTF-8
    return char if char == "\u200d" else char.encode("unicode_escape").decode()  # emoji joiner


def pick_format(flags: Mapping[str, bool], *, terminal: bool) -> str:
    """The output form whose flag is set, else a table for a terminal and TSV for a pipe."""
    chosen = [name for name, is_set in flags.items() if is_set]
    if "paths0" in chosen and "paths" in chosen:
        chosen.remove("paths")
    if len(chosen) > 1:
        raise InvalidQuery(f"one output form at a time, not {' and '.join(chosen)}")
    return chosen[0] if chosen else "table" if terminal else "tsv"


# ---------------------------------------------------------------------- hits


def as_json(hits: Sequence[Hit]) -> str:
    """One array, a hit a line."""
    rows = ",\n ".join(json_line(hit.as_dict()) for hit in hits)
    return f"[{rows}]\n"


def as_csv(hits: Sequence[Hit]) -> str:
    """A header, then a hit a row."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_cells(hit) for hit in hits)
    return out.getvalue()


def as_table(hits: Sequence[Hit]) -> str:
    """A table as wide as the terminal, with colours if it has them."""
    rows = []
    for hit in hits:
        rank, score, *_, caption = _cells(hit)
        confidence = "" if hit.confidence is None else f"{hit.confidence:.0%}"
        copies = len(hit.metadata.get("duplicates", ()))
        text = visible(caption or _told(hit)) + (f" (+{copies} alike)" if copies else "")
        rows.append((rank, score, confidence, _place(hit), text))
    numbers = [("#", True), ("score", True), ("sure", True)]
    return _table([*numbers, ("path", False), ("text", False)], rows)


def _told(hit: Hit) -> str:
    """What a photo without a caption says of itself, by whose words it may have been found."""
    meta = hit.metadata.get("meta", {})
    told = next((meta[key] for key in ("title", "description", "keywords") if key in meta), "")
    return " ".join(str(told).split())


def label_of(hit: Hit) -> tuple[str, str]:
    """What stands below a hit's thumbnail, in two lines: rank and name; date and span."""
    date = hit.metadata.get("taken_at") or hit.metadata.get("modified") or ""
    name = visible(os.path.basename(hit.path))
    return f"{hit.rank}  {name}", "  ".join(filter(None, (date[:10], span_text(hit.span))))


def explained(hits: Sequence[Hit]) -> str:
    """What each ranking says of each hit, a row each."""
    rows = [
        (
            str(hit.rank),
            name,
            "" if signal.rank is None else str(signal.rank),
            f"{signal.score:.4f}",
            "" if signal.standardised is None else f"{signal.standardised:.2f}",
            f"{signal.share:.0%}",
        )
        for hit in hits
        for name, signal in hit.signals.items()
    ]
    columns = ["rank", "score", "stands out", "share"]
    return _table([("#", True), ("facet", False), *((name, True) for name in columns)], rows)


FORMATS: dict[str, Callable[[Sequence[Hit]], str]] = {
    "csv": as_csv,
    "json": as_json,
    "jsonl": lambda hits: jsonl(hit.as_dict() for hit in hits),
    "paths": lambda hits: lines((hit.path for hit in hits), "paths"),
    "paths0": lambda hits: lines((hit.path for hit in hits), "paths0"),
    "table": as_table,
    "tsv": lambda hits: tsv(map(_cells, hits)),
}
"""How hits are written, by name."""


# ---------------------------------------------------------------------- reports and the like


def report_line(report: Report) -> str:
    """What a run did, in a line."""
    parts = [
        f"{name} {getattr(report, name)}"
        for name in ("added", "updated", "renamed", "unchanged", "removed", "skipped")
    ]
    reasons = Counter(failure.reason for failure in report.failures)
    why = [f"{count} {visible(reason)}" for reason, count in reasons.most_common(3)]
    before = report.skipped - len(report.failures)
    if len(reasons) > 3:
        why.append("…")
    if before > 0:
        why.append(f"{before} known from before")
    if why:
        parts[-1] += f" ({', '.join(why)})"
    if report.filled:
        parts.append(f"encoded anew {report.filled}")
    word = "interrupted: " if report.interrupted else ""
    return f"{word}{', '.join(parts)} in {report.seconds:.1f} s"


def failures_table(failures: Sequence[Failure]) -> str:
    """When, path and reason, a file a row."""
    rows = [(f.seen_at[:10], visible(_short(f.path)), visible(f.reason)) for f in failures]
    return _table([("seen", True), ("path", False), ("reason", False)], rows)


def failures_tsv(failures: Sequence[Failure]) -> str:
    """Path, reason and when, a file a row."""
    return tsv((failure.path, failure.reason, failure.seen_at) for failure in failures)


def failures_json(failures: Sequence[Failure]) -> str:
    """One array."""
    return json_line([asdict(failure) for failure in failures]) + "\n"


def status_text(status: Mapping[str, Any]) -> str:
    """`Collection.status()` for people."""
    shown = {
        "index": visible(status["index"]),
        "model": ", ".join(_model(one, status["models"]) for one in status["models"]) or "none yet",
        "items": _counted(status["items"]),
        "vectors": _counted(status["vectors"]),
        "failures": f"{status['failures']}" + (" (mmsearch errors)" if status["failures"] else ""),
    }
    if status["bytes"] is not None:
        shown["on disk"] = f"{status['bytes'] / 2**20:.1f} MiB"
    rows = [f"{key:<11} {value}" for key, value in shown.items()]
    rows += [
        f"{'passed over':<11} {group['files']} {group['what']}"
        + (f" ({group['cure']})" if group["cure"] else "")
        for group in status["passed_over"]
    ]
    rows += [
        f"{'answers':<11} {index['facet']}: {index['kind']}: {index['why']}"
        for index in status["indexes"]
    ]
    rows += [f"{'source':<11} {visible(path)}" for path in status["sources"]]
    return "\n".join(rows) + "\n"


def _model(model: Mapping[str, Any], models: Sequence[Mapping[str, Any]]) -> str:
    """One of the models, and what it does if that is not all."""
    state = ", being filled" if model["fills"] else ""
    if model["answers"] and model["previous"]:
        state = ", encoded with previous weights: `mmsearch index` re-encodes it"
    if not model["fills"] and not model["answers"]:
        if any(base_name(one["name"]) == model["name"] for one in models if one["answers"]):
            return f"{model['name']} ({model['dim']} dimensions, kept for `mmsearch tune --undo`)"
        state = ", not used any more: --drop-space frees its place"
    return f"{model['name']} ({model['dim']} dimensions{state})"


def models_table(rows: Sequence[ModelRow]) -> str:
    """A model a row: name, where it is, size, what it takes, recalls, licence and purpose.

    Below it are the sources of the recalls.
    """
    shown = []
    for row in rows:
        name, state, megabytes, *recalls, licence, about, modalities, source = _model_cells(row)
        size = megabytes and f"{megabytes} MB"
        figures = [figure or ("–" if source else "") for figure in recalls]
        name = f"{name} *" if row.is_default else name
        shown.append((name, state, size, modalities, *figures, licence, about))
    columns = [("model (* auto)", False), ("state", True), ("size", True), ("takes", True)]
    columns += [("Flickr30k", True), ("COCO", True), ("licence", True), ("", False)]
    sources = dict.fromkeys(row.source for row in rows if row.recall and row.source)
    notes = ["recall@1, or recall@1/recall@5, as published (–: not published):", *sources]
    return _table(columns, shown) + "\n".join(notes)


def models_tsv(rows: Sequence[ModelRow]) -> str:
    """A model a row: name, state, megabytes, recalls at 1 and 5, licence, purpose, modalities, and
    the source of the recalls.
    """
    return tsv(map(_model_cells, rows))


def _model_cells(row: ModelRow) -> list[str]:
    return [
        row.name,
        row.state,
        "" if row.megabytes is None else str(row.megabytes),
        _recall(row, "flickr30k"),
        _recall(row, "coco"),
        row.licence or "",
        row.about,
        " ".join(row.modalities),
        row.source or "",
    ]


def models_json(rows: Sequence[ModelRow]) -> str:
    """One array."""
    found = []
    for row in rows:
        recall = {name: {"at1": of.at1, "at5": of.at5} for name, of in row.recall.items()}
        found.append({**asdict(row), "recall": recall})
    return as_pretty_json(found)


def _recall(row: ModelRow, data: str) -> str:
    found = row.recall.get(data)
    if found is None:
        return ""
    return f"{found.at1:.1f}" if found.at5 is None else f"{found.at1:.1f}/{found.at5:.1f}"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(counts.items())) or "none"


def _cells(hit: Hit) -> tuple[str, str, str, str, str]:
    caption = " ".join((hit.caption or "").split())
    return str(hit.rank), f"{hit.score:.4f}", hit.path, span_text(hit.span), caption


def span_text(span: Span | None) -> str:
    """Lines as `12-18`, pages as `p. 3`, slides as `slide 3`, sections as `§ 3`, seconds as
    `0:07.5–0:12.5`; nothing for a whole item, and for what comes before the first section.
    """
    if span is None or not (span.end or span.unit == "second"):
        return ""
    if span.unit == "second":
        return f"{_clock(span.start)}–{_clock(span.end)}"
    if span.unit == "page":
        pages = f"{span.start:g}" if span.start == span.end else f"{span.start:g}-{span.end:g}"
        return f"p. {pages}"
    if span.unit in ("slide", "section"):
        return f"{'slide' if span.unit == 'slide' else '§'} {span.start:g}"
    return f"{span.start:g}-{span.end:g}"


def _clock(seconds: float) -> str:
    """Seconds as minutes and seconds, 0:07.5, with hours when there are any."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    shown = f"{rest // 10:02d}.{rest % 10}"
    if minutes < 60:
        return f"{minutes}:{shown}"
    return f"{minutes // 60}:{minutes % 60:02d}:{shown}"


def _place(hit: Hit) -> str:
    place = visible(_short(hit.path))
    if hit.span is None or not (stretch := span_text(hit.span)):
        return place
    return f"{place}{':' if hit.span.unit == 'line' else ' '}{stretch}"


def _short(path: str) -> str:
    """A path as seen from the working folder, when it lies in it."""
    here = os.getcwd().rstrip(os.sep) + os.sep
    return path.removeprefix(here)


def _table(columns: Sequence[tuple[str, bool]], rows: Sequence[Sequence[str]]) -> str:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for title, number in columns:
        # numbers keep their width; of the rest, the widest gives way first
        table.add_column(title, justify="right" if number else "left", no_wrap=number)
    for row in rows:
        cells = [Text(cell, overflow="fold") for cell in row[:-1]]
        table.add_row(*cells, Text(row[-1], no_wrap=True, overflow="ellipsis"))
    with console.capture() as captured:
        console.print(table)
    return captured.get()
