"""A tree of DICOM files, found by an id that a table knows them by; the ids themselves go nowhere else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vlgen import dicom
from vlgen.files import Refused

NO_IMAGES = ("SEG", "RTDOSE")  # modalities that have rows and columns, of labels or dose


@dataclass(frozen=True, repr=False)
class Tree:
    """The DICOM images below a folder by one of their ids; reading it reads headers, never pixels.

    by_id    the images with an id
    others   ids that only other objects have, such as a report or a plan
    refused  why files that begin as DICOM are left out, and how many for each reason
    """

    by_id: dict[str, list[Path]]
    others: frozenset[str]
    refused: tuple[tuple[str, int], ...]

    @classmethod
    def read(cls, folder: Path, key: str) -> Tree:
        """The images below a folder by the attribute `key`, such as SOPInstanceUID; links out of it are not followed.

        Files are told by their content: whatever has no DICOM preamble is passed over, and so are DICOM objects that
        hold no image: directories, structured reports, plans, segmentations. Of copies of one image one is taken.
        """
        found: dict[str, list[Path]] = {}
        others, instances = set[str](), set[str]()
        refused, root = Counter[str](), folder.resolve()
        for path in sorted(folder.rglob("*")):
            if not path.is_file() or not path.resolve().is_relative_to(root) or not dicom.is_dicom(path):
                continue
            try:
                ds = dicom.header(path, (key, "SOPClassUID", "SOPInstanceUID", "Modality", "Rows"))
                kind, directory = ds.get("SOPClassUID"), "DirectoryStorage" in _name(ds.file_meta)
                value, instance = (str(ds.get(name) or "").strip() for name in (key, "SOPInstanceUID"))
                rows, of = ds.get("Rows"), ds.get("Modality")
            except (Refused, AttributeError):
                refused["not a readable DICOM file"] += 1
                continue
            if directory:
                continue
            if not kind or (not rows and "Image" in kind.name):
                refused["not a readable DICOM file"] += 1
            elif not rows or of in NO_IMAGES:
                others.add(value)
            elif instance and instance in instances:
                refused["a copy of another DICOM file"] += 1
            else:
                instances.add(instance)
                found.setdefault(value, []).append(path)
        return cls(found, frozenset(others), tuple(sorted(refused.items())))

    def files(self, value: str) -> list[Path]:
        """The files with this id; Refused where there are none."""
        if not value.strip():
            raise Refused("no id")
        found = self.by_id.get(value.strip(), [])
        if not found:
            what = "image among the DICOM files" if value.strip() in self.others else "DICOM file in the folder"
            raise Refused(f"no {what} has this id")
        return found

    def left(self, used: Iterable[Path]) -> set[Path]:
        """The files that are not among those used."""
        return {path for paths in self.by_id.values() for path in paths} - set(used)


def _name(meta: object) -> str:
    """The name of the kind of object that a file says it holds."""
    kind = getattr(meta, "MediaStorageSOPClassUID", None)
    return str(getattr(kind, "keyword", ""))
