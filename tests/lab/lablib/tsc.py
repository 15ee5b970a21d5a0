"""The host's time stamp counter, in kHz.

Under TCG the machine's counter is the host's.  The kernel inside measures its rate against emulated
timers, which goes wrong by factors on a busy host; so it is told.
"""

import ctypes
import functools
import mmap
import platform
import time

RDTSC = bytes.fromhex("0f31" "48c1e220" "4809d0" "c3")  # rdtsc; shl $32,%rdx; or %rdx,%rax; ret


@functools.cache
def host_khz() -> int | None:
    """None where the host is no x86-64."""
    if platform.machine() != "x86_64":
        return None
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(RDTSC)
    read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    first_time, first = _sample(read)
    time.sleep(0.1)
    second_time, second = _sample(read)
    return round((second - first) * 1e6 / (second_time - first_time))


def _sample(read):
    """(nanoseconds, ticks) of one moment: of many tries the one that nothing interrupted."""
    best = None
    for _ in range(50):
        before = time.monotonic_ns()
        ticks = read()
        after = time.monotonic_ns()
        if best is None or after - before < best[0]:
            best = (after - before, (before + after) / 2, ticks)
    return best[1:]
