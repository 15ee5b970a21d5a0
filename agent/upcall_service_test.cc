#include "agent/upcall_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "agent/testing/upcall_harness.h"
#include "upcall/preamble.h"

namespace wyvern::agent {
namespace {

size_t ThreadCount() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("Threads:")) {
      return std::stoul(line.substr(8));
    }
  }
  return 0;
}

v1::PciRemoveRequest RemoveAt(const std::string& address, uint32_t deadline_ms = 10000) {
  v1::PciRemoveRequest request;
  request.set_address(address);
  request.set_deadline_ms(deadline_ms);
  return request;
}

TEST(UpcallServiceTest, EveryCallNeedsAHelloOnItsStream) {
  UpcallHarness agent(false);
  EXPECT_EQ(CodeOf(agent.Call<v1::PciRemoveResponse>("PciRemove", RemoveAt("0000:00:05.0"))),
            Code::kFailedPrecondition);
  EXPECT_EQ(CodeOf(agent.Call<v1::CpuResponse>("CpuOnline", v1::CpuRequest())),
            Code::kFailedPrecondition);
  const auto other = agent.Connect();
  ASSERT_TRUE(UpcallHarness::Hello(*other));
  EXPECT_EQ(CodeOf(agent.Call<v1::PciRemoveResponse>("PciRemove", RemoveAt("0000:00:05.0"))),
            Code::kFailedPrecondition);
}

TEST(UpcallServiceTest, HelloSaysWhoWeAreAsOftenAsItIsAsked) {
  UpcallHarness agent;
  const auto client = agent.Connect();
  for (int i = 0; i < 2; ++i) {
    const auto hello = UpcallHarness::Hello(*client);
    ASSERT_TRUE(hello) << TextOf(hello);
    EXPECT_EQ(hello->protocol(), 1U);
    EXPECT_FALSE(hello->agent_version().empty());
    EXPECT_EQ(hello->boot_id(), "01234567-89ab-cdef-0123-456789abcdef");
  }
}

TEST(UpcallServiceTest, AnotherProtocolIsRefusedAndGreetsNobody) {
  UpcallHarness agent(false);
  const auto client = agent.Connect();
  EXPECT_EQ(CodeOf(UpcallHarness::Hello(*client, 2)), Code::kUnimplemented);
  EXPECT_EQ(CodeOf(UpcallHarness::Hello(*client, 0)), Code::kUnimplemented);
  const auto refused = client->Call<v1::PciRemoveRequest, v1::PciRemoveResponse>(
      upcall::kServiceName, "PciRemove", RemoveAt("0000:00:05.0"), {.timeout = 10s});
  EXPECT_EQ(CodeOf(refused), Code::kFailedPrecondition);
}

TEST(UpcallServiceTest, DeadlineBeyondTheBoundIsRefused) {
  UpcallHarness agent;
  EXPECT_EQ(
      CodeOf(agent.Call<v1::PciRemoveResponse>("PciRemove", RemoveAt("0000:00:05.0", 600'001))),
      Code::kInvalidArgument);
  EXPECT_TRUE(agent.Call<v1::PciRemoveResponse>("PciRemove", RemoveAt("0000:00:05.0", 0)));
}

TEST(UpcallServiceTest, ManyCallsAtOnceTakeAThreadForEachKindOnly) {
  UpcallHarness agent;
  const size_t before = ThreadCount();
  std::vector<std::future<Result<v1::PciRemoveResponse>>> calls;
  for (size_t i = 0; i < Lane::kMaxJobs / 2; ++i) {
    calls.push_back(agent.Begin<v1::PciRemoveResponse>("PciRemove", RemoveAt("0000:00:05.0")));
  }
  for (auto& call : calls) {
    EXPECT_TRUE(call.get());
  }
  EXPECT_LE(ThreadCount(), before + 1);
}

TEST(UpcallServiceTest, MoreCallsThanFitAreRefused) {
  UpcallHarness agent;
  Gate gate;
  agent.kernel.Plug(FakeKernel::Disk("0000:00:05.0", "vdb", "x"));
  agent.kernel.OnWrite("/sys/class/pci_bus/0000:00/rescan",
                       [wait = gate.waiter()](const std::string&) -> Result<> {
                         wait();
                         return {};
                       });
  v1::PciRescanRequest stuck;
  stuck.set_address("0000:00:05.0");
  stuck.mutable_identity()->mutable_rng();
  stuck.set_deadline_ms(20000);
  auto first = agent.Begin<v1::PciRescanResponse>("PciRescan", stuck);
  std::vector<std::future<Result<v1::PciRemoveResponse>>> calls;
  for (size_t i = 0; i < Lane::kMaxJobs + 5; ++i) {
    calls.push_back(agent.Begin<v1::PciRemoveResponse>("PciRemove", RemoveAt("0000:00:06.0")));
  }
  // In order: what was too much was answered before the kernel goes on.
  EXPECT_EQ(CodeOf(calls.back().get()), Code::kResourceExhausted);
  gate.Open();
  calls.pop_back();
  size_t refused = 0;
  for (auto& call : calls) {
    refused += CodeOf(call.get()) == Code::kResourceExhausted ? 1 : 0;
  }
  EXPECT_EQ(refused, 5U);
  EXPECT_EQ(CodeOf(first.get()), Code::kNotFound);
}

TEST(UpcallServiceTest, ClientThatGoesLeavesNothingBehind) {
  UpcallHarness agent;
  Gate gate;
  agent.kernel.OnWrite("/sys/class/pci_bus/0000:00/rescan",
                       [wait = gate.waiter()](const std::string&) -> Result<> {
                         wait();
                         return {};
                       });
  {
    const auto client = agent.Connect();
    ASSERT_TRUE(UpcallHarness::Hello(*client));
    v1::PciRescanRequest request;
    request.set_address("0000:00:05.0");
    request.mutable_identity()->mutable_rng();
    client->CallAsync<v1::PciRescanRequest, v1::PciRescanResponse>(
        upcall::kServiceName, "PciRescan", request, {}, [](const auto&) {});
    ASSERT_TRUE(UpcallHarness::Hello(*client));
  }
  gate.Open();
  EXPECT_TRUE(agent.Call<v1::PciRemoveResponse>("PciRemove", RemoveAt("0000:00:05.0")));
}

}  // namespace
}  // namespace wyvern::agent
