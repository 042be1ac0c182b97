"""Charsets of mails: what is declared, as it is meant; what undeclared bytes most likely are."""

import contextlib
import re
import unicodedata

import charset_normalizer

_ALIASES = {
    "iso-2022-jp": ("iso2022_jp", "jis"),
    "shift-jis": ("cp932",),
    "euc-jp": ("euc_jp", "euc_jis_2004"),
    "gb": ("gb18030",),
    "big5": ("cp950", "big5hkscs"),
    "euc-kr": ("cp949",),
    "latin": ("cp1252", "latin-1"),
    "thai": ("cp874",),
}
"""As mail programs and browsers mean it, not as it is registered: supersets, in the order tried."""
_FAMILIES = (
    (r"iso-?2022-?jp|csiso2022jp|cp5022\d|jis", "iso-2022-jp"),
    (r"(x-)?s(hift)?[-_]?jis|ms_kanji|windows-31j|cp932|x-mac-japanese|ms932", "shift-jis"),
    (r"(x-)?euc-?jp(-ms)?|eucjpms", "euc-jp"),
    (r"(x-)?gbk?|gb_?2312(-80|_80)?|(cs)?gb2312|gb18030|cp936|windows-936|chinese", "gb"),
    (r"(x-x-)?big5(-hkscs|-eten)?|cn-big5|cp950|csbig5", "big5"),
    (r"(x-)?euc-?kr|ks_?c_?5601(-?19\d\d)?|korean|cp949|windows-949|uhc", "euc-kr"),
    (r"iso-?8859-?1|latin-?1|us-ascii|ascii|ansi.*|cp819|windows-1252|cp1252", "latin"),
    (r"iso-?8859-?11|tis-?620|windows-874|cp874", "thai"),
)
_SINGLE = re.compile(r"latin.*|iso8859.*|cp(12|8|4)\d+|koi8.*|ascii|mac.*")


def decode(data: bytes, declared: str) -> str:
    """Bytes as text: the declared charset as it is meant, else what they most likely are."""
    for mark, name in (
        (b"\xef\xbb\xbf", "utf-8"),
        (b"\xff\xfe", "utf-16"),
        (b"\xfe\xff", "utf-16"),
    ):
        if data.startswith(mark):
            return data.decode(name, "replace").lstrip("\ufeff")
    if b"\x1b$" in data or b"\x1b(" in data:
        return _jis(data)
    names = _names(declared)
    if not data.isascii() and not any(name.startswith("utf") for name in names):
        # Valid UTF-8 by chance is next to impossible in a one-byte charset, and in a two-byte one
        # where it has sequences of three.
        with contextlib.suppress(UnicodeDecodeError):
            text = data.decode("utf-8")
            if not names or _SINGLE.fullmatch(names[0]) or max(text) > "\u07ff":
                return text
    for name in (*names, "utf-8"):
        with contextlib.suppress(LookupError, UnicodeError, ValueError):
            text = data.decode(name)
            return unicodedata.normalize("NFC", text) if name == "cp1258" else text
    guessed = guess(data)
    if guessed is not None:
        return guessed
    for name in (*names, "cp1252"):
        with contextlib.suppress(LookupError, UnicodeError, ValueError):
            return data.decode(name, "replace")
    return data.decode("latin-1")


def _names(declared: str) -> tuple[str, ...]:
    wanted = declared.strip("\"' ;").lower().partition(";")[0]
    for pattern, family in _FAMILIES:
        if re.fullmatch(pattern, wanted):
            return _ALIASES[family]
    if not re.fullmatch(r"[a-z0-9_.:-]{2,30}", wanted) or wanted in {"unknown-8bit", "x-unknown"}:
        return ()
    return (re.sub(r"^(x-)?(windows|cp)-?(?=\d{3,4}$)", "cp", wanted),)


def _jis(data: bytes) -> str:
    """ISO-2022-JP as it is really sent: with makers' characters (①, ㈱, 髙), half-width kana.

    Python's codec refuses those; the same cells in Shift_JIS (cp932) are read.
    """
    shown: list[str] = []
    mode = b"B"
    for piece in re.split(rb"(\x1b\$\(?[@BDOQ]|\x1b\([BJIH])", data):
        if piece.startswith(b"\x1b"):
            mode = b"$" if piece[1:2] == b"$" else piece[-1:]
        elif mode == b"$":
            shifted = bytearray()
            text = piece
            while len(text) >= 2 and 0x21 <= text[0] <= 0x7E and 0x21 <= text[1] <= 0x7E:
                row, cell = text[0] - 0x21, text[1] - 0x21
                shifted.append(row // 2 + (0x81 if row < 62 else 0xC1))
                second = cell + (0x9F if row % 2 else 0x40)
                shifted.append(second + (not row % 2 and second >= 0x7F))
                text = text[2:]
            shown.append(shifted.decode("cp932", "replace") + text.decode("ascii", "replace"))
        elif mode == b"I":
            shown.append(bytes(byte | 0x80 for byte in piece).decode("cp932", "replace"))
        else:
            shown.append(piece.decode("utf-8", "replace"))
    return "".join(shown)


_LEVELS: tuple[tuple[str, bytes, bytes, float], ...] = (
    # codec, lead bytes of the common characters (kana apart), of the rare ones, weight
    ("cp932", bytes(range(0x88, 0x98)), bytes(range(0x98, 0xA0)), 0.8),
    ("euc_jp", bytes(range(0xB0, 0xD0)), bytes(range(0xD0, 0xF5)), 0.8),
    ("gb18030", bytes(range(0xB0, 0xD8)), bytes(range(0xD8, 0xF8)), 0.9),
    ("cp950", bytes(range(0xA4, 0xC7)), bytes(range(0xC9, 0xFA)), 0.9),
)
_IBERIAN = set("áéíóúñãõâêôçüàÁÉÍÓÚÑÃÇ¿¡ºª“”‘’–—€")
_VIETNAMESE = set("ăâđêôơưĂÂĐÊÔƠƯ\u0300\u0301\u0303\u0309\u0323àáèéìíòóùúýãõ")


def guess(data: bytes) -> str | None:
    """Undeclared bytes in one of the languages of the desk, by how common their characters are.

    Short mails are what statistics over bigrams (charset-normalizer) fail at; it is asked last.
    """
    best: tuple[float, str] = (0.6, "")
    for codec, common, rare, weight in _LEVELS:
        with contextlib.suppress(UnicodeDecodeError):
            text = data.decode(codec)
            score = count = 0.0
            for char in text:
                if char.isascii():
                    continue
                count += 1
                lead = char.encode(codec)[:1]
                if "ぁ" <= char <= "ヿ":
                    score += weight in {0.8}  # kana are Japanese, in whatever table they stand
                elif lead in common:
                    score += weight
                elif lead in rare:
                    score += weight / 4
                elif unicodedata.category(char)[0] == "P" or "！" <= char <= "～":
                    score += 0.6
            best = max(best, (score / count if count else 0, text))
    letters = sum(byte > 0x40 for byte in data)
    foreign = sum(byte > 0x7F for byte in data)
    for codec, expected, most in (("cp1258", _VIETNAMESE, 0.5), ("cp1252", _IBERIAN, 0.25)):
        with contextlib.suppress(UnicodeDecodeError):
            text = data.decode(codec)
            strange = [char for char in text if not char.isascii()]
            sure = sum(char in expected for char in strange) / (len(strange) or 1)
            # ă and ơ stand where Portuguese has ã and õ; the others have no such double.
            marked = codec == "cp1252" or set(text) & set("đưĐƯ\u0300\u0301\u0303\u0309\u0323")
            if marked and foreign <= most * letters:
                best = max(best, (sure, unicodedata.normalize("NFC", text)))
    if best[1]:
        return best[1]
    found = charset_normalizer.from_bytes(data[:50_000]).best()
    with contextlib.suppress(LookupError, UnicodeError):
        return data.decode(found.encoding) if found else None
    return None
