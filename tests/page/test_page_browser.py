"""The page in a browser: click, switch, upload, keyboard, phone; no error in the console, no request elsewhere."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from page_browser import CHROMIUM, browser
from page_values import HOSTILE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="no chromium in the path; the page is tested without a browser only"),
]

READY = "document.querySelector('#about').innerText.includes('taxa')"
ANSWER = "document.querySelector('#answer[data-row]:not(.stale)') && !document.querySelector('#series-card').hidden"
PROBABILITIES = (
    "Object.fromEntries([...document.querySelectorAll('#species li')]"
    ".map(e => [e.dataset.label, +e.dataset.probability]))"
)


@pytest.fixture(scope="module")
def tab():
    with browser() as page:
        yield page


@pytest.fixture
def page(tab, server):
    """The page, freshly loaded; at the end nothing must have gone wrong and nothing been asked of others."""
    tab.problems.clear()
    tab.requests.clear()
    tab.resize(1280, 900)
    tab.open(server.url)
    tab.wait(f"document.readyState === 'complete' && location.href === '{server.url}' && {READY}")
    yield tab
    assert tab.problems == []
    assert {urlsplit(url).netloc for url in tab.requests if not url.startswith("blob:")} == {
        urlsplit(server.url).netloc
    }


def go(page, longitude, latitude=50):
    for name, value in (("longitude", longitude), ("latitude", latitude)):
        page.value(f"document.querySelector('#{name}').value = '{value}'")
    page.click("#place-form .primary")
    page.wait(
        f"document.querySelector('#answer[data-row=\"{longitude}\"]:not(.stale)')?.dataset.row"
    )  # rows are degrees


def test_a_click_on_the_map_shows_a_place(page):
    page.click("#map", 0.5, 0.5)
    page.wait(ANSWER)
    assert 12 <= float(page.value("document.querySelector('#longitude').value")) <= 23
    assert len(page.value(PROBABILITIES)) == 8
    assert page.text("#statement")
    assert "in range" in page.text("#species") or "out of range" in page.text("#species")
    assert "Cycle: greenup" in page.text("#cycle") or "No cycle" in page.text("#cycle")
    assert page.value("document.querySelectorAll('#dials > div').length") == 8


def test_inputs_and_months_switched_off_change_the_probabilities(page):
    go(page, 16)
    whole = page.value(PROBABILITIES)
    page.click("#input-switches label:nth-child(1)")
    page.wait(f"JSON.stringify({PROBABILITIES}) !== JSON.stringify({page.value(f'JSON.stringify({PROBABILITIES})')})")
    assert "everything switched on" in page.text("#species-note")
    page.click("#everything")
    page.wait(
        "document.querySelector('#everything').hidden"
        " && !document.querySelector('#species-note').innerText.includes('everything')"
    )
    assert page.value(PROBABILITIES) == whole
    page.click("#months button:nth-child(7)")
    page.wait("document.querySelector('#months-off').innerText.includes('Jul')")
    page.wait("document.querySelector('#unknown').innerText.includes('11 of 12')")
    assert page.value(PROBABILITIES) != whole


def test_what_is_missing_cannot_be_switched(page):
    go(page, 12)
    assert page.value("document.querySelector('#months button').disabled")
    assert page.value("document.querySelector('[data-group=terrain]').disabled")
    go(page, 13)
    assert page.value("document.querySelector('[data-group=image]').disabled")
    assert "too few clear months" in page.text("#cycle")


def test_nothing_left_is_said_and_can_be_mended(page):
    go(page, 16)
    for number in range(1, 6):
        page.click(f"#input-switches label:nth-child({number})")
    page.wait("!document.querySelector('#failure').hidden")
    assert page.value("document.querySelector('#answer').classList.contains('stale')")  # the old answer is marked
    assert "nothing is left that this model reads" in page.text("#failure")
    page.problems[:] = [problem for problem in page.problems if "400" not in problem]  # the console tells of it too
    page.click("#everything")
    page.wait("document.querySelector('#failure').hidden")


def test_the_truth_is_shown_on_request(page, api):
    go(page, 17)
    assert page.value("document.querySelector('#truth').hidden")
    page.click("#truth-button")
    page.wait("!document.querySelector('#truth').hidden")
    truth = api.truth({"row": "17"})["label"]
    assert truth in page.text("#truth")
    assert page.value("document.querySelector('#species .recorded').dataset.label") == truth
    page.click("#truth-button")
    page.wait("document.querySelector('#truth').hidden")


def test_the_map_obeys_the_keyboard(page):
    page.value("document.querySelector('#map').focus()")
    page.key("ArrowRight")
    page.key("ArrowUp")
    page.key("+", "+")
    page.key("Enter", "\r")
    page.wait(ANSWER)
    page.value("document.querySelector('#input-switches input').focus()")
    page.key(" ", " ")
    page.wait("document.querySelector('#species-note').innerText.includes('everything')")
    assert page.value("document.activeElement.dataset.group") == "image"  # the focus stays where it was


def test_points_are_uploaded_and_the_answers_shown(page, tmp_path):
    path = tmp_path / "own points.csv"
    path.write_text(f'id,longitude,latitude,bio01\nfirst,15,50,8.5\n"{HOSTILE}",16,50,\n')
    page.choose_file("#file", path)
    page.click("#table-form .primary")
    page.wait("!document.querySelector('#table-scroll').hidden")
    assert page.value("document.querySelectorAll('#table tbody tr').length") == 2
    assert HOSTILE in page.text("#table")
    assert page.value("document.querySelectorAll('img').length") == 0
    assert page.text("#table-status").startswith("2 points.")
    # What the download holds, read from the link that it makes.
    page.value(
        "window.saved = new Promise(done => {"
        "HTMLAnchorElement.prototype.click = function () { done([this.download, this.href]) }; });"
        "URL.createObjectURL = (blob) => { window.blob = blob; return 'blob:none'; }"
    )
    page.click("#download")
    assert page.value("window.saved") == ["own points-answers.csv", "blob:none"]
    lines = page.value("window.blob.text()").splitlines()
    assert lines[0].startswith("sample,longitude,latitude,label,probability")
    assert len(lines) == 3


def test_a_bad_file_gets_one_clear_line(page, tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text("id,longitude,latitude\na,15,50\nb,16,north\n")
    page.choose_file("#file", path)
    page.click("#table-form .primary")
    page.wait("!document.querySelector('#table-failure').hidden")
    assert page.text("#table-failure") == "bad.csv: row 2 (line 3): latitude is 'north', not a number"
    assert page.value("document.querySelector('#table-scroll').hidden")
    page.problems[:] = [problem for problem in page.problems if "400" not in problem]
    path.write_bytes(b"1" * 2_000_001)
    page.choose_file("#file", path)
    page.click("#table-form .primary")
    page.wait("document.querySelector('#table-failure').innerText.includes('2,000,001 bytes')")


def test_the_answer_stays_in_sight_and_never_covers_the_table(page):
    page.resize(1280, 700)
    go(page, 16)
    gap = (
        "(() => { const box = name => document.querySelector(name).getBoundingClientRect();"
        "return box('#table-card').top - box('#answer-card').bottom })()"
    )
    page.value("scrollTo(0, 250)")
    assert page.value("document.querySelector('#answer-card').getBoundingClientRect().top") >= 0
    page.value("scrollTo(0, document.documentElement.scrollHeight)")
    assert page.wait(f"{gap} > 0")


def test_a_name_that_is_markup_stays_text(page):
    go(page, 14)
    assert HOSTILE in page.text("#map-where")
    assert page.value("document.querySelectorAll('img').length") == 0


def test_the_page_fits_a_phone_and_all_controls_have_names(page):
    page.resize(390, 844, phone=True)
    go(page, 16)
    assert page.value("document.documentElement.scrollWidth") <= 390
    nameless = page.value(
        "[...document.querySelectorAll('input, select, button, canvas')].filter(e => !(e.getAttribute('aria-label')"
        " || e.innerText || e.labels?.length)).map(e => e.outerHTML)"
    )
    assert nameless == []
    small = page.value(
        "[...document.querySelectorAll('button')]"
        ".filter(e => e.offsetParent && (e.offsetWidth < 24 || e.offsetHeight < 24))"
        ".map(e => [e.innerText, e.offsetWidth, e.offsetHeight])"
    )
    assert small == []  # WCAG 2.2, target size (minimum): 24 CSS pixels
