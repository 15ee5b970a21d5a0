// base/log_journal.h — log lines to systemd's journal, beside fd 2, with their fields.
// Spec:    systemd.io/JOURNAL_NATIVE_PROTOCOL: one datagram of NAME=value lines.
// Shape:   PRIORITY, SYSLOG_IDENTIFIER=wyvern-<component>, MESSAGE, and WYVERN_<NAME> for each field
//          (WYVERN_SANDBOX=…): `journalctl WYVERN_SANDBOX=ab12`.
// Loss:    never blocks: a journal that is busy, gone, or does not take a datagram as long loses the line, which is counted. A longer text
//          than kMaxText is cut.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/error.h"

namespace wyvern {

inline constexpr char kJournalSocket[] = "/run/systemd/journal/socket";
inline constexpr size_t kJournalMaxText = 32 << 10;

// From now on every line goes there, too. Once in a process; any thread. FAILED_PRECONDITION: there is no such socket. A journal that is
// started anew is found again by its path.
Result<> LogToJournal(const std::string& socket_path = kJournalSocket);
uint64_t LinesDroppedByJournal();

}  // namespace wyvern
