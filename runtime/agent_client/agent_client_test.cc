#include "agent_client/agent_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <thread>

#include "base/event_loop.h"
#include "base/unix_socket.h"
#include "ttrpc/server.h"

namespace wyvern::runtime {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr char kFakeService[] = "wyvern.agent.v1.Agent";

// Says Hello and sends events.
class AgentClientTest : public testing::Test {
 protected:
  AgentClientTest() {
    loop_ = *EventLoop::Create();
    server_ = *ttrpc::Server::Create(*loop_);
    server_->RegisterUnary<agent_pb::HelloRequest, agent_pb::HelloResponse>(
        kFakeService, "Hello", [](const auto&, const auto&, const auto& responder) {
          agent_pb::HelloResponse response;
          response.set_protocol(1);
          responder.Ok(response);
        });
    server_->RegisterUnary<agent_pb::CreateSandboxRequest, agent_pb::CreateSandboxResponse>(
        kFakeService, "CreateSandbox",
        [](const auto&, const auto&, const auto& responder) { responder.Ok({}); });
    server_->RegisterServerStream<agent_pb::Empty, agent_pb::Event>(
        kFakeService, "WatchEvents",
        [this](const auto&, const auto&, ttrpc::ServerStream<agent_pb::Event> stream) {
          agent_pb::Event event;
          event.set_container_id(std::string(1U << 20, 'x'));
          event.mutable_oom();
          for (int i = 0; i < 25; ++i) {
            static_cast<void>(stream.Send(event));
          }
          sent_ = true;
          sent_.notify_all();
        });
    server_->RegisterUnary<agent_pb::SetNetworkRequest, agent_pb::Empty>(
        kFakeService, "SetNetwork",
        [this](const auto& request, const auto&, const auto& responder) {
          if (request.interface_size() == 0) {
            unanswered_ = responder;
          } else {
            responder.Fail(Error(Code::kFailedPrecondition, request.interface(0).name()));
          }
        });
    thread_ = std::thread([this] { static_cast<void>(loop_->Run()); });
  }

  ~AgentClientTest() override {
    DropServer();
    loop_->Stop();
    thread_.join();
  }

  void DropServer() {
    std::atomic<bool> done{false};
    loop_->Post([&] {
      unanswered_ = {};
      server_.reset();
      done = true;
      done.notify_all();
    });
    done.wait(false);
  }

  std::unique_ptr<AgentClient> Connect(AgentOptions options) {
    auto client = AgentClient::Connect(
        [this](uint32_t) -> Result<UniqueFd> {
          WV_TRY(SocketPair pair, MakeSocketPair(SOCK_STREAM));
          loop_->Post([this, end = std::make_shared<UniqueFd>(std::move(pair.first))] {
            EXPECT_TRUE(server_->Adopt(std::move(*end)).has_value());
          });
          return std::move(pair.second);
        },
        std::move(options));
    EXPECT_TRUE(client.has_value());
    return client.has_value() ? std::move(*client) : nullptr;
  }

  std::atomic<bool> sent_{false};

 private:
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<ttrpc::Server> server_;
  ttrpc::Responder<agent_pb::Empty> unanswered_;  // of the loop's thread
  std::thread thread_;
};

TEST_F(AgentClientTest, CloseWaitsForTheCallbackThatRuns) {
  std::atomic<bool> begun{false};
  std::atomic<bool> over{false};
  AgentOptions options;
  options.on_close = [&] {
    begun = true;
    begun.notify_all();
    std::this_thread::sleep_for(milliseconds(200));
    over = true;
  };
  const auto client = Connect(std::move(options));
  ASSERT_NE(client, nullptr);
  DropServer();
  begun.wait(false);
  client->Close();
  EXPECT_TRUE(over);
}

TEST_F(AgentClientTest, NetworkThatTheGuestDoesNotSetInTimeIsGivenUp) {
  const auto client = Connect({});
  ASSERT_NE(client, nullptr);
  const auto late = client->SetNetwork({}, milliseconds(50));
  ASSERT_FALSE(late.has_value());
  EXPECT_EQ(late.error().code(), Code::kDeadlineExceeded);
  agent_pb::SetNetworkRequest request;
  request.add_interface()->set_name("eth0");
  const auto refused = client->SetNetwork(request);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), Code::kFailedPrecondition);
  EXPECT_THAT(refused.error().message(), testing::HasSubstr("eth0"));
  client->Close();
}

TEST_F(AgentClientTest, EventsThatAreNotTakenInTimeAreGivenUp) {
  std::atomic<int> taken{0};
  AgentOptions options;
  options.on_guest_oom = [](const std::string&) { ADD_FAILURE() << "it was the container's"; };
  options.on_oom = [&](const std::string& id) {
    EXPECT_EQ(id.size(), size_t{1} << 20);
    sent_.wait(false);
    std::this_thread::sleep_for(seconds(1));
    ++taken;
  };
  const auto client = Connect(std::move(options));
  ASSERT_NE(client, nullptr);
  ASSERT_TRUE(client->CreateSandbox({}).has_value());
  for (int i = 0; i < 500 && taken < 1; ++i) {
    std::this_thread::sleep_for(milliseconds(10));
  }
  std::this_thread::sleep_for(milliseconds(2500));
  EXPECT_GE(taken, 1);
  EXPECT_LE(taken, 2);  // the one at hand and the one that waited
  client->Close();
}

}  // namespace
}  // namespace wyvern::runtime
