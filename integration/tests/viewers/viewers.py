"""Other people's viewers see what the display should show, pixel by pixel, and what is typed in them reaches the guest."""
import asyncio, os, subprocess, sys, tempfile, time
import asyncvnc
import numpy as np
from PIL import Image
from machine import MODES, Machine

BIN = os.path.dirname(sys.executable)


def picture(path):
    return np.asarray(Image.open(path).convert("RGB"))


def gvnccapture(port, path):
    subprocess.run(["gvnccapture", f"127.0.0.1:{port - 5900}", path], check=True, capture_output=True, timeout=60)
    return picture(path)


def vncdotool(port, path):
    subprocess.run([f"{BIN}/vncdo", "-s", f"127.0.0.1::{port}", "capture", path], check=True, capture_output=True, timeout=60)
    return picture(path)


def by_asyncvnc(port, _):
    async def look():
        async with asyncvnc.connect("127.0.0.1", port) as client:
            return await client.screenshot()
    return np.asarray(asyncio.run(look()))[:, :, :3]


def same(name, got, want):
    assert got.shape == want.shape, f"{name}: {got.shape}, not {want.shape}"
    differ = np.argwhere((got != want).any(axis=2))
    assert not len(differ), f"{name}: {len(differ)} pixels differ, the first at {differ[0][::-1]}: {got[tuple(differ[0])]}, not {want[tuple(differ[0])]}"


def modes(program, work):
    for name, draw in MODES.items():
        with Machine(program) as machine:
            want = draw(machine)
            for viewer in (gvnccapture, vncdotool, by_asyncvnc):
                same(f"{name} by {viewer.__name__}", viewer(machine.port, f"{work}/{name}.png"), want)


class Screen:
    """An X server without a screen, and the picture on it."""

    def __enter__(self):
        read, write = os.pipe()
        self.server = subprocess.Popen(["Xvfb", "-displayfd", str(write), "-screen", "0", "1400x1100x24"], pass_fds=[write], stderr=subprocess.DEVNULL)
        os.close(write)
        self.name = ":" + os.read(read, 16).decode().strip()
        return self

    def __exit__(self, *_):
        self.server.kill()
        self.server.wait()

    def shows(self, want, path):
        """Whether the picture is somewhere on the screen."""
        subprocess.run(["import", "-display", self.name, "-window", "root", path], check=True)
        screen = picture(path)
        height, width = want.shape[:2]
        # Anchored at the rows and columns where its first line begins.
        for y, x in np.argwhere((screen[:-height + 1 or None, :-width + 1 or None] == want[0, 0]).all(axis=2)):
            if (screen[y, x:x + width] == want[0]).all() and (screen[y:y + height, x:x + width] == want).all():
                return True
        return False


def await_that(what, condition, seconds=40):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def scancodes(machine):
    got = []
    while int(machine.do("inb 0x64")[0], 0) & 1:
        got.append(int(machine.do("inb 0x60")[0], 0))
    return got


def tigervnc(program, work):
    for encoding in ("ZRLE", "Hextile", "Raw"):
        with Machine(program) as machine, Screen() as screen:
            want = MODES["32bpp"](machine)
            for command, value in ((0x64, 0x60), (0x60, 0x41), (0x60, 0xf4)):
                machine.out(command, value)
            scancodes(machine)
            arguments = ["xtigervncviewer", "-Shared", "-RemoteResize=0", "-AutoSelect=0", f"-PreferredEncoding={encoding}", f"127.0.0.1::{machine.port}"]
            viewer = subprocess.Popen(arguments, env=dict(os.environ, DISPLAY=screen.name), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                await_that(f"{encoding}: the picture", lambda: screen.shows(want, f"{work}/tiger.png"))
                # What changes is seen without asking.
                changed = MODES["16bpp"](machine)
                await_that(f"{encoding}: the next picture", lambda: screen.shows(changed, f"{work}/tiger.png"))
                # A line with Shift and an AltGr key, by their places.
                got = []
                # Nobody manages windows here; keys go where the focus is.
                subprocess.run(["xdotool", "search", "--onlyvisible", "--name", "seen", "windowfocus", "--sync"], env=dict(os.environ, DISPLAY=screen.name), check=True)
                subprocess.run(["xdotool", "mousemove", "100", "100", "key", "a", "key", "shift+b", "key", "ISO_Level3_Shift"], env=dict(os.environ, DISPLAY=screen.name), check=True)
                def typed():
                    got.extend(scancodes(machine))
                    return got[-3:] == [0x38, 0xe0, 0xb8]
                await_that(f"{encoding}: keys, {got}", typed)
                assert got == [0x1e, 0x9e, 0x2a, 0x30, 0xaa, 0xb0, 0xe0, 0x38, 0xe0, 0xb8], [hex(g) for g in got]
            finally:
                viewer.kill()
                viewer.wait()


def typing(program, work):
    """A viewer that tells characters only."""
    with Machine(program) as machine:
        for command, value in ((0x64, 0x60), (0x60, 0x41), (0x60, 0xf4)):
            machine.out(command, value)
        scancodes(machine)
        subprocess.run([f"{BIN}/vncdo", "-s", f"127.0.0.1::{machine.port}", "key", "x", "key", "?", "key", "enter"], check=True, capture_output=True, timeout=60)
        got = []
        def typed():
            got.extend(scancodes(machine))
            return got[-2:] == [0x1c, 0x9c]
        await_that(f"keys, {got}", typed)
        assert got == [0x2d, 0xad, 0x2a, 0x35, 0xaa, 0xb5, 0x1c, 0x9c], [hex(g) for g in got]


def passwords(program, work):
    with Machine(program, "password=on") as machine:
        run = subprocess.run([f"{BIN}/vncdo", "-s", f"127.0.0.1::{machine.port}", "-p", "wrong", "capture", f"{work}/no.png"], capture_output=True, timeout=60)
        assert not os.path.exists(f"{work}/no.png"), "a wrong password got a picture"


def main():
    program, failed = sys.argv[1], 0
    tests = {f.__name__: f for f in (modes, tigervnc, typing, passwords)}
    for name in sys.argv[2:] or tests:
        with tempfile.TemporaryDirectory() as work:
            begun = time.monotonic()
            try:
                tests[name](program, work)
                print(f"ok viewers_{name} # {time.monotonic() - begun:.0f} s", flush=True)
            except Exception as e:
                failed += 1
                print(f"not ok viewers_{name}\n# {type(e).__name__}: {e}", flush=True)
    sys.exit(failed != 0)


main()
