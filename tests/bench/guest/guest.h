// bench/guest/guest.h — the operations of the measuring guest. Each ends the guest with a reason when it cannot be done.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bench_guest {

// Says why, with errno, unless it is null; then the guest waits to be killed.
[[noreturn]] void End(const char* why);

// files.cc: of a block device or file that is read, or written, with O_DIRECT.
void RandomBlocks(const char* path, uint64_t count, bool write);
// From its start, 1 MiB at once.
void ReadInOrder(const char* path, uint64_t mib);

// files.cc: in a directory.
void LookUpMissing(const char* directory, uint64_t count);
// Lists `directories` of tree/0, tree/1, … and takes the attributes of each of their kFilesInDirectory files.
void Walk(const char* directory, uint64_t directories);
// Files of 4 KiB, each removed before the next one is made.
void MakeAndRemove(const char* directory, uint64_t count);

constexpr uint64_t kFilesInDirectory = 100;  // lab/storage.py makes as many

// CLOCK_MONOTONIC
uint64_t NowNs();

// usable.cc: until its orders end. An exit code.
int ServeUsable(const char* port);
// As a guest's first process, with /proc and /dev there: loads its initrd's modules, then serves on the port that is called so.
[[noreturn]] void InitOfUsable(const char* name);

// streams.cc
[[noreturn]] void ServeVsock();
// Gives eth0 an address; a TCP connection to the host.
int ConnectToHost();
// Orders `size` bytes of the host: 'e'cho, one by one; 'g'ive; 't'ake.
void Talk(int fd, char kind, uint64_t size);

}  // namespace bench_guest
