"""Names of the files that are not read, by their first bytes: other image formats, documents, videos, text.

The names are for messages. `sniff.detect_format` alone decides what is decoded.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from resnetlab.data.images.sniff import detect_format, is_certain

HEAD_BYTES = 1024
"""Bytes from which a file is named. Reading them takes as long as reading 32: a file system reads whole pages."""
CONVERT = "convert it to JPEG or PNG"
KNOWN_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".png", ".apng", ".webp", ".bmp", ".dib"),
    *(".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
}
"""Suffixes of images, in lower case. Files with these names are listed without being opened."""


@dataclass(frozen=True)
class FileType:
    """The kind of a file that is not read."""

    name: str
    """A format such as `HEIC`, or a noun such as `web page`."""
    is_image: bool = False
    """Whether it is an image, of a format that is not read."""
    remedy: str = ""
    """A remedy, as a clause in the imperative."""

    @property
    def has_own_line(self) -> bool:
        """Whether a list of what was left out names this kind, instead of counting it among files without images."""
        return self.is_image or self.remedy != "" or self == OVERLAY

    def reason(self) -> str:
        """Return the reason why one such file is not read, for an error message."""
        article = "an" if re.match(r"[aeio]|XML|SVG|HDF5|xz", self.name) else "a"
        is_read = f"an image in the format {self.name}, which is not read"
        text = is_read if self.is_image else f"{article} {self.name}, not an image"
        return f"{text}; {self.remedy}" if self.remedy else text

    def of_many(self) -> str:
        """Return the same reason for several files, for a list of what was left out."""
        text = f"{self.name}, which is not read" if self.is_image else self.name
        return f"{text}; {self.remedy}" if self.remedy else text


OVERLAY = FileType("overlay of predict --explain")
OTHER = FileType("file of another format")
EMPTY = FileType("empty file")
ZEROS = FileType("file of zero bytes only", remedy="copy or download it again")
TEXT = FileType("text file")
_HEIF = FileType("HEIC", True, "convert it with: magick FILE.heic FILE.jpg")
_RAW = "export it as JPEG or TIFF with a raw developer"
_VIDEO = FileType("video", remedy="save its frames as images, with: ffmpeg -i FILE %06d.png")
_JPEG2000 = FileType("JPEG 2000", True, CONVERT)
_ARCHIVE = "unpack it"


def _image(name: str, remedy: str = CONVERT) -> FileType:
    return FileType(name, is_image=True, remedy=remedy)


SIGNATURES: tuple[tuple[bytes, FileType], ...] = (
    (b"\0\0\0\x0cjP  \r\n\x87\n", _JPEG2000),
    (b"\xff\x4f\xff\x51", _JPEG2000),
    (b"\0\0\0\x0cJXL \r\n\x87\n", _image("JPEG XL")),
    (b"\xff\x0a", _image("JPEG XL")),
    (b"II\xbc\x01", _image("JPEG XR")),
    (b"8BPS", _image("PSD (Photoshop)")),
    (b"gimp xcf", _image("XCF (GIMP)")),
    (b"v/1\x01", _image("OpenEXR")),
    (b"#?RADIANCE", _image("Radiance HDR")),
    (b"#?RGBE", _image("Radiance HDR")),
    (b"P7\n", _image("PAM")),
    (b"PF\n", _image("PFM (colour floats)")),
    (b"\0\0\1\0", _image("ICO")),
    (b"icns", _image("ICNS")),
    (b"DDS ", _image("DDS")),
    (b"qoif", _image("QOI")),
    (b"FLIF", _image("FLIF")),
    (b"BPG\xfb", _image("BPG")),
    (b"SIMPLE  =", _image("FITS")),
    (b"NRRD0", _image("NRRD")),
    (b"\x59\xa6\x6a\x95", _image("Sun raster")),
    (b"\x01\xda\x00", _image("SGI")),
    (b"\x01\xda\x01", _image("SGI")),
    (b"AT&TFORM", _image("DjVu")),
    (b"\xd7\xcd\xc6\x9a", _image("WMF")),
    (b"II\x1a\0\0\0HEAPCCDR", _image("CRW (Canon raw)", _RAW)),
    (b"FUJIFILMCCD-RAW", _image("RAF (Fujifilm raw)", _RAW)),
    (b"IIRO", _image("ORF (Olympus raw)", _RAW)),
    (b"IIRS", _image("ORF (Olympus raw)", _RAW)),
    (b"MMOR", _image("ORF (Olympus raw)", _RAW)),
    (b"IIU\0", _image("RW2 (Panasonic raw)", _RAW)),
    (b"FOVb", _image("X3F (Sigma raw)", _RAW)),
    (b"\0MRM", _image("MRW (Minolta raw)", _RAW)),
    (b"%PDF", FileType("PDF document", remedy="render its pages as images, with: pdftoppm -png FILE.pdf NAME")),
    (b"%!PS", FileType("PostScript document", remedy="render it as an image")),
    (b"\xc5\xd0\xd3\xc6", FileType("PostScript document", remedy="render it as an image")),
    (b"\x1aE\xdf\xa3", _VIDEO),
    (b"\0\0\1\xba", _VIDEO),
    (b"\0\0\1\xb3", _VIDEO),
    (b"FLV\1", _VIDEO),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", _VIDEO),
    (b"OggS", FileType("video or sound")),
    (b"PK\3\4", FileType("ZIP archive or office document", remedy=_ARCHIVE)),
    (b"\x1f\x8b", FileType("gzip archive", remedy=_ARCHIVE)),
    (b"7z\xbc\xaf\x27\x1c", FileType("7z archive", remedy=_ARCHIVE)),
    (b"Rar!\x1a\x07", FileType("RAR archive", remedy=_ARCHIVE)),
    (b"BZh", FileType("bzip2 archive", remedy=_ARCHIVE)),
    (b"\xfd7zXZ\0", FileType("xz archive", remedy=_ARCHIVE)),
    (b"\x28\xb5\x2f\xfd", FileType("zstd archive", remedy=_ARCHIVE)),
    (b"\x93NUMPY", FileType("NumPy array", remedy="save its images as PNG")),
    (b"\x89HDF\r\n\x1a\n", FileType("HDF5 file", remedy="save its images as PNG")),
    (b"MATLAB 5.0", FileType("MATLAB file", remedy="save its images as PNG")),
    (b"PAR1", FileType("parquet file")),
    (b"SQLite format 3", FileType("SQLite database")),
    (b"\0\5\x16\7", FileType("macOS resource file (AppleDouble)")),
    (b"\0\5\x16\0", FileType("macOS resource file (AppleDouble)")),
    (b"version https://git-lfs", FileType("Git LFS pointer", remedy="fetch the file itself with: git lfs pull")),
    (b"/annex/objects/", FileType("git-annex pointer", remedy="fetch the file itself with: git annex get")),
)
"""First bytes of files that are not read."""
SUFFIXES = {".tga": _image("TGA"), ".pcx": _image("PCX"), ".pic": _image("PIC"), ".nii": _image("NIfTI")}
"""Images without first bytes that could identify them."""
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1", b"mif2"}
_DNG_VERSION, _SUB_IFDS, _SUBFILE_TYPE, _MAKE = 50706, 330, 254, 271


def identify(head: bytes, suffix: str = "") -> FileType:
    """Return the kind of a file that `detect_format` does not know, or of a camera's raw file in TIFF's structure.

    Args:
        head: The first bytes of the file, at most `HEAD_BYTES` of which are used.
        suffix: The suffix of its name, for formats without identifying bytes.
    """
    head = head[:HEAD_BYTES]
    if not head:
        return EMPTY
    if found := next((kind for signature, kind in SIGNATURES if head.startswith(signature)), None):
        return found
    tests: tuple[Callable[[bytes], FileType | None], ...] = (raw_photograph, _iso_media, _by_position, _markup)
    for test in tests:
        if found := test(head):
            return found
    if not head.strip(b"\0"):
        return ZEROS
    return SUFFIXES.get(suffix.lower()) or (TEXT if _is_text(head) else OTHER)


def left_out_type(path: Path) -> FileType | None:
    """Return the kind of a file that is to be left out of a listing, or `None` if it is to be read as an image.

    A file with a known suffix counts as an image without being opened, and so does a broken link; both are reported
    when they are read. Of other files, the first bytes decide.

    Raises:
        OSError: If the file cannot be examined.
    """
    if path.suffix.lower() in KNOWN_SUFFIXES:
        return None if path.is_file() or path.is_symlink() else FileType("special file")
    if not path.is_file():
        return FileType("broken link" if path.is_symlink() else "special file")
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        return FileType(f"file that cannot be read ({error.strerror or error})")
    kind = detect_format(head)
    if kind is not None and is_certain(head, kind) and not (kind == "TIFF" and raw_photograph(head)):
        return None
    return identify(head, path.suffix)


def raw_photograph(head: bytes) -> FileType | None:
    """Return the kind of a camera's raw file in the structure of a TIFF; its first image is often only a preview."""
    if head.startswith((b"II*\0", b"MM\0*")):
        if head[8:10] == b"CR":
            return _image("CR2 (Canon raw)", _RAW)
        tags = _first_tags(head)
        if _DNG_VERSION in tags:
            return _image("DNG (raw)", _RAW)
        if {_SUB_IFDS, _MAKE} <= tags.keys() and tags.get(_SUBFILE_TYPE) == 1:
            return _image("camera raw (NEF, ARW, …)", _RAW)
    return None


def _first_tags(head: bytes) -> dict[int, int]:
    """Return the tags of a TIFF's first directory and their values if these are single integers, as far as known."""
    order = "<" if head.startswith(b"II") else ">"
    tags: dict[int, int] = {}
    try:
        (start,) = struct.unpack_from(order + "I", head, 4)
        for entry in range(struct.unpack_from(order + "H", head, start)[0]):
            tag, kind = struct.unpack_from(order + "HH", head, start + 2 + 12 * entry)
            tags[tag] = struct.unpack_from(order + ("H" if kind == 3 else "I"), head, start + 10 + 12 * entry)[0]
    except struct.error:  # the directory ends after the first bytes
        pass
    return tags


def _iso_media(head: bytes) -> FileType | None:
    """Identify the family of MP4, which AVIF and HEIC belong to, by its brands."""
    if head[4:8] in (b"moov", b"mdat"):
        return _VIDEO
    if head[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(head[:4]), len(head))
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, end, 4))]
    if _AVIF_BRANDS & set(brands):
        return _image("AVIF")
    if _HEIF_BRANDS & set(brands):
        return _HEIF
    return _image("CR3 (Canon raw)", _RAW) if head[8:12] == b"crx " else _VIDEO


def _by_position(head: bytes) -> FileType | None:
    """Identify formats whose identifying bytes are not the first."""
    if head[128:132] == b"DICM":
        return _image("DICOM", "export it as PNG (its window and level decide the grey values)")
    if head[257:262] == b"ustar":
        return FileType("tar archive", remedy=_ARCHIVE)
    if head[344:348] in (b"n+1\0", b"ni1\0"):
        return SUFFIXES[".nii"]
    if head.startswith(b"RIFF"):
        return {b"AVI ": _VIDEO, b"WAVE": FileType("sound recording")}.get(head[8:12])
    if head[188:189] == b"G" and head.startswith(b"G") and head[376:377] == b"G":
        return _VIDEO  # an MPEG transport stream
    return None


def _markup(head: bytes) -> FileType | None:
    """Identify web pages, SVG and XML by their first tag."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not text.startswith(b"<"):
        return None
    if re.search(rb"<svg[\s>]|<!doctype svg", text) and not re.search(rb"<html[\s>]", text):
        return FileType("SVG graphic", remedy="render it as PNG")
    if re.match(rb"<(!doctype html|html|head|body|script|meta|title|!--)", text):
        return FileType("web page", remedy="download the image itself")
    return FileType("XML file") if text.startswith(b"<?xml") or _is_text(head) else None


def _is_text(head: bytes) -> bool:
    """Return whether bytes are text in UTF-8 (cut anywhere) or UTF-16."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if len(head) < HEAD_BYTES or error.start < len(head) - 3:
            return False
        text = head[: error.start].decode()
    return all(letter.isprintable() or letter in "\t\r\n\f\v\x1b" for letter in text)
