"""The page in a real browser: what it shows is what the status says, on any screen."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from peer.units import format_bytes, format_count
from peer.watch.view import SwarmView
from peer.watch.web.server import WebPage
from tests.swarm_views import HOSTILE, dozen, node, swarm_of, training_peer

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is of the extra `dev`")
from playwright.sync_api import Browser, ConsoleMessage, Page, expect  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in BROWSERS if (path := shutil.which(name))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
DESKTOP, PHONE = (1280, 800), (360, 740)
PATIENCE_MS = 15_000

pytestmark = [
    pytest.mark.net,
    pytest.mark.skipif(CHROMIUM is None, reason=f"no browser here: none of {', '.join(BROWSERS)}"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


class Tab:
    """A browser's tab that shows what is served somewhere, and what it complained of."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.browser = browser
        self.url = url
        self.complaints: list[str] = []

    def open(self, size: tuple[int, int] = DESKTOP, **options: Any) -> Page:
        viewport = {"width": size[0], "height": size[1]}
        options = {"reduced_motion": "reduce"} | options
        page = self.browser.new_page(viewport=viewport, **options)
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("requestfailed", lambda request: self.complaints.append(request.url))
        page.goto(self.url)
        return page

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)


@pytest.fixture
def tab(browser: Browser) -> Iterator[Tab]:
    view = dozen()
    with WebPage(("127.0.0.1", 0), lambda: view) as server:
        made = Tab(browser, server.url)
        yield made
        for context in browser.contexts:
            context.close()
    assert not made.complaints


def value_of(page: Page, selector: str) -> Any:
    """Returns a field as the status had it."""
    return json.loads(page.locator(selector).get_attribute("data-value") or "")


def fields_of(page: Page, selector: str) -> dict[str, Any]:
    """Returns the values of all fields below one element, as the status had them."""
    script = "all => all.map(e => [e.dataset.field, JSON.parse(e.dataset.value)])"
    return dict(page.locator(f"{selector} [data-field]").evaluate_all(script))


def is_ready(page: Page) -> None:
    expect(page.locator("#pulse")).to_have_text("live", timeout=PATIENCE_MS)


def has_no_horizontal_scroll(page: Page) -> bool:
    script = "document.scrollingElement.scrollWidth <= document.documentElement.clientWidth"
    return bool(page.evaluate(script))


TOTALS = (
    *("num_training", "round", "tokens", "tokens_per_s", "loss_bits_per_byte"),
    *("validation_bits_per_byte", "utilisation_frac", "sent_bytes"),
)
OF_REPORT = (
    *("tokens_per_s", "loss_bits_per_byte", "validation_bits_per_byte", "utilisation_frac"),
    "sent_bytes",
)


def assert_shows(page: Page, status: dict[str, Any]) -> None:
    """Asserts that all numbers on the page are those of a status."""
    assert fields_of(page, "#totals") == {field: status[field] for field in TOTALS}
    assert fields_of(page, ".masthead")["run_id"] == status["run_id"]
    rows = page.locator("#peers tbody tr")
    assert rows.count() == len(status["peers"])
    for peer in status["peers"]:
        shown = fields_of(page, f'#peers tr[data-peer="{peer["peer_id"]}"]')
        for field in ("peer_id", "step", "round", "waits", "attested_tokens"):
            assert shown[field] == peer[field], field
        for field in OF_REPORT:
            assert shown[field] == (peer[field] if peer["has_report"] else None), field
        for field in ("trained_tokens", "used_tokens", "late_rounds", "refused"):
            assert shown[field] == (peer["contribution"] or {}).get(field), field
    in_the_ring = page.locator("#ring [data-peer]").evaluate_all(
        "all => all.map(e => e.dataset.peer)"
    )
    assert sorted(in_the_ring) == sorted(peer["peer_id"] for peer in status["peers"])


def test_what_it_shows_is_what_the_status_says(tab: Tab) -> None:
    page = tab.open()
    is_ready(page)
    view = dozen()
    status = page.evaluate("fetch('status.json').then(answer => answer.json())")
    assert status["peers"][11]["validation_bits_per_byte"] is None  # it was no number
    assert_shows(page, status)

    def words(field: str) -> str:
        return page.locator(f'#totals [data-field="{field}"]').inner_text()

    assert words("num_training") == "11"
    assert words("tokens") == format_count(view.tokens)
    assert words("tokens_per_s") == format_count(view.tokens_per_s)
    assert words("sent_bytes") == format_bytes(view.sent_bytes)
    assert words("loss_bits_per_byte") == f"{view.loss_bits_per_byte:.3f}"
    assert words("utilisation_frac") == f"{100 * (view.utilisation_frac or 0):.0f} %"
    assert page.locator("#name").inner_text() == view.name
    silent = page.locator(f'#peers tr[data-peer="{view.peers[9].peer_id}"]')
    assert "no report" in silent.inner_text()
    assert "NaN" not in page.locator("body").inner_text()
    assert "undefined" not in page.locator("body").inner_text()
    assert "null" not in page.locator("body").inner_text()


def test_the_picture_shows_who_lags_who_is_silent_and_each_exchange_once(tab: Tab) -> None:
    page = tab.open()
    is_ready(page)
    view = dozen()

    def classes(number: int) -> str:
        found = page.locator(f'#ring [data-peer="{view.peers[number].peer_id}"]')
        return found.get_attribute("class") or ""

    assert "lags" in classes(8)
    assert "silent" in classes(9)
    assert "holds" in classes(10)
    assert "node" in classes(12)
    assert not {"lags", "silent"} & set(classes(0).split())
    assert page.locator(".wire.landed:not(li *)").count() == 3  # one was told by both of it
    assert page.locator("#ring .wire.under-way").count() == 1
    assert page.locator("#ring .wire.failed").count() == 1
    assert {"busy"} <= set(classes(1).split())


def test_a_peer_is_chosen_by_pointer_and_by_keys(tab: Tab) -> None:
    page = tab.open()
    is_ready(page)
    view = dozen()
    chosen = view.peers[8]
    detail = page.locator("#detail")
    expect(detail).to_be_hidden()
    page.locator(f'#ring [data-peer="{chosen.peer_id}"] .body').click()
    expect(detail).to_have_attribute("data-peer", chosen.peer_id)
    assert value_of(page, '#detail [data-field="tokens_per_s"]') == chosen.tokens_per_s
    assert chosen.peer_id in detail.inner_text()
    assert "the others waited no longer" in detail.inner_text()
    teller = view.peers[2].peer_id  # what both were in is told once
    assert f"with {teller[-6:]}: landed" in detail.inner_text()
    detail.get_by_role("button", name="Close").click()
    expect(detail).to_be_hidden()
    page.locator('#ring [tabindex="0"]').focus()
    page.keyboard.press("ArrowRight")
    focused = page.evaluate("document.activeElement.dataset.peer")
    expect(page.locator("#tip")).to_contain_text(focused[-6:])
    page.keyboard.press("Enter")
    expect(detail).to_have_attribute("data-peer", focused)
    page.locator("#peers tbody tr").nth(3).locator("button").click()
    expect(detail).not_to_have_attribute("data-peer", focused)


def test_what_strangers_say_is_text_and_nothing_else(browser: Browser) -> None:
    of_dozen = dozen()
    talker = replace(of_dozen.peers[8], domain=HOSTILE, phase=HOSTILE)
    peers = tuple(talker if peer.peer_id == talker.peer_id else peer for peer in of_dozen.peers)
    reasons = tuple(replace(each, reason=HOSTILE) for each in of_dozen.exchanges)
    hostile = replace(of_dozen, name=HOSTILE, method=HOSTILE, peers=peers, exchanges=reasons)
    with WebPage(("127.0.0.1", 0), lambda: hostile) as server:
        tab = Tab(browser, server.url)
        page = tab.open()
        is_ready(page)
        expect(page.locator("#name")).to_have_text(HOSTILE)
        expect(page.locator("#run")).to_contain_text(HOSTILE)
        expect(page.locator("#events")).to_contain_text(HOSTILE)
        page.locator(f'#peers tr[data-peer="{talker.peer_id}"] button').click()
        expect(page.locator("#detail")).to_contain_text(HOSTILE)
        assert page.locator("img").count() == 0
        assert page.title().startswith(HOSTILE)  # it would be "taken"
        page.close()
    assert not tab.complaints


@pytest.mark.parametrize("number", [1, 12, 60])
def test_a_phone_needs_no_sideways_scrolling(browser: Browser, number: int) -> None:
    long = training_peer(0, waits=({"name": "x" * 300, "whom": "", "for_s": 1e7},), domain="d" * 64)
    peers = (long, *(training_peer(each) for each in range(1, number)), node(99))
    view = swarm_of(peers, name="a run with quite a long name " * 3 + "x" * 200, method="m" * 90)
    with WebPage(("127.0.0.1", 0), lambda: view) as server:
        tab = Tab(browser, server.url)
        page = tab.open(PHONE, has_touch=True, is_mobile=True)
        is_ready(page)
        assert has_no_horizontal_scroll(page)
        if number > 12:
            page.get_by_role("button", name="Show all").tap()
        page.locator(f'#peers tr[data-peer="{long.peer_id}"] button').tap()
        expect(page.locator("#detail")).to_be_visible()
        assert has_no_horizontal_scroll(page)
        page.close()
    assert not tab.complaints


def test_dark_is_dark_and_the_readers_choice_is_kept(tab: Tab) -> None:
    colours = {}
    for scheme in ("light", "dark"):
        page = tab.open(color_scheme=scheme)
        is_ready(page)
        script = "getComputedStyle(document.body).backgroundColor"
        colours[scheme] = page.evaluate(script)
        page.get_by_role("button", name="light and dark").click()
        colours[f"not {scheme}"] = page.evaluate(script)
        page.reload()
        assert page.evaluate(script) == colours[f"not {scheme}"]
    assert colours["light"] == colours["not dark"] != colours["dark"] == colours["not light"]


def test_the_loss_is_drawn_over_time_or_over_tokens(tab: Tab) -> None:
    page = tab.open()
    is_ready(page)
    line = page.locator('[data-chart="loss"] .lines .training')
    over_time = line.get_attribute("d") or ""
    assert over_time.count("L") > 100
    page.get_by_role("button", name="tokens", exact=True).click()
    expect(page.locator('[data-chart="loss"] .grid')).to_contain_text("M")
    page.get_by_role("button", name="time", exact=True).click()
    assert line.get_attribute("d") == over_time
    page.locator('[data-chart="loss"] svg.plot').hover()
    expect(page.locator('[data-chart="loss"] .at')).to_contain_text(":")


def test_a_swarm_without_peers_says_how_one_comes_and_holds_no_ticket(browser: Browser) -> None:
    now = [swarm_of(())]
    with WebPage(("127.0.0.1", 0), lambda: now[0]) as server:
        tab = Tab(browser, server.url)
        page = tab.open()
        is_ready(page)
        expect(page.locator("#nobody")).to_contain_text("No peer has come yet")
        expect(page.locator("#nobody")).to_contain_text("thinwire join")
        now[0] = swarm_of((node(3), training_peer(1)), history=())
        expect(page.locator("#nobody")).to_be_hidden()
        expect(page.locator("#peers tbody tr")).to_have_count(2)
        page.close()
    assert not tab.complaints


def test_it_says_when_the_node_is_gone_and_goes_on_when_it_is_back(browser: Browser) -> None:
    now: list[SwarmView | None] = [None]
    with WebPage(("127.0.0.1", 0), lambda: now[0]) as server:
        tab = Tab(browser, server.url)
        page = tab.open()
        expect(page.locator("#trouble")).to_contain_text("Still entering the run")
        expect(page.locator("#pulse")).to_have_text("entering")
        now[0] = replace(dozen(), round=42)
        is_ready(page)
        port = server.port
    expect(page.locator("#pulse")).to_have_text("not connected")
    expect(page.locator("#trouble")).to_contain_text("does not answer since")
    expect(page.locator('#totals [data-field="round"]')).to_have_text("42")
    now[0] = replace(dozen(), round=43)
    with WebPage(("127.0.0.1", port), lambda: now[0]):
        is_ready(page)
        expect(page.locator("#trouble")).to_be_hidden()
        expect(page.locator('#totals [data-field="round"]')).to_have_text("43")
        page.close()
