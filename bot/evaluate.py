"""How well messages are understood: figures from a labelled file and what `bot understand` says.

A labelled file has three columns with tabs between: what is expected, the language, the message.
Expected is the id of a topic, `out_of_scope`, `emergency` or `high` (a type may follow:
`high/arrest`), `harmless` (sounds alarming, is not), or `-` (only the language counts). The other
side is the output of `bot understand --jsonl`, so anybody can score with a program of their own.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import pygal
from pygal.style import CleanStyle
from rich.console import Console
from rich.table import Table

from config.content import ContentError, read_yaml
from config.facts import CONFIG
from config.texts import JAPAN
from nlu.language import LANGUAGES

Row = Mapping[str, Any]
"""One line of `bot understand --jsonl`."""

METRICS = {
    "language": "language right",
    "top1": "topic first",
    "top3": "topic in three",
    "out_of_scope": "wrongly answered",
    "emergency": "emergencies found",
    "danger": "danger found",
    "alarms": "false alarms",
}
STRANGER = "other"
"""All languages that the desk does not speak, taken together."""
EMERGENCY, HIGH, HARMLESS, OUTSIDE, ANY = "emergency", "high", "harmless", "out_of_scope", "-"
BINS = 10


@dataclass(frozen=True, slots=True)
class Labelled:
    """A message and what is expected of it."""

    expected: str
    language: str
    text: str

    @property
    def kind(self) -> str:
        """`expected` without the type of a danger."""
        return self.expected.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Share:
    """How many of how many."""

    hits: int
    of: int

    @property
    def value(self) -> float | None:
        """From 0 to 1; None where there was nothing to judge."""
        return self.hits / self.of if self.of else None


@dataclass(frozen=True, slots=True)
class Missed:
    """A target that was not reached. `where`: a language, or "all"."""

    metric: str
    where: str
    value: float
    wanted: float


@dataclass(frozen=True)
class Evaluation:
    """All figures of one run. `shares[where][metric]`, where `where` is "all" or a language."""

    model: str
    made: str
    messages: int
    shares: dict[str, dict[str, Share]]
    confusions: list[tuple[str, str, int]]
    """(expected, understood, how often), the most frequent first."""
    calibration: list[tuple[float, float, int]]
    """(mean confidence, share that was right, messages) for each tenth of confidence."""
    calibration_error: float
    faults: list[dict[str, str]] = field(default_factory=list)
    """Each message that was not understood as expected."""
    missed: list[Missed] = field(default_factory=list)


def read_labelled(paths: Iterable[Path], topics: Iterable[str]) -> list[Labelled]:
    """Read labelled files.

    Raises:
        ContentError: every line that is not of the form above, with its remedy.
    """
    known = {*topics, EMERGENCY, HIGH, HARMLESS, OUTSIDE, ANY}
    mistakes: list[str] = []
    found: list[Labelled] = []
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            mistakes.append(f"{path}: {error}. Give a file in UTF-8.")
            continue
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            columns = line.split("\t")
            if len(columns) != 3:
                what = f"{len(columns)} columns. Write expected, language, message, tabs between."
            elif columns[0].partition("/")[0] not in known:
                what = f"“{columns[0]}” is no topic. Use a topic's id or one of "
                what += f"{OUTSIDE}, {EMERGENCY}, {HIGH}, {HARMLESS}, {ANY}."
            elif not columns[2].strip():
                what = "no message. Write one or take the line out."
            else:
                found.append(Labelled(*columns))
                continue
            mistakes.append(f"{path.name}:{number}: {what}")
    if not found and not mistakes:
        mistakes.append("There is no labelled message. Name a file of lines “topic⇥language⇥text”.")
    if mistakes:
        raise ContentError(mistakes)
    return found


def read_understood(path: Path) -> list[Row]:
    """Read the output of `bot understand --jsonl`.

    Raises:
        ContentError: not JSON, or a key is missing.
    """
    rows: list[Row] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            _ = row["text"], row["language"], row["topics"], row["risk"], row["action"]
        except (ValueError, KeyError, TypeError):
            mistake = f"{path.name}:{number}: not a line of `bot understand --jsonl`. Make it anew."
            raise ContentError([mistake]) from None
        rows.append(row)
    return rows


def evaluate(
    labelled: Sequence[Labelled], understood: Sequence[Row], targets: Mapping[str, Any], model: str
) -> Evaluation:
    """Compare message by message; both lists are in the same order.

    Raises:
        ContentError: the lists do not hold the same messages.
    """
    if [one.text for one in labelled] != [row["text"] for row in understood]:
        raise ContentError(
            ["The understood messages are not those of the labelled file. Understand it anew."]
        )
    counts: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    confusions: Counter[tuple[str, str]] = Counter()
    sure: list[tuple[float, bool]] = []
    faults: list[dict[str, str]] = []
    for one, row in zip(labelled, understood, strict=True):
        named = [topic for topic, _ in row["topics"]]
        judged = _judge(one, row, named)
        for metric, hit in judged.items():
            for where in ("all", one.language if one.language in LANGUAGES else STRANGER):
                counts[where, metric][0] += hit
                counts[where, metric][1] += 1
        if "top1" in judged:
            sure.append((float(row["confidence"]), judged["top1"]))
        for metric, what in (
            ("language", row["language"]),
            ("top1", named[0] if named else "-"),
            ("out_of_scope", row["topic"] or "-"),
            ("danger", row["risk"]),
            ("emergency", row["risk"]),
            ("alarms", f"{row['risk']} ({', '.join(row.get('risk_types') or ())})"),
        ):
            if metric in judged and judged[metric] == (metric in {"out_of_scope", "alarms"}):
                if metric == "emergency" and not judged["danger"]:
                    continue  # missed altogether: that is told already
                confusions[one.language if metric == "language" else one.kind, what] += 1
                faults.append(
                    {
                        "metric": metric,
                        "expected": one.language if metric == "language" else one.expected,
                        "understood": what,
                        "language": one.language,
                        "text": one.text,
                    }
                )
    shares: dict[str, dict[str, Share]] = {}
    for where in ("all", *sorted({where for where, _ in counts} - {"all"})):
        shares[where] = {m: Share(*counts[where, m]) for m in METRICS if (where, m) in counts}
    table = _calibration(sure)
    off = sum(abs(a - b) * n for a, b, n in table) / (len(sure) or 1)
    return Evaluation(
        model,
        datetime.now(JAPAN).isoformat(timespec="seconds"),
        len(labelled),
        shares,
        [(expected, what, times) for (expected, what), times in confusions.most_common()],
        table,
        off,
        faults,
        _missed(shares, targets),
    )


def _judge(one: Labelled, row: Row, named: Sequence[str]) -> dict[str, bool]:
    # a language that the desk does not speak must not be taken for one that it does
    stranger = one.language not in LANGUAGES and row["language"] not in LANGUAGES
    judged = {"language": stranger or row["language"] == one.language}
    if one.kind == OUTSIDE:
        judged["out_of_scope"] = row["action"] == "answer"
    elif one.kind in {EMERGENCY, HIGH}:
        judged["danger"] = row["risk"] != "none"
        if one.kind == EMERGENCY:
            judged["emergency"] = row["risk"] == "emergency"
    elif one.kind == HARMLESS:
        judged["alarms"] = row["risk"] != "none"
    elif one.kind != ANY:
        judged["top1"] = named[:1] == [one.expected]
        judged["top3"] = one.expected in named[:3]
    return judged


def _calibration(sure: Sequence[tuple[float, bool]]) -> list[tuple[float, float, int]]:
    bins: defaultdict[int, list[tuple[float, bool]]] = defaultdict(list)
    for confidence, right in sure:
        bins[min(BINS - 1, int(confidence * BINS))].append((confidence, right))
    return [
        (sum(c for c, _ in rows) / len(rows), sum(r for _, r in rows) / len(rows), len(rows))
        for _, rows in sorted(bins.items())
    ]


def _missed(shares: Mapping[str, Mapping[str, Share]], targets: Mapping[str, Any]) -> list[Missed]:
    missed = []
    for metric, rule in targets.items():
        for direction, limits in rule.items():
            for where, measured in shares.items():
                wanted = limits.get("all" if where == "all" else "each")
                value = measured[metric].value if metric in measured else None
                if wanted is None or value is None:
                    continue
                if value < wanted if direction == "at_least" else value > wanted:
                    missed.append(Missed(metric, where, value, wanted))
    return missed


def load_targets(path: Path = CONFIG / "evaluation.yaml") -> Mapping[str, Any]:
    """Read the figures to reach.

    Raises:
        ContentError: an unknown metric or a limit that is no share.
    """
    targets: Mapping[str, Any] = read_yaml(path)
    mistakes = [
        f"{path.name}: {metric}: write `at_least:` or `at_most:` with `all:` and `each:`, 0 to 1, "
        f"for one of {', '.join(METRICS)}."
        for metric, rule in targets.items()
        if metric not in METRICS
        or not isinstance(rule, dict)
        or not set(rule) <= {"at_least", "at_most"}
        or not all(
            isinstance(limits, dict)
            and set(limits) <= {"all", "each"}
            and all(
                isinstance(limit, (int, float)) and 0 <= limit <= 1 for limit in limits.values()
            )
            for limits in rule.values()
        )
    ]
    if mistakes:
        raise ContentError(mistakes)
    return targets


# -- reports ---------------------------------------------------------------------------------------


def to_json(evaluation: Evaluation) -> str:
    """All figures as JSON; `from_json` reads it."""
    return json.dumps(asdict(evaluation), ensure_ascii=False, indent=1)


def from_json(path: Path) -> Evaluation:
    """An earlier evaluation.

    Raises:
        ContentError: the file is not one.
    """
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        row["shares"] = {
            where: {metric: Share(**share) for metric, share in measured.items()}
            for where, measured in row["shares"].items()
        }
        row["confusions"] = [tuple(line) for line in row["confusions"]]
        row["calibration"] = [tuple(line) for line in row["calibration"]]
        row["missed"] = [Missed(**line) for line in row["missed"]]
        return Evaluation(**row)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ContentError(
            [f"{path} is no report of `bot evaluate --json`. Make one with it."]
        ) from None


def _percent(share: Share | None, before: Share | None = None) -> str:
    if share is None or share.value is None:
        return ""
    text = f"{100 * share.value:.1f}"
    if before is not None and before.value is not None and before.value != share.value:
        text += f" ({100 * (share.value - before.value):+.1f})"
    return text


def show(out: Console, evaluation: Evaluation, before: Evaluation | None = None) -> None:
    """Print the figures, in percent; with an earlier evaluation also what has changed."""
    missed = {(one.metric, one.where) for one in evaluation.missed}
    table = Table("", *METRICS.values(), title=f"{evaluation.model}, in %", title_justify="left")
    for where, shares in evaluation.shares.items():
        cells = []
        for metric in METRICS:
            old = before.shares.get(where, {}).get(metric) if before else None
            cell = _percent(shares.get(metric), old)
            cells.append(f"[red]{cell}[/]" if (metric, where) in missed else cell)
        table.add_row(where, *cells, style="bold" if where == "all" else "")
    out.print(table)
    out.print(f"[bold]Confidence[/]  off by {100 * evaluation.calibration_error:.1f} % on average")
    if evaluation.confusions:
        out.print("[bold]Most often mistaken[/]")
        for expected, what, times in evaluation.confusions[:15]:
            out.print(f"  {times:3}  {expected} → {what}", markup=False)
    if before is not None:
        gone = {(row["metric"], row["text"]) for row in before.faults}
        new = {(row["metric"], row["text"]) for row in evaluation.faults}
        out.print(
            f"[bold]Against {before.model}[/]  {len(gone - new)} mistakes are gone, "
            f"{len(new - gone)} are new"
        )
    for one in evaluation.missed:
        out.print(
            f"[red]missed[/]  {METRICS[one.metric]}, {one.where}: {100 * one.value:.1f} %, "
            f"wanted {100 * one.wanted:g} %"
        )


def to_html(evaluation: Evaluation, before: Evaluation | None = None) -> str:
    """One page with tables and plots that needs nothing from elsewhere."""
    head = "".join(f"<th>{escape(name)}</th>" for name in METRICS.values())
    missed = {(one.metric, one.where) for one in evaluation.missed}
    body = ""
    for where, shares in evaluation.shares.items():
        cells = ""
        for metric in METRICS:
            old = before.shares.get(where, {}).get(metric) if before else None
            mark = ' class="missed"' if (metric, where) in missed else ""
            cells += f"<td{mark}>{_percent(shares.get(metric), old)}</td>"
        body += f"<tr><th>{escape(where)}</th>{cells}</tr>"
    faults = "".join(
        f"<tr><td>{escape(METRICS[row['metric']])}</td><td>{escape(row['expected'])}</td>"
        f"<td>{escape(row['understood'])}</td><td>{escape(row['language'])}</td>"
        f'<td dir="auto" lang="{escape(row["language"])}">{escape(row["text"])}</td></tr>'
        for row in evaluation.faults
    )
    confusions = "".join(
        f"<tr><td>{escape(expected)}</td><td>{escape(what)}</td><td>{times}</td></tr>"
        for expected, what, times in evaluation.confusions[:60]
    )
    against = f" (in brackets: against {escape(before.model)})" if before else ""
    return _PAGE.format(
        model=escape(evaluation.model),
        made=escape(evaluation.made),
        messages=evaluation.messages,
        against=against,
        head=head,
        body=body,
        topics=_bars(evaluation, ("top1", "top3", "language")),
        risk=_bars(evaluation, ("emergency", "danger", "alarms", "out_of_scope")),
        calibration=_curve(evaluation),
        error=f"{100 * evaluation.calibration_error:.1f}",
        confusions=confusions,
        faults=faults,
    )


def _chart(kind: Callable[..., Any], **options: Any) -> Any:
    return kind(style=CleanStyle, js=(), height=320, width=900, legend_at_bottom=True, **options)


def _svg(chart: Any) -> str:
    return str(chart.render(is_unicode=True, disable_xml_declaration=True))


def _bars(evaluation: Evaluation, metrics: Sequence[str]) -> str:
    chart = _chart(pygal.Bar, range=(0, 100))
    chart.x_labels = list(evaluation.shares)
    for metric in metrics:
        values = [shares.get(metric) for shares in evaluation.shares.values()]
        chart.add(
            METRICS[metric],
            [100 * s.value if s is not None and s.value is not None else None for s in values],
        )
    return _svg(chart)


def _curve(evaluation: Evaluation) -> str:
    chart = _chart(pygal.XY, range=(0, 1), xrange=(0, 1), dots_size=4)
    chart.add("as it should be", [(0, 0), (1, 1)], show_dots=False)
    chart.add("confidence and share right", [(a, b) for a, b, _ in evaluation.calibration])
    return _svg(chart)


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Understanding: {model}</title>
<style>
 body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 1em; }}
 table {{ border-collapse: collapse; margin: 1em 0; }}
 th, td {{ border: 1px solid #ccc; padding: .2em .6em; text-align: left; vertical-align: top; }}
 td.missed {{ background: #fdd; }} svg {{ max-width: 100%; height: auto; }}
</style>
<h1>How well messages are understood</h1>
<p>Model {model}, {messages} messages, {made}. All figures in %; red: below what is
wanted{against}.</p>
<table><tr><th></th>{head}</tr>{body}</table>
<h2>Topics and languages</h2>{topics}
<h2>Danger, and what the desk does not answer</h2>{risk}
<h2>Is the confidence honest?</h2>
<p>Of the topics named with a confidence of 0.8, eight in ten should be right. Off by {error} % on
average.</p>{calibration}
<h2>What is taken for what</h2>
<table><tr><th>expected</th><th>understood</th><th>times</th></tr>{confusions}</table>
<h2>Each message that was not understood as expected</h2>
<table><tr><th></th><th>expected</th><th>understood</th><th>language</th><th>message</th></tr>{faults}
</table></html>
"""
