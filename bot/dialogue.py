"""What to do with an understood message: a pure function, no clock, no database, no network.

Risk comes first, then the worker's commands; while a person holds the conversation the bot is
silent but for these two. Whatever is unknown is asked once more, then goes to a person.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from config.content import ContentError, read_yaml
from config.facts import CONFIG
from handoff.case import Handoff
from nlu.understand import READ, Understanding

Action = Literal[
    "answer",
    "suggest",
    "rephrase",
    "handoff",
    "emergency",
    "greet",
    "talk",
    "language",
    "command",
    "silent",
]

HELPFUL, HUMAN, NONE = "/helpful", "/human", "/none"
LINK, UNLINK = "/link", "/unlink"
CODE = re.compile(r"\s*(?:\d[\s\-.,、]{0,2}){7}\d\s*[.。]?\s*")
"""A code that joins two conversations of one person, as it is typed or heard."""
ERASE, KEEP = "/delete yes", "/delete no"
COMMANDS = {"/language": "language", "/delete": "delete", "/stop": "stop"}
"""Commands that a channel's own menu gives as a choice (Telegram)."""
TOPICS_OFFERED = 3
MOST_UNCLEAR = 2
"""Guesses and requests to say it otherwise, in a row, before a person takes over."""
MENU = (
    "wage_unpaid",
    "dismissal",
    "residence_renewal",
    "work_accident",
    "health_insurance",
    "about_service",
)
"""Topics that a greeting offers, as far as they have a text; the first four of them are shown."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """How sure is sure enough; see `config/dialogue.yaml`."""

    answer: float
    suggest: float
    talk: float
    talk_untaught: float
    language: float
    burst: int


@dataclass(frozen=True, slots=True)
class Say:
    """A text to say, by id, with (text id of the label, value) buttons."""

    text_id: str
    buttons: tuple[tuple[str, str], ...] = ()
    language: str = ""


@dataclass(frozen=True, slots=True)
class Heard:
    """The message, as far as deciding needs it. `command`: if the whole message is one.

    `attachments`: files, places and cards, which only a person can answer. `kind`: as in
    `channels.message.Kind`, or `withdrawn`.
    """

    text: str
    choice: str = ""
    command: str | None = None
    attachments: int = 0
    recent: int = 1
    more_waiting: bool = False
    kind: str = "text"


@dataclass(frozen=True, slots=True)
class Situation:
    """Where the conversation stands. `state` is what decisions remember from turn to turn.

    `attended`: a counsellor has taken the case; else the desk's conversation waits in the queue.
    """

    holder: Literal["bot", "desk"] = "bot"
    attended: bool = False
    language: str = ""
    language_chosen: bool = False
    hint: str = ""
    open: bool = True
    state: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Library:
    """What there is to say: the desk's languages, topics with `ask_human`, and texts that exist."""

    languages: tuple[str, ...]
    topics: Mapping[str, bool]
    has: Callable[[str, str], bool]
    taught: frozenset[str]
    """Languages in which topics have examples."""
    emergency_texts: Mapping[str, str]
    """Risk type → id of the text that is said at once."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do. `language` is the conversation's from now on ("" while unknown)."""

    action: Action
    say: tuple[Say, ...] = ()
    handoff: Handoff | None = None
    language: str = ""
    language_chosen: bool = False
    state: Mapping[str, Any] = field(default_factory=dict)
    topic: str = ""
    erase: bool = False
    stop: bool = False
    join: str = ""
    """For joining conversations: a code to try, or `LINK` to offer one, or `UNLINK` to undo."""


def decide(
    heard: Heard,
    understanding: Understanding,
    situation: Situation,
    library: Library,
    limits: Thresholds,
) -> Decision:
    """Decide. The same arguments always give the same decision."""
    state = dict(situation.state)
    if heard.kind == "automatic":  # a machine would answer back; danger in it goes to a person
        risky = understanding.risk.level != "none"
        handoff = _risk_handoff(understanding, situation) if risky else None
        return Decision(
            "silent", (), handoff, situation.language, situation.language_chosen, situation.state
        )
    choice, command = _chosen(heard, state)
    language = _language(understanding, situation, library, limits)
    here = replace(situation, language=language)
    risk = understanding.risk

    if risk.level == "emergency":
        return _emergency(understanding, here, library, state)
    if not choice and not command and CODE.fullmatch(heard.text):
        choice = f"{LINK} yes {''.join(str(int(d)) for d in heard.text if d.isdecimal())}"
    if command or choice:
        decided = _command(choice, command, here, library, state)
        if decided is not None:
            return decided
    if situation.holder == "desk":
        return _waiting(understanding, here, limits)
    calm = risk.level == "none"
    if calm and heard.kind == "withdrawn":
        return Decision("silent", (), None, language, situation.language_chosen, situation.state)
    if calm and heard.kind == "start" and not heard.text.strip():
        if language:
            return _greet(here, library, state)
        return _decision("language", (_menu(library),), here, {**state, "menu": False})
    if calm and choice.startswith("/topic "):
        topic = choice.removeprefix("/topic ")
        if topic in library.topics:
            return _answer(topic, here, library, state)
    if heard.recent > limits.burst and heard.more_waiting and calm:
        notice: tuple[Say, ...] = () if state.get("burst") else (Say("error.too_many"),)
        return Decision(
            "silent", notice, None, language, situation.language_chosen, {**state, "burst": True}
        )
    state.pop("burst", None)
    if calm and not heard.text.strip():
        handoff = Handoff("attachment", language=language) if heard.attachments else None
        kept = (Say("file.kept"), *_promise(here))
        said = kept if handoff else (Say("error.empty"),)
        return _decision("handoff" if handoff else "rephrase", said, here, state, handoff)
    if not language:
        return _which_language(understanding, here, library, state)
    decision = _respond(understanding, here, library, limits, state)
    if heard.attachments and decision.handoff is None:  # what only a person can look at
        handoff = Handoff("attachment", topic=decision.topic, language=language)
        said = (*decision.say, Say("file.kept"), *_promise(here))
        decision = replace(decision, say=said, handoff=handoff)
    if len(heard.text) > READ:
        decision = replace(
            decision, say=(*decision.say[:-1], Say("error.too_long"), decision.say[-1])
        )
    return decision


def _waiting(understanding: Understanding, here: Situation, limits: Thresholds) -> Decision:
    """A person holds the conversation: the bot is silent. Only while nobody has taken the case
    yet it says once what high risk needs, and that she is not forgotten if she asks again."""
    high = understanding.risk.level == "high"
    handoff = _risk_handoff(understanding, here) if high else None
    told = list(here.state.get("told", ()))
    intent, sure = understanding.ranking[0] if understanding.ranking else ("", 0.0)
    said: tuple[Say, ...] = ()
    state = here.state
    if not here.attended and high and "risk.high" not in told:
        said = (Say("risk.high", language=here.language or "en"), *_promise(here))
        state = {**state, "told": [*told, "risk.high"]}
    elif not here.attended and not high and intent == "human" and sure >= limits.answer:
        said = (Say("handoff.waiting"),)
    return Decision("silent", said, handoff, here.language, here.language_chosen, state)


def _respond(
    understanding: Understanding,
    here: Situation,
    library: Library,
    limits: Thresholds,
    state: dict[str, Any],
) -> Decision:
    """The ordinary case: the bot holds the conversation and knows its language."""
    high = understanding.risk.level == "high"
    intent, sure = understanding.ranking[0] if understanding.ranking else ("", 0.0)
    topic = intent.removeprefix("faq/") if intent.startswith("faq/") else ""
    if high:
        answer = _answer(topic, here, library, state) if topic and sure >= limits.answer else None
        said = (Say("risk.high"), *(answer.say if answer and not answer.handoff else ()))
        first = {"greeted": True}
        return _decision(
            "handoff",
            (*said, *_promise(here)),
            here,
            {**(dict(answer.state) if answer else state), **first},
            _risk_handoff(understanding, here),
            topic,
        )
    asked = [one for one in understanding.questions if library.has(f"faq/{one}", here.language)]
    if len(asked) > 1:
        return _answers(asked, here, library, state)
    if topic in library.topics and sure >= limits.answer:
        return _answer(topic, here, library, state)
    if sure >= limits.answer and intent == "human":
        return _person("asked", here, state)
    taught = here.language in library.taught
    talk = sure >= (limits.talk if taught else limits.talk_untaught)
    if talk and intent == "greet":
        return _greet(here, library, state)
    if talk and intent in {"thanks", "goodbye"}:
        return _decision("talk", (Say(f"smalltalk.{intent}"),), here, state)
    foreign = intent == "out_of_scope" and (talk if not taught else sure >= 0.5)
    if not foreign:
        offered = [
            topic
            for topic, confidence in understanding.topics[:TOPICS_OFFERED]
            if confidence >= limits.suggest / (1 if topic == intent[4:] else 3)
            and library.has(f"faq/{topic}/title", here.language)
        ]
        if offered and understanding.topics[0][1] >= limits.suggest:
            unclear = int(state.get("unclear", 0))
            if unclear >= MOST_UNCLEAR:
                return _person("unsure", here, state)
            buttons = [(f"faq/{topic}/title", f"/topic {topic}") for topic in offered]
            ask = Say("suggest.ask", (*buttons, ("button.none", NONE), ("button.human", HUMAN)))
            return _decision("suggest", (ask,), here, {**state, "unclear": unclear + 1})
    return _again(here, state, "out_of_scope.say" if foreign else "rephrase.ask")


def _emergency(
    understanding: Understanding, here: Situation, library: Library, state: dict[str, Any]
) -> Decision:
    told = list(state.get("told", ()))
    texts = dict.fromkeys(
        library.emergency_texts[kind]
        for kind in understanding.risk.types
        if library.emergency_texts.get(kind, "").startswith("emergency.")
    )
    fresh = [text for text in texts if text not in told][:2]
    # While a person holds the conversation each text is said once; otherwise always, at once.
    said = fresh if here.holder == "desk" else list(texts)[:2]
    language = here.language or "en"
    state |= {"told": [*told, *fresh], "greeted": True}
    lines = (*(Say(text, language=language) for text in said), *_promise(here))
    return Decision(
        "emergency",
        lines if here.holder == "bot" or fresh else (),
        _risk_handoff(understanding, here),
        here.language,
        here.language_chosen,
        state,
    )


def _risk_handoff(understanding: Understanding, here: Situation) -> Handoff:
    risk = understanding.risk
    words = tuple(
        {"type": e.type, "language": e.language, "phrase": e.phrase, "matched": e.matched}
        for e in risk.evidence
    )
    topics = understanding.topics
    return Handoff(
        "risk",
        risk.level,
        risk.types,
        topics[0][0] if topics and topics[0][1] >= 0.5 else "",
        here.language or understanding.language,
        words,
    )


def _command(
    choice: str, command: str | None, here: Situation, library: Library, state: dict[str, Any]
) -> Decision | None:
    if choice.startswith("/language "):
        code = choice.removeprefix("/language ")
        if code in library.languages:
            chosen = replace(here, language=code, language_chosen=True)
            if here.holder == "desk":
                return Decision("command", (Say("language.set"),), None, code, True, here.state)
            if not state.get("greeted"):
                return _greet(chosen, library, state)
            return _decision("command", (Say("language.set"),), chosen, state)
    if choice == HUMAN or command == "human":
        if here.holder == "desk":
            return _decision("handoff", (Say("handoff.waiting"),), here, state)
        return _person("asked", here, state)
    if command == "language":
        return _decision("language", (_menu(library),), here, state)
    if choice.startswith(LINK) or command == "link":
        return _joining(choice.removeprefix(LINK).split(), here, state)
    if choice == UNLINK or command == "unlink":
        return replace(_decision("command", (), here, state), join=UNLINK)
    asked = state.pop("confirm", None) == "delete"
    if command == "delete" and not asked:
        buttons = (("button.yes_delete", ERASE), ("button.no", KEEP))
        state["confirm"] = "delete"
        return _decision("command", (Say("delete.confirm", buttons),), here, state)
    if choice == ERASE or (asked and command in {"yes", "delete"}):
        return Decision("command", (Say("delete.done"),), None, here.language, erase=True)
    if choice == KEEP or (asked and command in {"no", "stop"}):
        return _decision("command", (Say("delete.cancelled"),), here, state)
    if command == "stop":
        stopped = _decision("command", (Say("stop.done"),), here, state)
        return replace(stopped, stop=True)
    if here.holder == "desk":
        return None
    if choice == HELPFUL or command == "helpful":
        return _decision("talk", (Say("feedback.thanks"),), here, state)
    if choice == NONE:
        return _again(here, state, "rephrase.ask")
    return None


def _joining(words: Sequence[str], here: Situation, state: dict[str, Any]) -> Decision:
    """A code: to offer (no words), to ask about (from a link that anybody may have sent her), to
    try (`yes`: typed by herself, or confirmed), or not (`no`)."""
    if not words:
        return replace(_decision("command", (), here, state), join=LINK)
    if words[0] == "yes":
        return replace(_decision("command", (), here, state), join=words[-1])
    if words[0] == "no":
        return _decision("command", (Say("link.none"),), here, state)
    buttons = (("button.yes_join", f"{LINK} yes {words[0]}"), ("button.no", f"{LINK} no"))
    return _decision("command", (Say("link.confirm", buttons),), here, state)


def _answer(topic: str, here: Situation, library: Library, state: dict[str, Any]) -> Decision:
    if not library.has(f"faq/{topic}", here.language):
        said = (Say("answer.no_text"), *_promise(here))
        handoff = Handoff("no_text", topic=topic, language=here.language)
        return _decision("handoff", said, here, state, handoff, topic)
    buttons = (("button.helpful", HELPFUL), ("button.human", HUMAN))
    if library.topics[topic]:  # never enough without a person: that button comes first
        buttons = buttons[::-1]
    state |= {"rephrased": 0, "unclear": 0, "topic": topic}
    return _decision("answer", (Say(f"faq/{topic}", buttons),), here, state, topic=topic)


def _answers(
    topics: Sequence[str], here: Situation, library: Library, state: dict[str, Any]
) -> Decision:
    """Several questions get their answers in the order in which they were asked."""
    answers = [_answer(topic, here, library, dict(state)) for topic in topics]
    human_first = any(library.topics[topic] for topic in topics)
    buttons = (("button.human", HUMAN), ("button.helpful", HELPFUL))
    texts = [replace(one.say[-1], buttons=()) for one in answers]
    said = (*texts[:-1], replace(texts[-1], buttons=buttons if human_first else buttons[::-1]))
    state |= {"rephrased": 0, "unclear": 0, "topic": topics[-1]}
    return _decision("answer", said, here, state, topic=topics[0])


def _greet(here: Situation, library: Library, state: dict[str, Any]) -> Decision:
    offered = [t for t in MENU if library.has(f"faq/{t}/title", here.language)][:4]
    buttons = tuple((f"faq/{topic}/title", f"/topic {topic}") for topic in offered)
    menu = (Say("menu.topics", (*buttons, ("button.human", HUMAN))),) if offered else ()
    said = menu if not state.get("greeted") else (Say("greeting.again"), *menu)
    return _decision("greet", said, here, state)


def _person(reason: Literal["asked", "unsure"], here: Situation, state: dict[str, Any]) -> Decision:
    handoff = Handoff(reason, topic=str(state.get("topic", "")), language=here.language)
    return _decision(
        "handoff", _promise(here), here, {**state, "rephrased": 0, "unclear": 0}, handoff
    )


def _again(here: Situation, state: dict[str, Any], text_id: str) -> Decision:
    """Ask once more; the second time in a row a person takes over."""
    tried, unclear = int(state.get("rephrased", 0)), int(state.get("unclear", 0))
    if unclear >= MOST_UNCLEAR or (text_id == "rephrase.ask" and tried >= 1):
        return _person("unsure", here, state)
    ask = Say(text_id, (("button.human", HUMAN),))
    return _decision(
        "rephrase", (ask,), here, {**state, "rephrased": tried + 1, "unclear": unclear + 1}
    )


def _which_language(
    understanding: Understanding,
    here: Situation,
    library: Library,
    state: dict[str, Any],
) -> Decision:
    """Ask by menu; a sure other language, or a second message, also goes to a person."""
    other = understanding.language not in {*library.languages, "und"}
    asked_before = bool(state.get("menu"))
    state["menu"] = True
    menu = _menu(library)
    if not other and understanding.risk.level == "none" and not asked_before:
        return Decision("language", (menu,), None, "", False, state)
    risky = understanding.risk.level != "none"
    handoff = (
        _risk_handoff(understanding, here)
        if risky
        else Handoff("other_language", language=understanding.language)
    )
    first = Say("risk.high" if risky else "language.other", language="en")
    said = (first, menu, *_promise(here))
    return Decision("handoff", said, handoff, "", False, state)


def _menu(library: Library) -> Say:
    buttons = tuple((f"language.name/{code}", f"/language {code}") for code in library.languages)
    return Say("language.menu", buttons, language="mul")


def _promise(here: Situation) -> tuple[Say, ...]:
    return (Say("handoff.open" if here.open else "handoff.closed"),)


def _decision(
    action: Action,
    said: tuple[Say, ...],
    here: Situation,
    state: Mapping[str, Any],
    handoff: Handoff | None = None,
    topic: str = "",
) -> Decision:
    """A decision of the bot; the first one of a conversation begins with who we are."""
    state = dict(state)
    if (
        here.language
        and not state.get("greeted")
        and action in {"answer", "suggest", "rephrase", "greet", "talk", "handoff"}
    ):
        if handoff is None or handoff.level == "none":
            said = (Say("greeting.first"), Say("privacy.notice"), *said)
        state["greeted"] = True
    return Decision(action, said, handoff, here.language, here.language_chosen, state, topic)


def _chosen(heard: Heard, state: dict[str, Any]) -> tuple[str, str | None]:
    """The pressed button, or the one whose number or label was typed; and the command."""
    choices: Mapping[str, str] = state.pop("choices", {})
    if heard.choice:
        return heard.choice, COMMANDS.get(heard.choice)
    typed = heard.text.strip().casefold()
    number = re.fullmatch(r"[\[(#]?(\d{1,2})[\])．.。]?", typed)
    if number and str(int(number[1])) in choices:
        return choices[str(int(number[1]))], None
    return choices.get(typed, ""), heard.command


def _language(
    understanding: Understanding, situation: Situation, library: Library, limits: Thresholds
) -> str:
    """The language to answer in: her own choice, else what she writes, else what it was.

    In the characters that she writes, too, as far as a message shows them (`zh-hant`).
    """
    known = situation.language
    found, sure = understanding.language, understanding.language_confidence
    if situation.language_chosen and known:
        language = known
    elif found in library.languages and sure >= (limits.language if not known else 0.85):
        language = found
    elif known:
        language = known
    elif situation.hint in library.languages and (found == "und" or sure < limits.language):
        language = situation.hint
    else:
        return ""
    base = language.partition("-")[0]
    if understanding.written.partition("-")[0] == base:
        return understanding.written
    return known if known.partition("-")[0] == base else language


def load_thresholds(path: Path = CONFIG / "dialogue.yaml") -> Thresholds:
    """Read the thresholds.

    Raises:
        ContentError: a key is missing or out of range.
    """
    row = read_yaml(path)
    mistakes = [
        f"{path.name}: {key}: write a number between 0 and 1."
        for key in ("answer", "suggest", "talk", "talk_untaught", "language")
        if not isinstance(row.get(key), float) or not 0 < row[key] < 1
    ]
    known = {one.name for one in fields(Thresholds)}
    mistakes += [f"{path.name}: {key}: unknown. Take it out." for key in set(row) - known]
    if not isinstance(row.get("burst"), int):
        mistakes.append(f"{path.name}: burst: write a whole number.")
    if mistakes:
        raise ContentError(mistakes)
    return Thresholds(**row)
