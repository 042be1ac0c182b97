"""What the desk does with a message: a table of situations, and laws that no situation breaks."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.content import load_content
from bot.dialogue import Decision, Heard, Situation, decide
from config.settings import ROOT
from nlu.risk import Evidence, Risk
from nlu.understand import Understanding

LOADED = load_content(ROOT / "faq_data")
LIBRARY, LIMITS = LOADED.content.library, LOADED.content.limits
NO_RISK = Risk("none", (), ())
GREETED = {"greeted": True}


def understood(
    *ranking: tuple[str, float], language: str = "vi", sure: float = 0.95, risk: Risk = NO_RISK
) -> Understanding:
    return Understanding(language, sure, ranking, risk)


def risk(level: Any, *types: str) -> Risk:
    return Risk(level, types, tuple(Evidence(t, "vi", "phrase", "words", 0, 5) for t in types))


def decided(
    heard: Heard | str, understanding: Understanding, **situation: Any
) -> tuple[Decision, list[str]]:
    heard = (
        Heard(heard, command=LOADED.content.texts.command(heard))
        if isinstance(heard, str)
        else heard
    )
    situation = {"state": GREETED, **situation}
    decision = decide(heard, understanding, Situation(**situation), LIBRARY, LIMITS)
    return decision, [spoken.text_id for spoken in decision.say]


SURE, LIKELY, WEAK = 0.98, 0.4, 0.1
TABLE: list[tuple[str, Heard | str, Understanding, dict[str, Any], str, list[str]]] = [
    # what happens, message, understanding, situation, action, texts
    ("sure topic", "nợ lương", understood(("faq/wage_unpaid", SURE)), {}, "answer",
     ["faq/wage_unpaid"]),
    ("first message: who we are comes first", "nợ lương",
     understood(("faq/wage_unpaid", SURE)), {"state": {}}, "answer",
     ["greeting.first", "privacy.notice", "faq/wage_unpaid"]),
    ("a very long message", "lương " * 300, understood(("faq/wage_unpaid", SURE)), {}, "answer",
     ["error.too_long", "faq/wage_unpaid"]),
    ("likely topic", "lương", understood(("faq/wage_unpaid", LIKELY), ("faq/dismissal", 0.2)), {},
     "suggest", ["suggest.ask"]),
    ("guessed wrong twice: a person", "lương", understood(("faq/wage_unpaid", LIKELY)),
     {"state": {**GREETED, "unclear": 2}}, "handoff", ["handoff.open"]),
    ("not understood, once", "blah blah", understood(("faq/wage_unpaid", WEAK)), {}, "rephrase",
     ["rephrase.ask"]),
    ("not understood, twice: a person", "blah", understood(("faq/wage_unpaid", WEAK)),
     {"state": {**GREETED, "rephrased": 1}}, "handoff", ["handoff.open"]),
    ("nothing like a topic", "công thức nấu phở", understood(("out_of_scope", SURE)), {},
     "rephrase", ["out_of_scope.say"]),
    ("several questions", "x", replace(understood(("faq/wage_unpaid", LIKELY)),
     questions=("paid_leave", "wage_unpaid")), {}, "answer", ["faq/paid_leave", "faq/wage_unpaid"]),
    ("greeting", "xin chào", understood(("greet", SURE)), {"state": {}}, "greet",
     ["greeting.first", "privacy.notice", "menu.topics"]),
    ("thanks", "cảm ơn", understood(("thanks", SURE)), {}, "talk", ["smalltalk.thanks"]),
    ("wants a person, in a sentence", "cho tôi gặp người", understood(("human", SURE)), {},
     "handoff", ["handoff.open"]),
    ("wants a person, as a command", "tư vấn viên", understood(), {}, "handoff",
     ["handoff.open"]),
    ("… out of hours", "tư vấn viên", understood(), {"open": False}, "handoff",
     ["handoff.closed"]),
    ("… while waiting for one", "tư vấn viên", understood(), {"holder": "desk"}, "handoff",
     ["handoff.waiting"]),
    ("language unknown", "ok ok", understood(language="und", sure=0.1), {"state": {}},
     "language", ["language.menu"]),
    ("language unknown, but the page knows", "ok ok",
     understood(("faq/wage_unpaid", WEAK), language="und", sure=0.1), {"hint": "my"},
     "rephrase", ["rephrase.ask"]),
    ("another language", "월급을 못 받았어요", understood(language="ko", sure=0.99), {"state": {}},
     "handoff", ["language.other", "language.menu", "handoff.open"]),
    ("chooses a language", Heard("नेपाली", choice="/language ne"),
     understood(language="ne"), {}, "command", ["language.set"]),
    ("asks for the language menu", "ngôn ngữ", understood(), {}, "language", ["language.menu"]),
    ("… from a channel's own menu", Heard("/language", choice="/language"),
     understood(language="und", sure=0), {}, "language", ["language.menu"]),
    ("erasure from a channel's own menu asks back", Heard("/delete", choice="/delete"),
     understood(language="und", sure=0), {}, "command", ["delete.confirm"]),
    ("stop from a channel's own menu", Heard("/stop", choice="/stop"),
     understood(language="und", sure=0), {"holder": "desk"}, "command", ["stop.done"]),
    ("delete my data asks back", "delete my data", understood(language="en"), {}, "command",
     ["delete.confirm"]),
    ("… yes", Heard("", choice="/delete yes"), understood(), {}, "command", ["delete.done"]),
    ("… no", "no", understood(language="en"), {"state": {**GREETED, "confirm": "delete"}},
     "command", ["delete.cancelled"]),
    ("yes to nothing is no command", "yes",
     understood(("faq/wage_unpaid", WEAK), language="en"), {}, "rephrase", ["rephrase.ask"]),
    ("stop", "STOP", understood(language="en"), {}, "command", ["stop.done"]),
    ("a button by its number", "2", understood(language="und", sure=0),
     {"language": "vi", "state": {**GREETED, "choices": {"2": "/topic dismissal"}}}, "answer",
     ["faq/dismissal"]),
    ("emergency", "tôi muốn chết", understood(risk=risk("emergency", "suicide")), {"state": {}},
     "emergency", ["emergency.suicide", "handoff.open"]),
    ("emergency in an unknown language: English", "x",
     understood(language="und", sure=0, risk=risk("emergency", "violence")), {"state": {}},
     "emergency", ["emergency.violence", "handoff.open"]),
    ("emergency while a person holds the conversation", "x",
     understood(risk=risk("emergency", "violence")), {"holder": "desk"}, "emergency",
     ["emergency.violence", "handoff.open"]),
    ("… the same again: silent, the case knows", "x",
     understood(risk=risk("emergency", "violence")),
     {"holder": "desk", "state": {**GREETED, "told": ["emergency.violence"]}}, "emergency", []),
    ("high risk with a sure topic", "giữ hộ chiếu",
     understood(("faq/passport_taken", SURE), risk=risk("high", "passport_held")), {}, "handoff",
     ["risk.high", "faq/passport_taken", "handoff.open"]),
    ("a person holds it: silent", "còn gì nữa", understood(("faq/wage_unpaid", SURE)),
     {"holder": "desk"}, "silent", []),
    ("only a picture", Heard("", attachments=1), understood(language="und", sure=0),
     {"language": "vi"}, "handoff", ["file.kept", "handoff.open"]),
    ("a picture with a question", Heard("nợ lương", attachments=1),
     understood(("faq/wage_unpaid", SURE)), {}, "answer",
     ["faq/wage_unpaid", "file.kept", "handoff.open"]),
    ("danger while waiting for a person: told once", "x",
     understood(risk=risk("high", "violence")), {"holder": "desk"}, "silent",
     ["risk.high", "handoff.open"]),
    ("… not again", "x", understood(risk=risk("high", "violence")),
     {"holder": "desk", "state": {**GREETED, "told": ["risk.high"]}}, "silent", []),
    ("… nor while a counsellor answers", "x", understood(risk=risk("high", "violence")),
     {"holder": "desk", "attended": True}, "silent", []),
    ("asks for a person in a sentence while waiting", "cho tôi gặp người",
     understood(("human", SURE)), {"holder": "desk"}, "silent", ["handoff.waiting"]),
    ("… while a counsellor answers", "cho tôi gặp người", understood(("human", SURE)),
     {"holder": "desk", "attended": True}, "silent", []),
    ("only a sticker: words, please", Heard("", kind="sticker"), understood(language="und", sure=0),
     {"language": "vi"}, "rephrase", ["error.empty"]),
    ("added us, language unknown", Heard("", kind="start"), understood(language="und", sure=0),
     {"state": {}}, "language", ["language.menu"]),
    ("added us, her profile tells the language", Heard("", kind="start"),
     understood(language="und", sure=0), {"state": {}, "hint": "vi"}, "greet",
     ["greeting.first", "privacy.notice", "menu.topics"]),
    ("added us again while a person holds it", Heard("", kind="start"),
     understood(language="und", sure=0), {"language": "vi", "holder": "desk"}, "silent", []),
    ("took it back: silent", Heard("lương", kind="withdrawn"),
     understood(("faq/wage_unpaid", SURE)), {}, "silent", []),
    ("… but danger in it is seen", Heard("x", kind="withdrawn"),
     understood(risk=risk("emergency", "violence")), {}, "emergency",
     ["emergency.violence", "handoff.open"]),
    ("a note of a machine: nothing is said, whatever is in it", Heard("call 119", kind="automatic"),
     understood(("faq/wage_unpaid", SURE), risk=risk("emergency", "suicide")), {}, "silent", []),
    ("a burst: one notice", Heard("a", recent=21, more_waiting=True),
     understood(("faq/wage_unpaid", SURE)), {}, "silent", ["error.too_many"]),
    ("… then quiet", Heard("a", recent=22, more_waiting=True),
     understood(("faq/wage_unpaid", SURE)), {"state": {**GREETED, "burst": True}}, "silent", []),
    ("… the last one is answered", Heard("a", recent=99), understood(("faq/wage_unpaid", SURE)),
     {"state": {**GREETED, "burst": True}}, "answer", ["faq/wage_unpaid"]),
    ("… an emergency inside it is seen", Heard("a", recent=50, more_waiting=True),
     understood(risk=risk("emergency", "violence")), {}, "emergency",
     ["emergency.violence", "handoff.open"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("heard", "understanding", "situation", "action", "texts"),
    [row[1:] for row in TABLE],
    ids=[row[0] for row in TABLE],
)
def test_decision(
    heard: Heard | str,
    understanding: Understanding,
    situation: dict[str, Any],
    action: str,
    texts: list[str],
) -> None:
    decision, said = decided(heard, understanding, **situation)
    assert (decision.action, said) == (action, texts)


def test_a_topic_without_a_text_in_her_language_goes_to_a_person() -> None:
    library = replace(LIBRARY, has=lambda *_: False)
    understanding = understood(("faq/wage_unpaid", SURE), language="ne")
    decision = decide(Heard("तलब"), understanding, Situation(state=GREETED), library, LIMITS)
    assert [spoken.text_id for spoken in decision.say] == ["answer.no_text", "handoff.open"]
    assert decision.handoff is not None
    assert decision.handoff.reason == "no_text"


def test_of_several_answers_only_the_last_has_buttons_and_a_person_comes_first() -> None:
    asked = replace(understood(), questions=("paid_leave", "wage_unpaid"))
    decision, _ = decided("x", asked)
    first, last = decision.say
    assert first.buttons == ()
    assert [label for label, _ in last.buttons] == ["button.human", "button.helpful"]


def test_every_handoff_has_a_reason_and_holds_the_level() -> None:
    decision, _ = decided("x", understood(risk=risk("high", "passport_held")))
    assert decision.handoff is not None
    assert (decision.handoff.reason, decision.handoff.level) == ("risk", "high")
    assert decision.handoff.words[0]["matched"] == "words"


def test_erasing_and_stopping_are_marked() -> None:
    assert decided(Heard("", choice="/delete yes"), understood())[0].erase
    assert decided("stop", understood(language="en"))[0].stop


JOINS: list[tuple[Heard | str, str]] = [
    ("link", "/link"),
    ("つなぐ", "/link"),
    ("12345678", "12345678"),
    ("1234 5678", "12345678"),
    (" 1234-5678. ", "12345678"),
    ("1 2 3 4, 5 6 7 8.", "12345678"),
    ("12 34 56 78", "12345678"),
    ("၁၂၃၄ ၅၆၇၈", "12345678"),
    ("०१२३ ४५६७", "01234567"),
    ("１２３４５６７８", "12345678"),
    (Heard("", choice="/link yes 00000001"), "00000001"),
    (Heard("", choice="/link 00000001"), ""),
    (Heard("", choice="/link no"), ""),
    (Heard("Undo", choice="/unlink"), "/unlink"),
    ("unlink", "/unlink"),
    ("090-1234-5678", ""),
    ("123456789", ""),
    ("my number is 12345678", ""),
]


@pytest.mark.parametrize(("heard", "join"), JOINS, ids=[str(row[0]) for row in JOINS])
@pytest.mark.parametrize("holder", ["bot", "desk"])
def test_codes_join_conversations(heard: Heard | str, join: str, holder: str) -> None:
    decision, _ = decided(heard, understood(language="en"), holder=holder, language="en")
    assert decision.join == join


def test_a_code_out_of_a_link_is_asked_about_first() -> None:
    """Anybody may have sent her that link: hers would become his conversation."""
    decision, said = decided(Heard("", choice="/link 12345678"), understood(language="en"))
    assert said == ["link.confirm"]
    assert [value for _, value in decision.say[0].buttons] == ["/link yes 12345678", "/link no"]
    assert decided(Heard("", choice="/link no"), understood(language="en"))[1] == ["link.none"]


def test_a_code_in_words_of_danger_is_danger() -> None:
    decision, _ = decided("12345678", understood(risk=risk("emergency", "violence")))
    assert decision.action == "emergency"


def test_chosen_language_wins_over_what_is_written() -> None:
    decision, _ = decided(
        "my wages", understood(language="en", sure=0.99), language="vi", language_chosen=True
    )
    assert (decision.language, decision.language_chosen) == ("vi", True)


def test_language_follows_the_worker_only_when_sure() -> None:
    assert decided("hm", understood(language="id", sure=0.7), language="tl")[0].language == "tl"
    assert decided("hm", understood(language="id", sure=0.95), language="tl")[0].language == "id"


INTENTS = st.sampled_from(["greet", "thanks", "human", "out_of_scope", "faq/wage_unpaid",
                           "faq/privacy", "faq/unheard_of"])  # fmt: skip
MESSAGES = st.builds(
    Heard,
    st.text(max_size=30),
    choice=st.sampled_from(
        ["", "/human", "/topic dismissal", "/topic nothing", "/language xx", "/x"]
    ),
    attachments=st.integers(0, 2),
    recent=st.integers(1, 99),
    more_waiting=st.booleans(),
)
UNDERSTANDINGS = st.builds(
    Understanding,
    st.sampled_from(["vi", "ja", "ne", "ko", "und"]),
    st.floats(0, 1),
    st.lists(st.tuples(INTENTS, st.floats(0, 1)), max_size=4).map(tuple),
    st.sampled_from([NO_RISK, risk("high", "eviction"), risk("emergency", "violence", "medical")]),
)
SITUATIONS = st.builds(
    Situation,
    holder=st.sampled_from(["bot", "desk"]),
    language=st.sampled_from(["", "vi", "my"]),
    open=st.booleans(),
    state=st.dictionaries(st.sampled_from(["greeted", "menu"]), st.just(True)),
)


@given(MESSAGES, UNDERSTANDINGS, SITUATIONS)
def test_laws(heard: Heard, understanding: Understanding, situation: Situation) -> None:
    """Whatever comes: it says only texts that exist, never nothing, never over a person."""
    decision = decide(heard, understanding, situation, LIBRARY, LIMITS)
    language = decision.language or "en"
    for spoken in decision.say:
        LOADED.content.text(spoken.text_id, spoken.language or language)
        for label, value in spoken.buttons:
            LOADED.content.text(label, language)
            assert value.startswith("/")
    if situation.holder == "bot" and decision.action != "silent":
        assert decision.say
    if understanding.risk.level != "none":
        assert decision.handoff is not None or decision.action in {"command", "handoff"}
    if understanding.risk.level == "emergency":
        assert decision.action == "emergency"
        assert decision.handoff is not None
    if situation.holder == "desk":
        assert not any(spoken.text_id.startswith("faq/") for spoken in decision.say)
    assert decide(heard, understanding, situation, LIBRARY, LIMITS) == decision


@given(MESSAGES, UNDERSTANDINGS)
def test_emergency_needs_no_login_language_or_hours(
    heard: Heard, understanding: Understanding
) -> None:
    risky = replace(understanding, risk=risk("emergency", "medical"))
    closed = decide(heard, risky, Situation(open=False), LIBRARY, LIMITS)
    assert closed.say[0].text_id == "emergency.medical"
