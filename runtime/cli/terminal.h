// cli/terminal.h — the user's terminal: raw mode while a container has it, its size.
#pragma once

#include <termios.h>

#include <cstdint>
#include <optional>

#include "base/error.h"
#include "base/fd.h"

namespace wyvern::cli {

struct TerminalSize {
  uint32_t rows = 24;
  uint32_t columns = 80;
};

bool IsTerminal(FdRef fd);
TerminalSize GetTerminalSize(FdRef fd);

// Raw mode until destroyed.
class RawTerminal {
 public:
  static Result<RawTerminal> Enter(FdRef fd);
  RawTerminal(RawTerminal&& other) noexcept;
  RawTerminal& operator=(RawTerminal&&) = delete;
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;
  ~RawTerminal();

 private:
  RawTerminal(int fd, const termios& saved) : fd_(fd), saved_(saved) {}

  int fd_;
  termios saved_;
};

}  // namespace wyvern::cli
