// anchor/protocol.h — descriptors of wyvern-anchor. argv[1] names those that are given, by letter; no environment.
// Life:    the anchor ends when the other end of kAnchorLifeFd closes: with the runtime that started it, whatever kills that.
// Answer:  once on kAnchorLifeFd: one zero byte when it is in place, else "<what failed>: <errno>" (at most 200 bytes) and it exits with 1.
#pragma once

namespace wyvern::runtime {

inline constexpr int kAnchorLifeFd = 3;     // SOCK_STREAM; always given
inline constexpr int kAnchorCgroupFd = 4;   // 'c': cgroup.procs, O_WRONLY; it joins by writing "0"
inline constexpr int kAnchorNetworkFd = 5;  // 'n': the network namespace
inline constexpr int kAnchorRootFd =
    6;  // 'r': a detached mount tree (open_tree): the container's root

}  // namespace wyvern::runtime
