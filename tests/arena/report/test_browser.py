"""The page in a real browser: quiet console, no request, drawings, sorting, and hostile names that stay text."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bayesify.arena.report import write_report

pytestmark = pytest.mark.browser
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-dev-shm-usage"
)
PAGES = ("regression", "classification", "half", "hostile", "empty")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture(scope="module")
def pages(examples: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    results = (
        examples.example(),
        examples.example("multiclass", budgets=True),
        examples.half_finished(),
        examples.hostile(),
        {},
    )
    return {name: write_report(r, folder / name).html for name, r in zip(PAGES, results, strict=True)}


@pytest.fixture
def visit(browser: Any, pages: dict[str, Path]) -> Callable[[str], Any]:
    def go(name: str, width: int = 1280) -> Any:
        for log in ("browser", "performance"):
            browser.get_log(log)
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get(pages[name].as_uri())
        return browser

    return go


def requests(browser: Any) -> list[str]:
    """What was asked for since the last look, but for data: addresses, which ask nobody."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if not url.startswith("data:")]


@pytest.mark.parametrize("name", PAGES)
def test_quiet_and_offline(visit: Callable[..., Any], pages: dict[str, Path], name: str) -> None:
    browser = visit(name)
    assert requests(browser) == [pages[name].as_uri()]
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.get_log("browser") == []


def test_policy_refuses_requests_and_foreign_script(visit: Callable[..., Any]) -> None:
    """The control of the test above, and the second lock behind escaping."""
    browser = visit("regression")
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.hit = 1'; document.body.append(s);"
        "const i = new Image(); i.src = 'http://127.0.0.1:9/x.png';"
        "document.body.insertAdjacentHTML('beforeend', '<p id=p onclick=\"window.hit = 2\">x</p>');"
        "document.getElementById('p').click();"
    )
    assert browser.execute_script("return window.hit") is None
    assert len(browser.get_log("browser")) >= 3  # each refusal is reported


def test_drawings_are_seen(visit: Callable[..., Any]) -> None:
    browser = visit("classification")
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('.chart svg')].map(s => s.getBoundingClientRect())"
        ".map(r => [r.width, r.height])"
    )
    shown = [size for size in sizes if size[0] > 0]
    assert len(sizes) == 33
    assert len(shown) == 32  # of the wide and the narrow forest plot, one
    assert all(width > 100 and height > 100 for width, height in shown)
    colour = "return getComputedStyle(document.querySelector('.wide path[aria-roledescription=point]')).stroke"
    light = browser.execute_script(colour)
    assert light.startswith("rgb(")
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    assert browser.execute_script(colour) not in (light, "none")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("name", ["classification", "hostile", "half"])
def test_fits_a_phone(visit: Callable[..., Any], name: str) -> None:
    browser = visit(name, width=390)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    seen = "return getComputedStyle(document.querySelector(arguments[0])).display"
    assert browser.execute_script(seen, ".forest .narrow") == "block"
    assert browser.execute_script(seen, ".forest .wide") == "none"


def test_sorting(visit: Callable[..., Any]) -> None:
    browser = visit("half")
    headings = "[...document.querySelectorAll('#scores thead th')]"
    index = browser.execute_script(f"return {headings}.findIndex(h => h.textContent === 'RMSE')")
    column = (
        "return [...document.querySelectorAll('#scores > .scroll tbody tr')]"
        ".map(r => r.cells[arguments[0]].dataset.key)"
    )
    button = f"return document.querySelectorAll('#scores thead th')[{index}].querySelector('button')"
    for order in ("ascending", "descending"):
        browser.execute_script(button).send_keys("\ue007")  # Enter: the keyboard works
        keys = browser.execute_script(column, index)
        numbers = [float(key) for key in keys if key]
        assert numbers == sorted(numbers, reverse=order == "descending")
        assert len(numbers) == 7
        assert keys[len(numbers) :] == [""] * 6  # without a value: last in both orders
        assert browser.execute_script(f"return {headings}[{index}].getAttribute('aria-sort')") == order
    browser.execute_script("document.querySelector('#scores thead th button').click()")
    names = browser.execute_script(
        "return [...document.querySelectorAll('#scores > .scroll tbody th')].map(h => h.textContent.trim())"
    )
    assert names == sorted(names, key=str.casefold)
    assert browser.execute_script("return document.querySelectorAll('#scores [aria-sort]').length") == 1


def test_tooltip(visit: Callable[..., Any]) -> None:
    browser = visit("regression")
    point = "document.querySelector('.wide path[aria-roledescription=point]')"
    browser.execute_script(
        f"{point}.dispatchEvent(new PointerEvent('pointerover', {{bubbles: true, clientX: 600, clientY: 500}}))"
    )
    tip = "return document.getElementById('tip').textContent"
    assert browser.execute_script(tip) == "HMC: +0.034 [0.006, 0.062], better"
    assert browser.execute_script("return document.getElementById('tip').hidden") is False


def test_hostile_names_stay_text(visit: Callable[..., Any]) -> None:
    browser = visit("hostile")
    browser.execute_script("document.querySelectorAll('th button').forEach(b => b.click())")
    assert browser.execute_script("return document.scripts.length") == 1
    assert browser.execute_script("return document.images.length") == 0
    assert "<script>alert(1)</script> (regression)" in browser.find_element("css selector", ".facts").text
    assert browser.get_log("browser") == []  # nothing was even tried


def test_download_is_the_result(visit: Callable[..., Any], pages: dict[str, Path]) -> None:
    browser = visit("regression")
    inside = browser.execute_script(
        "const a = document.querySelector('a[download]').href;"
        "return new TextDecoder().decode(Uint8Array.from(atob(a.split(',')[1]), c => c.charCodeAt(0)))"
    )
    assert json.loads(inside) == json.loads(pages["regression"].with_name("report.json").read_text(encoding="utf-8"))
