"""Files that are not read are named by their content."""

import struct
from io import BytesIO

import pytest
from PIL import Image

from helpers.images import write_tree
from resnetlab.config import ConfigError
from resnetlab.data.images.decode import BadImageError, decode
from resnetlab.data.images.file_types import identify, left_out_type
from resnetlab.data.readers.folder import list_folder


def ftyp(major: bytes, *compatible: bytes) -> bytes:
    body = b"ftyp" + major + bytes(4) + b"".join(compatible)
    return struct.pack(">I", 4 + len(body)) + body + bytes(100)


def tiff(*tags: tuple[int, int]) -> bytes:
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)


DICOM = bytes(128) + b"DICM" + bytes(50)
NOT_READ = {
    "AVIF": ftyp(b"avif", b"mif1"),
    "AVIF sequence": ftyp(b"avis"),
    "AVIF by brand": ftyp(b"mif1", b"mif1", b"avif"),
    "HEIC": ftyp(b"heic", b"mif1"),
    "HEIC (HEIF)": ftyp(b"mif1", b"heic"),
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40),
    "JPEG 2000 codestream": b"\xff\x4f\xff\x51\0\x2f",
    "JPEG XL": b"\xff\x0a\xfa\x1f",
    "JPEG XL container": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40),
    "JPEG XR": b"II\xbc\x01" + bytes(40),
    "DICOM": DICOM,
    "PSD": b"8BPS\0\x01",
    "XCF": b"gimp xcf v011",
    "OpenEXR": b"v/1\x01\x02\0\0\0",
    "CR2": b"II*\0\x10\0\0\0CR\x02\0",
    "CR3": ftyp(b"crx ", b"crx "),
    "RAF": b"FUJIFILMCCD-RAW 0201",
    "DNG": tiff((256, 9), (50706, 0x00000401)),
    "camera raw": tiff((254, 1), (271, 8), (330, 90)),
    "ICO": b"\0\0\1\0\1\0",
    "FITS": b"SIMPLE  =                    T",
    "PAM": b"P7\nWIDTH 4\n",
}
OTHERS = {
    "web page": b"\xef\xbb\xbf\n <!DOCTYPE html>\n<html><body>404</body></html>",
    "web page without a type": b"<HTML lang='en'><svg></svg></html>",
    "SVG": b"<?xml version='1.0'?>\n<!-- made by hand -->\n<svg xmlns='http://www.w3.org/2000/svg'/>",
    "XML": b"<?xml version='1.0'?><annotation/>",
    "PDF document": b"%PDF-1.7\n",
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "video": ftyp(b"isom", b"mp42"),
    "video (mov)": ftyp(b"qt  "),
    "video (mkv)": b"\x1aE\xdf\xa3\x01",
    "video (avi)": b"RIFF\0\0\0\0AVI LIST",
    "ZIP archive": b"PK\3\4" + bytes(30),
    "tar archive": bytes(257) + b"ustar\0",
    "text": "Grüße, ein Text.\n".encode(),
    "text in UTF-16": "words".encode("utf-16"),
    "zero bytes": bytes(5000),
    "NumPy array": b"\x93NUMPY\x01\0",
}


@pytest.mark.parametrize("name", NOT_READ)
def test_formats_that_are_not_read_are_named(name):
    kind = identify(NOT_READ[name])
    assert kind.is_image
    assert name.split()[0] in kind.name
    with pytest.raises(BadImageError, match=f"^an image in the format .*{name.split()[0]}.*, which is not read; ") as e:
        decode(NOT_READ[name])
    assert "damaged" not in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", OTHERS)
def test_files_that_are_no_images_are_named(name):
    kind = identify(OTHERS[name])
    assert not kind.is_image
    assert name.split(" (")[0].replace(" without a type", "").replace(" in UTF-16", "") in kind.name
    with pytest.raises(BadImageError, match=r"^an? .*, not an image"):
        decode(OTHERS[name])


def test_an_unknown_file_is_not_guessed():
    for data in (b"\x07\x91\xfe\xc3 stuff", b"\xff\xd9" * 9):
        with pytest.raises(BadImageError, match=r"^not an image that can be read \(JPEG, PNG"):
            decode(data)


def jpeg() -> bytes:
    file = BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "JPEG")
    return file.getvalue()


NAMES = ("1.jfif", "2.jpe", "3.jif", "4.JPG", "bare", "img.0001", "photo.jpg.1", "x.jpeg_large", "y.dat", "z.HEIC")


def test_images_are_found_by_content_in_class_folders(tmp_path):
    write_tree(tmp_path, {"a": 1, "b": 1})
    for name in NAMES:
        (tmp_path / "b" / name).write_bytes(jpeg())
    listing = list_folder(tmp_path)
    assert listing.splits["all"].labels.count(1) == 1 + len(NAMES)
    assert listing.warnings == ()


def test_files_with_a_known_suffix_are_not_opened(tmp_path, monkeypatch):
    """The first PNG of a folder is opened, because it may be an overlay of `predict --explain`."""
    write_tree(tmp_path, {"a": 3, "b": 3})
    opened, original = set(), type(tmp_path).open
    monkeypatch.setattr(type(tmp_path), "open", lambda path, *more: opened.add(path) or original(path, *more))
    assert len(list_folder(tmp_path).splits["all"]) == 6
    assert len(opened) <= 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", b"BMW and P1 are words\n"),
        ("list.csv", b"BM,1\n"),
        ("p.md", b"P1 is the first"),
        ("empty", b""),
        ("LICENSE", b"MIT\n"),
        ("scan.nef", NOT_READ["camera raw"]),
        ("scan.dcm", DICOM),
    ],
)
def test_other_files_are_left_out(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert left_out_type(path) is not None


def test_an_empty_class_names_what_was_left_out(tmp_path):
    write_tree(tmp_path, {"a": 1, "b": 1})
    (tmp_path / "b/000.png").unlink()
    (tmp_path / "b/deeper").mkdir()
    for number in range(12):
        (tmp_path / f"b/deeper/IMG_{number}.HEIC").write_bytes(NOT_READ["HEIC"])
    with pytest.raises(
        ConfigError, match=r"b: this class has no image that is read, but 12 \.heic \(HEIC, which is not"
    ):
        list_folder(tmp_path)
    (tmp_path / "a/000.png").rename(tmp_path / "b/000.png")
    (tmp_path / "a/notes.txt").write_text("words")
    with pytest.raises(ConfigError, match=r"a: this class has no image that is read, but 1 \.txt \(text file\); add"):
        list_folder(tmp_path)


def test_what_was_left_out_is_told_in_short_lines(tmp_path):
    write_tree(tmp_path, {"a": 1, "b": 1})
    for number in range(200):
        (tmp_path / f"a/n.{'x' * 40}{number}").write_text("words")
        (tmp_path / f"a/log.{number:04}").write_text("words")
    (tmp_path / ("a/" + "long" * 40 + ".avif")).write_bytes(NOT_READ["AVIF"])
    (tmp_path / "a/page.html").write_bytes(OTHERS["web page"])
    warnings = list_folder(tmp_path).warnings
    assert all(len(line) < 400 and "\n" not in line for line in warnings)
    assert "200 .[number]" in warnings[0]
    assert warnings[1].startswith("ignored 1 .avif (AVIF, which is not read; convert it to JPEG or PNG), such as long")


def frame_header(marker: int, precision: int = 8, components: int = 3) -> bytes:
    body = struct.pack(">BHHB", precision, 16, 16, components) + bytes(3 * components)
    return b"\xff\xd8\xff" + bytes([marker]) + struct.pack(">H", 2 + len(body)) + body + b"\xff\xda" + bytes(50)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (frame_header(0xF7), "a JPEG-LS, which is not read"),
        (frame_header(0xC3), "a lossless JPEG, which is not read"),
        (frame_header(0xC1, precision=12), "a JPEG of 12 bits a channel, which is not read; save it in 8 bits"),
        (frame_header(0xC0, components=5), "a JPEG of 5 channels, which is not read"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\4CgBI" + bytes(8) + b"\0\0\0\rIHDR" + bytes(40), "a PNG in Apple's variety for iOS"),
        (
            b"BM" + struct.pack("<IIIIiiHHII", 99, 0, 54, 40, 4, 4, 1, 24, 5, 0) + bytes(90),
            "a variety of BMP that is not",
        ),
    ],
)
def test_varieties_are_not_called_damaged(data, reason):
    with pytest.raises(BadImageError, match=f"^{reason}"):
        decode(data)


def test_a_damaged_jpeg_is_called_damaged():
    data = jpeg()
    with pytest.raises(BadImageError, match=r"^(damaged JPEG|truncated)"):
        decode(data[:3] + bytes(len(data)))
