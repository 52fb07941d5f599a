"""The playground in a real browser, on a real local Serve."""

import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Dialog, Locator, Page, Route, expect, sync_playwright
from rich.console import Console

from loadtest.bench.photos.heic import TILE
from serve_app.api.playground import PAGE, policy
from serve_app.backends.secrets import TOKEN_FILE
from serve_app.cli import serve
from serve_app.cli.replay import read_receipt
from serve_app.launcher import RunningService
from serve_app.photos.sample import sample_photo
from tests.support.envelopes import failure
from tests.support.hostile_pictures import encoded
from tests.support.photos import data_url, photo_files
from tests.support.service import Service

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)"),
]

TIMEOUT_MS = 120_000  # for machines with much else to do
ELSEWHERE = "avatars.test"  # a host that is not this machine, for the browser
FLAGS = [
    f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--use-fake-device-for-media-stream",  # a camera that shows no face
    "--use-fake-ui-for-media-stream",
]
DESKTOP, PHONE = (1280, 900), (390, 844)


@dataclass
class Visit:
    """One tab, and what it should not have done."""

    page: Page
    service: Service
    foreign: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    expected: str = "nothing"  # a pattern of complaints that belong to the test

    @property
    def token(self) -> str:
        return (self.service.data_dir / TOKEN_FILE).read_text().strip()

    def watch(self) -> None:
        own = (self.service.url, "blob:", "data:")
        self.page.on("request", lambda request: request.url.startswith(own) or self.foreign.append(request.url))
        self.page.on("console", lambda said: said.type in ("error", "warning") and self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def open(self) -> Page:
        """As from the link that the command line prints."""
        self.page.goto(f"{self.service.url}/#token={self.token}")
        expect(self.page.locator("#change-token")).to_be_visible()
        return self.page

    def choose(self, name: str, data: bytes, kind: str = "image/png") -> Locator:
        """Choose a photo; gives what is said of it."""
        self.page.locator("#choose").set_input_files({"name": name, "mimeType": kind, "buffer": data})
        verdict = self.page.locator("#verdict")
        expect(verdict).to_have_class(re.compile("good|bad|doubt"))
        return verdict

    def be_quick(self, batch: int = 1, seed: int = 5) -> dict[str, Any]:
        """Settings with which an avatar is soon there; gives them as the API has them."""
        page = self.page
        page.locator("#more summary").click()
        page.get_by_label("How many").fill(str(batch))
        page.get_by_label("Steps").fill("2")
        page.get_by_label("Seed", exact=True).fill(str(seed))
        page.get_by_label("Size").select_option("own")
        page.get_by_label("Width").fill("256")
        page.get_by_label("Height").fill("256")
        return {"batch": batch, "num_inference_steps": 2, "seed": seed, "width": 256, "height": 256}

    def generate(self) -> Locator:
        """Gives the avatars when they are there."""
        self.page.get_by_role("button", name="Generate").click()
        expect(self.page.locator("#summary")).to_be_visible()
        return self.page.locator(".tile.avatar")

    def require_accessible(self) -> None:
        found = Axe().run(self.page).response["violations"]
        grave = [(it["id"], it["nodes"][0]["target"]) for it in found if it["impact"] in ("serious", "critical")]
        assert grave == []

    def require_no_sideways_scrolling(self) -> None:
        assert self.page.evaluate("document.documentElement.scrollWidth") <= self.page.viewport_size["width"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def visit(browser: Browser, service: Service) -> Iterator[Callable[..., Visit]]:
    """Opens tabs; when the test is over, none may have complained or spoken to another host."""
    visits: list[Visit] = []

    def visit(size: tuple[int, int] = DESKTOP, scheme: Any = "light") -> Visit:
        viewport: Any = {"width": size[0], "height": size[1]}
        context = browser.new_context(
            viewport=viewport, color_scheme=scheme, permissions=["clipboard-read", "clipboard-write", "camera"]
        )
        context.set_default_timeout(TIMEOUT_MS)
        visits.append(Visit(context.new_page(), service))
        visits[-1].watch()
        return visits[-1]

    expect.set_options(timeout=TIMEOUT_MS)
    yield visit
    for seen in visits:
        seen.page.context.close()
        assert seen.foreign == []
        assert [complaint for complaint in seen.complaints if not re.search(seen.expected, complaint)] == []


def pixels(locator: Locator) -> Any:
    """Of the picture behind a download link."""
    with locator.page.expect_download() as download:
        locator.click()
    return np.asarray(Image.open(download.value.path()))


# From the link to the avatars


def test_the_first_avatars_are_two_clicks_from_the_link(visit: Callable[..., Visit], service: Service) -> None:
    tab = visit()
    page = tab.open()
    assert page.url == f"{service.url}/"  # the token is not left in the address
    page.get_by_role("button", name="Try a sample").click()
    expect(page.locator("#verdict")).to_have_text("Face found.")
    avatars = tab.generate()
    expect(avatars).to_have_count(4)
    first = avatars.first
    expect(first.locator("img")).to_have_js_property("naturalWidth", 512)
    expect(first.locator(".likeness")).to_have_text(re.compile(r"Likeness \d\.\d\d"))
    expect(page.locator("#stage-list dt")).to_have_text(["Photo", "Face", "Drawing", "Finishing", "Storing"])
    with page.expect_download() as download:
        page.get_by_role("button", name="Download all").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert archive.testzip() is None
        pictures = [Image.open(io.BytesIO(archive.read(name))).size for name in archive.namelist()]
        assert [Path(name).suffix for name in archive.namelist()] == [".png"] * 4
    assert pictures == [(512, 512)] * 4
    expect(page.get_by_label("The person on the photo agrees")).to_be_hidden()
    with page.expect_download() as download:
        page.get_by_role("button", name="Receipts").click()
    first_seed = int((first.locator(".soft").text_content() or "").removeprefix("seed "))
    receipts = Path(download.value.path())
    assert [read_receipt(receipts, image).seed for image in range(4)] == [first_seed + index for index in range(4)]


def test_avatars_become_clear_while_they_are_drawn(visit: Callable[..., Visit]) -> None:
    tab = visit()
    page = tab.open()
    tab.choose("me.png", sample_photo().read_bytes())
    tab.be_quick(batch=2)
    page.get_by_label("Steps").fill("50")
    page.get_by_role("button", name="Generate").click()
    previews = page.locator(".waiting img.preview")
    expect(previews.first).to_have_js_property("naturalWidth", 64)
    expect(page.locator("#summary")).to_be_visible()
    expect(page.locator("img.preview")).to_have_count(0)
    expect(page.locator(".tile.avatar")).to_have_count(2)


def test_the_face_that_was_found_is_framed_before_anything_is_generated(visit: Callable[..., Visit]) -> None:
    tab = visit()
    page = tab.open()
    tab.choose("me.png", sample_photo().read_bytes())
    photo, frame = page.locator("#photo").bounding_box(), page.locator(".box.used").bounding_box()
    assert photo is not None
    assert frame is not None
    scale = 512 / photo["width"]
    centre_x = scale * (frame["x"] + frame["width"] / 2 - photo["x"])
    centre_y = scale * (frame["y"] + frame["height"] / 2 - photo["y"])
    assert (centre_x, centre_y) == (pytest.approx(224, abs=20), pytest.approx(118, abs=20))
    tab.choose("six.jpg", photo_files()["six.jpg"])
    expect(page.locator("#photo-warnings li")).to_contain_text("The largest is used.")
    assert page.locator(".box").count() > page.locator(".box.used").count() == 1


def test_the_page_its_curl_command_and_its_python_program_give_the_same_picture(
    visit: Callable[..., Visit], service: Service, tmp_path: Path
) -> None:
    tab = visit()
    page = tab.open()
    photo = sample_photo().read_bytes()
    (tmp_path / "it's me.png").write_bytes(photo)
    tab.choose("it's me.png", photo)
    asked = tab.be_quick()
    page.get_by_role("radio", name="Other").check()
    page.get_by_label("Another word for the person").fill("old man")
    page.get_by_role("radio", name="Transparent").check()
    tile = tab.generate()
    expect(tile.locator(".checker")).to_be_visible()
    shown = pixels(tile.get_by_role("link", name="Download"))
    told = service.make(file_url=data_url(photo), gender="old man", remove_background=True, **asked)
    assert np.array_equal(shown, service.pixels(told["output"]["result"][0]))

    page.locator("#code summary").click()
    page.locator("[data-copy=curl]").click()
    expect(page.locator("[data-copy=curl]")).to_have_text("Copied")
    curl = page.evaluate("navigator.clipboard.readText()")
    environment = os.environ | {"TOKEN": tab.token}
    answer = subprocess.run(["bash", "-c", curl], cwd=tmp_path, env=environment, capture_output=True, text=True)
    url = re.search(r'"result":\["([^"]+)"', answer.stdout)
    assert url is not None, answer.stdout
    assert np.array_equal(shown, service.pixels(url[1]))
    program = page.locator("#python").text_content()
    assert program is not None
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
    assert np.array_equal(shown, np.asarray(Image.open(tmp_path / "avatar-0.png")))


def test_more_photos_of_the_same_person_are_looked_at_and_sent_together(visit: Callable[..., Visit]) -> None:
    tab = visit()
    page = tab.open()
    expect(page.locator("#more-photos")).to_be_hidden()
    photos = photo_files()
    tab.choose("me.png", sample_photo().read_bytes())
    added = [{"name": name, "mimeType": "image/png", "buffer": photos[name]} for name in ("hanks.png", "cat.png")]
    page.locator("#add").set_input_files(added)
    rows = page.locator("#thumbs li")
    expect(rows.nth(0).locator(".verdict")).to_have_class(re.compile("good|doubt"))
    expect(rows.nth(1).locator(".verdict")).to_have_text(re.compile("No face was found"))
    tab.require_accessible()
    tab.require_no_sideways_scrolling()
    page.get_by_role("button", name="Generate").click(force=True)
    expect(page.locator("#form-error")).to_have_text("Remove the photos that cannot be used first.")
    page.get_by_role("button", name="Remove photo 3").click()
    expect(rows).to_have_count(1)
    tab.be_quick()
    expect(page.locator("#python")).to_contain_text('[Path("me.png"), Path("hanks.png")]')
    with page.expect_request(lambda request: "getImageToImage" in request.url) as sent:
        expect(tab.generate()).to_have_count(1)
    answer = sent.value.response()
    assert answer is not None
    assert len(answer.json()["input"]["file_urls"]) == 2
    expect(page.locator(".tile .caption").first).to_have_text("Your 2 photos")
    page.locator("#add").set_input_files([*added, *added])
    expect(rows).to_have_count(3)
    expect(page.locator("#more-problem")).to_have_text("At most 4 photos: the others were left out.")
    tab.choose("other.png", photos["hanks.png"])  # another person, perhaps
    expect(rows).to_have_count(0)


def test_the_photo_that_a_refusal_is_about_is_named(visit: Callable[..., Visit]) -> None:
    tab = visit()
    tab.expected = "422"
    page = tab.open()
    data = {"message": "not the person of the other photos", "reason": "different_people", "photo": 1}
    refusal = {"error": "Face Consistent Error", "error_data": data, "status": "FAILED"}
    page.route("**/getImageToImage", lambda route: route.fulfill(status=422, json=refusal))
    tab.choose("me.png", sample_photo().read_bytes())
    other = {"name": "hanks.png", "mimeType": "image/png", "buffer": photo_files()["hanks.png"]}
    page.locator("#add").set_input_files(other)
    expect(page.locator("#thumbs .verdict")).to_have_class(re.compile("good|doubt"))
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#alert")).to_have_text(re.compile("^Photo 2: It shows somebody else than the others"))
    expect(page.locator("#thumbs .verdict")).to_have_class(re.compile("good|doubt"))  # it was looked at again


def test_a_task_can_be_cancelled_and_the_next_one_drawn(visit: Callable[..., Visit], service: Service) -> None:
    tab = visit()
    page = tab.open()
    tab.choose("me.png", sample_photo().read_bytes())
    page.locator("#more summary").click()
    page.get_by_label("How many").fill("8")
    page.get_by_label("Steps").fill("50")
    with page.expect_response(lambda answer: "getImageToImage" in answer.url) as accepted:
        page.get_by_role("button", name="Generate").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#alert")).to_have_text("Cancelled.")
    task = service.client.get(f"/api/v1/tasks/{accepted.value.json()['task_id']}").json()
    assert task["status"] == "CANCELLED"
    page.get_by_role("button", name="Reset all settings").click()
    expect(page.locator("output[for=num_inference_steps]")).to_have_text("12")
    page.locator("#more summary").click()
    tab.be_quick()
    expect(tab.generate()).to_have_count(1)


def test_a_page_that_is_loaded_anew_goes_on_with_its_task(visit: Callable[..., Visit]) -> None:
    tab = visit()
    page = tab.open()
    tab.choose("me.png", sample_photo().read_bytes())
    page.locator("#more summary").click()
    page.get_by_label("How many").fill("8")
    page.get_by_label("Steps").fill("50")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#cancel")).to_be_visible()
    page.reload()
    expect(page.locator(".tile.waiting")).to_have_count(8)
    expect(page.locator("#progress-text")).to_contain_text("of 8 done")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#alert")).to_have_text("Cancelled.")
    page.reload()
    expect(page.locator("#change-token")).to_be_visible()
    expect(page.locator("#empty")).to_be_visible()


def test_avatars_that_were_done_after_a_reload_are_shown_without_the_photo(visit: Callable[..., Visit]) -> None:
    tab = visit()
    page = tab.open()
    tab.choose("me.png", sample_photo().read_bytes())
    tab.be_quick(batch=2)
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#cancel")).to_be_visible()
    page.reload()
    expect(page.locator(".tile.avatar")).to_have_count(2)
    expect(page.locator(".tile")).to_have_count(2)
    tab.require_accessible()


def test_consent_is_asked_for_where_the_service_requires_it(visit: Callable[..., Visit]) -> None:
    tab = visit()
    page = tab.page

    def requiring(route: Route) -> None:
        answer = route.fetch()
        envelope = answer.json()
        envelope["output"]["consent_required"] = True
        route.fulfill(response=answer, json=envelope)

    page.route("**/api/v1/apps", requiring)
    tab.open()
    tab.choose("me.png", sample_photo().read_bytes())
    tab.be_quick()
    page.get_by_label("The person on the photo agrees").check()
    page.get_by_label("Least likeness").fill("0.3")
    with page.expect_request(lambda request: "getImageToImage" in request.url) as sent:
        tab.generate()
    body = sent.value.post_data_buffer
    assert body is not None
    assert re.search(rb'name="consent"\r\n\r\ntrue', body)
    assert re.search(rb'name="min_similarity"\r\n\r\n0.3', body)


def test_another_app_looks_at_the_photo_anew_and_shows_its_own_least_likeness(visit: Callable[..., Visit]) -> None:
    tab = visit()
    page = tab.page

    def offering_two(route: Route) -> None:
        answer = route.fetch()
        envelope = answer.json()
        (app,) = envelope["output"]["apps"]
        defaults, styles = (
            app["defaults"] | {"min_similarity": 0.4},
            {"comic": {"title": "Comic", "prompt": "{prompt}"}},
        )
        other = {**app, "app_id": "other", "title": "Other", "defaults": defaults, "styles": styles}
        other |= {"qualities": ["standard", "fast"], "vocabulary": None}
        envelope["output"]["apps"].append(other)
        route.fulfill(response=answer, json=envelope)

    def seeing(route: Route) -> None:
        """The other app, which this service has not, finds no face."""
        if b"other" not in (route.request.post_data_buffer or b""):
            route.continue_()
            return
        output = {"width": 9, "height": 9, "faces": [], "used": None, "accepted": False, "reason": "no_face"}
        route.fulfill(json={"output": {**output, "message": "No face was found.", "warnings": []}})

    page.route("**/api/v1/apps", offering_two)
    page.route("**/api/v1/faces", seeing)
    tab.open()
    with page.expect_request(lambda request: request.url.endswith("/faces")) as first:
        verdict = tab.choose("me.png", sample_photo().read_bytes())
    expect(page.locator("#style")).to_be_hidden()
    expect(page.get_by_text("Fast", exact=True)).to_be_hidden()
    expect(page.locator("#prompt-in-style")).to_be_hidden()
    page.get_by_text("Words that it knows").click()
    expect(page.locator("#known-words")).to_contain_text("smiling")
    assert b'name="app_id"\r\n\r\nface-avatar\r\n' in (first.value.post_data_buffer or b"")
    expect(verdict).to_have_class(re.compile("good"))
    with page.expect_request(lambda request: request.url.endswith("/faces")) as again:
        page.locator("#app_id").select_option("other")
    assert b'name="app_id"\r\n\r\nother\r\n' in (again.value.post_data_buffer or b"")
    expect(page.locator("#style option")).to_have_text(["The model’s own", "Comic"])
    expect(page.locator("#prompt-in-style")).to_be_visible()
    expect(page.locator("#vocabulary")).to_be_hidden()
    expect(verdict).to_have_class(re.compile("bad"))
    expect(page.locator('output[for="min_similarity"]')).to_have_text("0.4")
    page.get_by_text("More settings").click()
    expect(page.get_by_label("Steps")).to_be_visible()
    page.get_by_label("Steps").fill("9")
    page.get_by_role("radio", name="Fast").press("Space")
    expect(page.get_by_label("Steps")).to_be_hidden()
    expect(page.locator("#python")).to_contain_text('quality="fast"')
    expect(page.locator("#python")).not_to_contain_text("num_inference_steps")
    page.locator("#app_id").select_option("face-avatar")
    expect(page.locator("#python")).not_to_contain_text("quality")


def test_a_withheld_avatar_is_told_and_not_downloaded_and_so_are_those_less_like_than_asked(
    visit: Callable[..., Visit],
) -> None:
    tab = visit()
    tab.expected = "ERR_FAILED"
    page = tab.open()

    def withholding(route: Route) -> None:
        answer = route.fetch()
        envelope = answer.json()
        if envelope["status"] == "SUCCESS":
            for name in ("result", "low_res_urls", "face_similarity", "receipts"):
                envelope["output"][name][0] = None
        route.fulfill(response=answer, json=envelope)

    page.route("**/events", lambda route: route.abort())
    page.route("**/api/v1/tasks/*", withholding)
    tab.choose("me.png", sample_photo().read_bytes())
    tab.be_quick(batch=3)
    page.get_by_label("Least likeness").fill("1")
    avatars = tab.generate()
    expect(avatars).to_have_count(2)
    expect(page.locator(".withheld")).to_have_text("Withheld by the safety check. Another seed may help.")
    expect(avatars.first.locator(".hint")).to_have_text("Best of 3, still less like than asked.")
    expect(page.locator("#summary-text")).to_have_text(re.compile(r"2 avatars in .* s; 1 was withheld\."))
    tab.require_accessible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download all").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert len(archive.namelist()) == 2
    with page.expect_download() as download:
        page.get_by_role("button", name="Receipts").click()
    assert read_receipt(Path(download.value.path()), 1).seed in (6, 10, 11)


def test_where_events_do_not_come_the_task_is_asked_for(visit: Callable[..., Visit]) -> None:
    tab = visit()
    tab.expected = "ERR_FAILED"
    page = tab.open()
    page.route("**/events", lambda route: route.abort())
    tab.choose("me.png", sample_photo().read_bytes())
    tab.be_quick(batch=2)
    expect(tab.generate()).to_have_count(2)


def test_it_works_without_a_mouse(visit: Callable[..., Visit]) -> None:
    page = visit().open()

    def tab_to(name: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == name:
                return
        raise AssertionError(f"{name} cannot be reached")

    tab_to("sample")
    page.keyboard.press("Enter")
    expect(page.locator("#verdict")).to_have_class(re.compile("good"))
    tab_to("batch")
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    tab_to("generate")
    page.keyboard.press("Enter")
    expect(page.locator("#announce")).to_have_text("1 avatar is done.")
    expect(page.locator(".tile.avatar")).to_have_count(1)


# Photos


def test_a_photo_that_would_be_refused_is_refused_before_it_is_sent(visit: Callable[..., Visit]) -> None:
    tab = visit()
    tab.expected = "422"
    page = tab.open()
    expect(tab.choose("cat.png", photo_files()["cat.png"])).to_contain_text("No face was found.")
    page.get_by_role("button", name="Generate").click(force=True)  # it is said to be disabled, and says why
    expect(page.locator("#form-error")).to_have_text("Another photo is needed first.")
    expect(tab.choose("notes.png", b"no picture")).to_contain_text("This is a text")
    page_as_jpeg = b"<!doctype html><html><body>Not found</body></html>"
    expect(tab.choose("me.jpg", page_as_jpeg, "image/jpeg")).to_contain_text("This is a web page")
    expect(tab.choose("me.png", sample_photo().read_bytes())).to_have_text("Face found.")
    expect(page.locator("#form-error")).to_be_empty()


def test_a_file_that_only_the_browser_can_read_is_sent_as_a_jpeg(visit: Callable[..., Visit]) -> None:
    tab = visit()
    tab.expected = "422"
    tab.open()
    bitmap = io.BytesIO()
    Image.open(sample_photo()).save(bitmap, "BMP")
    expect(tab.choose("me.bmp", bitmap.getvalue(), "image/bmp")).to_have_text("Face found.")


def test_what_to_know_about_a_photo_stands_beside_it_and_beside_its_avatars(visit: Callable[..., Visit]) -> None:
    tab = visit()
    page = tab.open()
    whole = encoded(Image.open(sample_photo()).convert("RGB"), "JPEG", quality=90)
    tab.choose("me.jpg", whole[: int(len(whole) * 0.98)], "image/jpeg")
    expect(page.locator("#photo-warnings li")).to_contain_text("The file lost its end")
    tab.be_quick()
    tab.generate()
    expect(page.locator(".tile").first).to_contain_text("The file lost its end")
    tab.require_accessible()
    tab.choose("me.png", sample_photo().read_bytes())
    expect(page.locator("#photo-warnings li")).to_have_count(0)


def test_a_photo_in_a_format_that_the_browser_cannot_show_is_used(visit: Callable[..., Visit]) -> None:
    tab = visit()
    page = tab.open()
    expect(tab.choose("me.heic", TILE.read_bytes(), "image/heic")).to_have_text("Face found.")
    expect(page.locator("#photo-warnings li")).to_have_text(
        "The service can read this photo; this browser cannot show it."
    )


def test_a_photo_can_be_dropped_and_taken_with_the_camera(visit: Callable[..., Visit]) -> None:
    page = visit().open()
    page.evaluate(
        """async () => {
            const files = new DataTransfer();
            files.items.add(new File([await (await fetch("/page/sample.png")).blob()], "me.png"));
            document.querySelector("#drop").dispatchEvent(new DragEvent("drop", {dataTransfer: files, bubbles: true}));
        }"""
    )
    expect(page.locator("#verdict")).to_have_text("Face found.")
    page.get_by_role("button", name="Camera").click()
    expect(page.locator("#video")).to_have_js_property("readyState", 4)
    page.get_by_role("button", name="Take the photo").click()
    expect(page.locator("#verdict")).to_contain_text("No face was found.")
    expect(page.locator("#camera-dialog")).to_be_hidden()


# What is refused


def test_a_wrong_token_is_told_and_the_right_one_is_kept_in_the_tab(visit: Callable[..., Visit]) -> None:
    tab = visit()
    tab.expected = "401"
    page = tab.page
    page.goto(tab.service.url)
    expect(tab.choose("me.png", sample_photo().read_bytes())).to_have_text("Enter your token first.")
    page.get_by_role("textbox", name="Token").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#token-error")).to_have_text("The service does not know this token.")
    assert page.evaluate("sessionStorage.length") == 0
    page.get_by_role("textbox", name="Token").fill(tab.token)
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#token-card")).to_be_hidden()
    expect(page.locator("#verdict")).to_have_text("Face found.")
    page.reload()
    expect(page.locator("#change-token")).to_be_visible()
    assert page.evaluate("localStorage.length") == 0
    page.get_by_role("button", name="Change token").click()
    expect(page.get_by_role("textbox", name="Token")).to_be_focused()


@pytest.mark.parametrize("taken", [False, True])
def test_a_link_replaces_a_token_only_if_its_reader_says_so(visit: Callable[..., Visit], taken: bool) -> None:
    tab = visit()
    tab.expected = "401"
    page = tab.open()
    asked: list[str] = []

    def answer(dialog: Dialog) -> None:
        asked.append(dialog.message)
        (dialog.accept if taken else dialog.dismiss)()

    page.on("dialog", answer)
    page.evaluate("location.hash = 'token=of-somebody-else'")
    if taken:
        expect(page.locator("#token-error")).to_have_text("The service does not know this token.")
    page.wait_for_function("location.hash === ''")
    assert "brings a token" in asked[0]
    assert page.evaluate("sessionStorage.getItem('face-avatar-token')") == (None if taken else tab.token)
    page.evaluate("token => { location.hash = `token=${token}` }", tab.token)
    expect(page.locator("#change-token")).to_be_visible()
    assert len(asked) == 1  # neither one's own token nor the first one is asked for


@pytest.mark.parametrize("taken", [False, True])
def test_a_link_to_a_service_elsewhere_asks_before_its_token_is_taken(
    browser: Browser, service: Service, taken: bool
) -> None:
    token = (service.data_dir / TOKEN_FILE).read_text().strip()
    asked: list[str] = []

    def answer(dialog: Dialog) -> None:
        asked.append(dialog.message)
        (dialog.accept if taken else dialog.dismiss)()

    with browser.new_context() as context:
        page = context.new_page()
        page.on("dialog", answer)
        page.goto(f"http://{ELSEWHERE}:{httpx.URL(service.url).port}/#token={token}")
        expect(page.locator("#change-token" if taken else "#token-card")).to_be_visible()
        assert page.evaluate("sessionStorage.getItem('face-avatar-token')") == (token if taken else None)
    assert len(asked) == 1


def test_what_does_not_fit_is_said_beside_its_field(visit: Callable[..., Visit]) -> None:
    tab = visit()
    tab.expected = "422"
    page = tab.open()
    tab.choose("me.png", sample_photo().read_bytes())
    tab.be_quick()
    page.get_by_label("Seed", exact=True).fill("abc")
    page.get_by_label("Width").fill("100")
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#alert")).to_contain_text("See the marked fields.")
    expect(page.locator('[data-field="seed"] .error')).to_have_text("A whole number from 0 to 4294967287.")
    expect(page.locator('[data-field="width"] .error')).to_have_text("A whole number from 256 to 1536.")
    expect(page.get_by_label("Width")).to_be_focused()
    tab.require_accessible()
    page.get_by_label("Width").fill("256")
    expect(page.locator(".field > .error")).to_have_count(0)
    page.get_by_label("Seed", exact=True).fill("")
    page.get_by_label("File format").select_option("jpeg")
    page.get_by_role("radio", name="Transparent").check()
    page.get_by_role("button", name="Generate").click()
    expect(page.locator('[data-field="output_format"] .error')).to_contain_text("has no transparency")


# Everybody, everywhere


@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")])
def test_every_state_can_be_read_by_everybody_and_fits_its_screen(
    visit: Callable[..., Visit], size: tuple[int, int], scheme: str
) -> None:
    tab = visit(size, scheme)
    tab.page.goto(tab.service.url)
    tab.require_accessible()
    page = tab.open()
    tab.require_accessible()
    page.get_by_role("button", name="Try a sample").click()
    expect(page.locator("#verdict")).to_have_class(re.compile("good"))
    page.get_by_role("radio", name="Colour").check()
    tab.be_quick(batch=2)
    tab.require_accessible()
    avatars = tab.generate()
    expect(page.locator("#results-title")).to_be_in_viewport()
    page.locator("#code summary").click()
    tab.require_accessible()
    tab.require_no_sideways_scrolling()
    avatars.first.locator(".picture").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    tab.require_accessible()
    tab.require_no_sideways_scrolling()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()


# The files of the page


def test_the_page_comes_with_a_strict_policy_and_weighs_little(service: Service) -> None:
    inside = ("index.html", "style.css")
    files = ["/", "/client.js", *(f"/page/{path.name}" for path in PAGE.iterdir() if path.name not in inside)]
    answers = [service.client.get(file, headers={"Authorization": ""}) for file in files]
    assert [answer.status_code for answer in answers] == [200] * len(files)
    assert sum(len(answer.content) for answer in answers) < 100_000
    for answer in answers:
        assert answer.headers["content-security-policy"] == policy(results_elsewhere=False)
        assert answer.headers["x-content-type-options"] == "nosniff"
    etag = answers[0].headers["etag"]
    assert service.client.get("/", headers={"If-None-Match": etag}).status_code == 304
    assert service.client.head("/").status_code == 200


def test_the_policy_lets_in_pictures_of_a_store_elsewhere_and_nothing_else() -> None:
    at_home, elsewhere = policy(results_elsewhere=False), policy(results_elsewhere=True)
    assert "https:" not in at_home
    assert elsewhere.replace(" https:", "") == at_home
    assert "unsafe" not in elsewhere


@pytest.mark.parametrize("path", ["/page/../playground.py", "/page/%2e%2e/playground.py", "/page/", "/page/nothing.js"])
def test_there_is_nothing_beside_the_page(service: Service, path: str) -> None:
    failure(service.client.get(path), 404, "Not Found")


# The link


@pytest.mark.parametrize(
    ("terminal", "host", "kept", "link"),
    [
        (True, "127.0.0.1", True, "http://127.0.0.1:8000/#token=secret"),
        (False, "127.0.0.1", True, "http://127.0.0.1:8000/"),
        (True, "10.0.0.7", True, "http://10.0.0.7:8000/"),
        (True, "127.0.0.1", False, "http://127.0.0.1:8000/"),
    ],
)
def test_the_token_is_in_the_link_where_only_this_machine_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool, host: str, kept: bool, link: str
) -> None:
    if kept:
        (tmp_path / TOKEN_FILE).write_text("secret\n")
    monkeypatch.setattr(serve, "console", Console(force_terminal=terminal))
    assert serve.page_url(RunningService(f"http://{host}:8000", "", tmp_path)) == link
