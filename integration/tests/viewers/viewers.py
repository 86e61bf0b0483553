"""Other people's viewers see what the display should show, pixel by pixel, and what is typed in them reaches the guest."""
import asyncio, os, random, socket, struct, subprocess, sys, tempfile, time
import asyncvnc
import numpy as np
from PIL import Image
from machine import MODES, Machine
import xkb

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


# What does not fit into a keyboard's 16 bytes comes when the guest has read them, after a moment of its time, which passes when it is told to.
MOMENT = "clock_step 20000000"


def scancodes(machine):
    got = []
    for _ in range(2):
        while int(machine.do("inb 0x64")[0], 0) & 1:
            got.append(int(machine.do("inb 0x60")[0], 0))
        machine.do(MOMENT)
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


class Typist:
    """A viewer of our own that tells characters, at a guest whose keymap is libxkbcommon's: what is typed is what that makes of the scancodes."""

    BESIDE = {0x1c: 96, 0x1d: 97, 0x35: 98, 0x38: 100, 0x47: 102, 0x48: 103, 0x49: 104, 0x4b: 105, 0x4d: 106, 0x4f: 107, 0x50: 108, 0x51: 109, 0x52: 110, 0x53: 111}
    # A key that types nothing ends each step: F12.
    END, ENDED = 0xffc9, 0xd8

    def __init__(self, machine, layout):
        self.machine, self.viewer, self.guest, self.shown = machine, Looker(machine.port), xkb.Guest(layout), 0
        for command, value in ((0x64, 0x60), (0x60, 0x41), (0x60, 0xf4)):
            machine.out(command, value)
        scancodes(machine)

    def hear(self, until):
        """Takes what the keyboard says, up to this byte."""
        extended = False
        for _ in range(100000):
            if not int(self.machine.do("inb 0x64")[0], 0) & 1:
                self.machine.do(MOMENT)
                continue
            byte = int(self.machine.do("inb 0x60")[0], 0)
            if byte == 0xe0:
                extended = True
                continue
            if byte not in (0xfa, self.ENDED, self.ENDED & 0x7f):
                self.guest.key(self.BESIDE[byte & 0x7f] if extended else byte & 0x7f, byte < 0x80)
            extended = False
            if byte == until:
                return
        raise AssertionError(f"no {until:#x} from the keyboard")

    def say(self, *keys):
        """What a guest types when a viewer says these keysyms, which are pressed or (negative) let go."""
        for keysym in (*keys, self.END, -self.END):
            self.viewer.socket.sendall(struct.pack(">BBxxI", 4, keysym > 0, abs(keysym)))
        self.hear(self.ENDED)
        typed, self.guest.text = self.guest.text, []
        if self.guest.lights() != self.shown:
            self.shown = self.guest.lights()
            for value in (0xed, self.shown):
                self.machine.out(0x60, value)
                self.hear(0xfa)
        return "".join(map(xkb.shown, typed))


def layouts(program, work):
    """What a viewer shows is what the guest types, for every character of every layout, with Caps Lock and without, whatever is held."""
    shift, alt_gr, caps, num = 0xffe1, 0xfe03, 0xffe5, 0xff7f
    wrong, steps = [], 0
    for layout in xkb.LAYOUTS:
        with Machine(program, layout=layout) as machine:
            typist = Typist(machine, layout)
            # Key 86 is not on keyboards of the United States.
            given = [xkb.shown(typist.guest.at(code, held)) for code in xkb.KEYS if code not in (57, 86 if layout == "en-us" else 0)
                     for held in ([], [xkb.SHIFT], [xkb.ALT_GR], [xkb.SHIFT, xkb.ALT_GR])]
            for c in sorted({g for g in given if len(g) == 1}):
                keysym = ord(c) if ord(c) < 256 else 0x1000000 | ord(c)
                for locked in (False, True):
                    for held in ([], [shift], [alt_gr])[:3 if ord(c) < 128 else 1]:
                        if typist.shown >> 2 & 1 != locked:
                            typist.say(caps, -caps)
                        typist.say(*held)
                        typed, steps = typist.say(keysym, -keysym), steps + 1
                        typist.say(*(-k for k in held))
                        # Of an accent and a space X11 makes these.
                        if typed != {"´": "'", "¨": '"'}.get(c, c) and typed != c:
                            wrong.append(f"{layout}: {c} with {held}, Caps Lock {locked}: {typed}")
            for on in (False, True, False):
                if typist.shown >> 1 & 1 != on:
                    typist.say(num, -num)
                for digit in range(10):
                    typed = typist.say(0xffb0 + digit, -0xffb0 - digit).removeprefix("KP_")
                    if typed != str(digit):
                        wrong.append(f"{layout}: {digit} of the keypad, Num Lock {on}: {typed}")
    assert not wrong, f"{len(wrong)} of {steps}: {wrong[:20]}"
    print(f"# {steps} characters", flush=True)


def passwords(program, work):
    with Machine(program, "password=on") as machine:
        run = subprocess.run([f"{BIN}/vncdo", "-s", f"127.0.0.1::{machine.port}", "-p", "wrong", "capture", f"{work}/no.png"], capture_output=True, timeout=60)
        assert not os.path.exists(f"{work}/no.png"), "a wrong password got a picture"


class Looker:
    """A viewer that stays, of our own: raw pixels."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        assert self.take(12) == b"RFB 003.008\n"
        self.socket.sendall(b"RFB 003.008\n\x01\x01")
        self.take(2 + 4)
        width, height, _, name = struct.unpack(">HH16sI", self.take(24))
        self.take(name)
        self.size = (width, height)

    def take(self, n):
        got = b""
        while len(got) < n:
            part = self.socket.recv(n - len(got))
            if not part:
                raise ConnectionError("the server has gone")
            got += part
        return got

    def look(self):
        """The whole picture."""
        width, height = self.size
        seen, left = np.zeros((height, width, 3), np.uint8), width * height
        self.socket.sendall(struct.pack(">BBHHHH", 3, 0, 0, 0, width, height))
        while left > 0:
            kind, count = struct.unpack(">BxH", self.take(4))
            assert kind == 0, f"a message {kind}"
            for _ in range(count):
                x, y, w, h, encoding = struct.unpack(">HHHHi", self.take(12))
                assert encoding == 0, f"encoding {encoding}"
                seen[y:y + h, x:x + w] = np.frombuffer(self.take(w * h * 4), np.uint8).reshape(h, w, 4)[:, :, 2::-1]
                left -= w * h
        return seen


def server(machine):
    """The process that serves viewers."""
    def parent(pid):
        return int(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[1])
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if open(f"/proc/{pid}/cmdline").read().rstrip("\0") == "vnc" and parent(parent(pid)) == machine.process.pid:
                return pid
        except OSError:
            pass
    raise AssertionError("there is no process of viewers")


def mutated(random):
    """What a viewer says, and what becomes of it on the way."""
    said = [b"RFB 003.008\n", b"\x01", b"\x01", struct.pack(">BxxxBBBBHHHBBBxxx", 0, 32, 24, 0, 1, 255, 255, 255, 16, 8, 0),
            struct.pack(">BxHiiiiiiii", 2, 8, 16, 5, 1, -223, -308, -258, -312, -313)]
    more = [struct.pack(">BBHHHH", 3, random.randrange(2), 0, 0, random.randrange(65536), random.randrange(65536)), struct.pack(">BBxxI", 4, random.randrange(2), random.randrange(1 << 17)),
            struct.pack(">BBHH", 5, random.randrange(256), random.randrange(65536), random.randrange(65536)), struct.pack(">BxxxI", 6, random.choice([3, 1 << 31, 0xffffffff])) + b"cut",
            struct.pack(">BxHHBxIHHHHI", 251, random.randrange(65536), random.randrange(65536), random.randrange(3), 1, 0, 0, 640, 480, 0), struct.pack(">BxxxIB", 248, 1 << 31, 8) + b"8 bytes.",
            struct.pack(">BBHHHH", 150, random.randrange(2), 0, 0, 200, 120), struct.pack(">BBHII", 255, 0, 1, 0x61, 0x1e)]
    data = bytearray(b"".join(said) + b"".join(random.choices(more, k=random.randrange(40))))
    for _ in range(random.choice([0, 1, 1, 2, 8])):
        at = random.randrange(len(data))
        match random.randrange(4):
            case 0: data[at] ^= 1 << random.randrange(8)
            case 1: data[at:at + random.randrange(20)] = random.randbytes(random.randrange(20))
            case 2: del data[at:]
            case 3: data[at:at] = data[:at] * random.randrange(1, 20)
        data = data or bytearray(b"R")
    return bytes(data)


def asks_to_be_alone(said):
    """Whether a session may get in and have all others out, as the protocol has it: ClientInit's byte is 0. Version 3.3 has it one byte earlier."""
    return said.startswith(b"RFB 003.") and 0 in said[12:14]


def attacks(program, work, sessions=5000):
    """Sessions in which anything is said, two hundred a second, beside connections that say nothing: who only looks notices nothing."""
    chance, kept, sent, alone, lost = random.Random(5000), [], 0, 0, 0
    with Machine(program) as machine:
        want = MODES["32bpp"](machine)
        pid, looker = server(machine), Looker(machine.port)
        same("before", looker.look(), want)
        silent = [socket.create_connection(("127.0.0.1", machine.port), timeout=20) for _ in range(4)]
        begun, slowest = time.monotonic(), 0
        for n in range(sessions):
            s = socket.create_connection(("127.0.0.1", machine.port), timeout=20)
            s.setblocking(False)
            said = mutated(chance)
            alone += asks_to_be_alone(said)
            try:
                sent += s.send(said)
            except OSError:
                pass
            kept.append(s)
            if len(kept) > 24:
                kept.pop(chance.randrange(len(kept))).close()
            if n % 100 == 99:
                looked = time.monotonic()
                while True:
                    try:
                        looker = looker or Looker(machine.port)
                        seen = looker.look()
                        break
                    except ConnectionError:
                        # Somebody has come in who wants to be alone. On a busy machine several of them wait for their turn, and those that
                        # are inside may have taken the last place: they leave.
                        looker, lost = None, lost + 1
                        assert lost <= alone, f"thrown out {lost} times by {alone} who asked for it"
                        while kept:
                            kept.pop().close()
                same(f"after {n + 1} sessions", seen, want)
                slowest = max(slowest, time.monotonic() - looked)
                machine.do("inb 0x64")
            time.sleep(max(0, begun + n / 200 - time.monotonic()))
        took = time.monotonic() - begun
        # A storm of wishes for other sizes, while the guest changes its own.
        storm = socket.create_connection(("127.0.0.1", machine.port), timeout=20)
        storm.sendall(b"RFB 003.008\n\x01\x01" + struct.pack(">BxHii", 2, 2, 0, -308))
        for n in range(200):
            storm.setblocking(False)
            try:
                storm.send(struct.pack(">BxHHBxIHHHHI", 251, 1 + n * 20, 4000 - n * 19, 1, 0, 0, 0, 640, 480, 0))
                storm.recv(1 << 16)
            except OSError:
                pass
        for s in silent + kept:
            s.close()
        while True:
            try:
                same("at last", Looker(machine.port).look(), want)
                break
            except ConnectionError:
                lost += 1
                assert lost <= alone, f"thrown out {lost} times by {alone} who asked for it"
        assert server(machine) == pid, "the process of viewers died"
        print(f"# {sessions} sessions, {sent} bytes, {sessions / took:.0f} a second; thrown out {lost} times, {alone} asked for it; the slowest picture of another viewer took {slowest * 1000:.0f} ms", flush=True)


def main():
    program, failed = sys.argv[1], 0
    tests = {f.__name__: f for f in (modes, tigervnc, typing, layouts, passwords, attacks)}
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


if __name__ == "__main__":
    main()
