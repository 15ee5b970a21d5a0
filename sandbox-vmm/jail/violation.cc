#include "jail/violation.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "jail/call_arguments.h"

namespace wyvern::jail {

namespace {

// Async-signal-safe text: no allocation, no locale, no locks.
class Line {
 public:
  void Add(std::string_view text) {
    const size_t room = buffer_.size() - size_;
    const size_t count = text.size() < room ? text.size() : room;
    std::memcpy(buffer_.data() + size_, text.data(), count);
    size_ += count;
  }

  void AddHex(uint64_t value) {
    std::array<char, 18> digits{};
    size_t at = digits.size();
    do {
      digits[--at] = "0123456789abcdef"[value & 0xfU];
      value >>= 4U;
    } while (value != 0);
    Add("0x");
    Add(std::string_view(digits.data() + at, digits.size() - at));
  }

  void AddDecimal(uint64_t value) {
    std::array<char, 20> digits{};
    size_t at = digits.size();
    do {
      digits[--at] = static_cast<char>('0' + value % 10);
      value /= 10;
    } while (value != 0);
    Add(std::string_view(digits.data() + at, digits.size() - at));
  }

  std::string_view text() const { return {buffer_.data(), size_}; }

 private:
  std::array<char, 384> buffer_{};
  size_t size_ = 0;
};

void HandleSigsys(int /*signal*/, siginfo_t* info, void* raw_context) {
  std::array<char, 17> name{};
  prctl(PR_GET_NAME, name.data(), 0, 0, 0);
  Line line;
  line.Add("seccomp: thread ");
  line.Add(name.data());
  line.Add(" made the forbidden system call ");
  line.AddDecimal(static_cast<uint64_t>(info->si_syscall));
  line.Add("(");
  const auto arguments = CallArguments(*static_cast<const ucontext_t*>(raw_context));
  for (size_t i = 0; i < arguments.size(); ++i) {
    line.Add(i == 0 ? "" : ", ");
    line.AddHex(arguments[i]);
  }
  line.Add("); the process ends\n");
  [[maybe_unused]] const ssize_t written =
      write(STDERR_FILENO, line.text().data(), line.text().size());
  _exit(kViolationExit);
}

}  // namespace

Result<> ReportViolations() {
  struct sigaction action {};

  action.sa_sigaction = HandleSigsys;
  action.sa_flags = SA_SIGINFO;
  if (sigaction(SIGSYS, &action, nullptr) != 0) {
    return SysError("sigaction(SIGSYS)");
  }
  return {};
}

}  // namespace wyvern::jail
