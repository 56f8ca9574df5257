"""What a report says of the study and the patient: modality, view, sex, age, contrast."""

from __future__ import annotations

import re
from dataclasses import dataclass

_MODALITY = re.compile(
    r"(?P<pet>\b(?:PET|[Pp]et(?=[ /-]*(?:ct|CT|scan|mr))|[Pp]ositron[ -][Ee]mission|FDG|fdg)\b)"
    r"|(?P<cxr>\b(?i:cxr|radiographs?|radiography|x[- ]?rays?|roentgenograms?|chest film|films?"
    r"|portable (?:ap )?chest|(?:pa|ap|frontal|lateral) (?:view of the )?chest"
    r"|chest[,:]? (?:pa|ap|2|two|single|one|1)\b|pa (?:and|&) lat(?:eral)?|(?:pa|ap|lateral) views?)\b)"
    r"|(?P<ct>\b(?:(?i:computed tomograph\w{1,3}|hrct|cect|ncct|ct scans?|cta|ldct)|CT|ct|Ct)\b)"
    r"|(?P<mri>\b(?:(?i:mri|magnetic resonance|flair|t[12][- ]weighted"
    r"|t[12](?= (?:post|pre|axial|sagittal|coronal|with|images?)\b))|MR"
    r"|(?<=brain )mr|(?<=head )mr|mr(?= of the (?:brain|head)))\b)"
    r"|(?P<us>\b(?:(?i:ultrasound|ultrasonograph\w{1,3}|sonogra(?:m|ms|phy|phic)|ultrasonic)|US"
    r"|(?<=breast )us|us(?= of the breast))\b)"
)
_OTHER_BODY = re.compile(
    r"\b(?:knee|abdom\w+|pelvi\w+|hip|hand|wrist|foot|ankle|shoulder|elbow|skull|spine|femur|tibia|kub|dental"
    r"|panoramic)\b",
    re.I,
)
# A study that is advised or compared with is another one.
_ADVICE = re.compile(
    r"\b(?:recommend\w*|suggest(?:ed|ion)?|consider\w*|follow[- ]?up|correlat\w+|further|compar\w+|prior|previous)\b",
    re.I,
)
# AP is a view unless it is a diameter, or the window between aorta and pulmonary artery.
_VIEW = re.compile(
    r"\b(?:(?P<PA>PA|postero-?anterior|posterior-anterior|pa(?=[ ,.;)/-]))"
    r"|(?P<AP>antero-?posterior|anterior-posterior|portable|supine"
    r"|AP(?! (?:diameter|window|dimension))|ap(?! (?:diameter|window|dimension))(?=[ ,.;)/-]))|(?P<lateral>lateral))\b",
    re.I,
)
_LATERAL = re.compile(
    r"\blateral (?:chest|view|radiograph|film|projection|x[- ]?ray|cxr)\b"
    r"|\b(?:cxr|chest|film|radiograph|x[- ]?ray)[ ,(]{1,3}lateral\b|^lateral\b",
    re.I,
)
_SEX = re.compile(
    r"\b(?:(?P<female>female|woman|girl|lady|women)|(?P<male>male|man|boy|gentleman))\b"
    r"|\b\d{1,3} ?(?:y/?o\.?|yo|yrs?|y|year[- ]old)[ ,]{0,2}(?:(?P<F>F)|(?P<M>M))\b"
    r"|\b\d{1,3}(?:(?P<F1>(?-i:F))|(?P<M1>(?-i:M)))\b|\bsex[: ]{1,3}(?:(?P<F2>F)|(?P<M2>M))\b"
    r"|\b(?:(?P<F3>F)|(?P<M3>M))[ ,/]{1,2}\d{1,3} ?(?:y|yo|years?)\b",
    re.I,
)
_AGE = re.compile(
    r"\b(\d{1,3}) ?-?(y(?:ea)?rs?|mo(?:nth)?s?|w(?:ee)?ks?|days?|y)\.?[- /]{0,2}(?:old|o|of age)\b"
    r"|\b(\d{1,3}) ?(?:y/?o)\b|\b(?:aged|age:?|age of) (\d{1,3})\b(?! ?(?:mo|w|d))"
    r"|\b(?:male|female|man|woman|boy|girl|m|f)[,;:]? (\d{1,3}) ?(?:years?|yrs?|y)\b"
    r"|\b(\d{1,3}) ?(?:years?|yrs?|y)\b(?=\.?[ ,]{1,2}(?:male|female|man|woman|boy|girl|m|f|old)\b)"
    r"|\b(\d{1,3})(?-i:[MF])\b",
    re.I,
)
_CHILD = re.compile(
    r"\b(?:child|children(?!'?s hospital)|p(?:a)?ediatric|infant|neonate|neonatal|newborn|toddler|boy|girl|adolescent"
    r"|baby|preschooler)\b",
    re.I,
)
_CONTRAST = re.compile(
    r"(?P<both>\bwith and without\b[^.\n]{0,20}\bcontrast)"
    r"|(?P<no>\b(?:without|no)\b[^.,\n]{0,40}?\bcontrast|\bnon[- ]?contrast\b|\bunenhanced\b|\bnon[- ]?enhanced\b"
    r"|\bncct\b|\bcontrast was not\b)"
    r"|(?P<yes>\bwith\b[^.,\n]{0,40}?\bcontrast|\bcontrast[- ]enhanced|\bpost[- ]?contrast|\bcect\b"
    r"|\b(?:iv|intravenous) contrast|\bcontrast (?:was )?(?:administ|inject|given))",
    re.I,
)


@dataclass(frozen=True)
class Header:
    """The facts of the study and the patient; empty or None where the text does not say.

    body  the part shown: "chest", "brain", "breast" or ""
    axial whether the text calls the image axial
    """

    modality: str = ""
    view: str = ""
    sex: str = ""
    age: int | None = None
    child: bool = False
    contrast: bool | None = None
    body: str = ""
    axial: bool = False

    @classmethod
    def read(cls, text: str) -> Header:
        """The facts that a text states in its first pages; where it states two, the first."""
        text = text[:20_000]
        modality = _modality(text)
        age, child = _age(text)
        word = _SEX.search(text)
        sex = "" if word is None else "female" if (word.lastgroup or "").upper().startswith("F") else "male"
        return cls(
            modality,
            _view(text) if modality in ("", "cxr") else "",
            sex,
            age,
            child or _CHILD.search(text) is not None,
            _contrast(text) if modality in ("ct", "mri", "pet") else None,
            _body(text),
            re.search(r"\baxial\b", text, re.I) is not None,
        )


def _modality(text: str) -> str:
    for match in _MODALITY.finditer(text):
        start = max(text.rfind(".", 0, match.start()), text.rfind("\n", 0, match.start())) + 1
        around = (
            text[max(start, match.start() - 80) : match.start()] + text[match.end() : match.end() + 40].split(".")[0]
        )
        if match.start() > 0 and _ADVICE.search(around):
            continue
        name = match.lastgroup or ""
        if name == "cxr" and _OTHER_BODY.search(around) and not re.search(r"chest|thora|lung", around, re.I):
            continue
        return name
    return ""


def _view(text: str) -> str:
    for match in _VIEW.finditer(text):
        name = match.lastgroup or ""
        if name != "lateral":
            return name
    return "lateral" if _LATERAL.search(text) and not re.search(r"\bfrontal\b", text, re.I) else ""


def _age(text: str) -> tuple[int | None, bool]:
    for match in _AGE.finditer(text):
        number = int(next(group for k, group in enumerate(match.groups()) if group and k != 1))
        unit = (match[2] or "y").lower()
        if unit[0] != "y":
            number //= {"m": 12, "w": 52, "d": 365}[unit[0]]
        if number <= 120:
            return number, number < 18
    return None, False


def _contrast(text: str) -> bool | None:
    match = _CONTRAST.search(text)
    return None if match is None else match.lastgroup != "no"


def _body(text: str) -> str:
    for body, words in (("breast", r"breast|mammary"), ("brain", r"brain|head|cranial|intracranial|cerebr\w+"),
                        ("chest", r"chest|thora\w+|lungs?")):  # fmt: skip
        if re.search(rf"\b(?:{words})\b", text, re.I):
            return body
    return ""
