#include "api/console_ring.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

namespace wyvern::api {
namespace {

std::span<const std::byte> Bytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

TEST(ConsoleRingTest, ReaderSeesWhatWasWrittenAlsoWithoutTheWriter) {
  const UniqueFd ring = *MakeConsoleRing();
  {
    const auto writer = *ConsoleRingWriter::Create(ring);
    writer->Append(Bytes("hello "));
    writer->Append(Bytes("world"));
  }
  EXPECT_EQ(ReadConsoleRing(ring)->text, "hello world");
}

TEST(ConsoleRingTest, OnlyTheLast64KiBStayAndTheLossIsCounted) {
  const UniqueFd ring = *MakeConsoleRing();
  const auto writer = *ConsoleRingWriter::Create(ring);
  std::string all;
  for (int i = 0; i < 20000; ++i) {
    const std::string line = "line " + std::to_string(i) + "\n";
    writer->Append(Bytes(line));
    all += line;
  }
  const ConsoleText text = *ReadConsoleRing(ring);
  EXPECT_EQ(text.text, all.substr(all.size() - kConsoleRingData));
  EXPECT_EQ(text.dropped, all.size() - kConsoleRingData);
}

TEST(ConsoleRingTest, OneAppendLargerThanTheRing) {
  const UniqueFd ring = *MakeConsoleRing();
  const auto writer = *ConsoleRingWriter::Create(ring);
  std::string big(3 * kConsoleRingData + 5, 'a');
  big.back() = 'z';
  writer->Append(Bytes(big));
  EXPECT_EQ(ReadConsoleRing(ring)->text.back(), 'z');
  EXPECT_EQ(ReadConsoleRing(ring)->text.size(), kConsoleRingData);
}

TEST(ConsoleRingTest, LyingCountStaysInsideTheRing) {
  const UniqueFd ring = *MakeConsoleRing();
  const uint64_t lie = UINT64_MAX - 3;
  ASSERT_EQ(pwrite(ring.get(), &lie, sizeof(lie), 0), static_cast<ssize_t>(sizeof(lie)));
  EXPECT_EQ(ReadConsoleRing(ring)->text.size(), kConsoleRingData);
}

TEST(ConsoleRingTest, SmallFileIsRefusedAndTheRingCannotBeCut) {
  EXPECT_EQ(ConsoleRingWriter::Create(*MakeMemfd("small", 100)).error().code(),
            Code::kInvalidArgument);
  EXPECT_NE(ftruncate(MakeConsoleRing()->get(), 0), 0);
}

}  // namespace
}  // namespace wyvern::api
