"""The small words that decide what a sentence says of a finding: denial, doubt, side, degree."""

from __future__ import annotations

from vlgen.findings import either
from vlgen.report.lexicon import Lexicon

# NegEx's kinds of cue (Chapman et al. 2001): no = denies what follows, was = denies what came before, so for doubt.
CUES: Lexicon[str] = Lexicon(
    (phrase, kind)
    for kind, phrases in {
        "no": "no|without|negative for|free of|free from|absence of|devoid of|clear of|deny|denied|resolved"
        "|resolution of|clearing of|rule out|ruled out for|nor|neither|lack of|not|never|removal of|rather than"
        "|no evidence of|no sign of|unremarkable for|w o|interval resolution of|no longer|negative|exclude"
        "|to exclude|no evidence for|non|no definite|without evidence of|cleared of|not have|absent|fail to show"
        "|no suggestion of",
        "was": "not seen|not identified|not evident|not present|not visualized|not demonstrated|not appreciated"
        "|not detected|not noted|not observed|not visible|not apparent|not found|has resolved|have resolved"
        "|now resolved|unlikely|not likely|is absent|are absent|no longer seen|no longer present"
        "|no longer visualized|no longer evident|no longer identified|no longer visible|ruled out|been excluded"
        "|is excluded|are excluded|none|has cleared|have cleared|not definitely seen|not clearly seen|not confirmed"
        "|not suspected|completely resolved|no longer appreciated|not evidenced|been removed"
        "|not definitely identified|: negative|: absent|: no",
        "may": "suggestive of|suggesting|suggest|possible|possibly|may represent|may be|may reflect|may|might"
        "|could represent|could be|could reflect|could|cannot exclude|can not exclude|cannot rule out"
        "|can not rule out|cannot be certain|not exclude|difficult to exclude|questionable|question of|question"
        "|suspiciou for|suspicious for|suspicion of|suspicion for|suspected|suspect|concerning for|concern for"
        "|concern of|worrisome for|equivocal|uncertain|perhaps|potentially|potential|differential|not rule out"
        "|cannot completely exclude|cannot entirely exclude|cannot be used to exclude|not completely exclude"
        "|raise the possibility of|possibility of|not necessarily",
        "perhaps": "cannot be excluded|can not be excluded|not excluded|is possible|are possible|is suspected"
        "|are suspected|cannot be ruled out|can not be ruled out|is questionable|are questionable|is questioned"
        "|not be excluded|not entirely excluded|cannot be entirely excluded|cannot be completely excluded"
        "|not be entirely excluded|not be completely excluded|not be ruled out|also possible|a possibility"
        "|difficult to exclude entirely|is uncertain|is equivocal|remain possible|cannot excluded|is not excluded",
        "moot": "may not be|might not be|can be missed|may be missed|may be obscured",
        "or": "versus|vs",
        "skip": "to identify|evaluate for|to evaluate|assess for|history of|screening for|evaluation for"
        "|evaluation of|looking for|correlate for|correlate clinically for|clinical correlation for"
        "|clinical concern for|in the setting of|if there is|h o|prior history of|known history of|risk of|r o",
        "none": "no change|no significant change|no interval change|no significant interval change|without change"
        "|without significant change|no increase in|not changed|not significantly changed|not only|not cause"
        "|no appreciable change|without interval change|no substantial change|no short interval change|not increased"
        "|without significant interval change|no definite change|no detrimental change|no worsening of"
        "|no convincing change|no further|no improvement in|not improved|no new or|no real change|no gross change",
        "stop": "but|however|although|though|except|apart from|aside from|other than|otherwise|with the exception of"
        "|yet|which|there is|there are|there has|there have|there was|there remain|while|wherea|besides|in addition"
        "|beyond|despite|nevertheless|is there|secondary to|is noted in",
    }.items()
    for phrase in phrases.split("|")
)
OPENERS = frozenset(
    either(
        "small|mild|moderate|minimal|trace|tiny|stable|unchanged|persistent|chronic|old|healed|there|subtle"
        "|slight|scattered|minor|increased|improved|decreased|worsening|mildly"
    )
)
GRADES = {
    **dict.fromkeys(either("borderline|small|mild|minimal|trace|tiny|slight|subtle|minor|faint|mildly|slightly"
        "|minimally|little"), "mild"),
    **dict.fromkeys(["moderate", "moderately", "medium"], "moderate"),
    **dict.fromkeys(either("large|severe|severely|massive|marked|markedly|extensive|gross|grossly|huge"), "severe"),
}  # fmt: skip
SIDES = {
    "left": "left", "lingula": "left", "lingular": "left", "right": "right", "leftward": "", "lt": "left",
    "rt": "right",
    **dict.fromkeys(either("bilateral|bilaterally|both|bibasilar|bibasal|biapical|bihilar|bilat|biba"), "bilateral"),
}  # fmt: skip
# Said before or behind what they qualify.
EITHER = frozenset(("resolved", "suspected", "questioned", "possible", "questionable"))
NOT = frozenset(("not", "no", "without", "nor"))
MAYBE = frozenset(("may", "possibly", "could", "questionably", "might", "perhaps", "possible"))
VERBS = frozenset(("is", "are", "was", "were", "has", "have", "appear", "remain", "show", "demonstrate"))
WALLS = frozenset(
    (",", ";", ":", "(", ")", "?", "and", "or", "with", "without", "but", "is", "are", "has", "was", "nor", "plus")
)
# What has no side, or whose side is not the patient's.
MIDLINE = frozenset(
    either(
        "cardiomegaly|emphysema|COPD|ARDS|heart failure|scoliosis|kyphosis|degenerative change|osteopenia"
        "|tortuous aorta|atherosclerosis|hyperinflation|low lung volumes|pulmonary hypertension|pericardial effusion"
        "|pacemaker|sternotomy|endotracheal tube|pneumoperitoneum|widened mediastinum|hernia|pituitary tumor"
    )
)
