"""A linter of easy Japanese: what a machine can check of the published guideline.

「在留支援のためのやさしい日本語ガイドライン」 of 2020 (Immigration Services Agency and Agency for
Cultural Affairs) asks for short sentences with one fact each, spaces between phrases, a reading for
each kanji, です and ます, no double negation, no passive or honorific where it can be helped, no
loanword without an explanation, and words in place of symbols. People judge the rest: whether the
words are easy, and whether what matters most comes first. So these are doubts, not mistakes.

Readings stand in brackets behind the kanji, 給料(きゅうりょう), meanings so: ADR〈=話し合い〉.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

SENTENCE_LIMIT = 50
"""Characters of a sentence, without readings, meanings and spaces."""
RUN_LIMIT = 14
"""Characters without a space, counted likewise."""
COMMA_LIMIT = 3
"""Commas in a sentence; more are several facts, or a list that wants lines of its own."""

KINDS = {
    "long": f"a sentence of more than {SENTENCE_LIMIT} characters. Make two of it.",
    "commas": f"more than {COMMA_LIMIT} commas. Make two sentences, or a list with lines.",
    "reading": "kanji without a reading. Write it in brackets: 給料(きゅうりょう).",
    "spaces": f"more than {RUN_LIMIT} characters without a space. Put spaces between the phrases.",
    "negation": "a double negation. Say what is so.",
    "ending": "ends neither in です nor in ます. Write the polite form, as one speaks.",
    "passive": "a passive. Say who does it: 会社(かいしゃ)が 言(い)います.",
    "honorific": "honorific or humble words. Write plain です and ます.",
    "loanword": "a loanword that not everybody knows. Explain it behind the word: …〈=…〉.",
    "symbol": "a symbol or a Japanese era. Write words, から … まで, and years as 2026年(ねん).",
}
"""Kind of doubt → what is hard about it and what to do."""

_EVERYDAY = """
    アパート アプリ アルバイト インターネット エアコン カード カレンダー クラス クリニック
    グループ コピー コンビニ サイン シール スマホ センター タイムカード チケット チャット
    テスト テレビ ニュース ノート バイク バイト バス パソコン パスポート パーセント ビザ ビデオ
    ファイル プラスチック ページ ペン ボタン ボーナス ミス メール メッセージ メニュー メモ ライト
    リンク ルール レストラン レベル
"""
_NAMES = """
    アムダ インドネシア オティット ジュネーブ ネパール テラス ハローワーク フィリピン ブラジル
    プラス ベトナム ペルー ホットライン マイナンバー マイナンバーカード ミャンマー
"""
KNOWN_WORDS = frozenset(_EVERYDAY.split() + _NAMES.split())
"""Words in katakana that need no explanation."""

_KANJI = r"[\u3400-\u9fff々〆ヶ]"
_KANA = r"[\u3041-\u3096\u30a1-\u30faー・ ]"
_READ = re.compile(rf"({_KANJI}+)[(（]{_KANA}+[)）]")
_READ_WHOLE = re.compile(rf"({_KANJI}(?:{_KANJI}|[\u3041-\u3096])*?)[(（]({_KANA}+)[)）]")
_FILLED = re.compile(
    r"\{[^}]*\}|https?://\S+|[\w.-]+@[\w.-]+|[\w-]+(?:\.[\w-]+)*\.(?:jp|org|com)\b\S*"
)
_MEANING = re.compile(r"〈=([^〉]*)〉")
_QUOTE = re.compile(r"「[^」]*」|『[^』]*』")
_INSIDE = re.compile(r"〈[^〉]*〉|「[^」]*」|『[^』]*』|[(（][^()（）]*[)）]")
_STOP = re.compile(r"[。！？!?]")
_BRACKETS = re.compile(r"[(（][^()（）]*[)）]")
_SENTENCE = re.compile(r"[^。！？!?\n]*[。！？!?]|[^。！？!?\n]+")
_POLITE = re.compile(
    r"(?:です|ます|でした|ました|ません|でしょう|ましょう|ください|なさい)(?:か|ね|よ|が)?$"
    r"|^(?:こんにちは|さようなら|どういたしまして|はい|いいえ)$|\d$"  # or a number
)
_NEGATION = re.compile(
    r"(?:ない|ません)(?:わけ|こと)(?:では|は|も)?(?:ない|ありません)"
    r"|なく(?:は|も)(?:ない|ありません)|ないとは(?:言え|限り)ません|ざるをえ(?:ない|ません)"
    r"|(?:なければ|なくては|なしには|ないと|ないで)(?!なりません|いけません|ください)"
    r"[^、。]{0,12}(?:ません|ない)(?!か|で)"
)
_PASSIVE = re.compile(
    # not 生まれる, こわれる, はなれる …; and られます is more often "can" than it is passive
    r"(?<![生うこ壊は離つ疲別流])[かさたなまわが]れ(?:ます|ました|ません|て|た)|られ(?:ました|て|た)"
)
_HONORIFIC = re.compile(
    r"いただ[いきけ]|頂[いきけ]|でございます|らっしゃ|なさいま|くださいませ|申し上げ|いたします|お[^\s、。]{1,4}になり?[まっ]"
)
_SYMBOL = re.compile(r"[〜～→※＆&]|\d\s*[/／]\s*\d|令和|平成|昭和")
_KATAKANA = re.compile(r"[\u30a1-\u30faー]{3,}")


@dataclass(frozen=True, slots=True)
class Doubt:
    """Where a text is harder than it need be: `kind` is a key of `KINDS`, `words` the place."""

    kind: str
    words: str


def doubts(text: str, *, sentences: bool = True) -> Iterator[Doubt]:
    """What is hard in a text of easy Japanese, sentence by sentence.

    `sentences=False` for titles and buttons, which need not be sentences.
    """
    # a full stop inside of quotes or brackets does not end the sentence
    body = _INSIDE.sub(lambda m: _STOP.sub("", m[0]), _FILLED.sub("0", text))
    explained = {word for word in _KATAKANA.findall(body) if f"{word}〈=" in body}
    for match in _SENTENCE.finditer(body):
        whole = match.group().strip()
        read = _READ.sub(r"\1", _MEANING.sub("", whole))
        read = _READ_WHOLE.sub(lambda m: m[1] if _fits(m[1], m[2]) else m[0], read)
        close = read.replace(" ", "").replace("　", "")
        if len(close) > SENTENCE_LIMIT:
            yield Doubt("long", f"{read} ({len(close)})")
        if read.count("、") > COMMA_LIMIT:
            yield Doubt("commas", read)
        for part in re.split(r"[\s、。・：:「」『』()（）！？!?]+", read):
            if len(part) > RUN_LIMIT:
                yield Doubt("spaces", part)
        for word in dict.fromkeys(_bare(whole)):
            yield Doubt("reading", word)
        for kind, pattern in (
            ("negation", _NEGATION),
            ("passive", _PASSIVE),
            ("honorific", _HONORIFIC),
            ("symbol", _SYMBOL),
        ):
            # what somebody else says or writes is quoted as it is
            said = _QUOTE.sub("「」", read if kind == "symbol" else close)
            for found in pattern.finditer(said):
                yield Doubt(kind, said[max(0, found.start() - 12) : found.end()])
        said = _BRACKETS.sub("", close).rstrip("。！？!?」』")
        if (
            sentences
            and read.endswith("。")
            and read[0] not in "・-"
            and not close.endswith("」。")
            and not _POLITE.search(said)
        ):
            yield Doubt("ending", read)
    hard = _KATAKANA.findall(_QUOTE.sub("", _READ_WHOLE.sub(r"\1", _MEANING.sub("", body))))
    for word in dict.fromkeys(hard):
        if word not in KNOWN_WORDS and word not in explained:
            yield Doubt("loanword", word)


def _bare(sentence: str) -> list[str]:
    """Kanji without a reading; a reading may also be that of a whole word, 申し込み(もうしこみ)."""
    rest = _READ_WHOLE.sub(lambda m: "" if _fits(m[1], m[2]) else m[0], _READ.sub("", sentence))
    return re.findall(rf"{_KANJI}+", rest)


def _fits(word: str, reading: str) -> bool:
    """Whether a reading can be that of the word: its kana stand in it in their order."""
    letters = "".join(
        part if re.match(r"[\u3041-\u3096]", part) else ".+"
        for part in re.findall(rf"{_KANJI}+|[\u3041-\u3096]+", word)
    )
    return re.fullmatch(letters, reading) is not None
