// anchor/raw.h — entry point and system calls without a C library (riscv64). Linux ABI: number a7; arguments a0–a5.
#pragma once

asm(".globl _start\n"
    "_start:\n"
    "  mv a0, sp\n"
    "  call AnchorStart\n");

// The kernel's answer: negative errno on failure.
inline long RawCall(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0) {
  register long a7 asm("a7") = number;
  register long a0 asm("a0") = a;
  register long a1 asm("a1") = b;
  register long a2 asm("a2") = c;
  register long a3 asm("a3") = d;
  register long a4 asm("a4") = e;
  asm volatile("ecall" : "+r"(a0) : "r"(a7), "r"(a1), "r"(a2), "r"(a3), "r"(a4) : "memory");
  return a0;
}
