"""Pictures for the eye: 8- and 16-bit grey, marked as synthetic, and contact sheets with labels."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from vlgen.files import compact

if TYPE_CHECKING:
    from PIL import Image

PACKET = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    ' Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>'
    "</rdf:RDF></x:xmpmeta>"
)


def picture(x: Tensor, bits: int) -> Image.Image:
    """(H, W) in [0, 1] as an 8- or 16-bit grey PIL image."""
    import numpy as np
    from PIL import Image

    levels = (x.double().clamp(0, 1) * (2**bits - 1)).round().numpy()
    return Image.fromarray(levels.astype(np.uint8 if bits == 8 else np.uint16))


def png(image: Image.Image, record: Mapping[str, object]) -> bytes:
    """The bytes of a PNG file with its provenance in a text chunk, and the IPTC mark of generated media in XMP."""
    from PIL.PngImagePlugin import PngInfo

    chunks, file = PngInfo(), io.BytesIO()
    chunks.add_itxt("vlgen", compact(record))
    chunks.add_itxt("XML:com.adobe.xmp", PACKET)
    image.save(file, "PNG", pnginfo=chunks)
    return file.getvalue()


def sheet(
    rows: Sequence[Sequence[Tensor]], labels: Sequence[str] = (), *, columns: Sequence[str] = (), margin: int = 4
) -> Image.Image:
    """A contact sheet: rows of images (1, H, W) in [0, 1] of one size, each row after its label, as 8-bit grey.

    columns  what stands above them, one line each
    """
    from PIL import Image, ImageDraw, ImageFont

    sizes = {tuple(x.shape) for row in rows for x in row}
    if len(sizes) != 1 or (labels and len(labels) != len(rows)):
        raise ValueError(
            f"a sheet of image shapes {sorted(sizes)} with {len(labels)} labels: give one shape and one label a row"
        )
    _, height, width = sizes.pop()
    letters = max(10, min(16, height // 8))
    font = ImageFont.load_default(letters)
    column = max(width, 120) if labels else 0
    head = 3 * letters // 2 if columns else 0
    whole = Image.new(
        "L",
        (column + margin + max(map(len, rows)) * (width + margin), head + margin + len(rows) * (height + margin)),
        255,
    )
    pen = ImageDraw.Draw(whole)
    for i, words in enumerate(columns):
        pen.text((column + margin + i * (width + margin), margin), words, fill=0, font=font)
    for j, row in enumerate(rows):
        top, text = head + margin + j * (height + margin), ""
        for word in labels[j].split() if labels else ():
            longer = f"{text.rpartition(chr(10))[2]} {word}".strip()
            text += (" " if pen.textlength(longer, font) <= column - margin else "\n") * bool(text) + word
        pen.multiline_text((margin, top), text, fill=0, font=font, spacing=2)
        for i, x in enumerate(row):
            whole.paste(picture(x[0].detach().cpu(), 8), (column + margin + i * (width + margin), top))
    return whole
