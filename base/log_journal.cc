#include "base/log_journal.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <array>
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>

#include "base/fd.h"
#include "base/log.h"

namespace wyvern {

namespace {

struct Journal {
  UniqueFd socket;
  sockaddr_un address{};
};

// Never freed: a line may be on its way in another thread until the process has ended.
std::atomic<const Journal*> g_journal{nullptr};
std::atomic<uint64_t> g_journal_dropped{0};

void AppendUpper(std::string_view name, fmt::memory_buffer& out) {
  for (const char c : name) {
    out.push_back(c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c);
  }
}

void Send(const LogRecord& record) {
  static constexpr std::array<int, 4> kPriorities = {7, 6, 4, 3};  // syslog(3), by LogLevel
  const Journal* const journal = g_journal.load(std::memory_order_acquire);
  fmt::memory_buffer datagram;
  // A component may have more words ("vmm ab12"): the first names the program.
  fmt::format_to(std::back_inserter(datagram),
                 "PRIORITY={}\nSYSLOG_IDENTIFIER=wyvern-{}\nMESSAGE={}\n",
                 kPriorities[static_cast<size_t>(record.level)],
                 record.component.substr(0, record.component.find(' ')),
                 record.text.substr(0, kJournalMaxText));
  for (const LogField& field : record.fields) {
    datagram.append(std::string_view("WYVERN_"));
    AppendUpper(field.name, datagram);
    datagram.push_back('=');
    datagram.append(field.value);
    datagram.push_back('\n');
  }
  if (sendto(journal->socket.get(), datagram.data(), datagram.size(), MSG_DONTWAIT | MSG_NOSIGNAL,
             reinterpret_cast<const sockaddr*>(&journal->address),
             sizeof(journal->address)) != static_cast<ssize_t>(datagram.size())) {
    g_journal_dropped.fetch_add(1, std::memory_order_relaxed);
  }
}

}  // namespace

Result<> LogToJournal(const std::string& socket_path) {
  static std::mutex mu;
  const std::lock_guard lock(mu);
  if (g_journal.load(std::memory_order_relaxed) != nullptr) {
    return {};
  }

  struct stat info {};

  if (stat(socket_path.c_str(), &info) != 0 || !S_ISSOCK(info.st_mode)) {
    return Fail(Code::kFailedPrecondition, "no journal at " + socket_path);
  }
  auto journal = std::make_unique<Journal>();
  if (socket_path.size() >= sizeof(journal->address.sun_path)) {
    return Fail(Code::kInvalidArgument, "path too long for a socket: " + socket_path);
  }
  journal->address.sun_family = AF_UNIX;
  std::memcpy(journal->address.sun_path, socket_path.c_str(), socket_path.size() + 1);
  journal->socket = UniqueFd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!journal->socket.valid()) {
    return SysError("socket(AF_UNIX, SOCK_DGRAM)");
  }
  g_journal.store(journal.release(), std::memory_order_release);
  SetLogSink(Send);
  return {};
}

uint64_t LinesDroppedByJournal() {
  return g_journal_dropped.load(std::memory_order_relaxed);
}

}  // namespace wyvern
