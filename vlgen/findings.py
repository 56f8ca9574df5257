"""The vocabulary of findings: canonical names, the phrases by which reports name them, and where they belong."""

from __future__ import annotations

from dataclasses import dataclass

STATUSES = ("present", "absent", "uncertain")
SIDES = ("", "left", "right", "bilateral")
SEVERITIES = ("", "mild", "moderate", "severe")


@dataclass(frozen=True)
class Finding:
    """One finding of a report.

    name      canonical name, a key of VOCABULARY: "pleural effusion"
    status    "present", "absent" or "uncertain"
    side      "", "left", "right" or "bilateral": the patient's side
    severity  "", "mild", "moderate" or "severe"; small and large are mild and severe
    kind      a qualifier that changes the picture: "bacterial", "malignant", "hiatal"
    """

    name: str
    status: str = "present"
    side: str = ""
    severity: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Term:
    """A finding of the vocabulary.

    name        canonical name
    modalities  names of the modalities that show it
    words       phrases that name it, singular, lower case; ".." stands for a few words ("heart .. enlarged")
    normal      phrases of normality that state its absence ("heart .. normal")
    kinds       qualifiers in front of the noun, as (word, kind)
    """

    name: str
    modalities: tuple[str, ...]
    words: tuple[str, ...]
    normal: tuple[str, ...] = ()
    kinds: tuple[tuple[str, str], ...] = ()


def either(alternatives: str) -> tuple[str, ...]:
    """The phrases of a table's cell, written "one|other"; none for an empty cell."""
    return tuple(alternatives.split("|")) if alternatives else ()


def _term(name: str, where: str, words: str, normal: str = "", kinds: str = "") -> Term:
    """A row of the table: alternatives separated by "|", kinds written "word" or "word=kind"."""
    pairs = (kind.partition("=") for kind in either(kinds))
    return Term(
        name,
        tuple(where.split()),
        (name.lower(), *either(words)),
        either(normal),
        tuple((word, kind or word) for word, _, kind in pairs),
    )


_CLEAR = (
    "lung clear|lung .. clear|lung field .. clear|clear lung|lung unremarkable|lung .. unremarkable|lung .. normal"
    "|normal lung|lung free of|lung bilaterally clear|pulmonary parenchyma clear|airspace clear"
)
_HEART = (
    "heart normal|heart .. normal|heart .. unremarkable|cardiac silhouette .. normal"
    "|cardiac silhouette .. unremarkable|cardiomediastinal silhouette .. normal"
    "|cardiomediastinal silhouette .. unremarkable|cardiomediastinal .. normal|cardiomediastinal .. unremarkable"
    "|cardiac contour .. normal|cardiac size .. normal|cardiac .. normal|normal heart|normal cardiac"
    "|normal cardiomediastinal|normal sized heart|unremarkable cardiomediastinal|unremarkable cardiac"
    "|cardio mediastinal .. normal|unremarkable heart|cardiac and mediastinal .. unremarkable"
)
_BIG = (
    "enlarged heart|heart enlarged|heart .. enlarged|enlarged cardiac silhouette|enlarged cardiac"
    "|cardiac enlargement|cardiac silhouette .. enlarged|cardiomediastinal silhouette .. enlarged"
    "|cardiac shadow .. enlarged|enlarged cardiomediastinal|enlargement of cardiac|enlargement of the cardiac"
    "|enlargement of the heart|enlargement of heart|heart size enlarged|cardiac size .. enlarged"
    "|cardiac contour .. enlarged|large heart|heart .. large|prominent heart|cardiac silhouette .. large"
    "|increased heart size|heart size .. increased|increased cardiac size|borderline heart|borderline cardiac"
    "|heart .. borderline|cardiac silhouette .. borderline|prominent cardiac silhouette|heart .. prominent"
    "|cardiac silhouette .. prominent"
)
_INFECTION = (
    "bacterial|viral|covid 19=covid-19|covid=covid-19|sars cov 2=covid-19|coronavirus=covid-19|fungal|aspiration"
    "|pneumocystis|pneumocystis jirovecii=pneumocystis|pneumocystis jiroveci=pneumocystis|tuberculous|lobar"
)

# fmt: off
_TABLE = (
    _term("pleural effusion", "cxr ct", "effusion|pleural fluid|hydrothorax|pleural and fluid", "pleural space .. clear"
          "|costophrenic angle .. sharp|costophrenic angle .. clear|sharp costophrenic angle"
          "|clear costophrenic angle"),
    _term("pneumothorax", "cxr ct", "pneumothoraces|ptx|pleural air|hydropneumothorax", kinds="tension"),
    _term("atelectasis", "cxr ct", "atelectases|atelectatic change|atelectatic|lobar collapse|lobe collapse"
          "|collapse of lobe|collapsed lung|collapse of .. lobe|collapse of .. lung"),
    _term("consolidation", "cxr ct", "airspace disease|air space disease|airspace process|airspace consolidation"
          "|air space consolidation|consolidative opacity|consolidative change|consolidative process"
          "|consolidated lung|airspace opacity|air space opacity|airspace opacification", _CLEAR),
    _term("infiltration", "cxr ct", "infiltrate|infiltrative change"),
    _term("opacity", "cxr ct", "opacification|ground glass opacity|ground glass|haziness|lung marking increased"
          "|patchy density|hazy density|density|airspace density|interstitial opacity|patchy shadow|shadowing", _CLEAR),
    _term("pneumonia", "cxr ct", "pneumonic infiltrate|pneumonitis|bronchopneumonia|covid 19|covid|sars cov 2"
          "|pneumonic consolidation", kinds=_INFECTION),
    _term("edema", "cxr ct", "oedema|pulmonary edema|pulmonary oedema|interstitial edema|alveolar edema|lung edema"
          "|interstitial oedema"),
    _term("congestion", "cxr ct", "vascular congestion|venous congestion|pulmonary congestion"
          "|pulmonary vascular congestion|pulmonary venous congestion|vascular engorgement|cephalization"
          "|pulmonary venous hypertension|vascularity .. increased|engorged|vascular prominence"
          "|vascularity .. prominent|vasculature .. prominent|prominent .. vasculature|prominent .. vascularity"
          "|prominence of .. vasculature|increased vascularity|increased pulmonary vascularity"
          "|increased lung vascularity|vasculature .. congested",
          "vascularity .. normal|vasculature .. normal|vascular engorgement .. normal"
              "|normal vascularity|normal pulmonary vascularity|normal pulmonary vasculature"
              "|vasculature .. unremarkable|vascularity .. unremarkable|pulmonary vascular .. normal"),
    _term("cardiomegaly", "cxr ct", _BIG, _HEART),
    _term("nodule", "cxr ct", "nodularity|nodular opacity|nodular density|pulmonary nodule|micronodule",
          kinds="calcified|solid|spiculated"),
    _term("mass", "cxr ct us mri", "mass lesion|masslike|mass like|breast lesion|breast lump", kinds="benign"
          "|malignant|benign appearing=benign|probably benign=benign|spiculated"),
    _term("pleural thickening", "cxr ct", "thickening of pleura|thickened pleura|pleural scarring|pleuroparenchymal"
          "|apical capping|apical cap|thickening of the pleura|pleural parenchymal scarring|pleural .. thickening"),
    _term("emphysema", "cxr ct", "emphysematous|emphysematous change|emphysematous lung", kinds="bullous"
          "|centrilobular|paraseptal"),
    _term("fibrosis", "cxr ct", "fibrotic change|fibrotic|pulmonary fibrosis|interstitial fibrosis|fibrotic scarring"),
    _term("hernia", "cxr ct", "hiatal hernia|hiatus hernia|diaphragmatic hernia|herniation|hernium",
          kinds="hiatal|hiatus=hiatal|diaphragmatic"),
    _term("ARDS", "cxr ct", "acute respiratory distress syndrome|respiratory distress syndrome"),
    _term("hyperinflation", "cxr ct", "hyperinflated|hyperexpansion|hyperexpanded|overinflation|overinflated"
          "|hyperaeration|hyperaerated|hyperlucent|hyperlucency|flattened diaphragm|flattening of diaphragm"
          "|flattening of the diaphragm|flattened hemidiaphragm|flattening of the hemidiaphragm"
          "|diaphragm .. flattened|hyper expanded|over expanded|overexpanded|hyper inflated|over inflated"
          "|large lung volume|lung volume .. large|hyperdistention|hyperdistended|hyperventilated"),
    _term("COPD", "cxr ct", "chronic obstructive pulmonary disease|obstructive lung disease"
          "|obstructive pulmonary disease|chronic obstructive"),
    _term("interstitial disease", "cxr ct", "interstitial lung disease|interstitial marking|interstitial prominence"
          "|interstitial thickening|interstitial change|interstitial pattern|reticular opacity|reticular marking"
          "|interstitial pulmonary disease|bronchovascular marking|prominent marking|increased marking"),
    _term("granuloma", "cxr ct", "calcified granuloma|granulomatous disease|granulomatous change"
          "|granulomatous calcification|granulomatous infection|granulomatous process|granulomata"),
    _term("scarring", "cxr ct",
        "pleural scarring|pleural parenchymal scarring|pleuroparenchymal scarring|scar|cicatrix|scar tissue"),
    _term("fracture", "cxr ct", "rib fracture|fractured rib|fractured|broken rib|compression deformity",
          "rib intact|bony structure intact|bony thorax intact|osseous structure intact|bony structure .. intact"
          "|osseous structure .. intact|bony thorax .. intact"),
    _term("scoliosis", "cxr ct", "scoliotic curvature|scoliotic|dextroscoliosis|levoscoliosis|kyphoscoliosis"
          "|dextrocurvature|levocurvature|curvature of spine|curvature of the spine|curvature of the thoracic spine"),
    _term("kyphosis", "cxr ct", "kyphotic|kyphoscoliosis"),
    _term("degenerative change", "cxr ct",
        "degeneration|degenerative disease|degenerative disc|degenerative disk|spondylosis|degenerative|osteophyte"
        "|osteophytosis|arthritic change|arthritis|osteoarthritis|osteoarthritic|spurring|arthropathy"
        "|degenerative spurring|osteophytic|spondylitic|hypertrophic change|endplate spurring"),
    _term("osteopenia", "cxr ct", "demineralization|osteoporosis|osteopenic|demineralized"),
    _term("tortuous aorta", "cxr ct", "aortic tortuosity|tortuosity|aorta .. tortuous|ectatic aorta|aorta .. ectatic"
          "|aortic ectasia|tortuous|ectasia|unfolded aorta|aorta .. unfolded|unfolding|uncoiled aorta|ectatic"),
    _term("atherosclerosis", "cxr ct", "aortic calcification|atherosclerotic|calcified aorta|aorta .. calcified"
          "|atherosclerotic calcification|vascular calcification|calcification of aorta|calcification of the aorta"
          "|calcification .. aorta|calcified aortic|aortic atherosclerosis|coronary calcification"),
    _term("lymphadenopathy", "cxr ct", "adenopathy|enlarged lymph node"),
    _term("diaphragm elevation", "cxr ct", "elevated hemidiaphragm|elevated diaphragm|elevation of hemidiaphragm"
          "|hemidiaphragm .. elevated|eventration|elevation of the hemidiaphragm|elevation of the left hemidiaphragm"
          "|elevation of the right hemidiaphragm|diaphragm .. elevated|diaphragmatic elevation"),
    _term("blunted costophrenic angle", "cxr", "costophrenic angle .. blunted|blunting|costophrenic blunting"
          "|costophrenic angle blunting|blunted costophrenic|blunted"),
    _term("widened mediastinum", "cxr", "mediastinal widening|mediastinum .. widened|mediastinal enlargement"),
    _term("low lung volumes", "cxr", "low lung volume|lung volume .. low|hypoinflation|hypoinflated|hypoventilation"
          "|low volume|shallow inspiration|hypoventilatory|decreased lung volume|lung volume .. decreased"),
    _term("pulmonary hypertension", "cxr ct", "pulmonary arterial hypertension|enlarged pulmonary artery"),
    _term("heart failure", "cxr ct", "congestive heart failure|chf|cardiac failure|failure|cardiac decompensation"),
    _term("pericardial effusion", "cxr ct", "pericardial fluid"),
    _term("subcutaneous emphysema", "cxr ct", "subcutaneous air|subcutaneous gas|soft tissue emphysema"),
    _term("pneumoperitoneum", "cxr ct", "free air|free intraperitoneal air|subdiaphragmatic air"
          "|free subdiaphragmatic|intraperitoneal air|free intra abdominal air|air under diaphragm"
          "|air under the diaphragm"),
    _term("bronchiectasis", "cxr ct", "bronchiectatic"),
    _term("bulla", "cxr ct", "bullae|bullous disease|bullous change|bleb"),
    _term("cavity", "cxr ct", "cavitation|cavitary|cavitary lesion"),
    _term("tuberculosis", "cxr ct", "tb|tuberculous disease"),
    _term("metastasis", "cxr ct mri", "metastases|metastatic|metastatic disease"),
    _term("aneurysm", "cxr ct mri", "aortic aneurysm"),
    _term("endotracheal tube", "cxr ct", "et tube|ett|tracheostomy|tracheostomy tube|intubated"),
    _term("catheter", "cxr ct", "central line|picc|picc line|central venous|venous catheter|central venous catheter"
          "|ij line|central venous line|jugular line|mediport|port a cath|infusion port|dialysis catheter"),
    _term("pacemaker", "cxr ct", "aicd|icd|defibrillator|pacer|pacing lead|pacemaker lead"),
    _term("sternotomy", "cxr ct", "sternotomy wire|cabg|sternal wire|coronary artery bypass"),
    _term("calcification", "cxr ct", "calcified|calcific|calcified lymph node|calcified node"),
    _term("surgical clip", "cxr ct",
        "surgical suture|suture|surgical staple|surgical hardware|surgical screw|clip|screw"),
    _term("glioma", "mri", "astrocytoma|glioblastoma|oligodendroglioma|gliomatous tumor|glial tumor|glial tumour"),
    _term("meningioma", "mri", "meningeal tumor|meningeal tumour"),
    _term("pituitary tumor", "mri", "pituitary tumour|pituitary adenoma|tumor of the pituitary"
          "|pituitary macroadenoma|tumour of the pituitary|pituitary microadenoma|pituitary mass|pituitary neoplasm"
          "|pituitary lesion"),
    _term("tumor", "mri ct", "tumour|neoplasm|brain tumor|brain tumour|neoplastic lesion|intracranial tumor"
          "|intracranial tumour|intracranial mass|intracranial neoplasm"),
)
# Phrases that hold a finding's word and name something else; they are read over.
NOT_FINDINGS = (
    "cystic fibrosis", "joint effusion", "knee effusion", "bone density", "breast density", "soft tissue density",
    "mass effect", "inguinal hernia", "disc herniation", "failure to", "respiratory failure", "renal failure",
    "soft tissue mass effect", "fat density", "prosthetic failure", "hernia repair", "hepatic density",
    "metallic density", "calcific density", "calcified density", "bony density", "proton density", "peripheral edema",
    "soft tissue edema", "leg edema", "body mass", "muscle mass", "history of", "tb test", "mass index",
)
# fmt: on

VOCABULARY: dict[str, Term] = {term.name: term for term in _TABLE}
