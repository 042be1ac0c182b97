"""The language of short, messy messages as workers type them."""

import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bot.content import load_content
from nlu.language import LANGUAGES, identify, warm_up, written

LOADED = load_content(Path(__file__).resolve().parents[2] / "faq_data")
"""Loading the content teaches `identify` our languages."""

MESSAGES = {
    "ja": "給料もらってない|残業代|しゃちょうが おこる こわい|カイシャ やめたい|社長に殴られた|"
    "kaisha wo yametai desu|sumimasen, byouin ni ikitai desu|watashi no kyuuryou ga hikui|"
    "在留カードをなくした|助けて",
    "en": "boss no pay me|my salary not come 2 months|they took my passport|hello|"
    "i want quit job|overtime no pay every day 12 hour|my zairyu card lost|is this free?",
    "zh": "老板不给工资|没有加班费|"
    "护照被公司拿走了|社长打我|你好|可以辞职吗|老闆不給薪水怎麼辦|签证更新",
    "pt": "não recebi meu salário|patrao nao paga|quero sair da empresa|demitido sem aviso|"
    "vc fala portugues?|perdi meu zairyu card|estou gravida e o chefe me mandou embora|obrigado",
    "es": "no me pagan|quiero renunciar|me despidieron ayer|horas extras sin pagar|hola|gracias|"
    "me quitaron el pasaporte|tuve un accidente en la fabrica",
    "vi": "cty ko tra luong|tôi muốn nghỉ việc|bi thuong o cty|chua nhan luong thang nay|xin chào|"
    "lam them gio ko dc tra tien|hộ chiếu bị công ty giữ|phi moi gioi nhieu qua",
    "id": "gaji belum dibayar|saya mau keluar|paspor ditahan perusahaan|lembur gak dibayar|"
    "kartu zairyu hilang|terima kasih|apakah gratis?|kumiai tidak mau bantu",
    "my": "လစာမရဘူး|အလုပ်ထွက်ချင်တယ်|မင်္ဂလာပါ|nenkin ပြန်ရမလား|zairyu card ပျောက်သွားတယ်",
    "tl": "di pa ako nasasahuran|gusto ko mag resign|kinuha ng amo ko passport ko|"
    "walang bayad ang OT|nawala zairyu card ko|salamat po|pwede ba lumipat ng company|"
    "sinaktan ako ng asawa ko",
    "ne": "तलब दिएन|मलाई जागिर छोड्नु छ|काममा चोट लाग्यो|malai sahayog garnuhos|talab payena|"
    "company le paisa diyena|kaam chodna man lagyo|mero haat ma chot lagyo",
    "ko": "월급을 못 받았어요",
    "th": "ไม่ได้เงินเดือน",
    "km": "ខ្ញុំមិនបានប្រាក់ខែ",
    "hi": "मुझे वेतन नहीं मिला है",
    "ru": "мне не платят зарплату",
    "fr": "je n'ai pas reçu mon salaire ce mois-ci",
    "de": "mein Chef zahlt seit zwei Monaten nicht",
    "tr": "patron iki aydır maaşımı vermiyor",
    "uz": "pasportimni kompaniya olib qo'ydi",
    "ms": "syarikat saya tak bagi cuti, macam mana",
    "mn": "цалингаа аваагүй байна",
    "uk": "мені не заплатили за місяць",
    "ur": "مجھے تنخواہ نہیں ملی",
    "fa": "کارفرما پول من را نمی‌دهد",
    "ar": "لم يدفع لي صاحب العمل",
    "si": "මට පඩි දීලා නැහැ",
    "bn": "আমি বেতন পাইনি",
    "lo": "ບໍ່ໄດ້ເງິນເດືອນ",
    "ta": "சம்பளம் தரவில்லை",
}
MIXED = {
    "tl": "yung boss ko ayaw ibigay ang nenkin techo, what should I do po|"
    "na-late ako sa koshin ng zairyu card, okay lang ba|pinapa-sign ako ng taishoku todoke",
    "pt": "a empreiteira nao paga o yukyu|meu shacho falou que o zangyo ja ta incluso|"
    "preciso do gensen choshuhyo pra declarar",
    "es": "el hancho me grita y no me deja tomar yukyu|cómo saco el juminhyo en el kuyakusho",
    "vi": "cty ko cho nghi yukyu, bao phai xin truoc 1 thang|nghiep doan (kumiai) ko giup",
    "id": "kumiai bilang zangyo ga dibayar soalnya masih kenshusei|shacho marah2 terus",
    "ne": "sacho le yukyu dina mandaina|zairyu card ko koushin kahile garne",
    "my": "shacho ka yukyu ma pay bu|nenkin pyan htote chin tae",
    "en": "my kacho said no yukyu for part timer, is it true",
}


@pytest.mark.parametrize(
    ("code", "text"),
    [(code, text) for code, texts in MESSAGES.items() for text in texts.split("|")],
)
def test_short_messages_are_told_apart(code: str, text: str) -> None:
    guess = identify(text)
    assert guess.code == code
    assert 0.5 <= guess.confidence <= 1


@pytest.mark.parametrize("text", ["", "  \n", "?", "12345", "👍👍", "ok", "\ud800", "\x00", "...."])
def test_what_says_nothing_is_unsure(text: str) -> None:
    assert identify(text).code == "und"


@pytest.mark.parametrize("prior", LANGUAGES)
def test_the_conversation_decides_where_the_message_does_not(prior: str) -> None:
    assert identify("ok", prior).code == prior
    assert identify("123", prior).code == prior


def test_two_han_characters_go_by_the_conversation() -> None:
    assert identify("解雇", "ja").code == "ja"
    assert identify("解雇", "zh").code == "zh"


@pytest.mark.parametrize("prior", LANGUAGES)
def test_a_clear_message_outvotes_the_conversation(prior: str) -> None:
    assert identify("给工资的老板说我们没有加班费", prior).code == "zh"
    assert identify("công ty không trả lương cho tôi hai tháng rồi", prior).code == "vi"
    assert identify("my boss did not pay me for the last two months", prior).code == "en"
    assert identify("会社から給料をもらっていません", prior).code == "ja"


def test_a_foreign_word_does_not_decide() -> None:
    assert identify("cong ty khong dong 社会保険 cho toi phai lam sao").code == "vi"
    assert identify("my company did not give me 有給 this year").code == "en"
    assert identify("salary が もらえない です").code == "ja"


@pytest.mark.parametrize(
    ("code", "text"), [(code, text) for code, texts in MIXED.items() for text in texts.split("|")]
)
def test_the_main_language_decides_not_the_borrowed_words(code: str, text: str) -> None:
    assert identify(text).code == code


@pytest.mark.parametrize(
    ("text", "way"),
    [
        ("老闆不給薪水怎麼辦", "zh-hant"),
        ("請問加班費怎麼算", "zh-hant"),
        ("我要辭職", "zh-hant"),
        ("老板不给工资", "zh"),
        ("在留資格怎么变更", ""),  # a Japanese term in a simplified message
        ("你好", ""),
        ("", ""),
    ],
)
def test_traditional_and_simplified_characters_are_told_apart(text: str, way: str) -> None:
    assert written(text, "zh") == way
    assert written(text, "ja") == ""


@given(st.text(st.characters(), max_size=300), st.sampled_from([None, *LANGUAGES, "fr"]))
@example("", None)
@example("a", None)
@example("👍🏽👨‍👩‍👧", "vi")
@example("x" * 10_000, None)
@example("\u200b\u200d\ufeff", None)
@example("рау mу ѕаlаrу", "en")  # Cyrillic letters that look Latin
@example("給salaryไม่ได้ लेख\ud83d", None)
@example("\U00020000\U0010ffff\x00\x01\x02", "zh")
def test_no_text_makes_it_fail(text: str, prior: str | None) -> None:
    guess = identify(text, prior)
    assert 0 <= guess.confidence <= 1
    assert guess.code
    written(text, guess.code)


def test_it_is_quick_also_for_a_giant_text() -> None:
    warm_up()
    messages = [text for texts in MESSAGES.values() for text in texts.split("|")]
    started = time.perf_counter()
    for text in messages:
        identify(text)
    assert (time.perf_counter() - started) / len(messages) < 0.005
    started = time.perf_counter()
    identify("luong " * 1_000_000)
    assert time.perf_counter() - started < 0.1
