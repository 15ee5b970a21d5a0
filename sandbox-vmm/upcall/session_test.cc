#include "upcall/session.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <thread>

#include "base/plain_text.h"
#include "upcall/testing/fake_agent.h"

namespace wyvern::upcall {
namespace {

using namespace std::chrono_literals;
using agent::v1::CpuRequest;
using agent::v1::CpuResponse;
using agent::v1::PciRemoveRequest;
using agent::v1::PciRemoveResponse;
using agent::v1::PciRescanRequest;
using agent::v1::PciRescanResponse;

Time In(std::chrono::milliseconds time) {
  return Clock::now() + time;
}

agent::v1::DeviceIdentity Disk(const std::string& serial) {
  agent::v1::DeviceIdentity identity;
  identity.mutable_blk()->set_serial(serial);
  return identity;
}

class UpcallSessionTest : public testing::Test {
 protected:
  UpcallSessionTest() {
    agent_.On<PciRescanRequest, PciRescanResponse>("PciRescan",
                                                   [](const auto& request, const auto& answer) {
                                                     PciRescanResponse response;
                                                     response.set_pci_address(request.address());
                                                     response.set_node("vda");
                                                     answer.Ok(response);
                                                   });
    agent_.On<PciRemoveRequest, PciRemoveResponse>(
        "PciRemove", [](const auto&, const auto& answer) { answer.Ok({}); });
  }

  Result<PciRescanResponse> Rescan(std::chrono::milliseconds time = 10s) {
    return session_.PciRescan("0000:00:05.0", Disk("d"), In(time));
  }

  FakeAgent agent_;
  Session session_{{.open = agent_.channel()}};
};

TEST_F(UpcallSessionTest, CallsShareOneStreamThatBeginsWithHello) {
  std::vector<std::string> calls;
  agent_.On<agent::v1::UpcallHelloRequest, agent::v1::UpcallHelloResponse>(
      "Hello", [&](const auto& request, const auto& answer) {
        calls.push_back("Hello " + std::to_string(request.protocol()));
        answer.Ok(FakeAgent::GoodHello());
      });
  agent_.On<PciRemoveRequest, PciRemoveResponse>(
      "PciRemove", [&](const auto& request, const auto& answer) {
        calls.push_back(request.address() + (request.force() ? " forced" : ""));
        answer.Ok({});
      });
  ASSERT_TRUE(session_.PciRemove("0000:00:05.0", false, In(10s)).has_value());
  ASSERT_TRUE(session_.PciRemove("0000:00:06.0", true, In(10s)).has_value());
  EXPECT_EQ(calls, (std::vector<std::string>{"Hello 1", "0000:00:05.0", "0000:00:06.0 forced"}));
  EXPECT_EQ(agent_.opened(), 1);
}

TEST_F(UpcallSessionTest, AnswersAreThoseOfTheAgentAndItsErrorsKeepTheirCode) {
  const auto found = Rescan();
  ASSERT_TRUE(found.has_value()) << found.error().message();
  EXPECT_EQ(found->node(), "vda");
  agent_.On<PciRescanRequest, PciRescanResponse>("PciRescan", [](const auto&, const auto& answer) {
    answer.Fail(Error(Code::kNotFound, std::string("no function\n\x1b") + std::string(5000, 'x')));
  });
  const auto failed = Rescan();
  ASSERT_FALSE(failed.has_value());
  EXPECT_EQ(failed.error().code(), Code::kNotFound);
  EXPECT_TRUE(failed.error().message().starts_with("PciRescan: the guest's agent: no function??x"))
      << failed.error().message();
  EXPECT_LT(failed.error().message().size(), kMaxGuestError + 100);
}

TEST_F(UpcallSessionTest, AgentIsToldToAnswerBeforeOurDeadline) {
  uint32_t told = 0;
  agent_.On<PciRemoveRequest, PciRemoveResponse>("PciRemove",
                                                 [&](const auto& request, const auto& answer) {
                                                   told = request.deadline_ms();
                                                   answer.Ok({});
                                                 });
  ASSERT_TRUE(session_.PciRemove("0000:00:05.0", false, In(2s)).has_value());
  EXPECT_GT(told, 1000U);
  EXPECT_LE(told, 1800U);
}

TEST_F(UpcallSessionTest, AgentThatDoesNotListenYetIsTriedAgain) {
  agent_.Refuse(5);
  EXPECT_TRUE(Rescan().has_value());
  EXPECT_EQ(agent_.opened(), 6);
}

TEST_F(UpcallSessionTest, SeveralCallsAreInFlightAndAnsweredInAnyOrder) {
  std::promise<ttrpc::Responder<CpuResponse>> kept;
  agent_.On<CpuRequest, CpuResponse>(
      "CpuOnline", [&](const auto&, const auto& answer) { kept.set_value(answer); });
  auto first = std::async(std::launch::async, [&] { return session_.CpuOnline({1}, In(20s)); });
  const auto answer = kept.get_future().get();
  EXPECT_TRUE(Rescan().has_value());  // while the other waits
  CpuResponse response;
  response.add_online(0);
  response.add_online(1);
  answer.Ok(response);
  EXPECT_TRUE(first.get().has_value());
  EXPECT_EQ(agent_.opened(), 1);
}

TEST_F(UpcallSessionTest, CallsThatBeginTogetherOpenOneStream) {
  std::vector<std::future<bool>> calls;
  for (int i = 0; i < 8; ++i) {
    calls.push_back(std::async(std::launch::async, [this] { return Rescan().has_value(); }));
  }
  for (auto& call : calls) {
    EXPECT_TRUE(call.get());
  }
  EXPECT_EQ(agent_.opened(), 1);
}

TEST_F(UpcallSessionTest, CallThatTheStreamWasCutUnderIsMadeAgain) {
  int calls = 0;
  std::vector<ttrpc::Responder<PciRemoveResponse>> kept;  // one that is dropped is answered
  agent_.On<PciRemoveRequest, PciRemoveResponse>("PciRemove", [&](const auto&, const auto& answer) {
    if (++calls == 1) {
      kept.push_back(answer);
      agent_.CutSoon();
      return;
    }
    answer.Ok({});
  });
  EXPECT_TRUE(session_.PciRemove("0000:00:05.0", false, In(10s)).has_value());
  EXPECT_TRUE(session_.PciRemove("0000:00:05.0", false, In(10s)).has_value());
  EXPECT_EQ(agent_.opened(), 2);
}

TEST_F(UpcallSessionTest, StreamThatIsCutBetweenCallsIsOpenedAgain) {
  ASSERT_TRUE(Rescan().has_value());
  agent_.CutAll();
  EXPECT_TRUE(Rescan().has_value());
  EXPECT_EQ(agent_.opened(), 2);
}

TEST_F(UpcallSessionTest, ChannelThatChangesTakesTheCallsInFlightWithIt) {
  std::atomic<int> calls = 0;
  std::promise<void> arrived;
  std::vector<ttrpc::Responder<PciRemoveResponse>> kept;
  agent_.On<PciRemoveRequest, PciRemoveResponse>("PciRemove", [&](const auto&, const auto& answer) {
    if (++calls == 1) {
      kept.push_back(answer);
      arrived.set_value();
      return;
    }
    answer.Ok({});
  });
  auto call = std::async(std::launch::async,
                         [&] { return session_.PciRemove("0000:00:05.0", false, In(20s)); });
  arrived.get_future().get();
  session_.Reset();
  EXPECT_TRUE(call.get().has_value());
  EXPECT_EQ(agent_.opened(), 2);
  kept.clear();
}

TEST_F(UpcallSessionTest, CountersTellOfCallsTimesAndFailures) {
  ASSERT_TRUE(Rescan().has_value());
  EXPECT_FALSE(session_.CpuOffline({1}, In(10s)).has_value());
  const auto counters = session_.counters();
  EXPECT_EQ(counters.at("upcall.streams"), 1U);
  EXPECT_EQ(counters.at("upcall.hello.calls"), 1U);
  EXPECT_EQ(counters.at("upcall.pci_rescan.calls"), 1U);
  EXPECT_GT(counters.at("upcall.pci_rescan.micros"), 0U);
  EXPECT_EQ(counters.at("upcall.cpu_offline.failures.unimplemented"), 1U);
  EXPECT_FALSE(counters.contains("upcall.pci_rescan.failures.unimplemented"));
  EXPECT_FALSE(counters.contains("upcall.memory_online.calls"));
}

TEST_F(UpcallSessionTest, HookRunsFirstOnTheThreadOfEachStream) {
  std::atomic<int> started = 0;
  std::atomic<bool> elsewhere = false;
  const auto caller = std::this_thread::get_id();
  Session session({.open = agent_.channel(), .on_thread_start = [&] {
                     ++started;
                     elsewhere = std::this_thread::get_id() != caller;
                   }});
  ASSERT_TRUE(session.PciRemove("0000:00:05.0", false, In(10s)).has_value());
  EXPECT_EQ(started, 1);
  EXPECT_TRUE(elsewhere);
}

}  // namespace
}  // namespace wyvern::upcall
