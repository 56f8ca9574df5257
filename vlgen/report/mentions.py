"""Findings in a sentence: which are named, and whether they are asserted, denied or doubted, where and how much."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from vlgen.findings import NOT_FINDINGS, VOCABULARY, Finding, Term
from vlgen.report.cues import CUES, EITHER, GRADES, MAYBE, MIDLINE, NOT, OPENERS, SIDES, VERBS, WALLS
from vlgen.report.lexicon import Lexicon, tokens

# A sentence longer than this is read in pieces, so that time stays linear in a text without full stops.
LONGEST = 160


@dataclass(frozen=True)
class _Hit:
    """What a phrase of the vocabulary says: of which findings, that they are normal or not, and over a gap or not."""

    terms: tuple[Term, ...]
    normal: bool
    wide: bool


def _hits() -> dict[str, _Hit]:
    hits = {word: _Hit((), False, False) for word in NOT_FINDINGS}
    for term in VOCABULARY.values():
        for words, normal in ((term.words, False), (term.normal, True)):
            for word in words:
                others = hits[word].terms if word in hits else ()
                hits[word] = _Hit((*(o for o in others if o is not term), term), normal, " .. " in word)
    return hits


_TERMS: Lexicon[_Hit] = Lexicon(_hits().items())
_KINDS = {t.name: [(f" {' '.join(tokens(word))} ", kind) for word, kind in t.kinds] for t in VOCABULARY.values()}


@dataclass
class _Mention:
    """A term at words [start, end) of a sentence; `fixed` where the phrase itself says the status."""

    start: int
    end: int
    term: Term
    status: str
    fixed: bool


def mentions(sentence: str) -> list[Finding]:
    """The findings of one sentence, in order, each with its status, side, severity and kind."""
    words = tokens(sentence)
    return [found for i in range(0, len(words), LONGEST) for found in _piece(tuple(words[i : i + LONGEST]))]


@lru_cache(maxsize=4096)
def _piece(piece: tuple[str, ...]) -> tuple[Finding, ...]:
    words = list(piece)
    named = _named(words)
    if not named:
        return ()
    _judge(words, named)
    return tuple(_describe(words, named, n) for n, mention in enumerate(named) if mention.status)


def _named(words: list[str]) -> list[_Mention]:
    """The terms that the words name, in order."""
    named: list[_Mention] = []
    i = 0
    while i < len(words):
        hit = _TERMS.at(words, i) if words[i] in _TERMS else None
        if hit is None:
            i += 1
            continue
        end, value = hit
        fixed = value.wide or value.normal
        status = "absent" if value.normal else "present"
        if fixed:
            inside = set(words[i:end])
            if inside & NOT:
                status = "present" if value.normal else "absent"
            elif inside & MAYBE and not value.normal:
                status = "uncertain"
        if not (value.normal and status == "present"):
            named += [_Mention(i, end, term, status, fixed) for term in value.terms]
        # The words of a gap may name more.
        i = i + 1 if value.wide else end
    return named


def _judge(words: list[str], named: list[_Mention]) -> None:
    """Sets the status of every mention by one walk over the cues; "" drops a mention that asserts nothing."""
    at: dict[int, list[_Mention]] = {}
    for mention in named:
        at.setdefault(mention.start, []).append(mention)
    state = ""
    clause: list[_Mention] = []  # the mentions that a cue behind them still reaches
    i = 0
    while i < len(words):
        if i in at:
            for mention in at[i]:
                if mention.fixed:
                    state = ""
                    continue
                mention.status = {"no": "absent", "may": "uncertain", "skip": ""}.get(state, "present")
                clause.append(mention)
            i = max(i + 1, max(m.start + 1 if m.fixed else m.end for m in at[i]))
            continue
        cue = CUES.at(words, i) if words[i] in CUES else None
        if cue is None:
            word = words[i]
            if word == ";":
                state, clause = "", []
            elif word == ":":
                state = ""
            elif word == "?":
                for mention in clause:
                    mention.status = "uncertain"
                state, clause = "may", []
            elif word in (",", "and", "with", "or") and state:
                state = _carry(words, i, state)
            if word in VERBS and not state:
                clause = _subject(words, clause, i)
            i += 1
            continue
        end, kind = cue
        if kind in ("was", "perhaps"):
            if kind == "was" and words[i] == "none" and end < len(words) and words[end] == "of":
                state = "no"
            for mention in clause:
                mention.status = "absent" if kind == "was" else "uncertain"
            if words[i] == ":":
                state = "no"
            clause = []
        elif kind == "moot":
            for mention in clause:
                mention.status = ""
            clause = []
        elif kind == "or":
            for mention in clause[-1:]:
                mention.status = "uncertain" if mention.status == "present" else mention.status
            state = state or "may"
        elif words[i] in EITHER and not any(k in at for k in range(end, end + 4)):
            for mention in clause:
                mention.status = "absent" if words[i] == "resolved" else "uncertain"
        elif kind == "stop":
            state, clause = "", []
        elif kind != "none":
            # What is denied stays denied: "no findings suspicious for pneumonia".
            state = state if state == "no" and kind == "may" and "not" not in words[i:end] else kind
        i = end


def _subject(words: list[str], clause: list[_Mention], i: int) -> list[_Mention]:
    """The mentions that are the subject of a verb at word i: those since the last verb and its conjunction."""
    for k in range(i - 1, -1, -1):
        if words[k] in VERBS or words[k] == "there":
            cut = next((j for j in range(i - 1, k, -1) if words[j] in (",", "and", "with")), k)
            return [mention for mention in clause if mention.start > cut]
    return clause


def _carry(words: list[str], i: int, state: str) -> str:
    """The state after a comma, an "and", "or" or "with" at word i: a list goes on, a new clause starts afresh."""
    joint, after = words[i], words[i + 1 : i + 3]
    if state == "may":
        listed = "or" in words[i : i + 7] or "differential" in words[:i]
        return state if joint == "or" or after[:1] == ["or"] or (joint == "," and listed) or joint == "with" else ""
    if joint == "or" or not after:
        return state
    opens = after[0] in OPENERS or (after[0] in SIDES and after[-1] in OPENERS)
    if joint == "with":
        return "" if opens else state
    if opens:
        stop = next((k for k in range(i + 1, len(words)) if words[k] in (";", ":", "but")), len(words))
        return state if "or" in words[i:stop] or "nor" in words[i:stop] else ""
    return state


def _describe(words: list[str], named: list[_Mention], n: int) -> Finding:
    """The finding of mention n: its side, severity and kind from the words around it, up to its neighbors."""
    mention = named[n]
    before = max((m.end for m in named if m.end <= mention.start), default=0)
    after = min((m.start for m in named if m.start >= mention.end), default=len(words))
    name, status = mention.term.name, mention.status
    kind = _kind(words, mention, before, after)
    if mention.fixed and status == "absent":
        return Finding(name, status, kind=kind)
    start = mention.start
    while start > before and words[start - 1] not in WALLS:
        start -= 1
    side = ""
    if name not in MIDLINE:
        side = _side(words[start : mention.end]) or _side(_forward(words, mention.end, after))
        if not side and len({(m.start, m.end) for m in named}) == 1:
            side = _side(words)
    grades = [GRADES[w] for w in words[start : mention.end] if w in GRADES]
    if not grades and words[mention.end : mention.end + 1] and words[mention.end] in ("is", "are", "appear"):
        grades = [GRADES[w] for w in words[mention.end : min(mention.end + 4, after)] if w in GRADES]
    return Finding(name, status, side, grades[-1] if grades and status != "absent" else "", kind)


def _forward(words: list[str], start: int, stop: int) -> list[str]:
    """The words behind a mention that may say where it is: up to the clause's end or the next mention's own words."""
    for k in range(start, stop):
        if words[k] in (",", ";", ":", "(", "?", "with", "without", "but"):
            return words[start:k]
        if words[k] in ("and", "or"):
            both = k + 1 < len(words) and words[k + 1] in SIDES
            if not both or (stop < len(words) and not any(word in WALLS for word in words[k + 1 : stop])):
                return words[start:k]
    if stop == len(words):
        return words[start:stop]
    # What stands next to the following mention is its own, unless a preposition gives it to this one.
    near = [k for k in range(start, stop) if words[k] in ("in", "on", "at", "of", "within", "to")]
    return words[near[0] : stop] if near else []


def _side(words: list[str]) -> str:
    sides = {SIDES[word] for word in words if word in SIDES}
    return "bilateral" if "bilateral" in sides or sides == {"left", "right"} else "".join(sides)


def _kind(words: list[str], mention: _Mention, before: int, after: int) -> str:
    """The kind that the term's own qualifiers give: in the phrase, else just before it, else just behind it."""
    if not mention.term.kinds:
        return ""
    own = words[mention.start : mention.end]
    ahead = words[max(before, mention.start - 3) : mention.start]
    behind = words[mention.end : min(after, mention.end + 5)]
    if behind[:1] == [","]:  # "pneumonia, bacterial"
        behind = behind[1:2] if after != mention.end + 2 or after == len(words) else []
    for near in (own, ahead, behind):
        text = f" {' '.join(near)} "
        hits = [(text.rfind(word), kind) for word, kind in _KINDS[mention.term.name]]
        if max(hits)[0] >= 0:
            return max(hits)[1]
    return ""


def merge(found: list[Finding]) -> tuple[Finding, ...]:
    """One finding for each name and side: what is asserted anywhere stands over doubt, doubt over denial."""
    merged: dict[tuple[str, str], Finding] = {}
    unlike = dict.fromkeys(found)
    for status in ("present", "uncertain", "absent"):
        for one in (f for f in unlike if f.status == status):
            same = [key for key, f in merged.items() if key[0] == one.name]
            if any(merged[key].status != status and (not key[1] or not one.side or key[1] == one.side) for key in same):
                continue
            near = next((key for key in same if merged[key].status == status and _agree(key[1], one.side)), None)
            if near is None:
                merged[one.name, one.side] = one
                continue
            old = merged.pop(near)
            side = "bilateral" if "bilateral" in (old.side, one.side) else old.side or one.side
            grown = replace(old, side=side, severity=old.severity or one.severity, kind=old.kind or one.kind)
            merged[one.name, side] = grown
    order = {name: n for n, name in enumerate(dict.fromkeys(f.name for f in unlike))}
    return tuple(sorted(merged.values(), key=lambda f: order[f.name]))


def _agree(one: str, other: str) -> bool:
    return one == other or not one or not other or "bilateral" in (one, other)
