// upcall/preamble.h — where the two ends of the upcall find each other, and how a new session begins on a console port.
// Why:     a vsock stream begins empty and has an end. A virtio-console port has neither: what the last session left in its queues
//          comes first, and that the other end closed and opened again can pass unseen. So on a port, and only there, each session
//          begins with a preamble: the VMM sends kMagic and 16 random bytes, drops what comes until it reads the very same 32 bytes,
//          and what follows is ttrpc, both ways. The agent answers each preamble with its copy and forgets the session before.
// Again:   Linux drops what comes while nobody has the port open, so a VMM that gets no answer sends another preamble after a while
//          (another nonce: the answer to the first may still come).
// Shape:   preamble = 16 bytes of magic, 16 of nonce. The magic begins with 0xff, which it does not hold again and which no ttrpc
//          frame begins with; it is no UTF-8, so that no string of a message holds it.
// Trust:   the scanner takes any bytes, keeps 32 of them and cannot fail.
// Threads: one per scanner.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace wyvern::upcall {

inline constexpr char kServiceName[] = "wyvern.agent.v1.Upcall";
inline constexpr uint32_t kProtocol = 1;
inline constexpr uint32_t kVsockPort = 101;
inline constexpr char kConsolePortName[] = "wyvern.upcall";

inline constexpr std::array<uint8_t, 16> kMagic = {0xff, 'W', 'Y', 'V', 'E', 'R', 'N',  0xfe,
                                                   'U',  'P', 'C', 'A', 'L', 'L', 0xfd, 0x01};

using Nonce = std::array<std::byte, 16>;
using Preamble = std::array<std::byte, kMagic.size() + sizeof(Nonce)>;

Preamble MakePreamble(const Nonce& nonce);

// Finds preambles in a stream that comes in parts of any length. One that is cut off by the next is passed over.
class PreambleScanner {
 public:
  // The bytes of `data` up to and with the first preamble's last one, whose nonce is then nonce(); nothing: all of `data` was taken,
  // and none ended in it. Call again with the rest.
  std::optional<size_t> Feed(std::span<const std::byte> data);

  const Nonce& nonce() const { return nonce_; }

 private:
  size_t matched_ = 0;              // bytes of the magic
  std::optional<size_t> captured_;  // bytes of the nonce, once the magic was there
  Nonce nonce_{};
};

}  // namespace wyvern::upcall
