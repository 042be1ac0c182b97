"""What is new in a mail: without quoted history and signature, in the languages of the desk.

The library mail-parser-reply knows how mail programs introduce a quotation in a dozen languages;
the desk's other languages are added here. Its rules for signatures are not used: they take every
line that begins with a hyphen, or "Thanks,", and all that follows, for one, and so lose words.
"""

import re
from collections.abc import Iterator

from mailparser_reply.constants import MAIL_LANGUAGES

_WROTE = re.compile(
    r"(?i)\b(wrote|escribi[óo]|escreveu|viết|menulis|isinulat|sumulat|schrieb|a écrit)\b"
    r"|写道|寫道|書きました|のメール|のメッセージ|ရေး|लेख्नु|ले लेख|작성|님이|เขียน|написал|пишет"
)
_TIME = re.compile(r"\d{1,2}\s?[:：.時时]\s?\d{2}|\b\d{4}\b|\d{4}年")
_STARTS = re.compile(
    r"(?i)(on|el|em|vào|pada|noong|am|le|il|den|op)\b.*\d|\d{4}[年/-]|.*[<(]\s*[^<>()\s]+@"
)
_LIBRARY = [
    re.compile(language["wrote_header"], re.IGNORECASE)
    for language in MAIL_LANGUAGES.values()
    if language.get("wrote_header")
]
_SEPARATOR = re.compile(
    r"(?i)[\s>*]*[-–—_=]{2,}\s*("
    r"original(e| e-?mail)? (message|mail)|original-nachricht|message d'origine|"
    r"mensagem original|mensaje original|元のメッセージ|原始邮件|原始郵件|邮件原件|原邮件|"
    r"pesan asli|tin nhắn gốc|thư gốc|orihinal na mensahe|मूल सन्देश|မူရင်း.{0,20}|원본 메(일|시지)"
    r")\s*[-–—_=]{2,}\s*"
)
_FORWARD = re.compile(
    r"(?i)[\s>*]*(-{2,}\s*)?("
    r"forwarded message|begin forwarded message|転送メッセージ|転送されたメッセージ|以下は転送|"
    r"转发(的)?邮件|轉寄郵件|mensagem (encaminhada|reencaminhada)|mensaje reenviado|"
    r"thư được chuyển tiếp|tin nhắn (đã )?chuyển tiếp|pesan (yang )?diteruskan|"
    r"(ipinasang|naipasang) mensahe|फर्वार्ड|अग्रेषित|တစ်ဆင့်"
    r")"
)
_FROM = re.compile(
    r"(?i)[\s>*]*("
    r"from|差出人|送信者|发件人|寄件者|寄件人|de|từ|người gửi|dari|pengirim|mula (sa|kay)|"
    r"보낸 사람|बाट|पठाउने|မှ|ပေးပို့သူ|von"
    r")\s*\**\s*[:：]\s*\S"
)
_LABEL = re.compile(
    r"(?i)[\s>*]*("
    r"sent|date|to|cc|subject|送信日時|日時|宛先|件名|发送时间|日期|收件人|抄送|主题|寄件日期|收件者|"
    r"副本|主旨|enviad[oa]( em)?|data|fecha|para|assunto|asunto|đã gửi|ngày( gửi)?|gửi|đến|tới|"
    r"chủ đề|tiêu đề|dikirim|terkirim|tanggal|kepada|ke|subjek|perihal|ipinadala|petsa|(para )?kay|"
    r"paksa|보낸 날짜|받는 사람|제목|मिति|पठाइएको|लाई|प्रति|विषय|ပို့ခဲ့သည်|ရက်စွဲ|သို့|အကြောင်းအရာ|"
    r"gesendet|an|betreff"
    r")\s*\**\s*[:：]"
)
_DEVICE = (
    r"(iphone|ipad|android|アンドロイド|galaxy|samsung|xperia|pixel|huawei|xiaomi|redmi|oppo|vivo|"
    r"motorola|smartphone|phone|mobile|celular|tel[eé]fono|telefone|m[oó]vil|điện thoại|ponsel|hp|"
    r"スマートフォン|スマホ|携帯|手机|手機|yahoo|outlook|gmail|e-?mail|邮箱|windows)"
)
_SENT_FROM = re.compile(
    rf"(?i)(sent (from|via|using|with) .{{0,20}}{_DEVICE}.{{0,30}}|get outlook for .{{1,30}}|"
    rf"(私の|my )?{_DEVICE}.{{0,12}}(から|より)送信.{{0,5}}|.{{0,20}}アプリから送信.{{0,5}}|"
    r"(ios|android)\s*版?\s*(用の)?\s*outlook\s*(を入手|获取|取得).{0,9}|获取.{0,9}outlook.{0,9}|"
    rf"envi(ado|ada) (do|da|de|desde|a partir|pelo|via) .{{0,25}}{_DEVICE}.{{0,30}}|"
    r"obt(er|enga|ener) (o )?outlook .{1,30}|"
    r"[发發]自我的.{1,20}|[从從]我的.{1,20}(发送|傳送)|"
    rf"来自.{{0,9}}{_DEVICE}.{{0,20}}|((được|đã) )?gửi từ .{{0,20}}{_DEVICE}.{{0,30}}|"
    r"(tải|dapatkan) outlook .{1,30}|"
    rf"dikirim (dari|melalui) .{{0,20}}{_DEVICE}.{{0,30}}|"
    rf"(ipinadala|naipadala) (mula )?(sa|gamit) .{{0,20}}{_DEVICE}.{{0,30}}|"
    rf".{{0,10}}{_DEVICE}.{{0,12}}(बाट पठाइएको|မှ (ပေး)?ပို့|에서 보냄).{{0,12}})\s*(<[^>]*>)?"
)
_QUOTE = re.compile(r"\s*[>＞](?![_.<≧3oO]+\s?<)")
_WRAPPED = 60
"""Characters: a quoted line as long as this may have been broken, its rest being unquoted."""


def reply_text(text: str, own: str = "", forwarded: bool = False) -> str:
    """What she wrote, without quoted history and signature; all of it if nothing is left.

    Answers between and below quoted lines stay. What she forwards is not history: it stays, too.
    `own` is the desk's address: a mail that only quotes the desk says nothing ("").
    """
    lines = text.replace("\r\n", "\n").split("\n")
    mark = next((n for n, line in enumerate(lines) if _FORWARD.match(line)), len(lines))
    mark = 0 if forwarded else mark
    start = _history(lines[:mark], own)
    if start is None:
        kept = [*_unquoted(lines[:mark]), *lines[mark:]]
    else:
        kept = list(_unquoted(lines[:start]))
        below = lines[start:]
        quoted = [number for number, line in enumerate(below) if _QUOTE.match(line)]
        if quoted:  # without such marks there is no telling whose lines these are
            kept += _unquoted(below[quoted[0] :])
    written = "\n".join(_unsigned(kept)).strip()
    if written:
        return re.sub(r"\n{3,}", "\n\n", written)
    ours = start is not None and _names_us("\n".join(lines[start : start + 8]), own)
    return "" if ours else text.strip()


def is_forward(text: str) -> bool:
    """Whether a quotation begins with the words over a forwarded mail."""
    return any(_FORWARD.match(line) for line in text.strip()[:300].splitlines()[:3])


def _history(lines: list[str], own: str) -> int | None:
    """The line at which earlier mails begin, if there are any."""
    for number, line in enumerate(lines):
        if not line.strip() or len(line) > 1000:
            continue
        block = _FROM.match(line) and (
            sum(bool(_LABEL.match(one)) for one in lines[number + 1 : number + 7]) >= 2
        )
        if block or _SEPARATOR.fullmatch(line):
            while number and (not lines[number - 1].strip() or _rule(lines[number - 1])):
                number -= 1
            return number
        if any(_is_header(lines[number : number + size], own) for size in (1, 2, 3)):
            above = number - 1  # the date stands in the line above, if the header was broken
            broken = above >= 0 and not _TIME.search(line) and _TIME.search(lines[above])
            return above if broken else number
    return None


def _rule(line: str) -> bool:
    return bool(re.fullmatch(r"\s*[_=*–—-]{8,}\s*", line))


def _is_header(lines: list[str], own: str) -> bool:
    """Whether lines are the one over a quotation: "On Monday at 10:00 the desk <…> wrote:".

    An address must stand in it: "On Monday my boss wrote:" is a worker's story.
    """
    line = " ".join(one.strip().lstrip("> ") for one in lines)
    if "@" not in line or len(line) > 400 or not line.endswith((":", "：", "-", ":*")):
        return False
    if len(lines) > 1:
        rest = (lines[n:] for n in range(1, len(lines)))
        if not _STARTS.match(line) or any(_is_header(list(one), own) for one in rest):
            return False
    if _TIME.search(line) and re.search(r"[<(\[]\s*[^<>()\[\]\s]+@[^<>()\[\]\s]+[\])>]", line):
        return True
    if line.endswith("-"):
        return False
    return (
        bool(_WROTE.search(line))
        or _names_us(line, own)
        or any(pattern.match(line) for pattern in _LIBRARY)
    )


def _names_us(text: str, own: str) -> bool:
    local, _, domain = own.partition("@")
    pattern = rf"{re.escape(local)}(\+[\w=.-]*)?@{re.escape(domain)}"
    return bool(own and re.search(pattern, text.lower()))


def _unquoted(lines: list[str]) -> Iterator[str]:
    above = ""
    for number, line in enumerate(lines):
        if _QUOTE.match(line):
            above = line
            continue
        rest_of_quote = len(above) >= _WRAPPED and line.strip() and len(line) < len(above)
        next_line = next((one for one in lines[number + 1 : number + 4] if one.strip()), "")
        over_quote = line.rstrip().endswith((":", "：")) and _QUOTE.match(next_line)
        above = ""
        if not rest_of_quote and not over_quote:
            yield line


def _unsigned(lines: list[str]) -> list[str]:
    """Without the mail program's advertisement and what stands below "-- "."""
    kept = list(lines)
    for number, line in enumerate(kept[-30:], max(0, len(kept) - 30)):
        below = sum(bool(one.strip()) for one in kept[number + 1 :])
        if line.rstrip() == "--" and below <= 12 and any(one.strip() for one in kept[:number]):
            kept = kept[:number]
            break
    while kept and (not kept[-1].strip() or _SENT_FROM.fullmatch(kept[-1].strip())):
        kept.pop()
    return kept
