"""The page in headless Chromium, wide and narrow: every kind of media, the slider, and what is wrong."""

import asyncio
import json
import shutil
import subprocess
import time

import pytest
import requests

from tests.serve import made

CHROMIUM = shutil.which("chromium")
aiohttp = pytest.importorskip("aiohttp")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")]
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--remote-debugging-port=0",
)  # fmt: skip
WIDTHS = (1400, 390)
WIDER = """[...document.querySelectorAll("body *")].filter((part) => part.getBoundingClientRect().right >
    document.documentElement.clientWidth).map((part) => part.outerHTML)"""
EXAMPLES = {"image": 2, "video": 7, "audio": 9}
"""Places of an example of each kind; that of the image asks for a box."""


class Tab:
    """A tab of the browser, by the DevTools protocol."""

    def __init__(self, socket):
        self.socket, self.number, self.events = socket, 0, []

    async def send(self, method, **parameters):
        """The result of a command; events that come meanwhile are kept."""
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": parameters})
        while True:
            message = json.loads((await self.socket.receive(made.PATIENCE)).data)
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    async def value(self, script):
        """What a script gives, or the promise that it gives."""
        found = await self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, script):
        """Wait for a script to say yes."""
        end = time.monotonic() + made.PATIENCE
        while time.monotonic() < end:
            if await self.value(f"!!({script})"):
                return
            await asyncio.sleep(0.1)
        pytest.fail(f"{script}: {await self.value('document.body.innerText')}")

    async def open(self, address, width):
        """A fresh page of this width."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        await self.send("Emulation.setDeviceMetricsOverride", **size)
        await self.send("Page.navigate", url="about:blank")
        await self.send("Page.navigate", url=address)
        await self.until("document.body?.dataset.ready === 'yes'")


def tabs(port):
    """Where the browser's tabs are spoken to."""
    listed = requests.get(f"http://127.0.0.1:{port}/json/list", timeout=made.PATIENCE).json()
    return [tab["webSocketDebuggerUrl"] for tab in listed if tab["type"] == "page"]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with made.running(made.pair(tmp_path_factory.mktemp("models"))) as server:
        yield server.url


@pytest.fixture
def browse(tmp_path, address):
    """Runs a script of commands in a new browser; nothing may fail in it, or come from another site."""
    profile = tmp_path / "profile"

    async def run(script):
        process = subprocess.Popen(
            [CHROMIUM, *QUIET, f"--user-data-dir={profile}"], stderr=subprocess.DEVNULL
        )
        try:
            file = profile / "DevToolsActivePort"
            made.until(lambda: file.is_file() and file.read_text())
            port = file.read_text().split()[0]
            made.until(lambda: tabs(port))
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(tabs(port)[0], max_msg_size=0) as socket,
            ):
                tab = Tab(socket)
                for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
                    await tab.send(f"{domain}.enable")
                await script(tab)
                return tab.events
        finally:
            process.terminate()
            process.wait(made.PATIENCE)

    def browsed(script, address=address):
        events = asyncio.run(run(script))
        asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        local = (address, "blob:", "data:", "about:", "chrome:")  # the last: the empty tab
        assert asked and all(url.startswith(local) for url in asked)
        assert not [e for e in events if e["method"] == "Runtime.exceptionThrown"]
        refused = [e for e in events if e["method"] == "Log.entryAdded" and "Policy" in str(e["params"])]
        assert not refused
        return events

    return browsed


def test_every_kind_of_media_wide_and_narrow(browse, address):
    """Answer, next best, a box on the picture, what the model looks at; nothing is wider than the screen."""

    async def script(tab):
        for width in WIDTHS:
            for modality, place in EXAMPLES.items():
                await tab.open(f"{address}/#example={place}&attention=1", width)
                await tab.until(
                    "document.querySelector('.said') && document.querySelectorAll('#looks canvas').length"
                )
                assert await tab.value(WIDER) == []
                tag = {"image": "img"}.get(modality, modality)
                assert await tab.value(f"document.querySelectorAll('#stage {tag}').length") == 1
                assert await tab.value("document.getElementById('error').hidden")
                shown = "answer.getBoundingClientRect()"
                assert await tab.value(f"{shown}.top >= 0 && {shown}.bottom <= innerHeight + 1")
                others = await tab.value("document.querySelectorAll('.other').length")
                boxes = await tab.value("document.querySelectorAll('#stage .box').length")
                assert (others, boxes) == ((0, 1) if modality == "image" else (3, 0))
                if boxes:
                    inside = """(() => {
                        const [box, picture] = [".box", "img"].map((tag) =>
                            document.querySelector(`#stage ${tag}`).getBoundingClientRect());
                        return box.left >= picture.left - 1 && box.right <= picture.right + 4
                            && box.top >= picture.top - 1 && box.bottom <= picture.bottom + 4;
                    })()"""
                    assert await tab.value(inside)

    browse(script)


def test_the_slider_moves_both_answers(browse, address):
    async def script(tab):
        await tab.open(f"{address}/", WIDTHS[0])
        ends = []
        for t in (0, 1):
            await tab.value("document.querySelectorAll('.side').forEach((side) => side.replaceChildren())")
            await tab.value(
                f"t.value = {t}, left.value = right.value = 3, t.dispatchEvent(new Event('input'))"
            )
            await tab.until("document.querySelectorAll('.side .said').length === 2")
            sides = await tab.value("[...document.querySelectorAll('.side')].map((side) => side.innerText)")
            assert sides[0] == sides[1]  # one question, one point between the models
            ends.append(sides[0])
        assert ends[0] != ends[1]

    browse(script)


def test_a_wrong_file_gets_a_sentence_and_shows_no_markup(browse, address, tmp_path):
    bad = tmp_path / "<img src=x onerror=alert(1)>.png"
    bad.write_bytes(b"no picture")

    async def script(tab):
        await tab.open(f"{address}/", WIDTHS[1])
        await tab.value("go.click()")
        await tab.until("document.getElementById('error').innerText.startsWith('First open a file')")
        root = (await tab.send("DOM.getDocument"))["root"]["nodeId"]
        node = (await tab.send("DOM.querySelector", nodeId=root, selector="#file"))["nodeId"]
        await tab.send("DOM.setFileInputFiles", files=[str(bad)], nodeId=node)
        await tab.until("document.getElementById('name').innerText.includes('onerror')")
        await tab.value("task.value = 'caption', go.click()")
        await tab.until("document.getElementById('error').innerText.includes('not a readable image')")
        assert await tab.value("document.querySelectorAll('[onerror]').length") == 0
        assert await tab.value(WIDER) == []

    browse(script)


def test_camera_and_microphone(browse, address):
    """Chromium's made-up devices: a picture, a clip and a sound are recorded and answered about."""

    async def script(tab):
        await tab.open(f"{address}/", WIDTHS[0])
        for steps, tag in (
            (("camera", "snap"), "img"),
            (("camera", "film"), "video"),
            (("microphone",), "audio"),
        ):
            await tab.value(f"document.getElementById('{steps[0]}').click()")
            if len(steps) == 2:
                await tab.until("viewfinder.videoWidth > 0 && !document.getElementById('live').hidden")
                await tab.value(f"{steps[1]}.click()")
            await tab.until(f"document.querySelector('#stage {tag}')")
            await tab.value("go.click()")
            await tab.until("document.querySelector('#answer .said')")
            assert await tab.value("document.getElementById('error').hidden")

    browse(script)


def test_a_token_is_asked_for(browse, tmp_path):
    token = "0123456789abcdef"

    with made.running(made.pair(tmp_path / "models"), token) as guarded:

        async def enter(tab):
            await tab.send("Page.navigate", url=f"{guarded.url}/#example=1")
            await tab.until("document.getElementById('signin') && !document.getElementById('signin').hidden")
            await tab.value(f"token.value = '{token}', document.querySelector('#signin button').click()")
            await tab.until(
                "document.querySelector('#answer .said') && document.getElementById('signin').hidden"
            )

        browse(enter, guarded.url)
