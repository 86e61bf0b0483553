; What a guest boots over its network: a raw network boot program (PXE 2.1, 2.2.3: loaded at 0:7c00) that says so on COM1 and powers
; the machine off. Build: nasm -f bin netboot.asm -o netboot.nbp
bits 16
org 0x7c00
COM1     equ 0x3f8
PM1A_CNT equ 0xb004             ; where Xen's FADT puts the ACPI PM1a control block
SLP_EN   equ 1 << 13            ; with SLP_TYP 0, which Xen's DSDT gives for S5

start:  xor ax, ax
        mov ds, ax
        cld
        mov si, text
.next:  lodsb
        test al, al
        jz .off
        mov ah, al
        mov dx, COM1 + 5
.wait:  in al, dx
        test al, 0x20
        jz .wait
        mov al, ah
        mov dx, COM1
        out dx, al
        jmp .next
.off:   mov dx, COM1 + 5
.drain: in al, dx
        test al, 0x40
        jz .drain
        mov dx, PM1A_CNT
        mov ax, SLP_EN
        out dx, ax
.stop:  hlt
        jmp .stop
text:   db 13, 10, 'NET-BOOT-OK', 13, 10, 0
        times 2048 - ($ - $$) db 0x5a
