"""The page for people, driven in a real browser against a real server: Debian's Chromium, headless."""

import base64
import json
import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from helpers.http_client import RunningServer, paused, run_server
from helpers.small_network import CLASSES, model_file
from resnetlab.inference.predictor import load

from conftest import ROOT

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)
PHONE, DESK = (320, 640), (1280, 900)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM.exists() and DRIVER.exists()), reason="no browser here; apt-get install chromium chromium-driver"
    ),
]


class Page:
    """A page in a browser, as somebody uses it."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self.url = url
        self.expected: set[int] = set()
        """Statuses that the browser may complain of."""
        self.asked: list[tuple[str, str]] = []
        """Method and address of every request so far noted."""
        driver.get(url)

    def one(self, selector: str):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        return [element.text for element in self.all(selector)]

    def wait_until(self, condition, message: str = "", seconds: float = 30):
        return WebDriverWait(self.driver, seconds, 0.05).until(lambda _: condition(), message)

    def give(self, *files: Path) -> None:
        self.one("#choose").send_keys("\n".join(map(str, files)))

    def settle(self) -> str:
        """Wait until nothing is under way; return what the status line says, which screen readers read out."""
        return self.until(lambda: (said := self.one("#status").text) and "Looking" not in said and said)

    def js(self, script: str, *arguments: object):
        return self.driver.execute_script(script, *arguments)

    def send(self, kind: str, target: str, *files: Path) -> None:
        """Drop or paste files: the events that a hand would make."""
        encoded = [[file.name, base64.b64encode(file.read_bytes()).decode()] for file in files]
        self.js(
            """const [kind, target, files] = arguments, transfer = new DataTransfer();
            for (const [name, text] of files)
                transfer.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name));
            const how = {bubbles: true, cancelable: true};
            document.querySelector(target).dispatchEvent(kind === "paste"
                ? new ClipboardEvent(kind, {...how, clipboardData: transfer})
                : new DragEvent(kind, {...how, dataTransfer: transfer}));""",
            *(kind, target, encoded),
        )

    def note_requests(self) -> list[str]:
        """Return the addresses that pictures were sent to since the last look."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [one["params"]["request"] for one in events if one["method"] == "Network.requestWillBeSent"]
        new = [(one["method"], one["url"]) for one in sent]
        self.asked += new
        return [url for method, url in new if method == "POST"]

    def complaints(self) -> list[str]:
        """Return what the console says, but for answers whose status was expected."""
        said = [entry["message"] for entry in self.driver.get_log("browser")]
        return [one for one in said if not any(f"status of {status} " in one for status in self.expected)]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(str(DRIVER), env={**os.environ, "SE_OFFLINE": "true"})
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_file(tmp_path_factory.mktemp("model") / "small.safetensors")


@pytest.fixture(scope="module")
def server(model):
    with run_server(model) as running:
        yield running


@contextmanager
def opened(
    browser: webdriver.Chrome, server: RunningServer, size: tuple[int, int], *, dark: bool = False
) -> Iterator[Page]:
    """Open the page; in the end it must have asked nobody else, and the console must be empty."""
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": width < 500})
    browser.get("about:blank")
    for kind in ("performance", "browser"):
        browser.get_log(kind)  # of what was before
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    page = Page(browser, server.url)
    page.until(lambda: "classes" in page.one("#model").text)
    yield page
    page.note_requests()
    hosts = {urlsplit(url).netloc for _, url in page.asked if urlsplit(url).scheme not in ("blob", "data")}
    assert hosts == {urlsplit(server.url).netloc}
    assert page.complaints() == []


@pytest.fixture
def page(browser, server):
    with opened(browser, server, DESK) as page:
        yield page


@pytest.fixture
def phone(browser, server):
    with opened(browser, server, PHONE) as page:
        yield page


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A dozen pictures that differ; the first is wide."""
    folder, chance = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for at in range(12):
        small = chance.integers(0, 256, (3, 4 if at else 12, 3), dtype=np.uint8)
        size = (80, 60) if at else (240, 60)
        Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(folder / f"picture-{at:02}.png")
    return sorted(folder.iterdir())


def percent(probability: float) -> str:
    if probability < 0.0005:
        return "< 0.1 %"
    return "> 99.9 %" if 0.9995 < probability < 1 else f"{100 * probability:.1f} %"


def test_a_picture_is_named_as_the_predictor_names_it(page, pictures, model):
    page.give(pictures[0])
    said = page.settle()
    own = load(model)(pictures[0])
    assert said == f"{pictures[0].name}: {own.label}, {percent(own.probability)}"
    assert page.texts("article h2") == [own.label]
    assert page.texts(".bars bdi") == [name for name, _ in own.top]
    assert page.texts(".bars b") == [percent(probability) for _, probability in own.top]
    widths = page.js("return [...document.querySelectorAll('.bar')].map((bar) => parseFloat(bar.style.width))")
    assert widths == pytest.approx([100 * probability for _, probability in own.top], abs=0.01)
    assert "network" in page.one(".time").text
    assert " ms" in page.one(".time").text
    assert page.one("#model").text == f"resnet8, {len(CLASSES)} classes, torch fp32."
    assert page.one("footer a").get_attribute("href") == page.url + "docs"


def test_where_it_looked_is_asked_for_once(page, pictures):
    page.give(pictures[1])
    page.settle()
    page.note_requests()
    button, picture = page.one(".where"), page.one("article img")
    before = picture.get_attribute("src")
    assert (button.get_attribute("aria-pressed"), before[:5]) == ("false", "blob:")
    for _ in range(2):
        button.click()
        page.until(lambda: button.get_attribute("aria-pressed") == "true")
        assert picture.get_attribute("src").startswith("data:image/png;base64,")
        assert "What speaks for" in picture.get_attribute("alt")
        page.until(lambda: page.js("return arguments[0].naturalWidth", picture) == 448)
        button.click()
        assert button.get_attribute("aria-pressed") == "false"
        assert picture.get_attribute("src") == before
    assert page.note_requests() == [f"{page.url}v1/predict?top=1&explain=1"]


def test_a_text_file_is_told_of_beside_its_name(page, pictures, server, tmp_path):
    page.expected = {415}
    text = tmp_path / "letter.txt"
    text.write_text("Dear reader, this is no picture.")
    page.give(pictures[2], text)
    assert page.settle() == "1 picture answered, 1 not: the reason stands beside each"
    good, bad = page.all("article")
    assert bad.find_element(By.CSS_SELECTOR, "h2").text == "letter.txt"
    detail = server.post(text.read_bytes()).json()["detail"]
    assert bad.find_element(By.CSS_SELECTOR, ".state.wrong").text == detail
    assert "no image" in detail
    assert bad.find_element(By.CSS_SELECTOR, ".none").is_displayed()
    assert not bad.find_element(By.CSS_SELECTOR, ".where").is_displayed()
    assert not bad.find_element(By.CSS_SELECTOR, ".again").is_displayed()  # it would be no use
    assert good.find_elements(By.CSS_SELECTOR, ".bars li")


def test_what_the_browser_cannot_show_is_named_all_the_same(page, pictures, tmp_path):
    Image.open(pictures[3]).save(tmp_path / "scan.tiff")
    page.give(tmp_path / "scan.tiff")
    page.settle()
    assert page.one(".none").is_displayed()
    assert len(page.all(".bars li")) == 5
    page.one(".where").click()
    page.until(lambda: page.one("article img").is_displayed())


def test_many_pictures_wait_for_a_server_that_is_full(browser, model, pictures):
    words = ("--max-queue", 1, "--max-batch", 1, "--max-batch-images", 1)
    with run_server(model, *words) as narrow, opened(browser, narrow, DESK) as page:
        page.expected = {429}
        with paused(narrow.worker()):
            page.give(*pictures)
            page.until(lambda: narrow.metric('resnetlab_requests_total{path="/v1/predict",status="429"}') > 0)
        assert page.settle() == f"{len(pictures)} pictures answered"
        assert page.texts("article h2") == [one.label for one in load(model)(list(pictures))]


def test_the_keyboard_is_enough(page, pictures):
    def focused():
        return page.driver.switch_to.active_element

    def press(*keys: str) -> None:
        webdriver.ActionChains(page.driver).send_keys(*keys).perform()

    press(Keys.TAB)
    assert focused().get_attribute("id") == "choose"
    label = page.one("label[for=choose]")
    assert label.value_of_css_property("outline-style") == "solid"  # the focus can be seen
    focused().send_keys(str(pictures[4]))  # the system's own dialogue is not part of the page
    page.settle()
    press(Keys.TAB)
    assert focused().accessible_name.startswith("Where it looked")
    press(Keys.ENTER)
    page.until(lambda: focused().get_attribute("aria-pressed") == "true")
    press(Keys.SPACE)
    page.until(lambda: focused().get_attribute("aria-pressed") == "false")
    press(Keys.TAB)
    assert focused().text == "Remove all"
    press(Keys.ENTER)
    assert page.all("article") == []
    assert focused().get_attribute("id") == "choose"


def test_names_and_roles_for_a_screen_reader(page, pictures):
    page.give(pictures[5])
    page.settle()
    assert page.one("#status").aria_role == "status"
    assert page.one("#choose").accessible_name == "Choose pictures"
    assert page.one("#gallery").accessible_name == "Answers"
    assert page.one("article img").accessible_name == pictures[5].name
    assert page.one("article h2").aria_role == "heading"
    assert page.one(".bars").accessible_name == "The most probable classes"
    assert pictures[5].name in page.one(".where").accessible_name
    assert page.js("return document.documentElement.lang") == "en"


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_pictures_are_dropped_and_pasted(page, pictures, kind):
    page.send(kind, "footer" if kind == "drop" else "body", pictures[6], pictures[7])
    assert page.settle() == "2 pictures answered"
    assert page.texts(".state") == [pictures[6].name, pictures[7].name]
    page.send(kind, "body")  # text, or a picture of another page: no address is ever fetched
    assert page.settle() in (
        "There is no picture in the clipboard.",
        "That was no file. Save the picture first, then drop the file.",
    )


def test_a_phone_shows_all_of_it(phone, pictures, tmp_path):
    assert phone.one("label[for=camera]").is_displayed()
    assert phone.one("#camera").get_attribute("capture") == "environment"
    assert phone.one("#choose").get_attribute("capture") is None  # so a stored picture can be chosen
    phone.give(*pictures[:3])
    phone.settle()
    assert phone.js("return document.documentElement.scrollWidth") <= PHONE[0]
    wide = phone.js(
        """return [...document.querySelectorAll("body *")]
        .filter((one) => one.getBoundingClientRect().right > innerWidth + 1)"""
    )
    assert wide == []
    heights = [one.rect["height"] for one in phone.all("button, .way") if one.is_displayed()]
    assert min(heights) >= 44  # pixels, for a finger
    shot = phone.driver.get_screenshot_as_png()
    assert struct.unpack("!II", shot[16:24]) == (2 * PHONE[0], 2 * PHONE[1])


def test_at_night_it_is_dark(browser, server):
    with opened(browser, server, DESK, dark=True) as page:
        brightness = page.js("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert max(brightness[:3]) < 60


def test_its_policy_would_bite(page):
    """What the page may not do is refused by the browser: so the other tests' empty console means something."""
    page.note_requests()
    blocked = page.driver.execute_async_script(
        """const done = arguments[0], found = [];
        document.addEventListener("securitypolicyviolation", ({effectiveDirective}) => {
            found.push(effectiveDirective);
            if (found.length === 4) done(found.sort());
        });
        fetch("http://localhost:9/").catch(() => 0);
        document.body.append(Object.assign(new Image(), {src: "http://localhost:9/a.png"}));
        document.body.append(Object.assign(document.createElement("script"), {textContent: "window.broken = 1"}));
        document.body.append(Object.assign(document.createElement("style"), {textContent: "body { color: red }"}));"""
    )
    assert blocked == ["connect-src", "img-src", "script-src-elem", "style-src-elem"]
    assert page.js("return window.broken") is None
    assert page.complaints()
    page.driver.get_log("performance")  # where the refused ones stand too


def test_a_picture_above_the_cap_is_not_even_sent(browser, model, tmp_path):
    (tmp_path / "large.bmp").write_bytes(bytes(1_200_000))
    with run_server(model, "--max-mib", 1) as small, opened(browser, small, DESK) as page:
        page.note_requests()
        page.give(tmp_path / "large.bmp")
        assert page.settle() == "large.bmp: 1.1 MiB are too much; this server takes up to 1.0 MiB."
        assert page.note_requests() == []


def test_a_server_that_is_gone_is_told_of_and_can_be_tried_again(browser, model, pictures):
    with run_server(model) as first, opened(browser, first, DESK) as page:
        first.end(signal.SIGTERM)
        page.give(pictures[8])
        assert page.settle() == f"{pictures[8].name}: The server does not answer. Is it still running?"
        assert any("ERR_CONNECTION_REFUSED" in one for one in page.complaints())
        with run_server(model, "--port", first.port):
            page.one(".again").click()
            page.until(lambda: page.all(".bars li"))
            assert not page.one(".again").is_displayed()


def test_the_picture_in_the_docs_is_of_a_phone():
    file = ROOT / "docs/images/serve-phone.png"
    assert file.stat().st_size <= 200_000
    with Image.open(file) as picture:
        assert picture.width in (320, 390, 640, 780)
