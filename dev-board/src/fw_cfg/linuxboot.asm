; Boots fw_cfg's kernel: an option ROM with a bootstrap entry vector (BIOS Boot Specification 1.01, 3.3). It reads everything by
; fw_cfg's DMA, writes the ramdisk's address into the setup header, and enters the kernel's real-mode part as in Documentation/
; arch/x86/boot.rst (16-bit boot protocol). The process that serves fw_cfg (linux.rs, entries.rs) has filled in the header's fields
; that do not depend on the guest's memory map, and the ROM's two checksums.
;
;   nasm -f bin -o linuxboot.bin linuxboot.asm
bits 16
org 0

; fw_cfg's DMA descriptor and a number read with it; the stack is below. A boot sector would be loaded here.
DESCRIPTOR      equ 0x7c00
NUMBER          equ 0x7c10

; Polls of the control word before the address is written again: some seconds. The device ignores a repeated write while the transfer
; is in progress.
PATIENCE        equ 0x4000000

KERNEL_SIZE     equ 0x08
INITRD_SIZE     equ 0x0b
KERNEL_DATA     equ 0x11
INITRD_DATA     equ 0x12
CMDLINE_SIZE    equ 0x14
CMDLINE_DATA    equ 0x15
SETUP_SIZE      equ 0x17
SETUP_DATA      equ 0x18

; Addresses to which the parts are loaded; linux.rs has the same numbers.
SETUP           equ 0x10000
CMDLINE         equ 0x20000
KERNEL          equ 0x100000
STACK           equ 0xfff0

        dw 0xaa55
        db BLOCKS
        mov ax, 0x20            ; initialisation: this ROM can boot something
        retf
        times 0x1a - ($ - $$) db 0
        dw pnp
        times 0x20 - ($ - $$) db 0
pnp:    db "$PnP", 1, 2
        dw 0                    ; no further header
        db 0, 0                 ; reserved, checksum
        dd 0                    ; no device
        dw maker, product
        db 0, 0, 0, 0           ; class, indicators
        dw 0, 0, boot, 0, 0     ; connection vector, disconnect vector, bootstrap entry vector, reserved, resources

maker:   db "Bulkhead", 0
product: db "Linux kernel", 0

boot:   cld
        cli
        xor ax, ax
        mov ds, ax
        mov ss, ax
        mov sp, DESCRIPTOR
        sti
        mov ax, SETUP_SIZE
        mov si, SETUP_DATA
        mov ebx, SETUP
        call load
        mov ax, CMDLINE_SIZE
        mov si, CMDLINE_DATA
        mov ebx, CMDLINE
        call load
        mov ax, KERNEL_SIZE
        mov si, KERNEL_DATA
        mov ebx, KERNEL
        call load
        lea ebp, [ecx + KERNEL] ; the kernel's end
        mov ax, INITRD_SIZE
        call number
        test eax, eax
        jz enter_kernel
        mov edi, eax
        ; The highest address that the memory and the kernel allow.
        xor cx, cx
        xor dx, dx
        mov ax, 0xe801
        int 0x15
        jc failed
        movzx eax, ax           ; KiB from 1 MiB to 16 MiB
        shl eax, 10
        add eax, 0x100000
        movzx ebx, bx           ; 64 KiB from 16 MiB
        shl ebx, 16
        jz .below
        lea eax, [ebx + 0x1000000]
.below: mov bx, SETUP >> 4
        mov es, bx
        mov ebx, [es:0x22c]     ; initrd_addr_max
        inc ebx
        cmp ebx, eax
        jbe .limit
        mov ebx, eax
.limit: sub ebx, edi
        jb failed
        and bx, 0xf000
        cmp ebx, ebp
        jb failed
        mov [es:0x218], ebx     ; ramdisk_image
        mov [es:0x21c], edi     ; ramdisk_size
        mov ecx, edi
        mov ax, INITRD_DATA
        call dma
enter_kernel:
        cli
        mov ax, SETUP >> 4
        mov ds, ax
        mov es, ax
        mov fs, ax
        mov gs, ax
        mov ss, ax
        mov sp, STACK
        jmp (SETUP >> 4) + 0x20:0

; Loads the entry whose size has key AX and whose bytes have key SI to EBX. Returns its size in ECX.
load:   push ebx
        call number
        pop ebx
        mov ecx, eax
        mov ax, si
        jmp dma

; Returns the number with key AX in EAX.
number: mov ecx, 4
        mov ebx, NUMBER
        call dma
        mov eax, [NUMBER]
        ret

; Copies ECX bytes of the entry with key AX to EBX. All fields of the descriptor are big-endian.
dma:    shl eax, 16
        mov al, 0x0a            ; select, read
        bswap eax
        mov [DESCRIPTOR], eax
        mov eax, ecx
        bswap eax
        mov [DESCRIPTOR + 4], eax
        xor eax, eax
        mov [DESCRIPTOR + 8], eax
        mov eax, ebx
        bswap eax
        mov [DESCRIPTOR + 12], eax
.send:  mov eax, ((DESCRIPTOR & 0xff) << 24) | ((DESCRIPTOR & 0xff00) << 8)
        mov dx, 0x518
        out dx, eax
        push ecx
        mov ecx, PATIENCE
.wait:  mov eax, [DESCRIPTOR]
        test eax, eax
        jz .done
        test eax, 0x01000000    ; error
        jnz failed
        pause
        dec ecx
        jnz .wait
        pop ecx
        jmp .send               ; the write may be lost in a restart of fw_cfg's process
.done:  pop ecx
        ret

failed: mov si, message
        mov ah, 0x0e
        mov bx, 7
.next:  mov al, [cs:si]
        test al, al
        jz .end
        int 0x10
        inc si
        jmp .next
.end:   int 0x18                ; the next boot device

message: db "The kernel could not be loaded: too little memory, or its file is gone.", 13, 10, 0

; The last byte is the checksum's.
BLOCKS  equ ($ - $$ + 512) / 512
        times BLOCKS * 512 - ($ - $$) db 0
