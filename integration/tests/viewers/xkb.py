"""The keymaps of guests, as libxkbcommon compiles them from xkeyboard-config: a state machine that keys go into and characters come out
of. Run alone it prints the table that dev-display's tests read, which have no libxkbcommon (typing/keymaps.tsv there)."""
import ctypes

LAYOUTS = {"en-us": "us", "en-gb": "gb", "de": "de", "fr": "fr", "es": "es", "it": "it", "sv": "se"}
KEYS = [41, *range(2, 14), *range(16, 28), *range(30, 41), 43, 86, *range(44, 54), 57]
KEYPAD = range(71, 84)
DEAD = ["dead_" + n for n in ("grave", "acute", "circumflex", "tilde", "diaeresis", "abovering", "cedilla", "caron")]
SHIFT, LOCK, ALT_GR, NUM = "Shift", "Lock", "Mod5", "Mod2"

x = ctypes.CDLL("libxkbcommon.so.0")
for function in ("context_new", "keymap_new_from_names", "state_new", "compose_table_new_from_locale", "compose_state_new"):
    getattr(x, "xkb_" + function).restype = ctypes.c_void_p
x.xkb_keysym_to_utf32.restype = ctypes.c_uint32
CONTEXT = ctypes.c_void_p(x.xkb_context_new(0))


class Names(ctypes.Structure):
    _fields_ = [(n, ctypes.c_char_p) for n in ("rules", "model", "layout", "variant", "options")]


def keysym(name):
    return x.xkb_keysym_from_name(name.encode(), 0)


def shown(symbol):
    """A keysym as text: its character, or its name where it has none."""
    name = ctypes.create_string_buffer(64)
    x.xkb_keysym_get_name(symbol, name, 64)
    name = name.value.decode()
    character = x.xkb_keysym_to_utf32(symbol)
    if name.startswith(("dead_", "KP_")) or symbol >> 8 == 0xff:
        return name
    return chr(character) if character else "NoSymbol"


class Guest:
    """A guest with a layout: keys by evdev's codes go in, text comes out."""

    def __init__(self, layout):
        names = Names(b"evdev", b"pc105", LAYOUTS[layout].encode(), b"", b"")
        self.keymap = ctypes.c_void_p(x.xkb_keymap_new_from_names(CONTEXT, ctypes.byref(names), 0))
        self.state = ctypes.c_void_p(x.xkb_state_new(self.keymap))
        table = ctypes.c_void_p(x.xkb_compose_table_new_from_locale(CONTEXT, b"en_US.UTF-8", 0))
        self.compose = ctypes.c_void_p(x.xkb_compose_state_new(table, 0))
        self.down, self.text = set(), []

    def at(self, code, modifiers):
        """What a key gives with these modifiers."""
        state = ctypes.c_void_p(x.xkb_state_new(self.keymap))
        mask = sum(1 << x.xkb_keymap_mod_get_index(self.keymap, m.encode()) for m in modifiers)
        x.xkb_state_update_mask(state, mask, 0, 0, 0, 0, 0)
        symbol = x.xkb_state_key_get_one_sym(state, code + 8)
        x.xkb_state_unref(state)
        return symbol

    def key(self, code, down):
        if down:
            symbol = x.xkb_state_key_get_one_sym(self.state, code + 8)
            x.xkb_compose_state_feed(self.compose, symbol)
            status = x.xkb_compose_state_get_status(self.compose)
            if status == 2:
                symbol = x.xkb_compose_state_get_one_sym(self.compose)
            if status in (0, 2) and (x.xkb_keysym_to_utf32(symbol) > 31 or 0xff95 <= symbol <= 0xff9f or 0xff50 <= symbol <= 0xff63):
                self.text.append(symbol)
            if status in (2, 3):
                x.xkb_compose_state_reset(self.compose)
        # A key that is down already repeats: no lock is turned by it.
        if not (down and code in self.down):
            x.xkb_state_update_key(self.state, code + 8, int(down))
        (self.down.add if down else self.down.discard)(code)

    def lights(self):
        """As a keyboard has them: bit 1 Num Lock, bit 2 Caps Lock."""
        on = lambda name: x.xkb_state_mod_name_is_active(self.state, name, 1 << 3) > 0
        return on(b"Mod2") << 1 | on(b"Lock") << 2

    def composed(self, *symbols):
        """What a dead key and another make, if anything."""
        for symbol in symbols:
            x.xkb_compose_state_feed(self.compose, symbol)
        made = x.xkb_compose_state_get_status(self.compose) == 2
        symbol = x.xkb_compose_state_get_one_sym(self.compose) if made else 0
        x.xkb_compose_state_reset(self.compose)
        return symbol


def table():
    yield "# Facts of xkeyboard-config (MIT), compiled by libxkbcommon: integration/tests/viewers/xkb.py prints this file."
    yield "# Layout, key, what it gives plain, with Shift, AltGr, both; then the same with Caps Lock (the keypad: Num Lock)."
    for layout in LAYOUTS:
        guest = Guest(layout)
        for code in [*KEYS, *KEYPAD]:
            lock = NUM if code in KEYPAD else LOCK
            columns = [shown(guest.at(code, [m for m in held if m])) for locked in ("", lock)
                       for held in (("", locked), (SHIFT, locked), (ALT_GR, locked), (SHIFT, ALT_GR, locked))]
            yield "\t".join([layout, str(code), *columns])
    yield "# What a dead key makes of the character after it."
    for accent in DEAD:
        for c in " abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ":
            made = guest.composed(keysym(accent), ord(c))
            if made:
                yield "\t".join([accent, c, shown(made)])


if __name__ == "__main__":
    print("\n".join(table()))
