"""The contact sheet in a real browser, opened from file://: where Chromium and Selenium are."""

import json
import shutil
import tempfile
import time

import numpy as np
import pytest

from vaejax.drawing import picture
from vaejax.export import folders, sheet, writing

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DRIVER = shutil.which("chromedriver")
if not (CHROMIUM and DRIVER):
    pytest.skip("needs Chromium and chromedriver", allow_module_level=True)
webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

NUM = 40
LABELS = ("bass", "bell", "kick")
RUN = "0123456789abcdef"
SAMPLE_RATE = 8000
HOSTILE = "</script><img src=x onerror='window.broken = 1'>&amp;\"ü日"
# File i of the folder, where it is not the plain one: names that a link must escape.
NAMES = {1: "a #1 100%25 &?;'ü日.wav", 2: "drums/snare & tom/<b>x.flac", 3: '"quoted" + plus.wav'}
PICTURES = np.random.default_rng(0).integers(0, 256, (NUM, 48, 64), dtype=np.uint8)
OUTLINES = np.random.default_rng(1).integers(0, 256, (NUM, 64), dtype=np.uint8)


def make_row(i):
    label = HOSTILE if i == 1 else LABELS[i % 3]
    return {
        "index": i,
        "file": NAMES.get(i, f"{i:05d}.wav"),
        "seed": 3,
        "label": label,
        "run": RUN,
        "seconds": 0.25 if i == 5 else 0.5,
        "sample_rate": SAMPLE_RATE,
        "loop": {"start": 800, "end": 1800} if i == 5 else None,
        "peak": 0.1 + (7 * i % NUM) / NUM,
        "pitch": None if i % 4 == 0 else 30 + i,
        "note": HOSTILE,
        f"key {HOSTILE}": i,
        "map": [np.cos(i), np.sin(i)],  # Far enough from each other to be clicked at.
    }


ROWS = [make_row(i) for i in range(NUM)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """40 sounds on one page, and on two."""
    out = tmp_path_factory.mktemp("sheet #1 & 100%")
    (out / "drums" / "snare & tom").mkdir(parents=True)
    tone = (9000 * np.sin(np.arange(SAMPLE_RATE) * 0.3)).astype(np.int16)
    for row in ROWS[:8]:
        length = round(row["seconds"] * SAMPLE_RATE)
        writing.write_sound(out / row["file"], tone[:length], SAMPLE_RATE, subtype="PCM_16")
    for page_size, name in ((25, "paged"), (NUM, None)):
        with sheet.SheetWriter(
            out, title=HOSTILE, sample_rate=SAMPLE_RATE, seconds=0.5, page_size=page_size
        ) as writer:
            writer.add(ROWS, PICTURES, OUTLINES)
        if name:
            (out / name).mkdir()
            for page in out.glob("index*.html"):
                page.rename(out / name / page.name)
    return out


@pytest.fixture(scope="module")
def driver(folder):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (
            "headless=new",
            "no-sandbox",
            "disable-gpu",
            "disable-dev-shm-usage",
            "no-first-run",
            "disable-background-networking",
            "disable-component-update",
            "disable-sync",
            "mute-audio",
            "autoplay-policy=no-user-gesture-required",
            f"user-data-dir={profile}",
            "window-size=1400,900",
        ):
            options.add_argument(f"--{flag}")
        driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
        driver.execute_cdp_cmd(
            "Browser.setDownloadBehavior",
            {"behavior": "allow", "downloadPath": str(folder / "saved")},
        )
        yield driver
        driver.quit()


def wait_for(condition, seconds=10):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)
    return value


class Page:
    """The sheet in the browser, as one sees and touches it."""

    def __init__(self, driver, folder, path="index.html"):
        self.driver, self.folder, self.js = driver, folder, driver.execute_script
        self.open(path)

    def open(self, path="index.html"):
        self.driver.get((self.folder / path).as_uri())
        wait_for(lambda: self.js("return document.documentElement.dataset.painted"))

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def press(self, *keys):
        self.driver.switch_to.active_element.send_keys(*keys)

    def choose(self, select, text):
        done = self.js(
            "const [box, text] = arguments, i = [...box.options].findIndex((o) => o.text === text);"
            "box.selectedIndex = i; box.dispatchEvent(new Event('change')); return i >= 0",
            self.find(select),
            text,
        )
        assert done, text

    def order(self):
        """Indices of what is shown, in order."""
        return self.js("return order.map(({ row }) => row.index)")

    def wait_until_plays(self, index):
        """Waits until the sound is heard: the player has its file and its time goes on."""
        wait_for(lambda: self.js(f"return playing.row.index === {index} && player.currentTime > 0"))
        assert self.js("return player.error") is None

    def saved(self, name):
        path = self.folder / "saved" / name
        wait_for(path.exists)
        text = path.read_text("utf-8")
        path.unlink()
        return text


@pytest.fixture
def page(driver, folder):
    page = Page(driver, folder)
    page.js("localStorage.clear()")
    page.open()
    yield page
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert page.js("return window.broken") is None
    said = [entry["message"] for entry in driver.get_log("browser")]
    assert [text for text in said if "ERR_FILE_NOT_FOUND" not in text] == []


def test_opens_with_a_tile_for_each_sound_in_sight(page):
    assert page.find("#count").text == "40 sounds · 8 kHz"
    assert page.find("h1").text == HOSTILE
    tiles = page.all(".tile")
    in_sight = page.js(
        "const end = scroller.getBoundingClientRect().bottom;"
        "const tops = [...tiles.values()].map(({ tile }) => tile.getBoundingClientRect().top);"
        "return tops.filter((top) => top < end).length"
    )
    assert 8 <= in_sight <= len(tiles) <= NUM
    # As many rows of tiles as the sounds need.
    assert page.js("return Math.ceil(40 / columns) * (tileHeight + gap) + gap") == page.js(
        "return field.offsetHeight"
    )
    page.js("scroller.scrollTop = 1e6")
    wait_for(lambda: page.all(f'[aria-label^="Play {NUM - 1:05d}.wav"]'))


def test_pictures_are_the_thumbnails_and_outlines(page):
    shown = page.js(
        "return [...document.querySelector('.tile .picture').getContext('2d')"
        ".getImageData(0, 0, 64, 48).data]"
    )
    rgb = np.array(shown, np.uint8).reshape(48, 64, 4)[..., :3]
    np.testing.assert_array_equal(rgb, picture.colorize(PICTURES[0]))
    filled = page.js(  # Opaque pixels of each column of the waveform.
        "const { data } = document.querySelector('.tile .wave').getContext('2d')"
        ".getImageData(0, 0, 128, 44); const tall = Array(64).fill(0);"
        "for (let i = 0; i < 64; i++) for (let y = 0; y < 44; y++)"
        "  tall[i] += data[4 * (128 * y + 2 * i) + 3] / 255; return tall"
    )
    np.testing.assert_allclose(filled, np.maximum(2, OUTLINES[0] / 255 * 44), atol=0.1)


def test_a_click_plays_and_keys_move_play_again_and_stop(page):
    page.all(".tile .play")[0].click()
    page.wait_until_plays(0)
    assert page.find(".tile.playing .name").text.endswith("00000.wav")
    for index in (1, 2, 3):  # Odd names, a subfolder, FLAC.
        page.press(Keys.ARROW_RIGHT)
        page.wait_until_plays(index)
    page.press(Keys.ARROW_LEFT)
    page.wait_until_plays(2)
    page.press(Keys.ARROW_UP)  # There is no row above.
    assert page.js("return active.row.index") == 2
    page.press(Keys.ARROW_DOWN)
    assert page.js("return columns > 2 && active.row.index === 2 + columns")
    page.press(Keys.HOME)
    page.wait_until_plays(0)
    wait_for(lambda: page.js("return player.ended"))
    page.press(Keys.SPACE)
    wait_for(lambda: page.js("return !player.paused && player.currentTime > 0"))
    page.press(Keys.ESCAPE)
    assert page.js("return player.paused && player.currentTime === 0")
    assert page.js("return document.activeElement.getAttribute('aria-label')").startswith(
        "Play 00000.wav, bass"
    )


def test_plays_through_one_after_the_other(page):
    page.press("p")
    page.wait_until_plays(0)
    page.wait_until_plays(1)
    page.press("p")
    wait_for(lambda: page.js("return player.ended"))
    assert page.js("return playing.row.index") == 1


def test_a_file_that_is_gone_is_said(page):
    page.press(Keys.END)
    wait_for(lambda: f"{NUM - 1:05d}.wav cannot be played" in page.find("#trouble").text)


def test_stars_are_exported_kept_and_imported(page, folder):
    assert not page.find("#export").is_enabled()
    page.press("s")  # The first is active from the start.
    page.find('[aria-label="Star 00004.wav"]').click()
    page.all(".star")[2].click()
    assert page.find("#export").text == "Export 3 starred"
    page.find("#export").click()
    exported = json.loads(page.saved("starred.json"))
    assert exported == {
        "format": "vaejax-starred-1",
        "run": RUN,
        "manifest": folders.MANIFEST,
        "sounds": [{"index": i, "file": ROWS[i]["file"]} for i in (0, 2, 4)],
    }
    page.find("#more").click()
    page.find("#export-list").click()
    assert page.saved("starred.txt").splitlines() == [ROWS[i]["file"] for i in (0, 2, 4)]

    page.open()  # As after a reload, and on pages that hold the same sounds.
    page.find("#only").click()
    assert page.order() == [0, 2, 4]
    page.open("paged/index-2.html")
    assert page.find("#export").text == "Export 3 starred"
    page.open()

    page.find("#more").click()
    page.find("#unstar-all").click()
    page.driver.switch_to.alert.accept()
    assert not page.find("#export").is_enabled()
    for change, said in (
        ({}, "3 sounds starred from list.json."),
        ({"sounds": [{"index": 7, "file": "other.wav"}]}, "0 sounds starred from list.json; 1 of"),
        ({"run": "f" * 16}, f"list.json is of the run {'f' * 16}; these sounds are of {RUN}."),
        ({"sounds": 3}, "list.json is not a list of starred sounds."),
    ):
        (folder / "list.json").write_text(json.dumps(exported | change))
        page.find("#import-file").send_keys(str(folder / "list.json"))
        wait_for(lambda said=said: page.find("#trouble").text.startswith(said))
        assert page.js("return starred().map(([index]) => index)") == [0, 2, 4]


def test_a_star_does_not_pass_to_another_sound_of_the_same_name(page):
    page.press("s")
    page.js(  # As if the same name had been another sound then.
        "const list = stored.get(starKey); list[0][2] = 'x'; stored.set(starKey, list)"
    )
    page.open()
    assert page.js("return stars.size") == 0


def test_filters_by_label_words_conditions_and_stars(page):
    page.choose("#group", "kick (13)")
    assert page.order() == [i for i in range(NUM) if i % 3 == 2]
    assert page.find("#count").text.startswith("13 of 40 sounds")
    for text, expected in (
        ("0003", [30, 31, 32, 33, 34, 35, 36, 37, 38, 39]),
        ("BELL 0003", [31, 34, 37]),
        ("pitch>=60 pitch<63", [30, 31]),  # 32 has none.
        ("peak=0.1", [0]),
        ("no such sound", []),
    ):
        page.js("group.selectedIndex = 0; scroller.focus()")
        page.press("/")  # Selects what was there.
        page.press(text)
        wait_for(lambda expected=expected: page.order() == expected)
    assert page.find("#empty").is_displayed()
    page.find("#reset").click()
    assert len(page.order()) == NUM
    page.press("s")
    page.find("#only").click()
    assert page.order() == [0]


def test_sorts_by_every_number_both_ways_and_missing_ones_last(page):
    options = [option.text for option in page.all("#sort option")]
    # What is the same for all sounds tells them not apart; whatever differs is there by itself.
    assert options[:4] == ["Sort: index", "Sort: seconds", "Sort: peak", "Sort: pitch"]
    assert "Sort: seed" not in options
    page.choose("#sort", "Sort: peak")
    by_peak = sorted(range(NUM), key=lambda i: ROWS[i]["peak"])
    assert page.order() == by_peak
    page.press("r")
    assert page.order() == by_peak[::-1]
    page.choose("#sort", "Sort: pitch")
    missing = list(range(0, NUM, 4))
    assert page.order() == [i for i in range(NUM - 1, -1, -1) if i % 4] + missing
    assert "G♯3 (56)" in [number.text for number in page.all(".number")]


def test_a_dot_of_the_map_shows_its_name_and_plays(page):
    assert page.find("#map").is_displayed()
    for index in (3, 6):
        x, y = page.js(f"return toMap(byIndex.get({index}))")
        width, height = page.js("return mapSize")
        chain = ActionChains(page.driver)
        chain.move_to_element_with_offset(page.find("#dots"), x - width / 2, y - height / 2)
        chain.perform()
        assert page.find("#tip").text.startswith(ROWS[index]["file"])
        chain.click().perform()
        page.wait_until_plays(index)
    assert page.js("return document.querySelector('.tile.active .name').textContent") == "00006.wav"
    page.press(Keys.ARROW_UP)  # On the map, to a dot above.
    assert page.js("return toMap(active)[1] < toMap(byIndex.get(6))[1]")
    bell = next(button for button in page.all("#legend button") if button.text == "bell")
    bell.click()
    assert page.order() == [i for i in range(NUM) if i % 3 == 1 and i != 1]


def test_details_show_every_field(page):
    page.press("d")
    facts = dict(
        zip(
            [term.text for term in page.all("#facts dt")],
            [text.text for text in page.all("#facts dd")],
            strict=True,
        )
    )
    assert facts["note"] == HOSTILE
    assert facts["seed"] == "3"
    assert facts["made again by"] == "sample.py --redo manifest.jsonl --index 0"


def test_a_shorter_file_leaves_the_rest_of_its_picture_dimmed_and_a_loop_is_marked(page):
    rest = page.js(
        "return [...document.querySelectorAll('.tile')].map((tile) => {"
        "const rest = tile.querySelector('.rest'); return [tile.querySelector('.name').textContent,"
        "rest.hidden ? 0 : rest.offsetWidth / rest.parentElement.offsetWidth] })"
    )
    for name, part in rest:
        assert part == pytest.approx(0.5 if name == "00005.wav" else 0, abs=0.02), name
    loops = page.js(
        "return [...document.querySelectorAll('.tile .loop:not([hidden])')].map((loop) =>"
        "[loop.offsetLeft, loop.offsetWidth].map((x) => x / loop.parentElement.offsetWidth))"
    )
    assert loops == [pytest.approx([800 / 4000, 1000 / 4000], abs=0.02)]


def test_light_and_dark(page):
    def lightness():
        rgb = page.js("return getComputedStyle(document.body).backgroundColor")
        return max(int(part) for part in rgb.strip("rgb()").split(","))

    assert lightness() > 200
    page.driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": "dark"}]},
    )
    wait_for(lambda: lightness() < 60)
    page.find("#theme").click()
    assert page.find("#theme").get_attribute("aria-label") == "Theme: light"
    assert lightness() > 200
    page.open()
    assert lightness() > 200  # Remembered.


def test_links_lead_to_the_files(page, folder):
    for index in NAMES:
        page.js(f"activate(byIndex.get({index}))")
        link = page.find("#name")
        assert link.text == NAMES[index]
        assert link.get_attribute("href") == (folder / NAMES[index]).as_uri().replace("%27", "'")
