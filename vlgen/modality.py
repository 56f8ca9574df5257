"""What the numbers of an image mean: the unit of each modality, and its window onto [-1, 1]."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Modality:
    """An imaging modality: its name, the unit of its values, and the window that a backbone sees.

    name    short name, used in files and on the command line
    title   the words of a report: "chest radiograph"
    unit    physical unit of a value; "" where values are relative (0 darkest, 1 brightest)
    window  (low, high) in `unit`; encode maps it linearly onto [-1, 1]
    dicom   value of the DICOM attribute Modality (0008,0060)
    words   words by which a text names the modality, lower case
    """

    name: str
    title: str
    unit: str
    window: tuple[float, float]
    dicom: str
    words: tuple[str, ...]

    def encode(self, x: Tensor) -> Tensor:
        """Values in `unit` to [-1, 1]; what lies outside the window saturates, as in a viewer."""
        low, high = self.window
        return ((x - low) / (high - low) * 2 - 1).clamp(-1, 1)

    def decode(self, x: Tensor) -> Tensor:
        """[-1, 1] to values in `unit`; the inverse of encode inside the window."""
        low, high = self.window
        return (x + 1) / 2 * (high - low) + low


MODALITIES: dict[str, Modality] = {
    m.name: m
    for m in (
        Modality("cxr", "chest radiograph", "", (0.0, 1.0), "DX",
                 ("chest radiograph", "chest x-ray", "chest xray", "chest film", "cxr", "radiograph", "x-ray")),
        Modality("ct", "chest CT", "HU", (-1000.0, 500.0), "CT", ("computed tomography", "ct", "hrct")),
        Modality("mri", "brain MRI", "", (0.0, 1.0), "MR", ("magnetic resonance", "mri", "mr")),
        Modality("us", "breast ultrasound", "", (0.0, 1.0), "US", ("ultrasound", "sonogram", "sonography", "us")),
        Modality("pet", "PET", "SUV", (0.0, 15.0), "PT", ("positron emission", "pet", "fdg")),
    )
}  # fmt: skip


def modality(name: str) -> Modality:
    """The modality of that name; a ValueError lists what there is."""
    if name not in MODALITIES:
        raise ValueError(f"unknown modality {name!r}: choose one of {', '.join(MODALITIES)}")
    return MODALITIES[name]
