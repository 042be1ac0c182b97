"""In which language a message is written, without Rasa and in well under a millisecond.

Scripts settle most of it. For Latin letters `py3langid` is joined by short lists of the words that
workers type, because general identifiers do not know romaji, romanised Nepali, chat spellings or
messages of two words. What stays unsure is told as "und": then the desk asks, or goes by the
language of the conversation so far (`prior`).
"""

import math
import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Any

LANGUAGES = ("ja", "en", "zh", "pt", "es", "vi", "id", "my", "tl", "ne")
"""The languages that the desk speaks."""
UNKNOWN = "und"

_LOOKED_AT = 400  # characters; the start of a long message says enough
_SURE = 0.5  # below this a guess is "und" (or the prior)


@dataclass(frozen=True)
class LanguageGuess:
    """A language code (ISO 639-1, or "und") and how sure it is, 0 to 1."""

    code: str
    confidence: float


_SCRIPTS = (
    # first, last, script; Latin is told by its name, as it lies in many places
    (0x3041, 0x309F, "hiragana"),
    (0x30A1, 0x30FF, "katakana"),
    (0x31F0, 0x31FF, "katakana"),
    (0x3400, 0x9FFF, "han"),
    (0x20000, 0x2FFFF, "han"),
    (0x1000, 0x109F, "my"),
    (0xA9E0, 0xA9FF, "my"),
    (0xAA60, 0xAA7F, "my"),
    (0x0900, 0x097F, "devanagari"),
    (0x1100, 0x11FF, "ko"),
    (0x3130, 0x318F, "ko"),
    (0xAC00, 0xD7AF, "ko"),
    (0x0E00, 0x0E7F, "th"),
    (0x0E80, 0x0EFF, "lo"),
    (0x1780, 0x17FF, "km"),
    (0x0980, 0x09FF, "bn"),
    (0x0A00, 0x0A7F, "pa"),
    (0x0A80, 0x0AFF, "gu"),
    (0x0B80, 0x0BFF, "ta"),
    (0x0C00, 0x0C7F, "te"),
    (0x0D00, 0x0D7F, "ml"),
    (0x0D80, 0x0DFF, "si"),
    (0x0F00, 0x0FFF, "bo"),
    (0x0400, 0x052F, "cyrillic"),
    (0x0600, 0x06FF, "arabic"),
    (0x0370, 0x03FF, "el"),
    (0x0590, 0x05FF, "he"),
    (0x10A0, 0x10FF, "ka"),
    (0x0530, 0x058F, "hy"),
    (0x1200, 0x137F, "am"),
    (0x1800, 0x18AF, "mn"),
)

# Words as typed, without diacritics. Left out on purpose: Japanese loan words that every community
# uses (zangyo, nenkin, shacho, kumiai ...), for they say nothing about the language.
_WORDS = {
    "en": "i my me the is are not no dont doesnt didnt cannot cant can how what when "
    "where why who want need help please hello hi thanks thank you they them he she boss "
    "company salary pay paid work job quit fired sick leave time money get got have has "
    "was and or for with from today yesterday month months day week hour this that it if "
    "about any tell told say said always every good morning free be do does did we our "
    "your after before because card lost husband pregnant lawyer wage holiday contract",
    "pt": "nao eu meu minha meus minhas que voce vc voces eles ela com sem para pra por "
    "uma um estou to esta tem tenho tinha quero posso pode como quanto quantos onde "
    "quando porque recebi receber pagar paga pagou pagam salario empresa patrao chefe "
    "trabalho trabalhar fabrica ferias demitido demitida mandado embora hora horas mes "
    "meses dia dias obrigado obrigada oi ola bom boa tarde noite ajuda preciso fui foi "
    "me na no da do das dos em ao aos gravida descontou desconto aluguel imposto "
    "contrato perdi passaporte empreiteira fala falar tambem muito mais ainda ja faltar "
    "doente sair falta dinheiro",
    "es": "no me mi mis yo el la los las un una de del que y es esta estoy tengo tiene "
    "quiero puedo puede como cuanto cuantos cuantas donde cuando porque por para con sin "
    "pagan paga pagar pagaron sueldo salario empresa jefe trabajo trabajar fabrica "
    "vacaciones despidieron renunciar horas hora mes meses dias gracias hola buenas "
    "buenos tardes noches ayuda necesito ayer hoy hacer hago muy mas pero embarazada "
    "contrato contratista perdi pasaporte tarjeta abogado esposo dinero enfermo hay "
    "desde hace dos le se su usted quitaron descuento desconto gratis impuesto renovar "
    "dicen dijeron",
    "vi": "toi em minh anh chi ban cty cong ty khong ko k kh dc duoc luong tra lam viec "
    "bi nghi chua phai nhu the nao gi bao nhieu tien thang ngay co cho hoi giup voi nhat "
    "xin chao cam on oi roi muon ve nuoc sep chu duoi thai giay to ho chieu giu tai nan "
    "lao dong nghiep doan thue hiem chuyen hop phi moi gioi danh chui mat lay lai sao o "
    "va cua da dang van neu nhung thi la ma nay kia gio them nhan thuong hoai luat su "
    "nguoi nha may vay qua thoi",
    "id": "saya aku kami kita gaji belum dibayar bayar tidak tdk gak ga nggak enggak apa "
    "apakah bagaimana gimana bisa sudah udah mau ingin kerja bekerja perusahaan bos yang "
    "dengan untuk dari ke di ini itu ada kalau karena lembur cuti kontrak tolong terima "
    "kasih halo pak bu mas mbak kak dan juga sakit pulang hamil libur pindah keluar cara "
    "berapa potongan asrama dipecat dipukul paspor ditahan hilang kartu hari bulan jam "
    "boleh disuruh marah terus mahal bantu perpanjang pajak jepang teman majikan lagi "
    "saja aja upah luka kecelakaan",
    "tl": "ako ko po opo ang ng mga sa na yung kasi lang naman paano pano magkano wala "
    "walang meron may pwede puwede ba nila niya nya sya siya sila kami kayo hindi di pa "
    "sahod sweldo trabaho amo gusto salamat kumusta kamusta tulong bayad kinuha buntis "
    "sakit ito dito ano saan kailan bakit hanggang kahapon ngayon araw buwan oras pera "
    "mag nag pag kung pero din rin nang ate kuya tinanggal lumipat libre kaltas "
    "sinisigawan nasasahuran nawala asawa kong akong aking umalis uwi pinapauwi daw nga "
    "talaga para makuha",
    "ja": "desu masu masen mashita deshita masenka watashi boku ore wa ga wo kara made "
    "dou doo doko itsu nani nanji nai dekinai dekimasu moraenai moratte kudasai kurenai "
    "kuremasen sumimasen arigatou arigato gozaimasu onegai shimasu shita shite suru kubi "
    "yametai yameru yamemasu yameta iwareta iwaremashita komatte tasukete ikitai hoshii "
    "kyuryo kyuuryou kyuryou okane kaisha shigoto byouin byoin konnichiwa ohayou haratte "
    "naguru nagurareta itai kowai hikui takai shiritai oshiete wakaranai wakarimasen "
    "ikura desuka masuka ka no ni de mo to kedo dai kyou kinou ashita soudan shitai dame "
    "naru natta arimasu imasu nakunatta kaeritai ijime",
    "ne": "malai maile mero hamro hami hamilai cha chha chhan chaina chhaina bhayo "
    "bhaena bhako bhane bhanera ko lai le ma garne garna garnu garyo gareko garcha "
    "garchha garnuhos kasari kina kati kaha kahile paisa talab kaam kam hunchha huncha "
    "hudaina milcha milchha dinu dinos diyena dena dinchha payena paina pauna paincha "
    "sathi ho hoina dai didi bhai namaste dhanyabad dhanyabaad sahu sahuji arko jana "
    "jane sakchu sakincha chahiyo chaiyo lagyo chodna chhodna man ghar bhada katyo "
    "dherai thorai nepali nepal pani tara aaja hijo mahina ghanta jagir birami sodhna "
    "sahayog madat garnuparcha parcha parchha parne lagi haat chot haralyo harayo",
}
_NEPALI = (
    "छ छु छन् छैन छैनन् हो होइन मलाई मैले मेरो हाम्रो हामी हामीलाई भयो भएन भएको गर्ने "
    "गर्न गर्नु गर्छ गरेको गर्नुहोस् पाइन्छ पाएन दिएन दिंदैन दिँदैन लाग्यो लाग्छ कसरी "
    "किन कति कहाँ कहिले पनि र तर यो त्यो हुन्छ हुँदैन सक्छु सकिन्छ चाहिन्छ चाहन्छु "
    "पर्छ पर्\u200dयो लिने दिने जाने काममा बाट तलब जागिर बिरामी फिर्ता धन्यवाद घण्टा "
    "महिना कम्पनीले साहुले हजुर छुट्टी"
)
_HINDI = (
    "है हैं हूँ हूं था थी थे नहीं नही मेरा मेरी मेरे मुझे मैं हम हमें क्या कैसे क्यों "
    "में का की के से को ने और यह वह रहा रही रहे गया गई मिला मिली चाहिए कर करना करें "
    "सकता सकते बहुत लिए भी पर वेतन तनख्वाह पैसे दिया कृपया धन्यवाद"
)
_CHINESE_MARKS = frozenset("我你您他她们的了是不吗嗎这這那没沒怎么麼什给給吧呢被把让讓想要很哪谁")
_CHINESE_COMMON = frozenset("的了吗嗎这這们怎么麼什没沒吧呢让讓您她哪谁")
_ALIASES = {"ms": "id", "jv": "id", "gl": "pt", "bcl": "tl", "wuu": "zh", "yue": "zh"}
_LATIN = ("en", "pt", "es", "vi", "id", "tl", "ja", "ne")
_VIETNAMESE = re.compile(r"[ăđơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ]")
_PORTUGUESE = re.compile(r"[ãõ]|ção|ções|lh[aoe]")
_SPANISH = re.compile(r"[ñ¿¡]|ción")
_ROMAJI_ENDING = re.compile(
    r"\b\w*(?:masu|masen|mashita|masuka|masenka|desu|desuka|rareta|sareta|rarete|sarete|rareru|sareru"
    r"|renai|rarenai|nakatta|nakute|takunai|shitai|shite|tsurai|kudasai|itai|atta|imasu|wanai)\b"
)
_NEPALI_ENDING = re.compile(
    r"\b\w+(?:chha|cha|chhu|chaina|yena|ena|eko|nuhos|parchha|parcha|incha|inchha|garne|garna)\b"
)
_SIGNS = (
    ("vi", 3.0, _VIETNAMESE),
    ("pt", 3.0, _PORTUGUESE),
    ("es", 3.0, _SPANISH),
    ("ja", 2.5, _ROMAJI_ENDING),
    ("ne", 2.0, _NEPALI_ENDING),
)
_MARKS = re.compile(r"[\u0300-\u036f]")
_TOKEN = re.compile(r"[^\W\d_]+")


def identify(text: str, prior: str | None = None) -> LanguageGuess:
    """The language of a message; `prior` is that of the conversation so far, if it is known.

    The prior decides where the message itself does not ("ok", "123", two Han characters) and is
    outvoted by anything clear. Never raises.
    """
    text = unicodedata.normalize("NFKC", text[: 2 * _LOOKED_AT])[:_LOOKED_AT].lower()
    counts: dict[str, int] = {}
    for character in text:
        script = _script(character)
        if script:
            counts[script] = counts.get(script, 0) + 1
    if not counts:
        return _undecided(prior)
    kana = counts.get("hiragana", 0) + counts.get("katakana", 0)
    han = counts.get("han", 0)
    weights = {script: count / 2 for script, count in counts.items() if script != "latin"}
    for script in ("hiragana", "katakana", "han"):
        weights.pop(script, None)
    weights["cjk"] = (kana + han) / 2
    weights["latin"] = counts.get("latin", 0) / 4
    script = max(weights, key=weights.__getitem__)
    if script == "latin":
        return _latin(text, prior)
    if script == "cjk":
        return _chinese_or_japanese(text, kana, han, prior)
    if script == "devanagari":
        return _devanagari(text, prior)
    if script in {"cyrillic", "arabic"}:
        return _by_model(text, "ru" if script == "cyrillic" else "ar")
    return LanguageGuess(script, 0.99)


def warm_up() -> None:
    """Load the model now (about a second, in a thread) instead of with the first message."""
    _model()


@cache
def _script(character: str) -> str:
    point = ord(character)
    if point < 0x250:
        return "latin" if character.isalpha() else ""
    for first, last, script in _SCRIPTS:
        if first <= point <= last:
            return script if character.isalpha() or unicodedata.combining(character) else ""
    return "latin" if 0x1E00 <= point <= 0x1EFF else ""


def _undecided(prior: str | None) -> LanguageGuess:
    return LanguageGuess(prior, 0.5) if prior else LanguageGuess(UNKNOWN, 0.0)


def _chinese_or_japanese(text: str, kana: int, han: int, prior: str | None) -> LanguageGuess:
    real_kana = kana - text.count("の") - text.count("ー")
    if real_kana > 0 and real_kana * 10 >= han:
        return LanguageGuess("ja", 0.99)
    chinese = sum(character in _CHINESE_MARKS for character in text)
    chinese += sum(character in _CHINESE_COMMON for character in text)
    japanese = 2 * real_kana + text.count("の")
    for character in text:
        if _script(character) == "han":
            simplified = _encodes(character, "gb2312")
            used_in_japan = _encodes(character, "shift_jis")
            chinese += 2 * (simplified and not used_in_japan)
            japanese += used_in_japan and not simplified and not _encodes(character, "big5")
            japanese += used_in_japan and not simplified
    if chinese == japanese:
        if prior in {"zh", "ja"}:
            return LanguageGuess(prior, 0.7)
        return LanguageGuess("zh", _SURE)
    code, lead = ("zh", chinese - japanese) if chinese > japanese else ("ja", japanese - chinese)
    if lead == 1 and prior in {"zh", "ja"}:
        return LanguageGuess(prior, 0.6)
    return LanguageGuess(code, min(0.98, 0.6 + 0.12 * lead))


@cache
def _encodes(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _devanagari(text: str, prior: str | None) -> LanguageGuess:
    words = text.replace("।", " ").replace("?", " ").split()
    nepali = sum(word in _word_set(_NEPALI) for word in words)
    hindi = sum(word in _word_set(_HINDI) for word in words)
    nepali += sum(word.endswith(("ले", "लाई", "मा", "छु", "छौं", "न्छ", "दैन")) for word in words)
    if nepali == hindi:
        return LanguageGuess(prior if prior in {"ne", "hi"} else "ne", 0.7)
    share = (nepali + 0.5) / (nepali + hindi + 1)
    return LanguageGuess("ne", share) if nepali > hindi else LanguageGuess("hi", 1 - share)


def _latin(text: str, prior: str | None) -> LanguageGuess:
    """Add up what the model, the words and the letters say, as log-probabilities."""
    letters = sum(map(len, _TOKEN.findall(text)))
    chances = _ranked(text)
    trust = min(1.0, letters / 20)  # the model guesses wildly at a word or two
    scores = {code: trust * max(math.log(chances.get(code, 0.0) + 1e-9), -7.0) for code in _LATIN}
    bare = _MARKS.sub("", unicodedata.normalize("NFD", text)).replace("đ", "d")
    for code in ("ja", "ne"):  # the model knows neither in Latin letters: a milder start
        scores[code] = max(scores[code], -4.5 * trust)
    known = 0
    for word in _TOKEN.findall(bare.replace("'", "").replace("’", "")):
        codes = _word_languages().get(word, ())
        known += bool(codes)
        for code in codes:
            scores[code] += 2.2 / len(codes) * (0.6 if len(word) < 3 else 1.0)
    for code, weight, pattern in _SIGNS:
        scores[code] += weight * min(2, len(pattern.findall(text)))
    stranger, chance = max(chances.items(), key=lambda item: item[1])
    if stranger not in scores and letters >= 15:
        scores[stranger] = math.log(chance + 1e-9) - 1.0
    if prior:
        scores[prior] = scores.get(prior, -7.0) + (
            3.0 if letters < 8 else 1.5 if letters < 20 else 0.7
        )
    if not known and letters < 8:
        return _undecided(prior)
    highest = max(scores.values())
    total = sum(math.exp(score - highest) for score in scores.values())
    code = max(scores, key=scores.__getitem__)
    confidence = 1 / total
    if confidence < _SURE:
        return _undecided(prior)
    return LanguageGuess(code, min(0.99, confidence))


@cache
def _word_languages() -> dict[str, tuple[str, ...]]:
    table: dict[str, tuple[str, ...]] = {}
    for code, words in _WORDS.items():
        for word in set(words.split()):
            table[word] = (*table.get(word, ()), code)
    return table


@cache
def _word_set(words: str) -> frozenset[str]:
    return frozenset(words.split())


@cache
def _model() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _ranked(text: str) -> dict[str, float]:
    """Chances by the model, kindred languages taken together."""
    chances: dict[str, float] = {}
    for code, chance in _model().rank(text):
        code = _ALIASES.get(code, code)
        chances[code] = chances.get(code, 0.0) + float(chance)
    return chances


def _by_model(text: str, otherwise: str) -> LanguageGuess:
    code, chance = max(_ranked(text).items(), key=lambda item: item[1])
    return LanguageGuess(code, chance) if chance > _SURE else LanguageGuess(otherwise, _SURE)
