"""Fonts for names in figures and overlays: DejaVu Sans, and for the letters that it lacks the first font that has them.

Those are Noto Sans CJK of the package noto-cjk-sans-otc (extra `fonts`; SIL Open Font License 1.1), then the fonts of
the system. Letters that no font has are reported once.
"""

import importlib.util
import logging
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

LOG = logging.getLogger("resnetlab.fonts")
FONT_PACKAGE = "noto_cjk_sans_otc"
FONT_FILE = "NotoSansCJK-Regular.ttc"
MAX_LISTED = 20
"""Letters that the message about missing letters contains."""
_reported: set[str] = set()


def font_files(texts: Iterable[str], *, report: bool = True) -> list[Path]:
    """Return the fonts that texts need, DejaVu Sans first.

    With `report`, letters that no font has are logged once as a warning.
    """
    files = [_dejavu()]
    missing = {letter for text in texts for letter in text if _needs_glyph(letter)} - _letters(files[0])
    candidates = iter([*_packaged(), *_system()] if missing else ())
    while missing and (file := next(candidates, None)):
        found = missing & _letters(file)
        if found:
            files.append(file)
            missing -= found
    if report and (new := sorted(missing - _reported)):
        _reported.update(new)
        more = f" and {len(new) - MAX_LISTED} more" if len(new) > MAX_LISTED else ""
        LOG.warning(
            "no font here has the letters %s%s: figures show boxes instead; install a font that has them, or for "
            "Chinese, Japanese and Korean: pip install 'resnetlab[fonts]'",
            " ".join(new[:MAX_LISTED]),
            more,
        )
    return files


def text_style(texts: Iterable[str], *, report: bool = True) -> dict[Any, Any]:
    """Return Matplotlib settings with which figures can show texts; empty if its own font has all their letters.

    `report` is as for `font_files`.
    """
    files = font_files(texts, report=report)
    if len(files) == 1:
        return {}
    from matplotlib.font_manager import fontManager
    from matplotlib.ft2font import FT2Font

    families = [FT2Font(str(file)).family_name for file in files]
    for file, family in zip(files[1:], families[1:], strict=True):
        if family not in {entry.name for entry in fontManager.ttflist}:
            fontManager.addfont(file)
        entries = [entry for entry in fontManager.ttflist if entry.name == family]
        if not any(entry.weight in (700, "bold") for entry in entries):  # else Matplotlib logs that titles are not bold
            fontManager.ttflist += [replace(entry, weight=700) for entry in entries]
    return {"font.family": families}


class FallbackFont:
    """A font for Pillow that takes each letter from the first font that has it."""

    def __init__(self, size: int) -> None:
        """Create the font in a size in pixels."""
        self.size = size

    def runs(self, text: str) -> "list[tuple[str, ImageFont.FreeTypeFont]]":
        """Return the parts of a text, each with the font that has its letters."""
        files = font_files([text])
        result: list[tuple[str, Path]] = []
        for letter in text:
            has_none = letter.isspace() or not _needs_glyph(letter)
            file = next((file for file in files if letter in _letters(file)), files[0])
            if result and (has_none or file == result[-1][1]):
                result[-1] = result[-1][0] + letter, result[-1][1]
            else:
                result.append((letter, file))
        return [(part, _pillow_font(file, self.size)) for part, file in result]

    def getlength(self, text: str) -> float:
        """Return the width of a text in pixels."""
        return sum(font.getlength(part) for part, font in self.runs(text))

    def write(self, canvas: "ImageDraw.ImageDraw", position: tuple[float, float], text: str, colour: Any) -> None:
        """Write a text on one baseline; `position` is the left end of the middle of a line of DejaVu Sans."""
        x, middle = position
        ascent, descent = _pillow_font(_dejavu(), self.size).getmetrics()
        for part, font in self.runs(text):
            canvas.text((x, middle + (ascent - descent) / 2), part, colour, font, anchor="ls")
            x += font.getlength(part)

    def getmask(self, text: str, mode: str = "L") -> "Image.core.ImagingCore":
        """Return a text as an image of Pillow's core, as `ImageFont` does."""
        from PIL import Image, ImageDraw

        page = Image.new(mode, (max(1, round(self.getlength(text))), 2 * self.size))
        self.write(ImageDraw.Draw(page), (0, self.size), text, 255)
        return page.im


def _needs_glyph(letter: str) -> bool:
    """Return whether a letter is visible: no space, control or formatting character, nor a variation selector."""
    return not (
        letter.isspace() or unicodedata.category(letter) in ("Cc", "Cf", "Cs") or "\ufe00" <= letter <= "\ufe0f"
    )


def _dejavu() -> Path:
    from matplotlib import get_data_path

    return Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def _packaged() -> list[Path]:
    spec = importlib.util.find_spec(FONT_PACKAGE)
    folders = (spec.submodule_search_locations if spec else None) or []
    return [file for folder in folders if (file := Path(folder) / FONT_FILE).is_file()]


@cache
def _system() -> Sequence[Path]:
    """Return the fonts of the system in a fixed order, without those that have a box for every letter."""
    from matplotlib.font_manager import findSystemFonts

    files = sorted(Path(name) for name in findSystemFonts())
    return [file for file in files if not any(word in file.name.lower() for word in ("lastresort", "blank"))]


@cache
def _letters(file: Path) -> frozenset[str]:
    """Return the letters of a font; none if it cannot be read, or has bitmaps instead of outlines."""
    from matplotlib.ft2font import FaceFlags, FT2Font

    try:
        font = FT2Font(str(file))
        if FaceFlags.SCALABLE not in font.face_flags:
            return frozenset()
        return frozenset(map(chr, font.get_charmap()))
    except (OSError, RuntimeError, ValueError):
        return frozenset()


@cache
def _pillow_font(file: Path, size: int) -> "ImageFont.FreeTypeFont":
    from PIL import ImageFont

    return ImageFont.truetype(file, size)
