// linux.resources: every limit of the specification read, checked, and what of it the guest's crun gets.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cgroup/sum.h"
#include "oci/json.h"
#include "oci/spec.h"

namespace wyvern::oci {
namespace {

using runtime::Limits;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

constexpr const char* kAll = R"({
  "cpu":{"shares":512,"quota":50000,"period":100000,"burst":10000,"idle":0,"cpus":"0-1","mems":"0"},
  "memory":{"limit":1048576,"swap":2097152,"reservation":4096},
  "pids":{"limit":10},
  "hugepageLimits":[{"pageSize":"2MB","limit":4194304},{"pageSize":"1GB","limit":0}],
  "blockIO":{"weight":100,"weightDevice":[{"major":8,"minor":0,"weight":200}],
    "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":18446744073709551615}],
    "throttleWriteBpsDevice":[{"major":8,"minor":0,"rate":2}],
    "throttleReadIOPSDevice":[{"major":8,"minor":16,"rate":3}],
    "throttleWriteIOPSDevice":[{"major":8,"minor":16,"rate":4}]},
  "unified":{"memory.high":"900000"}})";

// Of a config.json with these resources; empty: it is accepted.
std::string ErrorOf(const std::string& resources) {
  const auto spec = Spec::Parse(
      R"({"ociVersion":"1.1.0","process":{"args":["x"],"cwd":"/"},"root":{"path":"r"},"linux":{"resources":)" +
      resources + "}}");
  return spec.has_value() ? "" : std::string(spec.error().message());
}

Json ForGuest(const std::string& text, const Limits& limits) {
  std::vector<std::string> notes;
  const auto translated = TranslateResources(text, limits, {{{8, 16}, {254, 1}}}, &notes);
  EXPECT_TRUE(translated.has_value());
  return Json::parse(translated.value_or("{}"));
}

TEST(ResourcesTest, EveryLimitIsRead) {
  const Limits limits = *ParseResources(kAll);
  EXPECT_EQ(limits.cpu_shares, 512U);
  EXPECT_EQ(limits.cpu_quota, 50000);
  EXPECT_EQ(limits.cpu_period, 100000U);
  EXPECT_EQ(limits.cpu_burst, 10000U);
  EXPECT_EQ(limits.cpu_idle, 0);
  EXPECT_EQ(limits.cpus, "0-1");
  EXPECT_EQ(limits.memory_nodes, "0");
  EXPECT_EQ(limits.memory_limit, 1048576);
  EXPECT_EQ(limits.memory_swap, 2097152);
  EXPECT_EQ(limits.memory_reservation, 4096);
  EXPECT_EQ(limits.pids, 10);
  EXPECT_EQ(limits.huge_pages, (std::map<std::string, uint64_t>{{"1GB", 0}, {"2MB", 4194304}}));
  EXPECT_EQ(limits.io_weight, 100U);
  EXPECT_EQ(limits.io_weights.at({8, 0}), 200U);
  EXPECT_EQ(limits.io_limits.at({8, 0}).read_bytes, ~uint64_t{0});
  EXPECT_EQ(limits.io_limits.at({8, 0}).write_bytes, 2U);
  EXPECT_FALSE(limits.io_limits.at({8, 0}).read_operations.has_value());
  EXPECT_EQ(limits.io_limits.at({8, 16}).read_operations, 3U);
  EXPECT_EQ(limits.io_limits.at({8, 16}).write_operations, 4U);
  EXPECT_EQ(limits.unified.at("memory.high"), "900000");
  EXPECT_TRUE(CheckLimits(limits).has_value());
  EXPECT_EQ(ErrorOf(kAll), "");
}

TEST(ResourcesTest, ZeroAndNothingAreNotGiven) {
  const Limits limits = *ParseResources(
      R"({"cpu":{"shares":0,"quota":0,"period":0,"cpus":"","mems":""},"memory":{"limit":0,"swap":0,"reservation":0},
          "pids":{"limit":0},"blockIO":{"weight":0,"weightDevice":null},"unified":{}})");
  EXPECT_THAT(ControlWrites(limits, false), IsEmpty());
  EXPECT_FALSE(limits.cpus.has_value() || limits.memory_reservation.has_value() ||
               limits.io_weight.has_value());
}

// crun leaves the quota that was there.
TEST(ResourcesTest, NoQuotaIsSaidByTheFile) {
  std::vector<std::string> notes;
  const Limits limits = *ParseResources(R"({"cpu":{"quota":-1,"period":50000}})");
  const auto guest = TranslateResources("{}", limits, {}, &notes);
  ASSERT_TRUE(guest.has_value());
  EXPECT_THAT(*guest, HasSubstr(R"("unified":{"cpu.max":"max 50000"})"));
  EXPECT_THAT(*guest, Not(HasSubstr("quota")));
}

TEST(ResourcesTest, ErrorsNameTheField) {
  const std::vector<std::pair<const char*, const char*>> table = {
      {R"({"cpu":{"period":1}})", "linux.resources.cpu.period: 1"},
      {R"({"cpu":{"quota":"1"}})", "linux.resources.cpu.quota: must be an integer"},
      {R"({"cpu":{"shares":-1}})", "linux.resources.cpu.shares: must be in 0.."},
      {R"({"cpu":{"burst":5}})", "linux.resources.cpu.burst: must not be more"},
      {R"({"cpu":{"idle":7}})", "linux.resources.cpu.idle: must be 0 or 1"},
      {R"({"cpu":{"cpus":"0;1"}})", "linux.resources.cpu.cpus: must be a list"},
      {R"({"cpu":{"mems":[0]}})", "linux.resources.cpu.mems: must be a string"},
      {R"({"memory":{"limit":-5}})", "linux.resources.memory.limit: -5"},
      {R"({"memory":{"swap":5}})", "linux.resources.memory.swap: memory and swap"},
      {R"({"memory":{"limit":9,"swap":5}})", "linux.resources.memory.swap: 5"},
      {R"({"pids":{"limit":1.5}})", "linux.resources.pids.limit: must be an integer"},
      {R"({"hugepageLimits":[{"pageSize":"../2MB","limit":1}]})",
       "linux.resources.hugepageLimits: a page size"},
      {R"({"blockIO":{"weight":5}})", "linux.resources.blockIO.weight: 5"},
      {R"({"blockIO":{"weightDevice":[{"major":8,"minor":0,"weight":2000}]}})",
       "linux.resources.blockIO.weightDevice: 2000"},
      {R"({"blockIO":{"throttleReadBpsDevice":[{"major":-8,"minor":0,"rate":1}]}})",
       "linux.resources.blockIO: a throttle of -8:0"},
      {R"({"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":-1}]}})",
       "linux.resources.blockIO.throttleReadBpsDevice[0].rate: must be in 0.."},
      {R"({"rdma":{"mlx5_1":{"hcaHandles":3}}})", "linux.resources.rdma: refused"},
      {R"({"unified":{"cgroup.procs":"1"}})", "linux.resources.unified: cgroup.procs"},
      {R"({"unified":{"memory.max":1}})", "linux.resources.unified.memory.max: must be a string"}};
  for (const auto& [resources, message] : table) {
    EXPECT_THAT(ErrorOf(resources), StartsWith(std::string("config.json: ") + message));
  }
  std::string many;
  for (int i = 0; i < 257; ++i) {
    many += (i == 0 ? "" : ",") + std::string(R"({"major":8,"minor":)") + std::to_string(i) +
            R"(,"rate":1})";
  }
  EXPECT_THAT(ErrorOf(R"({"blockIO":{"throttleReadBpsDevice":[)" + many + "]}}"),
              HasSubstr("more than 256 devices"));
}

TEST(ResourcesTest, TheGuestGetsWhatItCanDoByItsOwnNumbers) {
  EXPECT_EQ(ForGuest(kAll, *ParseResources(kAll)), Json::parse(R"({
      "cpu":{"quota":50000,"period":100000,"idle":0},
      "memory":{"limit":1048576,"swap":2097152,"reservation":4096},
      "pids":{"limit":10},
      "hugepageLimits":[{"pageSize":"2MB","limit":4194304}],
      "blockIO":{"throttleReadIOPSDevice":[{"major":254,"minor":1,"rate":3}],
                 "throttleWriteIOPSDevice":[{"major":254,"minor":1,"rate":4}]},
      "unified":{"cpu.weight":"59","cpu.max.burst":"10000","memory.high":"900000"}})"));
}

TEST(ResourcesTest, TheContainersOwnFilesCountMoreAndIdleHasNoWeight) {
  const char* text = R"({"cpu":{"shares":512},"unified":{"cpu.weight":"7"}})";
  EXPECT_EQ(ForGuest(text, *ParseResources(text)),
            Json::parse(R"({"unified":{"cpu.weight":"7"}})"));
  text = R"({"cpu":{"shares":512,"idle":1}})";
  EXPECT_EQ(ForGuest(text, *ParseResources(text)), Json::parse(R"({"cpu":{"idle":1}})"));
}

TEST(ResourcesTest, AnUpdateIsSentWithWhatBelongsToIt) {
  const char* text = R"({"memory":{"swap":3145728}})";
  const Limits update = *ParseResources(text);
  EXPECT_FALSE(CheckLimits(update).has_value());  // alone it means nothing
  const Limits merged = runtime::Merged(*ParseResources(kAll), update);
  EXPECT_TRUE(CheckLimits(merged).has_value());
  const Json guest = ForGuest(text, merged);
  EXPECT_EQ(guest["memory"], Json::parse(R"({"limit":1048576,"swap":3145728,"reservation":4096})"));
  EXPECT_EQ(guest["pids"], Json::parse(R"({"limit":10})"));
}

TEST(ResourcesTest, RatesAreAsLargeAsCReadersTakeThem) {
  const char* text =
      R"({"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":16,"rate":18446744073709551615}]}})";
  EXPECT_EQ(ForGuest(text, *ParseResources(text))["blockIO"]["throttleReadBpsDevice"][0]["rate"],
            9223372036854775807);
}

}  // namespace
}  // namespace wyvern::oci
