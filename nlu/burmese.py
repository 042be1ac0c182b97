"""Burmese typed with a Zawgyi font: recognised and converted to Unicode.

Zawgyi puts its own shapes on the code points of Unicode (and on those of Shan, Mon and Karen), and
writes vowel signs before their consonant, so the same letters mean other words. Old phones still
type it. The library `paraencoder` converts; its own detector misses every fifth message, so the
decision is made here, by sequences that only one of the two can hold.
"""

import re

from para import zg_to_unicode

_C = "\u1000-\u1021\u1023-\u1027\u1029\u102a\u103f"  # consonants and independent vowels
_ROWS = ("\u1000-\u1004", "\u1005-\u100a", "\u100b-\u100f", "\u1010-\u1014", "\u1015-\u1019")
_STACKED = "|".join(
    [
        *(f"(?<=[{row}])\u1039[{row}]" for row in _ROWS),  # only letters of one row are stacked
        "(?<=[\u101e\u101c\u1021])\u1039[\u101e\u101c\u1021]",
        f"(?<=\u1004\u103a)\u1039[{_C}]",  # kinzi
    ]
)
_MAN = "\u101a\u1031\u102c\u1000"
_ZAWGYI = re.compile(
    "[\u105a\u1060-\u1097\u1033\u1034]"
    f"|(?<![{_C}\u103b-\u103e])\u1031"  # the vowel e before its consonant
    f"|(?<![{_C}\u103b])[\u103b\u103c]"  # medials that follow no consonant
    f"|(?!{_STACKED})\u1039"  # the visible killer
    # medial ya, where Unicode has the killer; but "man, husband" is spelled so in Unicode, too
    f"|(?<!{_MAN})\u103a(?=[\u102b-\u1032\u103b-\u103e])"
    "|\u1031(?=[\u103b-\u103e])"
)
_UNICODE = re.compile(
    f"[{_C}]\u103a(?![\u102b-\u1032\u103b-\u103e])|{_MAN}\u103a"
    f"|{_STACKED}|[{_C}][\u103b-\u103e]+\u1031"
)
_NEIGHBOURS = re.compile(  # letters of Shan, Mon and Karen where Zawgyi has no shape of its own
    "[\u1022\u1028\u1035\u105b-\u105f\u109e\u109f\uaa60-\uaa7f]"
    "|(?<![\u1000-\u109f])[\u1061-\u1069\u106c-\u107c]"  # a stacked shape cannot begin a word
    "|[\u105a\u1061-\u1063\u1075-\u107c\u1082]\u103a"
    f"|[\u1082\u1083](?![{_C}])"
)


def is_zawgyi(text: str) -> bool:
    """Whether a text is Burmese in Zawgyi; what could be either is taken for Unicode."""
    if _NEIGHBOURS.search(text):
        return False
    return 2 * len(_ZAWGYI.findall(text)) > len(_UNICODE.findall(text))


def to_unicode(text: str) -> str:
    """The text in Unicode: converted if it is Zawgyi, else as it is. Never raises."""
    return str(zg_to_unicode(text, force=True)) if is_zawgyi(text) else text
