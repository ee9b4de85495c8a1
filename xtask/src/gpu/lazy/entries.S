// The functions of an import library, x86-64 System V: each jumps through its slot, which PREFIX(lookup) fills at the
// first call with all argument registers kept.
#define ENTRY(index, name, kind) entry name, index
.macro entry name, index
    .globl \name
    .hidden \name
    .type \name, @function
\name:
    movq PREFIX(slots) + 8 * \index(%rip), %r11
    testq %r11, %r11
    je 1f
    jmp *%r11
1:  movl $\index, %r11d
    jmp resolve
    .size \name, . - \name
.endm

    .text
#include ENTRIES

resolve:
    pushq %rbp
    movq %rsp, %rbp
    pushq %rdi
    pushq %rsi
    pushq %rdx
    pushq %rcx
    pushq %r8
    pushq %r9
    pushq %rax
    pushq %rax
    subq $128, %rsp
    andq $-16, %rsp
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7
    movups %xmm\n, 16 * \n(%rsp)
    .endr
    movl %r11d, %edi
    call PREFIX(lookup)
    movq %rax, %r11
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7
    movups 16 * \n(%rsp), %xmm\n
    .endr
    leaq -64(%rbp), %rsp
    popq %rax
    popq %rax
    popq %r9
    popq %r8
    popq %rcx
    popq %rdx
    popq %rsi
    popq %rdi
    popq %rbp
    jmp *%r11

    .section .note.GNU-stack, "", @progbits
