"""Burmese in Zawgyi is recognised and read in Unicode; nothing else is touched.

`zawgyi.tsv`: sentences of ours, put into Zawgyi by ICU (`my-Zawgyi`), and as they were.
"""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlu.burmese import is_zawgyi, to_unicode
from tests.nlu.test_language import LOADED

PAIRS = [
    line.split("\t")
    for line in (Path(__file__).parent / "zawgyi.tsv").read_text(encoding="utf-8").splitlines()
]
NEIGHBOURS = (
    "မႂ်ႇသုင်ၶႃႈ",  # Shan
    "ယူႇလီၵိၼ်ဝၢၼ်",
    "တၢင်းၸႂ်ၶိုၼ်ႈ",
    "ပၠဟ်ဝါယုဂ်ဂမၠိုၚ်",  # Mon
    "ဘၠုးပွဲၚ်",
    "ကညီကျိာ်",  # Karen
    "စံးဘျုးဒိၣ်မး",
)


@pytest.mark.parametrize(("zawgyi", "unicode"), PAIRS)
def test_zawgyi_is_read_in_unicode(zawgyi: str, unicode: str) -> None:
    assert zawgyi != unicode
    assert to_unicode(zawgyi) == unicode
    assert not is_zawgyi(unicode)


def test_none_of_our_own_texts_is_taken_for_zawgyi() -> None:
    ours = [text for _, code, text in LOADED.faq.training() if code == "my"]
    ours += [text.body for text in LOADED.content.all_texts.values() if text.language == "my"]
    assert len(ours) > 1000
    assert [text for text in ours if is_zawgyi(text)] == []


@pytest.mark.parametrize("text", [*NEIGHBOURS, "", "hello", "給料がない", "တ", "\ud800"])
def test_other_letters_are_left_alone(text: str) -> None:
    assert to_unicode(text) == text


@given(st.text(st.characters() | st.characters(min_codepoint=0x1000, max_codepoint=0x109F)))
def test_it_never_raises(text: str) -> None:
    to_unicode(text)


def test_a_giant_text_is_quick() -> None:
    to_unicode(PAIRS[0][0] * 2000)
