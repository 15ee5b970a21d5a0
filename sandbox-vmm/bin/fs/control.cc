#include "fs/control.h"

#include <fmt/format.h>

#include <charconv>

namespace wyvern::fs_process {

namespace {

// In-flight requests have so long to end before a detach fails; the runtime waits longer.
constexpr std::chrono::milliseconds kDetachTimeout(3000);
constexpr uint64_t kMaxCacheMs = 24ULL * 3600 * 1000;

// The next word, which single blanks separate; empty at the end.
std::string_view NextWord(std::string_view* rest) {
  const size_t end = std::min(rest->find(' '), rest->size());
  const std::string_view word = rest->substr(0, end);
  rest->remove_prefix(std::min(end + 1, rest->size()));
  return word;
}

Result<Command> ParseAttach(std::string_view rest) {
  Command command{Verb::kAttach, NextWord(&rest), {}};
  if (command.name.empty()) {
    return Fail(Code::kInvalidArgument, "attach NAME CACHE_MS rw|ro");
  }
  const std::string_view number = NextWord(&rest);
  uint64_t cache = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), cache);
  if (number.empty() || error != std::errc() || end != number.data() + number.size() ||
      cache > kMaxCacheMs) {
    return Fail(Code::kInvalidArgument,
                "the cache time is a number of milliseconds, at most a day");
  }
  command.policy.cache = std::chrono::milliseconds(cache);
  const std::string_view mode = NextWord(&rest);
  if ((mode != "ro" && mode != "rw") || !rest.empty()) {
    return Fail(Code::kInvalidArgument, "attach NAME CACHE_MS rw|ro");
  }
  command.policy.read_only = mode == "ro";
  return command;
}

std::string Carry(fs::FileServer& server, std::string_view text) {
  const auto command = ParseCommand(text);
  if (!command) {
    return "error " + command.error().message();
  }
  Result<> done;
  switch (command->verb) {
    case Verb::kAttach:
      done = server.Attach(command->name, command->policy);
      break;
    case Verb::kDetach:
      done = server.Detach(command->name, kDetachTimeout);
      if (!done && done.error().code() == Code::kNotFound) {
        return "ok";  // as it is to be: an earlier one succeeded, or the attach before it failed
      }
      break;
    case Verb::kPing:
      break;
    case Verb::kStats: {
      const fs::ServerStats stats = server.stats();
      return fmt::format("ok inodes={} resident={} handles={} requests={} faults={}", stats.inodes,
                         stats.resident, stats.handles, stats.requests, stats.faults);
    }
  }
  return done ? "ok" : "error " + done.error().message();
}

}  // namespace

Result<Command> ParseCommand(std::string_view text) {
  if (text.ends_with(' ')) {
    return Fail(Code::kInvalidArgument, "a command ends with a word");
  }
  std::string_view rest = text;
  const std::string_view verb = NextWord(&rest);
  if (verb == "attach") {
    return ParseAttach(rest);
  }
  if (verb == "detach") {
    const std::string_view name = NextWord(&rest);
    if (name.empty() || !rest.empty()) {
      return Fail(Code::kInvalidArgument, "detach NAME");
    }
    return Command{Verb::kDetach, name, {}};
  }
  if (text == "ping") {
    return Command{Verb::kPing, {}, {}};
  }
  if (text == "stats") {
    return Command{Verb::kStats, {}, {}};
  }
  return Fail(Code::kInvalidArgument, "unknown command");
}

std::string Answer(fs::FileServer& server, std::string_view packet) {
  std::string_view rest = packet;
  const std::string_view word = NextWord(&rest);
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
  if (word.empty() || error != std::errc() || end != word.data() + word.size()) {
    return "0 error a packet begins with its number";
  }
  return fmt::format(
      "{} {}", number,
      packet.size() > kMaxCommand ? "error the packet is too long" : Carry(server, rest));
}

}  // namespace wyvern::fs_process
