#include "cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <utility>

namespace wyvern::cli {

bool IsTerminal(FdRef fd) {
  return isatty(fd.get()) == 1;
}

TerminalSize GetTerminalSize(FdRef fd) {
  winsize size{};
  if (ioctl(fd.get(), TIOCGWINSZ, &size) != 0 || size.ws_row == 0 || size.ws_col == 0) {
    return {};
  }
  return {size.ws_row, size.ws_col};
}

Result<RawTerminal> RawTerminal::Enter(FdRef fd) {
  termios saved{};
  if (tcgetattr(fd.get(), &saved) != 0) {
    return SysError("read the terminal's mode");
  }
  termios raw = saved;
  cfmakeraw(&raw);
  if (tcsetattr(fd.get(), TCSANOW, &raw) != 0) {
    return SysError("set the terminal's mode");
  }
  return RawTerminal(fd.get(), saved);
}

RawTerminal::RawTerminal(RawTerminal&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), saved_(other.saved_) {}

RawTerminal::~RawTerminal() {
  if (fd_ >= 0) {
    tcsetattr(fd_, TCSANOW, &saved_);
  }
}

}  // namespace wyvern::cli
