"""The language of short, messy messages as workers type them."""

import time

import pytest

from nlu.language import LANGUAGES, identify, warm_up

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
