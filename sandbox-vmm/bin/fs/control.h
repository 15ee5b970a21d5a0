// fs/control.h — what the runtime tells wyvern-fs on its control socket, one packet per command,
// one per answer.
// Wire:    "NUMBER COMMAND", a decimal that the answer repeats: "NUMBER ok…" or "NUMBER error TEXT"
//          (0 where there is none). So an answer that comes too late is not taken for the next one.
//          "attach NAME CACHE_MS rw|ro": NAME is mounted at /NAME already, and becomes visible
//          "detach NAME": answered when no descriptor of the export is open; then unmount it. An
//          error: some are, repeat it. Not attached: "ok"
//          "ping": answered once confined; before, the process' mount namespace is the host's
//          "stats": "ok inodes=N resident=N handles=N requests=N faults=N"
// Trust:   the runtime is trusted, but a packet is parsed as if it were not.
#pragma once

#include <string>
#include <string_view>

#include "fs/file_server.h"

namespace wyvern::fs_process {

inline constexpr size_t kMaxCommand = 512;  // with its number

enum class Verb : uint8_t { kAttach, kDetach, kPing, kStats };

struct Command {
  Verb verb = Verb::kPing;
  std::string_view name;  // of the export, within the packet
  fs::ExportPolicy policy;
};

// Without the number. INVALID_ARGUMENT says what is wrong with it.
Result<Command> ParseCommand(std::string_view text);
// Carries out a packet; the answer to send.
std::string Answer(fs::FileServer& server, std::string_view packet);

}  // namespace wyvern::fs_process
