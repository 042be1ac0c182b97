"""Traditional Chinese, made from the simplified texts by OpenCC, in the words of Taiwan."""

import re
from functools import cache

from opencc import OpenCC

_PLACE = re.compile(r"\{[^{}]*\}")
_KANA = re.compile("[\u3041-\u30fa]")
_RUN = re.compile("[\u3005\u3041-\u30ff\u3400-\u9fff・]+")
_NAMED = re.compile(r"(?<=[（(、])[\u3400-\u9fff]+(?=,? [a-zA-Z][a-z]+)")
_CORRECTED = (("籤證", "簽證"),)  # OpenCC takes 换签证 for a lot that is drawn


@cache
def _opencc() -> OpenCC:
    return OpenCC("s2twp")


def traditional(text: str) -> str:
    """The text in traditional characters; `{placeholders}` and Japanese names stay as they are.

    A run of characters is a Japanese name if it holds kana or a character that simplified Chinese
    does not have, and none that Japanese does not have (労働基準監督署); or if it stands in
    brackets and its reading follows in Latin letters (国民年金, Kokumin Nenkin).
    """
    kept: list[str] = []

    def keep(name: str) -> str:
        kept.append(name)
        return chr(0xE000 + len(kept) - 1)

    text = _PLACE.sub(lambda match: keep(match[0]), text)
    text = _NAMED.sub(lambda match: keep(match[0]), text)
    text = _RUN.sub(lambda match: keep(match[0]) if _japanese(match[0]) else match[0], text)
    text = _opencc().convert(text)
    for wrong, right in _CORRECTED:
        text = text.replace(wrong, right)
    return re.sub("[\ue000-\uf8ff]", lambda match: kept[ord(match[0]) - 0xE000], text)


def _japanese(run: str) -> bool:
    chinese = not _KANA.search(run) and _writes(run, "gb2312")
    return not chinese and _writes(run, "cp932")


def _writes(run: str, encoding: str) -> bool:
    try:
        run.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
