"""vncdotool on this machine sees and touches a guest on real Xen through the port that dom0 has for viewers. What it sees must be what `bulkhead
screenshot` has, pixel by pixel; what it types and where it clicks the guest says itself (integration/tests/bed/viewers)."""
import os, subprocess, sys, time
from viewers import BIN, picture, same, vncdotool

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
PORT = 5907


def touch(*words):
    subprocess.run([f"{BIN}/vncdo", "-s", f"127.0.0.1::{PORT}", "--delay", "120", *words], check=True, capture_output=True, timeout=120)


def looks(stage, out):
    """A cursor that blinks is on in a screenshot; a viewer may see it off."""
    for left in reversed(range(8)):
        try:
            return same(stage, vncdotool(PORT, f"{out}/{stage}-seen.png"), picture(f"{out}/{stage}.png"))
        except AssertionError:
            if not left:
                raise


TOUCHES = {
    "asks": ["type", "Hello, World_42", "keydown", "ralt", "key", "7", "keyup", "ralt", "key", "enter"],
    "moves": ["move", "100", "100", "move", "150", "120", "pause", "1", "click", "1", "pause", "1"],
    "points": ["move", "10", "10", "move", "300", "200", "pause", "1", "click", "1", "pause", "1"],
}


def main(root, out):
    os.makedirs(out, exist_ok=True)
    for name in os.listdir(out):
        if name.endswith((".ready", ".done", ".png")):
            os.remove(f"{out}/{name}")
    forward = f"-netdev user,id=viewers,hostfwd=tcp:127.0.0.1:{PORT}-10.0.2.15:5900 -device virtio-net-pci,netdev=viewers"
    bed = subprocess.Popen([f"{TOP}/integration/testbed/run", "--timeout", "900", "--memory", "8192", "--overlay", root, "--out", out, f"{TOP}/integration/tests/bed/viewers"],
                           env=dict(os.environ, BULKHEAD_TESTBED_QEMU=forward), stdout=subprocess.DEVNULL)
    try:
        for stage in ("firmware", "asks", "typed", "moves", "points", "graphics"):
            while not os.path.exists(f"{out}/{stage}.ready"):
                assert bed.poll() is None, f"the bed has ended before {stage}"
                time.sleep(0.2)
            looks(stage, out)
            touch(*TOUCHES[stage]) if stage in TOUCHES else None
            open(f"{out}/{stage}.done", "w").close()
            print(f"{stage}: the same picture{', touched' if stage in TOUCHES else ''}", flush=True)
        assert bed.wait(300) == 0, "what the guest says is not what was done"
        print("ok viewers_dom0", flush=True)
    finally:
        bed.kill()


if __name__ == "__main__":
    main(*sys.argv[1:])
