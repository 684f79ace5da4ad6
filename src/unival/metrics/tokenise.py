"""A tokeniser for caption metrics in the manner of the Penn Treebank, in Python.

The metrics' own is Stanford's PTBTokenizer (Java; `java.ptb_tokenise`). This one follows its rules where they
matter for captions: lower case, clitics split off, punctuation dropped, numbers, hyphenated words and
abbreviations kept whole, and its oddities: `!!` is no punctuation to COCO's evaluation, a euro becomes `$`.
`docs/data.md` names what it does otherwise. Metrics computed with it have names without `_ptb`.
"""

import re
from functools import lru_cache

_DROPPED = frozenset(["", "'", "’", "`", '"', "…", "?", "!", ",", ":", *"-–—―", "--", "---", "----", ";"])
"""What COCO's evaluation drops: dashes and up to four hyphens are `--` to the official tokeniser."""
_RENAMED = {
    # COCO's list of dropped tokens has the brackets' names in upper case, so that they are kept
    **{"(": "-lrb-", ")": "-rrb-", "{": "-lcb-", "}": "-rcb-", "[": "-lsb-", "]": "-rsb-"},
    **{"€": "$", "£": "#", "¢": "cents"},
    **{"cannot": "can not", "gonna": "gon na", "gotta": "got ta", "wanna": "wan na", "lemme": "lem me"},
    **{"gimme": "gim me", "'tis": "'t is", "'twas": "'t was"},
}
_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("“”«»", '"'),
        **dict.fromkeys("‘‹›", "`"),
        **{"½": " 1/2 ", "¼": " 1/4 ", "¾": " 3/4 ", "⅓": " 1/3 ", "⅔": " 2/3 ", "²": " ² ", "³": " ³ "},
        **{"\u00ad": "", "\u200b": " ", "\ufeff": " "},
    }
)
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">"}
_REPLACED = re.compile("|".join((*_ENTITIES, "[\U00010000-\U0010ffff]")))
"""Entities of HTML, and what is beyond Unicode's basic plane (emoji), which the official one deletes."""
_ABBREVIATIONS = frozenset(
    word + "."
    for word in """
    jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thur thurs fri mr mrs ms dr drs
    prof profs gen capt lt lieut sgt rev sen sens gov col maj cpl pvt pfc brig det adm supt pres hon
    messrs rep reps wm alex st ste ave blvd rd mt ft sq vs etc ca cf al pp fig figs tel est ext jr sr bros
    esq ph.d inc co cos corp ltd plc pty assn univ intl dept natl mfg elec sys bldg ala ariz calif colo
    conn ct fla ga ind kan ky md mich minn mo mont neb nev okla penn tenn va vt wis wyo
    """.split()  # noqa: SIM905
)
_STATES = frozenset(("ark.", "del.", "ill.", "la.", "mass.", "miss.", "ore.", "pa.", "tex.", "wash."))
"""Short names of states that are words when they begin with a small letter."""
_STARTS = """
A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More
Now Once One Other Our She Since So Some Such That The Their Then There These They This We When While
What Yet You
"""
"""Words that begin a sentence after a single letter and its dot, so that it is no initial."""
_TOKEN = re.compile(
    r"""
      https?://[^\s<>"]*[^\s<>".,:;!?)]
    | [\w.+-]+@[^\W_][\w-]*(?:\.[a-z]{2,})+               # an address
    | [@#][^\W\d]+                                        # @name  #tag
    | </?[a-z][^<>]*>
    | [:;=]-?[()] | (?<!\S)[:;=]-?[dp](?!\S)
    | \.{2,} | …
    | (?<![^\W_])[-+]?\.?\d+(?:[.,:/]\d+)*(?![^\W_]|[.,:/]\d)(?:-\w+(?:/\w+)*)*   # 1,000  3.5  10:30  1/2  -5
    | -+ | [–—―]
    | [!?]{2,} | \*{2,} | _+
    | (?:[a-z]\.){2,}(?:[a-z]\b)?                         # u.s.  d.v.d
    | (?P<number>\bnos?\.(?=\s*\d))                       # no. 5, but: he says no.
    | \b[a-z](?=\.(?:\s+(?-i:STARTS)\b|\s*$))
    | \d+[ap](?=\.m\b) | \bc(?:\+\+|\#)
    | \d+(?:[.,:]\d+)+(?=[a-z])                           # 3.5 mm
    | (?-i:\bUS|\b[AC])\$(?=\d) | \$ | [£€¢]
    | n['’]t\b | ['’](?:s|m|d|re|ve|ll)\b                 # clitics
    | ['’]n['’] | ['’]n(?![^\W_]) | ['’](?:em|cause|till?|\d0s)\b | '(?:tis|twas)\b
    | \b(?:ol|somethin|dunkin)['’](?![^\W_])
    | \by['’](?=all\b)
    | (?-i:[A-Z]+(?:&[A-Z]+)+)                            # AT&T, but: black & white
    | [^\W_]+?(?=n['’]t\b)
    | WORD(?:['’‐‑-](?!n['’])WORD)*?(?=['’](?:s|m|d|re|ve|ll)\b)
    | WORD(?:(?:['’](?!n['’])|[-‐‑/.])WORD)*\.?           # words; a final dot stays with abbreviations only
    | \S
    """.replace("WORD", r"[^\W_]+(?:_[^\W_]+)*").replace("STARTS", "|".join(_STARTS.split())),
    re.VERBOSE | re.IGNORECASE,
)
_CLITIC = re.compile("n’t|’(?:s|m|d|re|ve|ll)")
_FACE = re.compile("[:;=]-?[()]")
_INITIALS = re.compile(r"(?:[a-z]\.)+")


@lru_cache(maxsize=200_000)
def tokenise(text: str) -> str:
    """Tokens of a caption without punctuation, joined by spaces."""
    text = _REPLACED.sub(lambda found: _ENTITIES.get(found[0], " "), text.translate(_CHARACTERS))
    tokens = (match[0] if match["number"] else _renamed(match[0]) for match in _TOKEN.finditer(text))
    return " ".join(token.lower() for token in tokens if token not in _DROPPED)


def _renamed(written: str) -> str:
    """The token in the official one's writing."""
    token = written.lower()
    if token.endswith(".") and not (
        token in _ABBREVIATIONS or (token in _STATES and written[0].isupper()) or _INITIALS.fullmatch(token)
    ):
        token = token.rstrip(".")
    if _CLITIC.fullmatch(token):
        return token.replace("’", "'")
    if _FACE.fullmatch(token):
        return token[:-1] + _RENAMED[token[-1]]
    return _RENAMED.get(token, token)
