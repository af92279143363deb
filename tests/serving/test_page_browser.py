"""The web page in a real browser against a real server: Debian's Chromium, headless."""

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
PHONE, DESKTOP = (320, 640), (1280, 900)
"""Width and height in CSS pixels."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM.exists() and DRIVER.exists()), reason="needs Chromium: apt-get install chromium chromium-driver"
    ),
]


class Page:
    """The page in a browser, with the actions of a user."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self.url = url
        self.expected_statuses: set[int] = set()
        """Error statuses that may appear in the console."""
        self.requests: list[tuple[str, str]] = []
        """Method and URL of every request collected so far."""
        driver.get(url)

    def find(self, selector: str):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def find_all(self, selector: str):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        return [element.text for element in self.find_all(selector)]

    def wait_until(self, condition, timeout_s: float = 30):
        return WebDriverWait(self.driver, timeout_s, 0.05).until(lambda _: condition())

    def select_files(self, *files: Path) -> None:
        self.find("#files").send_keys("\n".join(map(str, files)))

    def wait_until_idle(self) -> str:
        """Wait until all images are classified; return the status line."""
        return self.wait_until(lambda: (text := self.find("#status").text) and "Classifying" not in text and text)

    def js(self, script: str, *arguments: object):
        return self.driver.execute_script(script, *arguments)

    def send_event(self, kind: str, target: str, *files: Path) -> None:
        """Dispatch a drop or paste event with files."""
        encoded = [[file.name, base64.b64encode(file.read_bytes()).decode()] for file in files]
        self.js(
            """const [kind, target, files] = arguments, transfer = new DataTransfer();
            for (const [name, text] of files)
                transfer.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name));
            const options = {bubbles: true, cancelable: true};
            document.querySelector(target).dispatchEvent(kind === "paste"
                ? new ClipboardEvent(kind, {...options, clipboardData: transfer})
                : new DragEvent(kind, {...options, dataTransfer: transfer}));""",
            *(kind, target, encoded),
        )

    def collect_posts(self) -> list[str]:
        """Return the URLs of POST requests since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event["params"]["request"] for event in events if event["method"] == "Network.requestWillBeSent"]
        new = [(request["method"], request["url"]) for request in sent]
        self.requests += new
        return [url for method, url in new if method == "POST"]

    def console_errors(self) -> list[str]:
        """Return the messages in the console, except those about expected statuses."""
        messages = [entry["message"] for entry in self.driver.get_log("browser")]
        expected = [f"status of {status} " for status in self.expected_statuses]
        return [message for message in messages if not any(text in message for text in expected)]


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
def open_page(
    browser: webdriver.Chrome, server: RunningServer, size: tuple[int, int], *, dark: bool = False
) -> Iterator[Page]:
    """Open the page; at the end, assert that it sent requests to this server only and that the console is empty."""
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": width < 500})
    browser.get("about:blank")
    for kind in ("performance", "browser"):
        browser.get_log(kind)  # discard earlier entries
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    page = Page(browser, server.url)
    page.wait_until(lambda: "classes" in page.find("#model").text)
    yield page
    page.collect_posts()
    hosts = {urlsplit(url).netloc for _, url in page.requests if urlsplit(url).scheme not in ("blob", "data")}
    assert hosts == {urlsplit(server.url).netloc}
    assert page.console_errors() == []


@pytest.fixture
def page(browser, server):
    with open_page(browser, server, DESKTOP) as page:
        yield page


@pytest.fixture
def phone(browser, server):
    with open_page(browser, server, PHONE) as page:
        yield page


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Twelve different images; the first is wide."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for index in range(12):
        small = rng.integers(0, 256, (3, 4 if index else 12, 3), dtype=np.uint8)
        size = (80, 60) if index else (240, 60)
        Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(folder / f"image-{index:02}.png")
    return sorted(folder.iterdir())


def percent(probability: float) -> str:
    if probability < 0.0005:
        return "< 0.1 %"
    return "> 99.9 %" if 0.9995 < probability < 1 else f"{100 * probability:.1f} %"


def test_the_page_displays_the_predictors_result(page, images, model):
    page.select_files(images[0])
    status = page.wait_until_idle()
    expected = load(model)(images[0])
    assert status == f"{images[0].name}: {expected.label}, {percent(expected.probability)}"
    assert page.texts("article h2") == [expected.label]
    assert page.texts(".bars bdi") == [name for name, _ in expected.top]
    assert page.texts(".bars b") == [percent(probability) for _, probability in expected.top]
    widths = page.js("return [...document.querySelectorAll('.bar')].map((bar) => parseFloat(bar.style.width))")
    assert widths == pytest.approx([100 * probability for _, probability in expected.top], abs=0.01)
    assert "network" in page.find(".time").text
    assert " ms" in page.find(".time").text
    assert page.find("#model").text == f"resnet8, {len(CLASSES)} classes, torch fp32."
    assert page.find("footer a").get_attribute("href") == page.url + "docs"


def test_the_heat_map_is_requested_once(page, images):
    page.select_files(images[1])
    page.wait_until_idle()
    page.collect_posts()
    button, image = page.find(".explain"), page.find("article img")
    original = image.get_attribute("src")
    assert (button.get_attribute("aria-pressed"), original[:5]) == ("false", "blob:")
    for _ in range(2):
        button.click()
        page.wait_until(lambda: button.get_attribute("aria-pressed") == "true")
        assert image.get_attribute("src").startswith("data:image/png;base64,")
        assert "Heat map for" in image.get_attribute("alt")
        page.wait_until(lambda: page.js("return arguments[0].naturalWidth", image) == 448)
        button.click()
        assert button.get_attribute("aria-pressed") == "false"
        assert image.get_attribute("src") == original
    assert page.collect_posts() == [f"{page.url}v1/predict?top=1&explain=1"]


def test_a_text_file_gets_the_servers_error_message(page, images, server, tmp_path):
    page.expected_statuses = {415}
    text = tmp_path / "letter.txt"
    text.write_text("This is a letter, not an image.")
    page.select_files(images[2], text)
    assert page.wait_until_idle() == "1 image classified, 1 failed: the reason is next to each image"
    valid, invalid = page.find_all("article")
    assert invalid.find_element(By.CSS_SELECTOR, "h2").text == "letter.txt"
    detail = server.post(text.read_bytes()).json()["detail"]
    assert invalid.find_element(By.CSS_SELECTOR, ".message.error").text == detail
    assert "not an image" in detail
    assert invalid.find_element(By.CSS_SELECTOR, ".no-preview").is_displayed()
    assert not invalid.find_element(By.CSS_SELECTOR, ".explain").is_displayed()
    assert not invalid.find_element(By.CSS_SELECTOR, ".retry").is_displayed()  # another attempt would fail too
    assert valid.find_elements(By.CSS_SELECTOR, ".bars li")


def test_an_image_without_browser_preview_is_classified(page, images, tmp_path):
    Image.open(images[3]).save(tmp_path / "scan.tiff")
    page.select_files(tmp_path / "scan.tiff")
    page.wait_until_idle()
    assert page.find(".no-preview").is_displayed()
    assert len(page.find_all(".bars li")) == 5
    page.find(".explain").click()
    page.wait_until(lambda: page.find("article img").is_displayed())


def test_requests_are_retried_while_the_queue_is_full(browser, model, images):
    options = ("--max-queue", 1, "--max-batch", 1, "--max-batch-images", 1)
    with run_server(model, *options) as narrow, open_page(browser, narrow, DESKTOP) as page:
        page.expected_statuses = {429}
        with paused(narrow.worker_pid()):
            page.select_files(*images)
            page.wait_until(lambda: narrow.metric('resnetlab_requests_total{path="/v1/predict",status="429"}') > 0)
        assert page.wait_until_idle() == f"{len(images)} images classified"
        assert page.texts("article h2") == [prediction.label for prediction in load(model)(list(images))]


class HeldRequests:
    """Holds the page's requests until the test answers them."""

    def __init__(self, page: Page) -> None:
        self.page = page
        page.js(
            """window.held = [];
            window.fetch = (url, { signal }) => new Promise((resolve, reject) => {
                const request = { url, resolve, aborted: false };
                held.push(request);
                signal.addEventListener("abort", () => { request.aborted = true; reject(signal.reason); });
            });"""
        )

    def wait_for(self, number: int) -> None:
        self.page.wait_until(lambda: self.page.js("return held.length") == number)

    def answer(self, index: int, status: int = 200, **content: object) -> None:
        best = {"class": "cat", "probability": 0.9}
        body = {"label": "cat", "probability": 0.9, "top": [best], "times_ms": {"inference": 1}, **content}
        self.page.js(
            "held[arguments[0]].resolve(new Response(arguments[1], { status: arguments[2] }))",
            *(index, json.dumps(body), status),
        )


def test_a_second_attempt_is_counted_once(page, images):
    requests = HeldRequests(page)
    page.select_files(*images[:3])
    requests.wait_for(3)
    requests.answer(0, 503, detail="busy")
    page.wait_until(lambda: page.find_all(".message.error"))
    next(button for button in page.find_all(".retry") if button.is_displayed()).click()
    requests.wait_for(4)
    for index in (1, 2, 3):
        requests.answer(index)
    assert page.wait_until_idle() == "3 images classified"


def test_a_failed_heat_map_is_no_failed_image(page, images):
    requests = HeldRequests(page)
    page.select_files(*images[:2])
    requests.wait_for(2)
    requests.answer(0)
    page.wait_until(lambda: page.find_all(".bars li"))
    button = next(button for button in page.find_all(".explain") if button.is_displayed())
    button.click()
    assert button.text == "Computing …"
    requests.wait_for(3)
    requests.answer(2, 500, detail="the heat map failed")
    page.wait_until(lambda: page.texts(".message.error") == ["the heat map failed"])
    assert button.text == "Heat map"
    requests.answer(1)
    page.wait_until(lambda: page.find("#status").text == "2 images classified")


def test_removed_images_stop_their_requests(page, images):
    requests = HeldRequests(page)
    page.select_files(*images[:6])  # more than are sent at a time
    requests.wait_for(4)
    page.find("#clear").click()
    assert page.js("return held.map((request) => request.aborted)") == [True] * 4
    page.select_files(images[6])
    requests.wait_for(5)
    requests.answer(4)
    assert page.wait_until_idle() == f"{images[6].name}: cat, 90.0 %"
    assert page.js("return held.length") == 5


def test_the_page_works_with_the_keyboard(page, images):
    def focused():
        return page.driver.switch_to.active_element

    def press(*keys: str) -> None:
        webdriver.ActionChains(page.driver).send_keys(*keys).perform()

    press(Keys.TAB)
    assert focused().get_attribute("id") == "files"
    label = page.find("label[for=files]")
    assert label.value_of_css_property("outline-style") == "solid"  # the focus is visible
    focused().send_keys(str(images[4]))  # instead of the system's file dialog
    page.wait_until_idle()
    press(Keys.TAB)
    assert focused().accessible_name.startswith("Heat map")
    press(Keys.ENTER)
    page.wait_until(lambda: focused().get_attribute("aria-pressed") == "true")
    press(Keys.SPACE)
    page.wait_until(lambda: focused().get_attribute("aria-pressed") == "false")
    press(Keys.TAB)
    assert focused().text == "Remove all"
    press(Keys.ENTER)
    assert page.find_all("article") == []
    assert focused().get_attribute("id") == "files"


def test_accessible_names_and_roles(page, images):
    page.select_files(images[5])
    page.wait_until_idle()
    assert page.find("#status").aria_role == "status"
    assert page.find("#files").accessible_name == "Select images"
    assert page.find("#gallery").accessible_name == "Predictions"
    assert page.find("article img").accessible_name == images[5].name
    assert page.find("article h2").aria_role == "heading"
    assert page.find(".bars").accessible_name == "The most probable classes"
    assert images[5].name in page.find(".explain").accessible_name
    assert page.js("return document.documentElement.lang") == "en"


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_images_are_dropped_and_pasted(page, images, kind):
    page.send_event(kind, "footer" if kind == "drop" else "body", images[6], images[7])
    assert page.wait_until_idle() == "2 images classified"
    assert page.texts(".message") == [images[6].name, images[7].name]
    page.send_event(kind, "body")  # without files, such as text or a link to an image: links are never fetched
    assert page.wait_until_idle() in (
        "There is no image in the clipboard.",
        "That was not a file. Save the image first, then drop the file.",
    )


def test_the_page_fits_a_phone(phone, images, tmp_path):
    assert phone.find("label[for=camera]").is_displayed()
    assert phone.find("#camera").get_attribute("capture") == "environment"
    assert phone.find("#files").get_attribute("capture") is None  # so that stored images can be selected
    phone.select_files(*images[:3])
    phone.wait_until_idle()
    assert phone.js("return document.documentElement.scrollWidth") <= PHONE[0]
    wide = phone.js(
        """return [...document.querySelectorAll("body *")]
        .filter((element) => element.getBoundingClientRect().right > innerWidth + 1)"""
    )
    assert wide == []
    heights = [element.rect["height"] for element in phone.find_all("button, .input") if element.is_displayed()]
    assert min(heights) >= 44  # pixels: the recommended minimum for touch
    screenshot = phone.driver.get_screenshot_as_png()
    assert struct.unpack("!II", screenshot[16:24]) == (2 * PHONE[0], 2 * PHONE[1])


def test_the_dark_color_scheme(browser, server):
    with open_page(browser, server, DESKTOP, dark=True) as page:
        brightness = page.js("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert max(brightness[:3]) < 60


def test_the_content_security_policy_is_enforced(page):
    """The browser blocks and logs violations, so the empty console of the other tests means something."""
    page.collect_posts()
    blocked = page.driver.execute_async_script(
        """const done = arguments[0], violations = [];
        document.addEventListener("securitypolicyviolation", ({effectiveDirective}) => {
            violations.push(effectiveDirective);
            if (violations.length === 4) done(violations.sort());
        });
        fetch("http://localhost:9/").catch(() => 0);
        document.body.append(Object.assign(new Image(), {src: "http://localhost:9/a.png"}));
        document.body.append(Object.assign(document.createElement("script"), {textContent: "window.broken = 1"}));
        document.body.append(Object.assign(document.createElement("style"), {textContent: "body { color: red }"}));"""
    )
    assert blocked == ["connect-src", "img-src", "script-src-elem", "style-src-elem"]
    assert page.js("return window.broken") is None
    assert page.console_errors()
    page.driver.get_log("performance")  # discard the blocked requests


def test_a_too_large_file_is_not_sent(browser, model, tmp_path):
    (tmp_path / "large.bmp").write_bytes(bytes(1_200_000))
    with run_server(model, "--max-mib", 1) as small, open_page(browser, small, DESKTOP) as page:
        page.collect_posts()
        page.select_files(tmp_path / "large.bmp")
        assert page.wait_until_idle() == "large.bmp: The file has 1.1 MiB; the limit is 1.0 MiB."
        assert page.collect_posts() == []


def test_a_stopped_server_is_reported_and_can_be_retried(browser, model, images):
    with run_server(model) as first, open_page(browser, first, DESKTOP) as page:
        first.stop(signal.SIGTERM)
        page.select_files(images[8])
        assert page.wait_until_idle() == f"{images[8].name}: The server does not respond. Is it still running?"
        assert any("ERR_CONNECTION_REFUSED" in message for message in page.console_errors())
        with run_server(model, "--port", first.port):
            page.find(".retry").click()
            page.wait_until(lambda: page.find_all(".bars li"))
            assert not page.find(".retry").is_displayed()


def test_the_screenshot_in_the_docs_is_of_a_phone():
    file = ROOT / "docs/images/serve-phone.png"
    assert file.stat().st_size <= 200_000
    with Image.open(file) as screenshot:
        assert screenshot.width in (320, 390, 640, 780)


def test_an_unknown_image_lists_its_candidates(browser, model, images):
    expected = load(model)(images[0])
    with run_server(model, "--reject-below", 0.9999999) as server, open_page(browser, server, DESKTOP) as page:
        page.select_files(images[0])
        assert page.wait_until_idle() == f"{images[0].name}: unknown"
        assert page.texts("article h2") == ["unknown"]
        assert page.texts(".message") == [f"{images[0].name}: no class is probable enough; the candidates are"]
        assert page.texts(".bars bdi") == [name for name, _ in expected.top]
        page.find(".explain").click()
        page.wait_until(lambda: page.find(".explain").get_attribute("aria-pressed") == "true")
        assert page.texts(".message") == [f"{images[0].name}: no class is probable enough; the candidates are"]
        assert (
            page.find(".explain").get_attribute("aria-label") == f"Heat map: {expected.top[0][0]} in {images[0].name}"
        )
