"""The study and the patient in words: "PA chest radiograph, 58-year-old man"."""

from __future__ import annotations

import random

from vlgen.report.header import Header

# (modality, body) -> titles; the first is the plain one.
STUDIES: dict[tuple[str, str], tuple[str, ...]] = {
    ("cxr", ""): ("chest radiograph", "chest radiograph", "chest x-ray", "chest X-ray", "CXR", "chest film",
        "radiograph of the chest",
                  "chest xray", "x-ray of the chest"),
    ("ct", "chest"): ("chest CT", "chest CT", "CT of the chest", "CT chest", "thoracic CT", "CT scan of the chest",
                      "computed tomography of the chest"),
    ("ct", "brain"): ("head CT", "CT of the head", "CT head", "brain CT"),
    ("ct", ""): ("CT", "CT scan", "computed tomography"),
    ("mri", "brain"): ("brain MRI", "brain MRI", "MRI of the brain", "MRI brain", "cranial MRI",
        "magnetic resonance image of the brain",
                       "brain MR"),
    ("mri", ""): ("MRI", "MR", "magnetic resonance imaging"),
    ("us", "breast"): ("breast ultrasound", "breast ultrasound", "ultrasound of the breast", "breast sonogram",
        "breast US",
                       "breast sonography", "US of the breast"),
    ("us", ""): ("ultrasound", "sonogram"),
    ("pet", ""): ("PET", "FDG PET", "PET scan"),
}  # fmt: skip

_SEXES = {
    ("male", False): ("male", "man", "male patient", "man"),
    ("female", False): ("female", "woman", "female patient", "woman"),
    ("male", True): ("male", "boy", "boy", "male child"),
    ("female", True): ("female", "girl", "girl", "female child"),
}


def cap(text: str) -> str:
    """The text with a capital first letter, its other letters as they are."""
    return text[:1].upper() + text[1:]


def article(noun: str) -> str:
    """ "a" or "an", by the sound of the first letter or number."""
    return "an" if noun[:1].lower() in tuple("aeiou8") or noun[:2] in ("11", "18") else "a"


def study(header: Header) -> str:
    """The facts of a header in one plain sentence: "PA chest radiograph, 58-year-old male."; "" for none."""
    titles = STUDIES.get((header.modality, header.body)) or STUDIES.get((header.modality, "")) or ("",)
    words = [header.view if header.view else "", "axial" if header.axial else "", titles[0]]
    if header.contrast is not None:
        words.append("with contrast" if header.contrast else "without contrast")
    who = " ".join(filter(None, (f"{header.age}-year-old" if header.age is not None else "", header.sex)))
    title = " ".join(filter(None, words))
    if header.child:  # in that word: an age alone says less to a network that has seen few
        title, who = (f"{title} of a child", who) if title else ("", who or "child")
    said = ", ".join(filter(None, (title, who)))
    return said[:1].upper() + said[1:] + "." if said else ""


def plain(text: str, header: Header) -> bool:
    """Whether a text names its study by one of the titles above, and a child as one: nothing to be put before it."""
    said = text.lower()
    titles = STUDIES.get((header.modality, header.body), ()) or STUDIES.get((header.modality, ""), ())
    return any(name.lower() in said for name in titles) and (not header.child or "child" in said or "pediatric" in said)


def title(rng: random.Random, header: Header, *, brief: bool = False) -> str:
    """The study's name with its view, plane and contrast: "Frontal (PA) chest x-ray"."""
    titles = STUDIES.get((header.modality, header.body)) or STUDIES.get((header.modality, "")) or ("",)
    name = rng.choice(titles)
    view = header.view
    if not name:
        return ""
    if header.axial:
        name = rng.choice((f"axial {name}", f"axial {name}", f"{name}, axial slice", f"{name} (axial)"))
    if header.contrast is True:
        name = rng.choice((f"{name} with contrast", f"{name} with intravenous contrast", f"contrast-enhanced {name}",
                            f"{name} with IV contrast", f"post-contrast {name}"))  # fmt: skip
    elif header.contrast is False:
        name = rng.choice((f"{name} without contrast", f"non-contrast {name}", f"unenhanced {name}",
            f"noncontrast {name}",
                            f"{name} without intravenous contrast"))  # fmt: skip
    if not view:
        return name
    if view == "lateral":
        return rng.choice((f"lateral {name}", f"{name}, lateral view"))
    long = "posteroanterior" if view == "PA" else "anteroposterior"
    ways = [f"{view} {name}"] * 4 + [
        f"{name} {view}",
        f"{name}, {view} view",
        f"{name} ({view})",
        f"{view} view, {name}",
    ]
    if not brief:
        ways += [f"frontal ({view}) {name}", f"{long} {name}", f"{view} projection {name}", f"single {view} {name}"]
    if view == "AP":
        ways += [f"portable AP {name}", f"portable {name}", f"AP portable {name}"]
    return rng.choice(ways)


def _who(rng: random.Random, header: Header) -> str:
    """The patient: "58-year-old man", "male, 58 years", "child"; "" where nothing is said."""
    sex = rng.choice(_SEXES[header.sex, header.child]) if header.sex else ""
    if header.age is not None:
        noun = sex or rng.choice(
            ("child", "pediatric patient") if header.child else ("patient", "patient", "person", "adult")
        )
        ways = [f"{header.age}-year-old {noun}"] * 4 + [f"{header.age} year old {noun}", f"{header.age} yo {noun}"]
        ways += [f"{header.age} y/o {noun}", f"{noun} aged {header.age}", f"{header.age} years old {noun}"]
        if header.sex:
            ways += [
                f"{header.sex}, {header.age} y",
                f"{header.sex}, {header.age} years",
                f"{header.age}{header.sex[0].upper()}",
            ]
        return rng.choice(ways)
    if header.child and not (sex and sex not in ("male", "female")):
        return " ".join(filter(None, (sex, rng.choice(("child", "child", "pediatric patient")))))
    return sex


def heading(rng: random.Random, header: Header) -> str:
    """The study and the patient in one sentence, without its full stop."""
    named, who = title(rng, header), _who(rng, header)
    if header.child and named and header.age is None and not header.sex:
        return rng.choice((f"pediatric {named}", f"{named} of a child", f"{named}, child",
                           f"{named} in a child", f"{named}, pediatric patient",
                           f"{named} of a pediatric patient"))  # fmt: skip
    if not who or not named:
        return named or who
    a = article(who)
    of: tuple[str, ...] = (
        (f"{named} of {a} {who}", f"{named} in {a} {who}") if "," not in who and not who[-1].isupper() else ()
    )
    return rng.choice(
        (f"{named}, {who}", f"{named}, {who}", f"{named}. {cap(who)}", f"{cap(who)}. {cap(named)}", *of, *of)
    )
