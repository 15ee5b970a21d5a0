#include "cli/top.h"

#include <gmock/gmock.h>

#include "observe/sandbox_families.h"

namespace wyvern::cli {
namespace {

using testing::HasSubstr;
using testing::MatchesRegex;
using testing::StartsWith;

constexpr uint64_t kMiB = 1U << 20U;

// `times`: how much of each counter.
Measured SandboxAfter(uint64_t times, const std::string& id = "web") {
  observe::Observation seen;
  seen.processes = {
      {.role = "vmm", .container = "", .pid = 1, .pss = 100 * kMiB, .cpu_usec = times * 500'000},
      {.role = "fs", .container = "", .pid = 2, .pss = 5 * kMiB, .read_bytes = times * 2048},
      {.role = "owner", .container = "", .pid = 3, .pss = 3 * kMiB},
      {.role = "anchor", .container = "web", .pid = 4, .pss = kMiB}};
  seen.vmm = observe::VmmUsage{
      .counters = {{"upcall.hello.calls", times}, {"upcall.hello.micros", times * 4000}},
      .devices = {{"disk", "blk", {{"bytes_read", times * 1024}, {"bytes_written", times * 4096}}},
                  {"vsock", "vsock", {{"bytes_to_guest", times * 10}}},
                  {"balloon", "balloon", {{"actual_bytes", 7 * kMiB}}},
                  {"mem", "mem", {{"plugged_bytes", 64 * kMiB}}}},
      .vcpus = {{0, {{"halt", times * 10}, {"mmio_write", times * 30}, {"shutdown", 0}}},
                {1, {{"halt", times * 10}}}}};
  seen.guest = observe::GuestUsage{
      .memory_total = 256 * kMiB, .memory_free = 100 * kMiB, .buffers = kMiB, .cached = 50 * kMiB};
  return {"default", id, observe::FamiliesOf({"default", id}, seen, {})};
}

TEST(TopTest, RowHasFiguresOfNowAndRatesSinceBefore) {
  const Measured before = SandboxAfter(1);
  const TopRow row = RowOf(SandboxAfter(5), &before, 2);
  EXPECT_TRUE(row.answers);
  EXPECT_EQ(row.pss_vmm, 100 * kMiB);
  EXPECT_EQ(row.pss_fs, 5 * kMiB);
  EXPECT_EQ(row.pss_rest, 4 * kMiB);
  EXPECT_EQ(row.used, 105 * kMiB);
  EXPECT_EQ(row.cache, 51 * kMiB);
  EXPECT_EQ(row.free, 100 * kMiB);
  EXPECT_EQ(row.balloon, 7 * kMiB);
  EXPECT_EQ(row.plugged, 64 * kMiB);
  EXPECT_EQ(row.cpu, 1.0);
  EXPECT_EQ(row.exits, 100.0);
  EXPECT_EQ(row.read, (1024 + 2048) * 2.0);
  EXPECT_EQ(row.written, 8192.0);
  EXPECT_NEAR(*row.upcall, 0.004, 1e-9);
}

TEST(TopTest, WithoutALookBeforeThereAreNoRates) {
  const TopRow row = RowOf(SandboxAfter(5), nullptr, 2);
  EXPECT_FALSE(row.cpu.has_value());
  EXPECT_FALSE(row.exits.has_value());
  EXPECT_EQ(row.used, 105 * kMiB);
}

TEST(TopTest, CountersThatGoBackwardsAreNoRate) {
  const Measured before = SandboxAfter(5);
  const TopRow row = RowOf(SandboxAfter(1), &before, 2);
  EXPECT_EQ(row.exits, 0.0);
  EXPECT_EQ(row.cpu, 0.0);
  EXPECT_FALSE(row.upcall.has_value());
  EXPECT_EQ(RowOf(SandboxAfter(9), &before, 0).exits, 0.0) << "no time has passed";
}

TEST(TopTest, TableIsByProcessorTimeAndShowsWhoDoesNotAnswer) {
  const Measured before = SandboxAfter(1);
  std::vector<TopRow> rows = {RowOf({"k8s.io", std::string(64, 'f'), std::nullopt}, nullptr, 2),
                              RowOf(SandboxAfter(1, "idle"), &before, 2),
                              RowOf(SandboxAfter(5), &before, 2)};
  const std::string table = TopTable(std::move(rows));
  EXPECT_THAT(table,
              MatchesRegex("SANDBOX +NAMESPACE +CPU% +VMM +FS +SHIM +USED +CACHE +FREE +BALLOON "
                           "+PLUGGED +EXITS/s +READ/s +WRITE/s +UPCALLms\n"
                           "web +default +100.0 +100M +5.0M +4.0M +105M +51M +100M +7.0M +64M +100 "
                           "+6.0K +8.0K +4.0\n"
                           "idle +default +0.0 .*\n"
                           "f{20} +k8s.io +- +- +-.*\n"));
}

TEST(TopTest, DetailsHaveExitsByReasonAndDevices) {
  const std::string text = TopDetails(SandboxAfter(5), SandboxAfter(1), 2);
  EXPECT_THAT(text, StartsWith("EXITS/s  mmio_write 60 halt 40\n"));
  EXPECT_THAT(text, HasSubstr("\ndisk                 read 2.0K/s written 8.0K/s\n"));
  EXPECT_THAT(text, HasSubstr("\nvsock                to guest 20/s\n"));
  EXPECT_EQ(TopDetails({"default", "web", std::nullopt}, SandboxAfter(1), 2), "");
}

TEST(TopTest, BytesAreShort) {
  EXPECT_EQ(ShortBytes(0), "0");
  EXPECT_EQ(ShortBytes(999), "999");
  EXPECT_EQ(ShortBytes(1000), "1.0K");
  EXPECT_EQ(ShortBytes(4096), "4.0K");
  EXPECT_EQ(ShortBytes(static_cast<double>(123 * kMiB)), "123M");
  EXPECT_EQ(ShortBytes(1e30).back(), 'P');
}

}  // namespace
}  // namespace wyvern::cli
