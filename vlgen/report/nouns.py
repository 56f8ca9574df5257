"""The words for composing: nouns of findings, and what a normal study says."""

from __future__ import annotations

from vlgen.findings import either

# (finding, kind) -> nouns; "~" before a noun that takes an article.
NOUNS: dict[tuple[str, str], tuple[str, ...]] = {
    ("pleural effusion", ""): ("~pleural effusion", "~pleural effusion", "~effusion", "pleural fluid"),
    ("pneumothorax", ""): ("~pneumothorax",),
    ("atelectasis", ""): ("atelectasis", "atelectasis", "atelectatic change"),
    ("consolidation", ""): ("consolidation", "consolidation", "airspace consolidation", "airspace disease"),
    ("infiltration", ""): ("infiltration", "~infiltrate", "~pulmonary infiltrate", "infiltrates"),
    ("opacity", ""): ("~opacity", "opacification"),
    ("pneumonia", ""): ("pneumonia", "pneumonia", "pneumonia", "pneumonic infiltrates"),
    ("pneumonia", "bacterial"): ("bacterial pneumonia", "bacterial pneumonia", "pneumonia, bacterial",
        "pneumonia of bacterial origin"),
    ("pneumonia", "viral"): ("viral pneumonia", "viral pneumonia", "viral pneumonitis", "pneumonia of viral origin"),
    ("pneumonia", "covid-19"): ("COVID-19 pneumonia", "COVID-19 pneumonia", "COVID pneumonia", "SARS-CoV-2 pneumonia",
                                "pneumonia due to COVID-19", "COVID-19"),
    ("pneumonia", "pneumocystis"): ("pneumocystis pneumonia", "Pneumocystis jirovecii pneumonia"),
    ("edema", ""): ("edema", "pulmonary edema", "pulmonary edema"),
    ("congestion", ""): ("pulmonary vascular congestion", "vascular congestion"),
    ("cardiomegaly", ""): ("cardiomegaly", "cardiomegaly", "~enlarged heart", "cardiac enlargement",
        "~enlarged cardiac silhouette"),
    ("nodule", ""): ("~nodule", "~nodule", "~pulmonary nodule"),
    ("mass", ""): ("~mass", "~mass lesion"),
    ("mass", "benign"): ("~benign mass", "~benign mass", "~benign mass lesion"),
    ("mass", "malignant"): ("~malignant mass", "~malignant mass", "~malignant mass lesion"),
    ("pleural thickening", ""): ("pleural thickening", "pleural thickening", "thickening of the pleura"),
    ("emphysema", ""): ("emphysema", "emphysema", "emphysematous change"),
    ("fibrosis", ""): ("fibrosis", "pulmonary fibrosis", "fibrotic change"),
    ("hernia", ""): ("~hernia",),
    ("hernia", "hiatal"): ("~hiatal hernia", "~hiatus hernia"),
    ("ARDS", ""): ("ARDS", "acute respiratory distress syndrome"),
    ("granuloma", ""): ("~granuloma", "~calcified granuloma"),
    ("fracture", ""): ("~fracture", "~rib fracture"),
    ("scoliosis", ""): ("scoliosis",),
    ("tuberculosis", ""): ("tuberculosis",),
    ("endotracheal tube", ""): ("~endotracheal tube", "~ET tube"),
    ("catheter", ""): ("~catheter", "~central venous catheter"),
    ("pacemaker", ""): ("~pacemaker",),
    ("bulla", ""): ("~bulla",),
    ("cavity", ""): ("~cavity", "~cavitary lesion"),
    ("glioma", ""): ("~glioma", "~glioma", "~glial tumor"),
    ("meningioma", ""): ("~meningioma", "~meningioma", "~meningeal tumor"),
    ("pituitary tumor", ""): ("~pituitary tumor", "~pituitary tumor", "~pituitary adenoma", "~tumor of the pituitary"),
    ("tumor", ""): ("~tumor", "~brain tumor", "~neoplasm", "~intracranial tumor"),
    ("aneurysm", ""): ("~aneurysm",),
    ("pericardial effusion", ""): ("~pericardial effusion",),
}  # fmt: skip

# Findings that have a size rather than a degree.
SIZED = frozenset(
    either(
        "pleural effusion|pneumothorax|mass|nodule|hernia|opacity|glioma|meningioma|pituitary tumor|tumor|cavity"
        "|bulla|granuloma|pericardial effusion|aneurysm"
    )
)

PRESENT_CLAUSES: dict[str, tuple[str, ...]] = {
    "cardiomegaly": ("The heart is {how}enlarged.", "Heart size is {how}enlarged.",
        "The cardiac silhouette is {how}enlarged.",
                     "{how}enlarged heart."),
    "hyperinflation": ("The lungs are {how}hyperinflated.",),
    "low lung volumes": ("Lung volumes are low.", "Low lung volumes."),
    "endotracheal tube": ("The patient is intubated.", "Endotracheal tube in place."),
}  # fmt: skip
ABSENT_CLAUSES: dict[str, tuple[str, ...]] = {
    "cardiomegaly": ("Heart size is normal.", "The heart is normal in size.", "The heart is not enlarged.",
                     "The cardiac silhouette is within normal limits.", "Heart size within normal limits.",
                     "The cardiomediastinal silhouette is unremarkable.", "Normal heart size and mediastinal contours.",
                     "The heart and mediastinum are normal.", "Cardiac contours are normal."),
    "consolidation": ("No focal consolidation.", "No airspace consolidation.", "No focal airspace disease.",
                      "No focal air space consolidation is identified."),
    "fracture": ("Osseous structures are intact.", "No acute fracture.", "No acute bony abnormality."),
    "opacity": ("No focal opacity.", "The lungs are clear.", "Lungs are clear bilaterally.",
                "The lung fields are clear.",
                "No focal airspace opacity.", "Both lungs are clear and expanded.", "Clear lungs."),
    "pleural effusion": ("The pleural spaces are clear.", "Costophrenic angles are sharp.",
                         "No large pleural effusion.",
                         "No pleural fluid collection.", "The lateral costophrenic angles are sharp."),
    "pneumothorax": ("No pneumothorax is visualized.", "No visible pneumothorax.", "No pneumothorax is identified."),
    "atelectasis": ("No focal atelectasis.", "The lungs are well expanded without atelectasis."),
}  # fmt: skip

# What may be denied beside another finding that is present: so rare that a report's silence is absence.
RARE: dict[str, tuple[str, ...]] = {"cxr": ("pneumothorax", "fracture", "hernia"), "ct": ("pneumothorax",)}

# What may be denied where a study is normal.
NEGATIVES: dict[str, tuple[str, ...]] = {
    "cxr": ("pneumothorax", "pleural effusion", "consolidation", "pneumonia", "edema", "cardiomegaly", "nodule",
        "mass", "atelectasis",
            "infiltration", "fracture"),
    "ct": ("pneumothorax", "pleural effusion", "consolidation", "pneumonia", "nodule", "mass"),
    "mri": ("glioma", "meningioma", "pituitary tumor", "tumor"),
    "us": ("mass",),
}  # fmt: skip

NORMAL: dict[str, tuple[str, ...]] = {
    "cxr": ("No acute cardiopulmonary abnormality.", "Lungs are clear.", "Normal chest.", "No acute finding.",
        "No acute findings.",
            "The lungs are clear.", "Normal chest radiograph.", "No acute cardiopulmonary disease.",
            "Unremarkable chest.",
            "No active disease.", "Normal study.", "No acute disease.", "No finding.",
            "No acute cardiopulmonary process.",
            "The chest is normal.", "Heart size is normal and the lungs are clear.",
            "No radiographic evidence of disease.",
            "Both lungs are clear.", "No significant abnormality."),
    "ct": ("No acute abnormality.", "Normal chest CT.", "No significant abnormality.", "The lungs are clear.",
        "Normal study."),
    "mri": ("No tumor.", "No tumor.", "Normal brain MRI.", "No intracranial mass.", "No mass lesion.", "Normal study.",
            "No intracranial tumor.", "No tumor is seen.", "No abnormality.", "Negative for tumor.",
            "No evidence of tumor.",
            "Unremarkable study.", "No brain tumor."),
    "us": ("No mass.", "No mass.", "Normal breast ultrasound.", "Normal breast.", "No breast mass.", "No mass is seen.",
           "No suspicious mass.", "No abnormality.", "Negative for mass.", "Normal study.", "No evidence of a mass."),
    "": ("No acute abnormality.", "Normal study.", "No significant abnormality.", "Unremarkable study."),
}  # fmt: skip
