"""Report: what a radiology report says, read from its text, and new texts that say the same."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from vlgen.findings import Finding, either
from vlgen.report.header import Header
from vlgen.report.lexicon import Lexicon, tokens
from vlgen.report.mentions import mentions, merge
from vlgen.report.phrases import compose
from vlgen.report.sections import clean, sections, sentences
from vlgen.report.studies import plain, study

_NORMAL: Lexicon[bool] = Lexicon(
    (phrase, True)
    for phrase in either(
        "no acute|no active|no significant|no .. abnormality|no .. finding|no .. pathology"
        "|no .. cardiopulmonary|no .. disease|no .. process|normal chest|chest normal|normal study|normal exam"
        "|normal examination|normal scan|normal radiograph|normal film|normal .. radiograph|normal .. mri"
        "|normal .. ct|normal .. ultrasound|no acute .. process|unremarkable chest|unremarkable study"
        "|unremarkable exam|unremarkable examination|chest unremarkable|negative chest|negative exam|negative study"
        "|chest .. normal|chest .. unremarkable|normal .. mr|normal appearance|study .. normal|exam .. normal"
        "|examination .. normal|scan .. normal|within normal limit|lung .. clear|lung clear|clear lung|normal cxr"
        "|cxr normal|normal x ray|x ray normal|normal sonogram|unremarkable|negative for acute"
        "|negative for .. abnormality|negative for .. disease|no evidence of acute|no evidence of active"
        "|no radiographic evidence|without acute|no pathologic|normal brain|normal breast|radiograph .. normal"
        "|mri .. normal|ultrasound .. normal|ct .. normal|no cardiopulmonary"
    )
)
# What a study is made to look for: its absence is the normal report.
_SOUGHT = {"mri": ("tumor", "mass"), "us": ("mass",)}


@dataclass(frozen=True)
class Report:
    """A radiology report.

    text      the text without de-identification marks
    sections  (name, text) in their order; names: indication, comparison, technique, findings, impression
    findings  what is stated of findings and impression, one for each name and side
    modality  name in MODALITIES if the text says it, else ""
    view      "PA", "AP", "lateral" or ""
    sex       "male", "female" or ""
    age       in years, None where unsaid
    child     a child, or younger than 18 years
    contrast  with or without contrast medium, None where unsaid
    normal    it says that there is no (acute) finding, and asserts or suspects none
    """

    text: str
    sections: tuple[tuple[str, str], ...] = ()
    findings: tuple[Finding, ...] = ()
    modality: str = ""
    view: str = ""
    sex: str = ""
    age: int | None = None
    child: bool = False
    contrast: bool | None = None
    normal: bool = False

    @classmethod
    def parse(cls, text: str) -> Report:
        """The report that a text is; any text is one, if only an empty one."""
        text = clean(text)
        parts = sections(text)
        said = dict(parts)
        header = Header.read("\n".join(body for name, body in _by_weight(parts)))
        seen = [s for name in ("findings", "impression") for s in sentences(said.get(name, ""))]
        found = merge([finding for sentence in seen for finding in mentions(sentence)])
        calm = all(finding.status == "absent" for finding in found)
        sought = any(finding.name in _SOUGHT.get(header.modality, ()) for finding in found)
        return cls(
            text,
            parts,
            found,
            header.modality,
            header.view,
            header.sex,
            header.age,
            header.child,
            header.contrast,
            calm and (sought or any(_normal(sentence) for sentence in seen)),
        )

    def section(self, name: str) -> str:
        """The text of the section of that name, "" where there is none."""
        return dict(self.sections).get(name, "")

    def sentences(self) -> list[str]:
        """The sentences of every section, in the order of the text, without section headers."""
        return [sentence for _, body in self.sections for sentence in sentences(body)]

    @property
    def body(self) -> str:
        """The part of the body that the report names: chest, brain, breast, or "" for none of these."""
        return self._header().body

    def prompt(self) -> str:
        """What an encoder reads: the study and patient, the impression, then the findings.

        A text without section headers is its own prompt; where it names its study in words of its own ("portable film",
        "T1 post contrast"), the plain name stands before it. Indication and comparison do not describe the image.
        """
        header = self._header()
        if not self.sections or (len(self.sections) == 1 and self.sections[0][1] == self.text):
            words = " ".join(self.text.split())
            if not header.modality or plain(words, header):
                return words
            lead = study(Header(header.modality, header.view, child=header.child, body=header.body))
            return f"{lead} {words}"
        head = study(header)
        parts = [head] if head else []
        for name in ("impression", "findings"):
            for sentence in sentences(self.section(name)):
                if name == "findings" and head and Header.read(sentence) != Header() and not self._states(sentence):
                    continue  # the header says it
                ended = sentence[:1].upper() + sentence[1:] + ("" if sentence[-1] in ".!?" else ".")
                parts += [ended] if ended not in parts else []
        return " ".join(parts)

    def _states(self, sentence: str) -> bool:
        """Whether a sentence says anything of findings or of their absence."""
        return bool(mentions(sentence)) or _normal(sentence)

    def compose(self, seed: int, *, rare: bool = False) -> str:
        """A new text of the facts of this report, in one of many phrasings; the same seed gives the same text.

        rare  at times also say that findings are absent which hardly any image has and of which the report says
              nothing: true of nearly all, and what teaches a network to read a stated absence beside a finding
        """
        return compose(self._header(), self.findings, normal=self.normal, seed=seed, rare=rare)

    def _header(self) -> Header:
        said = _header_of(self.text)
        return Header(
            self.modality, self.view, self.sex, self.age, self.child, self.contrast, said.body, said.axial
        )  # fmt: skip


@lru_cache(maxsize=65536)  # a report is composed anew thousands of times
def _header_of(text: str) -> Header:
    return Header.read(text)


def _by_weight(parts: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    """The sections in the order in which they are believed about the study; a comparison tells of another one."""
    order = ("technique", "findings", "impression", "indication")
    return sorted((part for part in parts if part[0] in order), key=lambda part: order.index(part[0]))


def _normal(sentence: str) -> bool:
    words = tokens(sentence)
    if words == ["negative"] or words == ["normal"]:
        return True
    return any(words[i] in _NORMAL and _NORMAL.at(words, i) for i in range(len(words)))
