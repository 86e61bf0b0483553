"""The simulated machine, by the qtest protocol, and what its display should show: written from the registers' specifications,
with nothing of the project's code."""
import socket, subprocess
import numpy as np


class Machine:
    """A machine whose display listens for viewers at `port`."""

    def __init__(self, program, *more, layout=None):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = max(s.getsockname()[1], 5900)
        command = [program, "-machine", "xenfv", "-m", "16", "-name", "seen", "-device", "VGA,vgamem_mb=16",
                   "-vnc", f"127.0.0.1:{self.port - 5900}" + "".join(f",{m}" for m in more)]
        command += ["-k", layout] if layout else []
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.do("inb 0x64")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(30)

    def do(self, line):
        self.process.stdin.write(line + "\n")
        while True:
            answer = self.process.stdout.readline()
            if not answer:
                raise RuntimeError(f"the machine ended at: {line}")
            if not answer.startswith("IRQ"):
                assert answer.startswith("OK"), answer
                return answer.split()[1:]

    def out(self, port, *values):
        for value in values:
            self.do(f"outb {port:#x} {value:#x}")

    def write(self, address, data):
        for at in range(0, len(data), 4096):
            part = bytes(data[at:at + 4096])
            self.do(f"write {address + at:#x} {len(part)} 0x{part.hex()}")

    def dispi(self, **registers):
        numbers = dict(xres=1, yres=2, bpp=3, enable=4, bank=5, virt_width=6, x_offset=8, y_offset=9)
        for name, value in registers.items():
            self.do(f"outw 0x1ce {numbers[name]}")
            self.do(f"outw 0x1cf {value}")

    def indexed(self, port, registers):
        for index, value in registers.items():
            self.out(port, index)
            self.out(port + 1, value)

    def attributes(self, registers):
        for index, value in registers.items():
            self.do("inb 0x3da")
            self.out(0x3c0, index, value)
        self.do("inb 0x3da")
        self.out(0x3c0, 0x20)

    def palette(self, colours):
        """Six bits a component."""
        self.out(0x3c8, 0)
        for colour in colours:
            self.out(0x3c9, *colour)

    def linear(self):
        """The window writes bytes one after the other, 64 KiB at 0xa0000."""
        self.indexed(0x3c4, {2: 0x0f, 4: 0x0e})
        self.indexed(0x3ce, {5: 0, 6: 5})

    def fill(self, data):
        """Video RAM from its beginning, through the window's banks."""
        for bank in range(0, len(data), 65536):
            self.dispi(bank=bank >> 16)
            self.write(0xa0000, data[bank:bank + 65536])


def six(values):
    """A DAC's six bits as eight."""
    v = np.asarray(values, dtype=np.uint8)
    return v << 2 | v >> 4


PALETTE = [((i * 5) % 64, (i * 11) % 64, (i * 23) % 64) for i in range(256)]


def bochs(machine, bpp, width=200, height=120, pan=(0, 0), virtual=None):
    """A linear mode; the picture that it shows."""
    virtual = virtual or width
    machine.out(0x3c2, 0x67)
    machine.dispi(enable=0, xres=width, yres=height, bpp=bpp)
    machine.dispi(enable=0x41)
    machine.dispi(virt_width=virtual, x_offset=pan[0], y_offset=pan[1])
    machine.linear()
    machine.attributes({})
    machine.palette(PALETTE)
    rows = height + pan[1]
    rng = np.random.default_rng(bpp)
    size = (bpp + 7) // 8
    # Large areas and noise, so that every form of every encoding is met.
    values = np.zeros((rows, virtual), dtype=np.uint32)
    values[:, :] = (np.arange(virtual) // 16)[None, :] * 0x10305 + (np.arange(rows) // 8)[:, None] * 0x30107
    noise = rng.integers(0, 1 << 24, size=(rows, virtual // 3), dtype=np.uint32)
    values[:, :noise.shape[1]] = noise
    raw = values.astype("<u4").view(np.uint8).reshape(rows, virtual, 4)[:, :, :size].copy()
    machine.fill(raw.tobytes())
    shown = raw[pan[1]:, pan[0]:pan[0] + width].astype(np.uint32)
    v = sum(shown[:, :, i] << (8 * i) for i in range(size))
    five = lambda x: ((x & 31) << 3 | (x & 31) >> 2)
    if bpp == 8:
        rgb = six(PALETTE)[v]
    elif bpp == 15:
        rgb = np.stack([five(v >> 10), five(v >> 5), five(v)], -1)
    elif bpp == 16:
        g = v >> 5 & 63
        rgb = np.stack([five(v >> 11), g << 2 | g >> 4, five(v)], -1)
    else:
        rgb = np.stack([v >> 16 & 255, v >> 8 & 255, v & 255], -1)
    return rgb.astype(np.uint8)


# The BIOS's modes 3, 4, 0x12 and 0x13: CRT controller (IBM VGA Technical Reference).
CRTC = {
    4: [0x2d, 0x27, 0x28, 0x90, 0x2b, 0x80, 0xbf, 0x1f, 0, 0xc1, 0, 0, 0, 0, 0, 0, 0x9c, 0x8e, 0x8f, 0x14, 0, 0x96, 0xb9, 0xa2, 0xff],
    3: [0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0, 0x4f, 0x20, 0, 0, 0, 0, 0, 0x9c, 0x0e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff],
    0x12: [0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0x0b, 0x3e, 0, 0x40, 0, 0, 0, 0, 0, 0, 0xea, 0x0c, 0xdf, 0x28, 0, 0xe7, 0x04, 0xe3, 0xff],
    0x13: [0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0xbf, 0x1f, 0, 0x41, 0, 0, 0, 0, 0, 0, 0x9c, 0x0e, 0x8f, 0x28, 0x40, 0x96, 0xb9, 0xa3, 0xff],
}


def vga(machine, mode, misc, **crtc):
    """Sets a mode of the VGA itself; keywords like `r18` change single CRTC registers."""
    machine.dispi(enable=0)
    machine.out(0x3c2, misc)
    machine.indexed(0x3d4, {0x11: 0})
    registers = dict(enumerate(CRTC[mode]))
    registers.update({int(k[1:], 16): v for k, v in crtc.items()})
    machine.indexed(0x3d4, registers)
    machine.attributes({i: i for i in range(16)} | {0x10: 0, 0x11: 0, 0x12: 0x0f, 0x13: 0, 0x14: 0})
    machine.palette(PALETTE)


def text(machine):
    """80x25 characters of 9x16 with a font of our own."""
    vga(machine, 3, 0x67)
    rng = np.random.default_rng(3)
    glyphs = rng.integers(0, 256, size=(256, 16), dtype=np.uint8)
    font = np.zeros((256, 32), dtype=np.uint8)
    font[:, :16] = glyphs
    # The font is in plane 2, written plane by plane.
    machine.indexed(0x3c4, {2: 4, 3: 0, 4: 6, 1: 0})
    machine.indexed(0x3ce, {5: 0, 6: 5, 8: 0xff, 3: 0, 1: 0})
    machine.write(0xa0000, font.tobytes())
    # Characters and attributes by odd and even.
    machine.indexed(0x3c4, {2: 3, 4: 2})
    machine.indexed(0x3ce, {5: 0x10, 6: 0x0e})
    # Of nine dots a character 8 is no panning.
    machine.attributes({0x10: 0x04, 0x13: 8})
    cells = rng.integers(0, 256, size=(25, 80, 2), dtype=np.uint8)
    machine.write(0xb8000, cells.tobytes())
    out = np.zeros((400, 720, 3), dtype=np.uint8)
    colours = six(PALETTE)
    for row in range(25):
        for column in range(80):
            character, attribute = cells[row, column]
            fore, back = colours[attribute & 15], colours[attribute >> 4]
            bits = np.unpackbits(glyphs[character][:, None], axis=1)
            ninth = bits[:, 7:8] if 0xc0 <= character < 0xe0 else np.zeros((16, 1), dtype=np.uint8)
            on = np.concatenate([bits, ninth], axis=1).astype(bool)
            out[row * 16:row * 16 + 16, column * 9:column * 9 + 9] = np.where(on[:, :, None], fore, back)
    return out


def mode12(machine):
    """640x480 of 16 colours in four planes."""
    vga(machine, 0x12, 0xe3)
    rng = np.random.default_rng(0x12)
    planes = rng.integers(0, 256, size=(4, 480, 80), dtype=np.uint8)
    planes[:, 100:300] = 0x0f
    machine.indexed(0x3ce, {5: 0, 6: 5, 8: 0xff, 3: 0, 1: 0})
    for plane in range(4):
        machine.indexed(0x3c4, {1: 1, 2: 1 << plane, 4: 6})
        machine.write(0xa0000, planes[plane].tobytes())
    index = sum(np.unpackbits(planes[p], axis=1).astype(np.uint8) << p for p in range(4))
    return six(PALETTE)[index]


def wrapped(machine):
    """The same, from shortly before the end of the planes on: what follows is their beginning."""
    start = 0xffdb
    vga(machine, 0x12, 0xe3, r0c=start >> 8, r0d=start & 255)
    planes = np.random.default_rng(0x21).integers(0, 256, size=(4, 65536), dtype=np.uint8)
    machine.indexed(0x3ce, {5: 0, 6: 5, 8: 0xff, 3: 0, 1: 0})
    for plane in range(4):
        machine.indexed(0x3c4, {1: 1, 2: 1 << plane, 4: 6})
        machine.write(0xa0000, planes[plane].tobytes())
    seen = planes[:, (start + np.arange(480 * 80)) % 65536].reshape(4, 480, 80)
    return six(PALETTE)[sum(np.unpackbits(seen[p], axis=1).astype(np.uint8) << p for p in range(4))]


def mode4(machine):
    """320x200 of 4 colours, as the CGA has them: odd/even, lines in two banks, each twice as high."""
    vga(machine, 4, 0x63)
    machine.indexed(0x3c4, {1: 9, 2: 3, 4: 2})
    machine.indexed(0x3ce, {5: 0x30, 6: 0x0f, 8: 0xff, 3: 0, 1: 0})
    pixels = np.random.default_rng(4).integers(0, 4, size=(200, 320), dtype=np.uint8)
    lines = pixels.reshape(200, 80, 4) @ np.array([64, 16, 4, 1], dtype=np.uint8)
    for bank in range(2):
        machine.write(0xb8000 + bank * 0x2000, lines[bank::2].tobytes())
    return six(PALETTE)[pixels].repeat(2, axis=0)


def mode13(machine):
    """320x200 of 256 colours, each pixel twice as wide and as high."""
    vga(machine, 0x13, 0x63)
    machine.attributes({0x10: 0x41})
    machine.indexed(0x3c4, {1: 1})
    machine.linear()
    machine.indexed(0x3ce, {5: 0x40})
    pixels = np.random.default_rng(0x13).integers(0, 256, size=(200, 320), dtype=np.uint8)
    machine.write(0xa0000, pixels.tobytes())
    return six(PALETTE)[pixels].repeat(2, axis=0).repeat(2, axis=1)


MODES = {f"{b}bpp": (lambda m, b=b: bochs(m, b)) for b in (8, 15, 16, 24, 32)}
MODES |= {
    "virtual": lambda m: bochs(m, 32, 160, 100, (24, 17), 256),
    "wide": lambda m: bochs(m, 32, 1280, 1024),
    "laptop": lambda m: bochs(m, 16, 1366, 768),
    "text": text,
    "mode12": mode12,
    "wrapped": wrapped,
    "mode4": mode4,
    "mode13": mode13,
}
