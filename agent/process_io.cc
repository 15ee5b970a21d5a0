#include "agent/process_io.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <utility>

#include "base/log.h"
#include "base/unix_socket.h"

namespace wyvern::agent {
namespace {

// Fewer turns of the loop per MiB; pages are only taken when it fills.
constexpr int kPipeSize = 256 << 10;

// Ours does not block, the process's must.
Result<PipePair> MakeStdioPipe(bool we_read) {
  WV_TRY(PipePair pair, MakePipe());
  (void)fcntl(pair.read.get(), F_SETPIPE_SZ, kPipeSize);  // a full user limit keeps the default
  WV_TRY_VOID(SetNonBlocking(we_read ? pair.read : pair.write, true));
  return pair;
}

}  // namespace

Result<std::unique_ptr<ProcessIo>> ProcessIo::Create(EventLoop& loop, StdioHub& hub,
                                                     const v1::Stdio& stdio,
                                                     const std::string& scratch_dir) {
  std::unique_ptr<ProcessIo> io(new ProcessIo(loop, hub));
  io->terminal_ = stdio.terminal();
  io->rows_ = stdio.rows();
  io->columns_ = stdio.columns();
  if (!stdio.terminal()) {
    WV_TRY_VOID(io->MakePipes(stdio));
  } else if (scratch_dir.empty()) {
    WV_TRY_VOID(io->MakeConsole());
  } else {
    WV_TRY_VOID(io->ExpectConsole(scratch_dir));
  }
  const std::string* tokens[] = {&stdio.stdin_token(), &stdio.stdout_token(),
                                 &stdio.stderr_token()};
  for (int number = 0; number < 3; ++number) {
    if (!tokens[number]->empty() && (number < 2 || !io->terminal_)) {
      WV_TRY_VOID(io->ExpectStream(number, *tokens[number]));
    }
  }
  return io;
}

ProcessIo::~ProcessIo() {
  for (const Stream& stream : streams_) {
    if (!stream.token.empty()) {
      hub_.Forget(stream.token);
    }
  }
  if (!console_path_.empty()) {
    (void)unlink(console_path_.c_str());
  }
  if (input_) {
    input_->Close();
  }
  for (const auto& pump : {output_, error_}) {
    if (pump) {
      pump->EndSoon();
    }
  }
}

Result<> ProcessIo::MakePipes(const v1::Stdio& stdio) {
  if (!stdio.stdin_token().empty()) {
    WV_TRY(PipePair pair, MakeStdioPipe(false));
    child_[0] = std::move(pair.read);
    input_ = InputPump::Start(loop_, std::move(pair.write));
  }
  if (!stdio.stdout_token().empty()) {
    WV_TRY(PipePair pair, MakeStdioPipe(true));
    child_[1] = std::move(pair.write);
    output_ = OutputPump::Start(loop_, std::move(pair.read));
  }
  if (!stdio.stderr_token().empty()) {
    WV_TRY(PipePair pair, MakeStdioPipe(true));
    child_[2] = std::move(pair.write);
    error_ = OutputPump::Start(loop_, std::move(pair.read));
  }
  return {};
}

Result<> ProcessIo::ExpectConsole(const std::string& scratch_dir) {
  static uint64_t counter = 0;
  console_path_ = scratch_dir + "/console-" + std::to_string(++counter);
  WV_TRY(console_listener_, ListenUnix(console_path_, 0600));
  WV_TRY_VOID(SetNonBlocking(console_listener_, true));
  return {};
}

Result<> ProcessIo::MakeConsole() {
  WV_TRY(console_, Open("/dev/ptmx", O_RDWR | O_NOCTTY));
  const int unlock = 0;
  if (ioctl(console_.get(), TIOCSPTLCK, &unlock) != 0) {
    return SysError("TIOCSPTLCK");
  }
  // By descriptor: no path of /dev/pts is looked up.
  child_[0] = UniqueFd(ioctl(console_.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!child_[0].valid()) {
    return SysError("TIOCGPTPEER");
  }
  WV_TRY(child_[1], child_[0].Duplicate());
  WV_TRY(child_[2], child_[0].Duplicate());
  // Before the program can ask for it.
  return rows_ > 0 && columns_ > 0 ? Resize(rows_, columns_) : Result<>();
}

Result<> ProcessIo::ExpectStream(int number, const std::string& token) {
  WV_TRY_VOID(
      hub_.Expect(token, [this, number](UniqueFd stream) { OnStream(number, std::move(stream)); }));
  streams_[number].token = token;
  return {};
}

void ProcessIo::OnStream(int number, UniqueFd stream) {
  streams_[number].token.clear();
  if (number == 0 && input_) {
    input_->Attach(std::move(stream));
  } else if (number == 1 && output_) {
    output_->Attach(std::move(stream));
  } else if (number == 2 && error_) {
    error_->Attach(std::move(stream));
  } else {
    streams_[number].early = std::move(stream);
  }
}

std::vector<std::pair<int, FdRef>> ProcessIo::ChildFds() const {
  std::vector<std::pair<int, FdRef>> fds;
  for (int number = 0; number < 3; ++number) {
    if (child_[number].valid()) {
      fds.emplace_back(number, child_[number]);
    }
  }
  return fds;
}

Result<> ProcessIo::ChildStarted() {
  for (UniqueFd& fd : child_) {
    fd.Reset();
  }
  if (!terminal_) {
    return {};
  }
  if (console_listener_.valid()) {
    WV_TRY_VOID_CONTEXT(ReceiveConsole(), "receiving the terminal from crun");
    if (rows_ > 0 && columns_ > 0) {
      WV_TRY_VOID(Resize(rows_, columns_));
    }
  }
  WV_TRY_VOID(SetNonBlocking(console_, true));
  // Two descriptors, so that each direction can wait for its own events.
  WV_TRY(UniqueFd for_input, console_.Duplicate());
  WV_TRY(UniqueFd for_output, console_.Duplicate());
  input_ = InputPump::Start(loop_, std::move(for_input));
  output_ = OutputPump::Start(loop_, std::move(for_output));
  if (streams_[0].early.valid()) {
    input_->Attach(std::move(streams_[0].early));
  }
  if (streams_[1].early.valid()) {
    output_->Attach(std::move(streams_[1].early));
  }
  return {};
}

// crun has connected, sent and ended by now: nothing here waits.
Result<> ProcessIo::ReceiveConsole() {
  WV_TRY(const UniqueFd connection, Accept(console_listener_, SOCK_NONBLOCK));
  std::array<std::byte, 256> name{};
  WV_TRY(ReceivedMessage message, ReceiveMessage(connection, name, 1));
  if (message.fds.size() != 1) {
    return Fail(Code::kInternal, "crun sent no terminal");
  }
  console_ = std::move(message.fds[0]);
  console_listener_.Reset();
  (void)unlink(console_path_.c_str());
  console_path_.clear();
  return {};
}

Result<> ProcessIo::Resize(uint32_t rows, uint32_t columns) {
  if (!terminal_) {
    return {};
  }
  if (rows > UINT16_MAX || columns > UINT16_MAX) {
    return Fail(Code::kInvalidArgument, "a terminal has at most 65535 rows and columns");
  }
  rows_ = rows;
  columns_ = columns;
  if (!console_.valid()) {
    return {};
  }
  winsize size{};
  size.ws_row = static_cast<unsigned short>(rows);
  size.ws_col = static_cast<unsigned short>(columns);
  if (ioctl(console_.get(), TIOCSWINSZ, &size) != 0) {
    return SysError("TIOCSWINSZ");
  }
  return {};
}

void ProcessIo::CloseStdin() {
  // The end of a terminal's input is a character, not the end of a file.
  if (input_ && !terminal_) {
    input_->CloseInput();
  }
}

}  // namespace wyvern::agent
