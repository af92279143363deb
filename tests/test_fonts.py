"""Names in Chinese, Japanese and Korean are legible in figures and overlays; letters that no font has are reported."""

import logging

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from resnetlab import fonts
from resnetlab.figure_style import STYLE, create_panels, set_panel_title
from resnetlab.fonts import FallbackFont, font_files, text_style
from resnetlab.inference.explain import add_caption

needs_package = pytest.mark.skipif(not fonts._packaged(), reason="noto-cjk-sans-otc is not installed")
UNASSIGNED = "\u0378"
LETTERS = {"Korean": "개말", "Chinese": "猫狗", "traditional": "貓龜", "Japanese": "いヌ犬"}


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(fonts, "_reported", set())


def in_figure(text):
    """Draw a text as the title of a panel; return the pixels."""
    with mpl.rc_context({**STYLE, **text_style([text])}):
        figure, (axes,) = create_panels(1, tall=False)
        set_panel_title(axes, text)
        axes.set_axis_off()
        canvas = figure.canvas
        canvas.draw()
        return np.asarray(canvas.buffer_rgba()).copy()  # pyright: ignore[reportAttributeAccessIssue]


def in_overlay(text):
    return np.asarray(add_caption(np.zeros((64, 200, 3), np.uint8), text))


@needs_package
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("letters", LETTERS.values(), ids=LETTERS)
@pytest.mark.parametrize("draw", [in_figure, in_overlay, lambda text: np.array(FallbackFont(17).getmask(text))])
def test_letters_are_drawn_and_differ(letters, draw, caplog):
    shapes = [draw(letter) for letter in letters]
    for position, one in enumerate(shapes):
        for other in shapes[position + 1 :]:
            assert one.shape != other.shape or (one != other).any()
    assert caplog.messages == []


@needs_package
def test_a_line_mixes_scripts(caplog):
    font = FallbackFont(17)
    parts = [part for part, _ in font.runs("cat 猫 кошка 고양이  97.3 %")]
    assert "".join(parts) == "cat 猫 кошка 고양이  97.3 %"
    assert len(parts) == 5
    assert font.getlength("猫猫") == pytest.approx(2 * font.getlength("猫"))
    assert caplog.messages == []


def test_latin_names_need_no_other_font():
    assert len(font_files(["airplane", "Ελληνικά", "кот", "é ½ …", "a\n\u200d\ufe0f"])) == 1
    assert text_style(["airplane"]) == {}


def test_letters_that_no_font_has_are_reported_once(caplog, monkeypatch):
    monkeypatch.setattr(fonts, "_packaged", list)
    monkeypatch.setattr(fonts, "_system", list)
    with caplog.at_level(logging.WARNING):
        in_overlay("개 97 %")
        in_overlay("개 98 %")
        in_overlay("개 말 99 %")
    assert [message.partition(":")[0] for message in caplog.messages] == [
        "no font here has the letters 개",
        "no font here has the letters 말",
    ]
    assert "resnetlab[fonts]" in caplog.messages[0]


def test_a_font_of_the_system_is_used(caplog, monkeypatch, tmp_path):
    packaged = fonts._packaged()
    if not packaged:
        pytest.skip("noto-cjk-sans-otc is not installed")
    link = tmp_path / "system.ttc"
    link.symlink_to(packaged[0])
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    monkeypatch.setattr(fonts, "_packaged", list)
    monkeypatch.setattr(fonts, "_system", lambda: [tmp_path / "broken.ttf", link])
    assert font_files(["개"])[1:] == [link]
    assert caplog.messages == []


def test_an_overlay_of_a_missing_letter_still_is_written():
    assert isinstance(add_caption(np.zeros((64, 200, 3), np.uint8), f"a{UNASSIGNED}b"), Image.Image)
