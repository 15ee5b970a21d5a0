#include "base/log_journal.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "base/fd.h"
#include "base/log.h"

namespace wyvern {
namespace {

// One test: a process has one journal.
TEST(LogJournalTest, LinesWithFieldsAndWhatAJournalDoesNotTake) {
  std::string dir = std::filesystem::temp_directory_path() / "wyvern-journal-XXXXXX";
  ASSERT_NE(mkdtemp(dir.data()), nullptr);
  const std::string path = dir + "/socket";
  EXPECT_EQ(LogToJournal(path).error().code(), Code::kFailedPrecondition);

  const auto listen = [&path] {
    UniqueFd journal(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    EXPECT_EQ(bind(journal.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    return journal;
  };
  const auto receive = [](const UniqueFd& journal) {
    std::string text(200 << 10, '\0');
    const ssize_t got = recv(journal.get(), text.data(), text.size(), 0);
    return text.substr(0, got < 0 ? 0 : static_cast<size_t>(got));
  };
  UniqueFd journal = listen();
  ASSERT_TRUE(LogToJournal(path));
  ASSERT_TRUE(LogToJournal(path));  // again: nothing new
  testing::internal::CaptureStderr();
  SetLogComponent("shim");
  SetLogFields({{"sandbox", "ab\n12"}});
  {
    const LogScope scope("container", "c1");
    LogLine(LogLevel::kWarn, "guest said: \nPRIORITY=0");
  }
  EXPECT_EQ(receive(journal),
            "PRIORITY=4\nSYSLOG_IDENTIFIER=wyvern-shim\nMESSAGE=guest said: \\x0aPRIORITY=0\n"
            "WYVERN_SANDBOX=ab\\x0a12\nWYVERN_CONTAINER=c1\n");
  LogLine(LogLevel::kError, std::string(1 << 20, 'x'));
  const std::string cut = receive(journal);
  EXPECT_LT(cut.size(), kJournalMaxText + 200);
  EXPECT_TRUE(cut.ends_with("xx\nWYVERN_SANDBOX=ab\\x0a12\n"));

  // Nobody reads: nothing blocks, and it is counted.
  const uint64_t before = LinesDroppedByJournal();
  for (int i = 0; i < 2000; ++i) {
    LogLine(LogLevel::kInfo, "a line");
  }
  EXPECT_GT(LinesDroppedByJournal(), before);
  // Gone, and started anew.
  journal.Reset();
  unlink(path.c_str());
  LogLine(LogLevel::kInfo, "lost");
  journal = listen();
  LogLine(LogLevel::kInfo, "found again");
  EXPECT_NE(receive(journal).find("MESSAGE=found again\n"), std::string::npos);
  testing::internal::GetCapturedStderr();
  SetLogFields({});
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace wyvern
