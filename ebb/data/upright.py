"""Which way up a picture is: what its EXIF or XMP says, in every format, also where its pixels are not read."""

from __future__ import annotations

from io import BufferedIOBase

from PIL import Image

from ebb.store import png

ORIENTATION = 0x0112
"""The tag of EXIF and of TIFF."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""What brings a picture of each orientation upright (EXIF 2.32, §4.6.5); those above 4 lie on their side."""


TAGGED = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}
"""Where Pillow keeps what a file says, in `info`; TIFF has tags of its own."""


def orientation(image: Image.Image) -> int:
    """1 to 8, as the EXIF or else the XMP says; 1 where neither does, or what is said cannot be read."""
    if image.format != "TIFF" and TAGGED.isdisjoint(image.info):
        return 1
    try:
        found = Image.Image.getexif(image).get(ORIENTATION)  # PNG's own would decode it
    except Exception:  # nearly every type is raised on damaged tags, and these are no reason to lose the pixels
        return 1
    return found if isinstance(found, int) and found in TURNS else 1


def upright_size(image: Image.Image, file: BufferedIOBase) -> tuple[int, int]:
    """Width and height of an image that is open and not read yet, once it is upright."""
    if image.format == "PNG" and _tagged_late(file):
        image.load()
    width, height = image.size
    # Pillow has exchanged the sides by the tag of a TIFF, not by its XMP
    lies = orientation(image) > 4 and ORIENTATION not in getattr(image, "tag_v2", ())
    return (height, width) if lies else (width, height)


def _tagged_late(file: BufferedIOBase) -> bool:
    """Whether a PNG has EXIF or text behind its pixels, which Pillow only meets when it has decoded them."""
    place, pixels, late = file.tell(), False, False
    for kind, _ in png.chunks(file):
        pixels |= kind == b"IDAT"
        late |= pixels and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt")
    file.seek(place)
    return late


def upright(image: Image.Image) -> tuple[Image.Image, bool]:
    """The image with its pixels read, upright, and whether it had to be turned."""
    if image.format == "TIFF":  # Pillow turns it while it reads it, and forgets how it lay
        turn = orientation(image)
        image.load()
        return image, turn > 1
    image.load()
    turn = orientation(image)
    return (image.transpose(TURNS[turn]), True) if turn > 1 else (image, False)
