"""The dashboard in a real browser, with real jobs: what people see, and that names and output from users stay text.

With MILONGA_SCREENSHOTS=DIR it leaves the pictures of the documentation there.
"""

import os
import pathlib
import shutil
import time

import pytest

from harness.process import wait_for

selenium = pytest.importorskip("selenium.webdriver")
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
              pytest.mark.skipif(not shutil.which("chromedriver"), reason="needs chromium-driver")]

KEY = "dashboard-key-0123456789"
EVIL = "<img src=x onerror=\"document.title='broken'\">"


@pytest.fixture(scope="module")
def stack(make_stack):
    stack = make_stack(driver="oci", keys=f"test:{KEY}", pool_size="1", start=False)
    stack.tango.key = KEY
    return stack.start()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = selenium.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for a in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1280,900",
              f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(a)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    from selenium.webdriver.chrome.service import Service
    driver = selenium.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


class Page:
    def __init__(self, browser, stack):
        self.browser, self.base = browser, f"{stack.tango.base}/ui"

    def open(self, where=""):
        self.browser.get("about:blank")
        self.browser.get(f"{self.base}{where}")
        if self.find("#key"):
            self.find("#key")[0].send_keys(KEY + Keys.ENTER)
        return self

    def find(self, css):
        return self.browser.find_elements(By.CSS_SELECTOR, css)

    def text(self):
        try:
            return self.find("main")[0].text
        except StaleElementReferenceException:
            return ""

    def sees(self, *texts, timeout=40):
        try:
            wait_for(f"{texts} on the page", lambda: all(t in self.text() for t in texts), timeout, 0.1)
        except AssertionError as e:
            raise AssertionError(f"{e}; it shows: {self.text()}; {self.find('#link')[0].text!r}; "
                                 f"{self.browser.get_log('browser')}") from None
        return self

    def click(self, css):
        def clicked():
            try:
                self.find(css)[0].click()
                return True
            except (IndexError, WebDriverException):  # drawn anew meanwhile
                return False
        wait_for(f"a click on {css}", clicked, 20, 0.1)

    def keys(self, text):
        selenium.ActionChains(self.browser).send_keys(text).perform()

    def picture(self, name):
        where = os.environ.get("MILONGA_SCREENSHOTS")
        if where:
            self.browser.save_screenshot(str(pathlib.Path(where) / name))


@pytest.fixture
def page(browser, stack):
    yield Page(browser, stack)
    # a network that changes (other tests make interfaces) or an api that restarts is no fault of the page
    bad = [e for e in browser.get_log("browser") if e["level"] == "SEVERE" and "401" not in e["message"] and "net::" not in e["message"]]
    assert not bad and browser.title == "Milonga", (bad, browser.title)


def test_a_wrong_key_is_told(page):
    page.open()
    page.browser.execute_script("sessionStorage.setItem('key', 'wrong')")
    page.browser.refresh()
    page.sees("The service does not know that key")
    page.find("#key")[0].send_keys("half")
    time.sleep(2.5)  # the overview asks every 2 s
    assert page.find("#key")[0].get_attribute("value") == "half"


def test_overview(page, stack):
    for n in range(3):
        stack.tango.run("all:\n\t@echo done\n")
    page.open("#/").sees("Overview", "3\nfinished in a minute", "0/4\nslots busy", "1\nvmms up", "running", "mean")
    page.picture("overview.png")


def test_live_job_and_its_cancel(page, stack):
    ident, *_ = stack.tango.submit("all:\n\t@echo first; sleep 3; echo second; sleep 60\n", timeout=90)
    page.open("#/jobs").sees(str(ident), "running")
    page.picture("jobs.png")
    page.click(f"a[href='#/job/{ident}']")
    page.sees("first").sees("second")
    page.picture("job.png")
    page.click("#cancel")
    page.sees("cancelled")
    stack.tango.wait_dead(ident)


def test_run_again(page, stack):
    entry, _ = stack.tango.run("all:\n\t@echo once and again\n")
    page.open(f"#/job/{entry['id']}").sees("once and again", "success")
    page.click("#requeue")
    wait_for("the new job", lambda: f"#/job/{entry['id'] + 1}" in page.browser.current_url, 20)
    page.sees("once and again", "success")


def test_what_users_write_stays_text(page, stack):
    entry, _ = stack.tango.run(f"all:\n\t@echo '{EVIL}'; printf '\\033[31m<script>alert(1)</script>\\n'\n",
                               name=EVIL, lab="labs-are-text", files={"<b>x": "1"})
    page.open(f"#/job/{entry['id']}").sees(EVIL, "<script>alert(1)</script>", "<b>x")
    page.open("#/jobs")
    page.click("select")
    Select(page.find("select")[0]).select_by_value("finished")
    page.sees(EVIL)
    assert not page.find("main img, main script, main b:not(.tile b)")


def test_drain_and_resume(page, stack):
    page.open("#/machines").sees("Hosts", "Warm pools", stack.vmm.env["MILONGA_VMM_NAME"])
    page.picture("machines.png")
    page.click("section:first-of-type button")
    page.sees("drains", "Resume")
    page.open("#/").sees("Out of service", "operator")
    page.open("#/machines").sees("Resume")
    page.click("section:first-of-type button")
    page.sees("Drain")
    stack.tango.run("all:\n\t@echo served again\n")


def test_callbacks(page, stack):
    ident, *_ = stack.tango.submit("all:\n\t@echo x\n", callback_url="http://127.0.0.1:1/never")
    stack.tango.wait_dead(ident)
    page.open("#/callbacks").sees(str(ident), "Retry")


def test_images(page, stack):
    page.open("#/images").sees("autograding_image", "there")


def test_keys_and_colours(page, stack):
    page.open("#/").sees("Overview")
    page.keys("gm")
    page.sees("Hosts")
    page.keys("gq")
    page.sees("State")
    page.keys("t")
    theme = page.browser.execute_script("return document.documentElement.dataset.theme")
    page.keys("t")
    assert {theme, page.browser.execute_script("return document.documentElement.dataset.theme")} == {"dark", "light"}
    page.keys("?")
    assert page.find("#help")[0].is_displayed()
    page.keys(Keys.ESCAPE)


def test_the_api_restarts_under_it(page, stack):
    page.open("#/").sees("Overview")
    stack.api.kill()
    stack.api.start()
    stack.wait_api()
    entry, _ = stack.tango.run("all:\n\t@echo after\n")
    page.open("#/jobs").sees("State")
    wait_for("the stream again", lambda: page.find("#link")[0].text in ("live", ""), 20)


def test_it_is_small(stack):
    import gzip
    total = 0
    for path in ("/ui", "/ui/app.js", "/ui/style.css"):
        status, headers, body = stack.tango.raw("GET", path)
        assert status == 200 and "default-src 'none'" in headers["content-security-policy"], path
        total += len(gzip.compress(body))
    assert total <= 60000


def test_more_tabs_than_a_browser_has_connections(page):
    first = page.browser.current_window_handle
    try:
        for _ in range(8):
            page.browser.switch_to.new_window("tab")
            page.open("#/machines").sees("Hosts", "Warm pools")
    finally:
        for handle in page.browser.window_handles:
            if handle != first:
                page.browser.switch_to.window(handle)
                page.browser.close()
        page.browser.switch_to.window(first)
    page.open("#/").sees("Overview")
