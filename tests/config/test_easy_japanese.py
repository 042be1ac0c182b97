"""The linter of easy Japanese: each kind of doubt, and what looks like one and is none."""

import pytest

from config.easy_japanese import KINDS, doubts

GOOD = [
    "会社(かいしゃ)は 毎月(まいつき) 給料(きゅうりょう)を 払(はら)わなければ なりません。",
    "書類(しょるい)を 出(だ)さないで ください。",
    "お金(かね)を 払(はら)わなくても いいです。",
    "申し込み(もうしこみ)は 1回(かい)です。",
    "夜(よる)の 電話(でんわ)は {tel:labour_hotline_ja}。",
    "ADR〈=話(はな)し合(あ)い。裁判(さいばん)では ありません〉が あります。",
    "ブローカー〈=仕事(しごと)を 紹介(しょうかい)する 人(ひと)〉に 払(はら)わないで ください。",
    "「スタッフ」と 書(か)いて ください。",
    "子(こ)どもが 生(う)まれたら、市役所(しやくしょ)へ 行(い)きます。",
    "家(いえ)が こわれました。",
    "2年(ねん) 使(つか)わないと なくなります。",
    "ここは https://www.moj.go.jp/isa/ です。",
    "さようなら。",
    "・パスポート、在留(ざいりゅう)カード",
]
HARD = [
    (
        "long",
        "会社(かいしゃ)は、" + "毎月(まいつき) 給料(きゅうりょう)を 払(はら)って、" * 5 + "ます。",
    ),
    ("commas", "仕事(しごと)、お金(かね)、病院(びょういん)、家(いえ)、体(からだ)です。"),
    ("reading", "会社(かいしゃ)は 給料を 払(はら)います。"),
    ("reading", "国に帰(かえ)ります。"),
    ("reading", "給料(salary)です。"),
    ("spaces", "会社(かいしゃ)はあなたに給料(きゅうりょう)をぜんぶ払(はら)います。"),
    ("negation", "できない わけでは ありません。"),
    ("negation", "書類(しょるい)が なければ 申請(しんせい)は できません。"),
    ("negation", "行(い)かざるを えません。"),
    ("ending", "会社(かいしゃ)に 言(い)う。"),
    ("ending", "先(さき)に ここへ。"),
    ("passive", "会社(かいしゃ)に だめと 言(い)われました。"),
    ("passive", "パスポートを 取(と)られたら、話(はな)して ください。"),
    ("honorific", "こちらに いらっしゃいます。"),
    ("honorific", "名前(なまえ)を 書(か)いて いただきます。"),
    ("loanword", "コンプライアンスの 問題(もんだい)です。"),
    ("symbol", "10:00～18:00です。"),
    ("symbol", "令和(れいわ)8年(ねん)です。"),
]


@pytest.mark.parametrize("text", GOOD)
def test_easy_texts_raise_no_doubt(text: str) -> None:
    assert not list(doubts(text))


@pytest.mark.parametrize(("kind", "text"), HARD)
def test_hard_texts_raise_the_doubt(kind: str, text: str) -> None:
    assert kind in {doubt.kind for doubt in doubts(text)}


def test_titles_need_not_be_sentences() -> None:
    assert not list(doubts("給料(きゅうりょう)を もらえない。", sentences=False))


def test_each_kind_says_what_to_do() -> None:
    assert {kind for kind, _ in HARD} == set(KINDS)
    assert all(remedy.count(".") >= 2 for remedy in KINDS.values())
