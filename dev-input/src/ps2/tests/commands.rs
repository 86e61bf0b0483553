//! Commands at unusual points, and bits of answers.
use super::queue::{drain, mouse_command};
use super::*;

/// A driver that stops between a command and its parameter starts again with a command, often with a reset.
#[test]
fn a_command_in_the_place_of_a_parameter_is_a_command() {
    let keyboard: [(u8, &[u8]); 6] = [
        (0xff, &[0xfa, 0xaa]),
        (0xf2, &[0xfa, 0xab, 0x41]),
        (0xee, &[0xee]),
        (0xed, &[0xfa]),
        (0xf4, &[0xfa]),
        (0xf6, &[0xfa]),
    ];
    for begun in [0xed, 0xf0, 0xf3, 0xfb, 0xfc, 0xfd] {
        for (command, answer) in keyboard {
            let (mut p, mut cx) = controller();
            for byte in [0xed, 2, 0xf3, 0x7f, 0xf0, 2] {
                write(&mut p, &mut cx, 0, byte);
                drain(&mut p, &mut cx);
            }
            write(&mut p, &mut cx, 0, begun);
            assert_eq!(drain(&mut p, &mut cx), [(0xfa, false)]);
            write(&mut p, &mut cx, 0, command);
            let want: Vec<_> = answer.iter().map(|byte| (*byte, false)).collect();
            assert_eq!(drain(&mut p, &mut cx), want, "{begun:02x} {command:02x}");
            let kept = if matches!(command, 0xff | 0xf6) { (0, 0x2b, 2) } else { (2, 0x7f, 2) };
            assert_eq!((p.keyboard.leds, p.keyboard.rate, p.keyboard.set), kept, "{begun:02x} {command:02x}");
        }
    }
    let mouse: [(u8, &[u8]); 5] =
        [(0xff, &[0xfa, 0xaa, 0]), (0xf2, &[0xfa, 0]), (0xe9, &[0xfa, 0, 2, 100]), (0xf4, &[0xfa]), (0xf3, &[0xfa])];
    for begun in [0xe8, 0xf3] {
        for (command, answer) in mouse {
            let (mut p, mut cx) = controller();
            mouse_command(&mut p, &mut cx, begun);
            assert_eq!(drain(&mut p, &mut cx), [(0xfa, true)]);
            mouse_command(&mut p, &mut cx, command);
            let want: Vec<_> = answer.iter().map(|byte| (*byte, true)).collect();
            assert_eq!(drain(&mut p, &mut cx), want, "{begun:02x} {command:02x}");
            assert_eq!((p.mouse.resolution, p.mouse.rate), (2, 100));
        }
    }
}

/// A byte for a device enables its interface.
#[test]
fn a_byte_for_a_device_switches_its_interface_on() {
    for (disable, to_mouse) in [(0xad, false), (0xa7, true)] {
        let (mut p, mut cx) = controller();
        write(&mut p, &mut cx, 1, disable);
        match to_mouse {
            true => mouse_command(&mut p, &mut cx, 0xf4),
            false => write(&mut p, &mut cx, 0, 0xf4),
        }
        assert_eq!(drain(&mut p, &mut cx), [(0xfa, to_mouse)]);
        write(&mut p, &mut cx, 1, 0x20);
        assert_eq!(drain(&mut p, &mut cx)[0].0 & 0x30, 0);
    }
}

/// The answer to STATUS REQUEST has the buttons in another order than a packet.
#[test]
fn a_mouse_reports_each_button_in_its_own_bit() {
    for (button, status, packet) in [(0, 4, 1), (1, 1, 2), (2, 2, 4)] {
        let (mut p, mut cx) = controller();
        p.input(InputEvent::Button { button, down: true }, &mut cx);
        mouse_command(&mut p, &mut cx, 0xe9);
        assert_eq!(drain(&mut p, &mut cx)[1], (status, true), "button {button}");
        mouse_command(&mut p, &mut cx, 0xeb);
        assert_eq!(drain(&mut p, &mut cx)[1], (8 | packet, true), "button {button}");
    }
}

/// Linux probes for an active multiplexer: a byte that it loops back is returned as one of the mouse.
#[test]
fn bytes_looped_back_by_the_mouses_port_return_unchanged() {
    let (mut p, mut cx) = controller();
    for disabled in [false, true] {
        write(&mut p, &mut cx, 1, if disabled { 0xa7 } else { 0xa8 });
        for value in [0xf0, 0x56, 0xa4, 0x5a, 0x00, 0xff] {
            write(&mut p, &mut cx, 1, 0xd3);
            write(&mut p, &mut cx, 0, value);
            assert_eq!(drain(&mut p, &mut cx), [(value, true)]);
        }
    }
}
