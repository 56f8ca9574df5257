"""New report texts from facts: many phrasings of the study, the patient and the findings."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from vlgen.findings import Finding
from vlgen.report.header import Header
from vlgen.report.nouns import ABSENT_CLAUSES, NEGATIVES, NORMAL, NOUNS, PRESENT_CLAUSES, RARE, SIZED
from vlgen.report.studies import article, cap, heading, title

_GRADE = {
    "mild": ("mild", "minimal", "slight", "mild"),
    "moderate": ("moderate",),
    "severe": ("severe", "marked", "extensive"),
}
_SIZE = {
    "mild": ("small", "small", "tiny", "trace"),
    "moderate": ("moderate", "moderate-sized"),
    "severe": ("large", "large", "massive"),
}
_ADVERB = {"": "", "mild": "mildly ", "moderate": "moderately ", "severe": "severely "}
_NO_PRIOR = ("None.", "None available.", "No prior studies are available.", "There are no previous examinations.")
_QUALITY = ("The study is of diagnostic quality.", "Image quality is adequate.", "Technique is satisfactory.")


def compose(header: Header, findings: Sequence[Finding], *, normal: bool, seed: int, rare: bool) -> str:
    """A text that states these facts, phrased by the seed; with `rare` also absences of rare findings."""
    rng = random.Random(seed)
    style = rng.choices(("short", "list", "plain", "sections", "long"), (12, 22, 32, 20, 14))[0]
    shown = _drop(rng, header, whole=normal and header.modality in ("mri", "us"))
    names = [f.name for f in findings]
    facts = [_vague(rng, f, names.count(f.name) == 1) for f in findings]
    rng.shuffle(facts)
    keep = rng.random() if style != "long" else 1.0
    stated = [f for f in facts if f.status != "absent" or rng.random() < keep]
    if normal:
        stated += _negatives(rng, header, stated, {"long": 9, "sections": 5, "plain": 4}.get(style, 1))
    elif rare and stated and style != "short" and rng.random() < 0.3:
        names = [n for n in RARE.get(header.modality, ()) if all(f.name != n for f in findings)]
        stated += [Finding(n, "absent") for n in rng.sample(names, min(len(names), rng.randint(1, 2)))]
    writer = {"short": _short, "list": _list, "plain": _plain, "sections": _sectioned, "long": _long}[style]
    text = writer(rng, shown, stated, normal, header)
    text = " ".join(text.split(" ")).strip()
    if rng.random() < 0.35:
        text = (
            text.replace("tumor", "tumour")
            .replace("edema", "oedema")
            .replace("Edema", "Oedema")
            .replace("Tumor", "Tumour")
        )
        text = text.replace("ediatric", "aediatric")
    case = rng.random()
    return text.lower() if case < 0.12 else text.upper() if case > 0.98 else text


def _drop(rng: random.Random, header: Header, whole: bool) -> Header:
    """The header with some of its facts unsaid; the modality nearly always stays.

    whole  the modality always stays: "no mass" is a whole report of a breast, not of a chest
    """
    bare = rng.random() < 0.12
    lost = {
        name: rng.random() < rate or bare
        for name, rate in (("view", 0.2), ("sex", 0.22), ("age", 0.22), ("contrast", 0.15))
    }
    return Header(
        "" if rng.random() < 0.03 and not whole else header.modality,
        "" if lost["view"] else header.view,
        "" if lost["sex"] else header.sex,
        None if lost["age"] else header.age,
        header.child and not (bare and rng.random() < 0.5),
        None if lost["contrast"] else header.contrast,
        header.body,
        header.axial and rng.random() < 0.7,
    )


def _negatives(rng: random.Random, header: Header, stated: Sequence[Finding], most: int) -> list[Finding]:
    names = [n for n in NEGATIVES.get(header.modality, ()) if all(f.name != n for f in stated)]
    return [Finding(n, "absent") for n in rng.sample(names, min(len(names), rng.randint(0, most)))]


# The findings


def _vague(rng: random.Random, finding: Finding, alone: bool) -> Finding:
    """The finding, now and then without its side or severity; one of two sides keeps both."""
    if not alone:
        return finding
    side = "" if rng.random() < 0.12 else finding.side
    return replace(finding, side=side, severity="" if rng.random() < 0.15 else finding.severity)


def _noun(rng: random.Random, finding: Finding) -> tuple[str, str]:
    """A noun phrase, bare and with its article: "left pleural effusion", "a left pleural effusion"."""
    row = NOUNS.get((finding.name, finding.kind))
    noun = rng.choice(row or NOUNS.get((finding.name, "")) or (finding.name,))
    counted, noun = noun.startswith("~"), noun.lstrip("~")
    if finding.kind and not row and finding.kind not in noun:
        noun = f"{finding.kind} {noun}"
    side, behind = finding.side, ""
    if side and rng.random() < 0.4:
        behind = rng.choice((" bilaterally", " on both sides", " in both lungs") if side == "bilateral" else
                            (f" on the {side}", f" on the {side}", f" on the {side} side",
                                f" in the {side} lung"))  # fmt: skip
    elif side:
        noun = f"{side if side == 'bilateral' or rng.random() < 0.8 else side + '-sided'} {noun}"
    if finding.severity and finding.status != "absent":
        grades = _SIZE if finding.name in SIZED else _GRADE
        noun = f"{rng.choice(grades[finding.severity])} {noun}"
    return noun + behind, (f"{article(noun)} " if counted else "") + noun + behind


def _sentence(rng: random.Random, finding: Finding) -> str:
    """One finding in one sentence, its status as the verb says."""
    clauses = {"present": PRESENT_CLAUSES, "absent": ABSENT_CLAUSES}.get(finding.status, {}).get(finding.name)
    if clauses and not finding.kind and rng.random() < 0.4:
        return rng.choice(clauses).replace("{how}", _ADVERB[finding.severity])
    bare, full = _noun(rng, finding)
    one, whole = cap(bare), cap(full)
    are = "are" if bare.endswith(("ates", "ures", "lines")) else "is"
    if finding.status == "present":
        return rng.choice((f"There {are} {full}.", f"There {are} {full}.", f"{one}.", f"{one}.", f"{whole} {are} seen.",
                           f"{whole} {are} present.", f"{one} noted.", f"Evidence of {full}.",
                           f"There is evidence of {full}.",
                           f"Findings consistent with {full}.", f"The image shows {full}.", f"{whole} {are} noted.",
                           f"Shows {full}.", f"Findings are compatible with {full}."))  # fmt: skip
    if finding.status == "uncertain":
        return rng.choice((f"Possible {bare}.", f"{whole} cannot be excluded.", f"Questionable {bare}.",
            f"Cannot exclude {full}.",
                           f"Findings may represent {full}.", f"There may be {full}.", f"{whole} is possible.",
                           f"Findings suspicious for {full}."))  # fmt: skip
    return rng.choice((f"No {bare}.", f"No {bare}.", f"Without {full}.", f"There {are} no {bare}.",
        f"There is no evidence of {full}.",
                       f"No evidence of {full}.", f"No {bare} {are} seen.", f"Negative for {bare}.",
                       f"{one} {are} not seen.",
                       f"No sign of {full}."))  # fmt: skip


def _join(items: Sequence[str], last: str) -> str:
    if len(items) < 3:
        return f" {last} ".join(items)
    return ", ".join(items[:-1]) + f", {last} {items[-1]}"


def _sentences(rng: random.Random, stated: Sequence[Finding]) -> list[str]:
    """The findings in sentences: one each, or those of one status in a list."""
    said: list[str] = []
    for status in ("present", "uncertain", "absent"):
        group = [f for f in stated if f.status == status]
        if len(group) > 1 and status != "uncertain" and rng.random() < 0.5:
            if status == "present":
                names = [_noun(rng, f)[1] for f in group]
                said.append(rng.choice(("There is {}.", "{}.", "{} are seen.", "Findings of {}.",
                    "The image shows {}."))
                            .format(_join(names, "and")))  # fmt: skip
            else:
                names = [_noun(rng, f)[0] for f in group]
                said.append(rng.choice(("No {}.", "There is no {}.", "No evidence of {}.", "Negative for {}.",
                    "Without {}."))
                            .format(_join(names, "or")))  # fmt: skip
        else:
            said += [_sentence(rng, f) for f in group]
    return [cap(sentence) for sentence in said]


def _body(rng: random.Random, stated: Sequence[Finding], normal: bool, header: Header, most: int = 2) -> list[str]:
    """The sentences of the findings, with what a normal study says; their order is drawn."""
    said = _sentences(rng, stated)
    if normal:
        pool = NORMAL.get(header.modality, NORMAL[""])
        said += rng.sample(pool, min(len(pool), rng.randint(1, most)))
    rng.shuffle(said)
    return said


# The layouts, from three words to a page


def _end(text: str) -> str:
    return text if text.endswith(".") or not text else text + "."


_Writer = Callable[[random.Random, Header, Sequence[Finding], bool, Header], str]


def _short(rng: random.Random, shown: Header, stated: Sequence[Finding], normal: bool, header: Header) -> str:
    """Search words: "glioma brain MRI"."""
    names = [_noun(rng, f)[0] for f in stated if f.status == "present"]
    if any(f.status != "present" for f in stated) or (not names and not normal):
        return _plain(rng, shown, stated, normal, header)
    name = title(rng, shown, brief=True) if rng.random() < 0.6 else heading(rng, shown)
    if normal:
        pool = NORMAL.get(header.modality, NORMAL[""])
        said = rng.choice([one for one in pool if len(one) < 40]).rstrip(".")
        return f"{cap(name)}. {said}" if name else said
    said = ", ".join(names) if rng.random() < 0.6 else _join(names, "and")
    if not name:
        return said
    return rng.choice((f"{name}, {said}", f"{said}, {name}",
        f"{said} {name}" if len(names) == 1 else f"{said}, {name}",
                       f"{name} with {said}" if shown.contrast is None else f"{name}: {said}",
                       f"{name} showing {said}"))  # fmt: skip


def _list(rng: random.Random, shown: Header, stated: Sequence[Finding], normal: bool, header: Header) -> str:
    """A header, then the findings as one list: "Findings: pleural effusion, atelectasis."."""
    names = [_noun(rng, f)[0] for f in stated if f.status == "present"]
    others = _sentences(rng, [f for f in stated if f.status != "present"])
    if not names or normal:
        return _plain(rng, shown, stated, normal, header)
    lead = rng.choice(("Findings: {}.", "Findings: {}.", "Impression: {}.", "Findings: {}.", "Diagnosis: {}.", "{}."))
    joined = ", ".join(names) if rng.random() < 0.7 else _join(names, "and")
    return " ".join(filter(None, (_end(cap(heading(rng, shown))), cap(lead.format(joined)), *others)))


def _plain(rng: random.Random, shown: Header, stated: Sequence[Finding], normal: bool, header: Header) -> str:
    """A header and sentences; now and then the header stands last."""
    head, said = _end(cap(heading(rng, shown))), _body(rng, stated, normal, header)
    return " ".join(filter(None, [*said, head] if rng.random() < 0.15 else [head, *said]))


def _sectioned(rng: random.Random, shown: Header, stated: Sequence[Finding], normal: bool, header: Header) -> str:
    """Section headers: FINDINGS, IMPRESSION, sometimes with the study above them."""
    up = rng.random() < 0.6
    gap, line = rng.choice(((" ", " "), ("\n", " "), ("\n\n", "\n")))
    head = _end(cap(heading(rng, shown)))
    label = rng.choice(("", "", "Examination", "Technique", "Exam"))
    parts = [(label, head)] if head else []
    body = " ".join(_body(rng, stated, normal, header))
    seen = [f for f in stated if f.status != "absent"]
    if body:
        parts.append((rng.choice(("Findings", "Findings", "Findings", "Impression")), body))
    if parts and parts[-1][0] == "Findings" and rng.random() < 0.5 and (seen or normal):
        closing = _sentences(rng, seen) if seen else [rng.choice(NORMAL.get(header.modality, NORMAL[""]))]
        parts.append(("Impression", " ".join(closing)))
    return gap.join(f"{(one.upper() if up else one) + ':' + line if one else ''}{text}" for one, text in parts)


def _long(rng: random.Random, shown: Header, stated: Sequence[Finding], normal: bool, header: Header) -> str:
    """A full report: study, comparison, findings sentence by sentence, impression in other words."""
    if not stated and not normal:
        return _plain(rng, shown, stated, normal, header)
    head = _end(cap(heading(rng, shown)))
    quality = [rng.choice(_QUALITY)] if rng.random() < 0.4 else []
    detail = [_sentence(rng, f) for f in stated]
    if normal:
        pool = NORMAL.get(header.modality, NORMAL[""])
        detail += rng.sample(pool, min(len(pool), rng.randint(2, 7)))
    rng.shuffle(detail)
    closing = _body(rng, [f for f in stated if f.status != "absent"], normal, header, most=1)
    up, label = rng.random() < 0.6, rng.choice(("Examination", "Technique", "Exam", "Procedure"))
    parts = [
        (label, head),
        ("Comparison", rng.choice(_NO_PRIOR)),
        ("Findings", " ".join([*quality, *detail])),
        ("Impression", " ".join(closing)),
    ]
    if rng.random() < 0.3:
        return " ".join(text for _, text in (parts[0], *parts[2:]) if text)
    return "\n".join(f"{one.upper() if up else one}: {text}" for one, text in parts if text)
